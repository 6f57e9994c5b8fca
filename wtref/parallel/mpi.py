"""The crew of processes that MPI started.  The only file that imports mpi4py, and only where there are several."""

import contextlib
import hashlib
import math
import os
import socket
import sys
import time
import traceback

import numpy as np
from mpi4py import MPI

from wtref.backend import array_module
from wtref.errors import Diverged, Drifted, InputError
from wtref.kernels import cores, plain
from wtref.parallel import Crew
from wtref.parallel.buckets import Buckets
from wtref.parallel.witness import witnessed
from wtref.text import printable

PATIENCE = 100  # looks at a sum that is not there yet, before the process takes naps
NAP = 2e-5  # seconds
LAST_WORDS = 0.5  # seconds in which mpiexec passes on what was said; when it aborts, the rest is lost


class MpiCrew(Crew):
    """Several processes, each with its share of every batch.  See Crew for what the methods mean.

    All processes hold the same bits after a sum: MPICH adds in one order for one number of processes.
    """

    def __init__(self, comm):
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self.sums = self.host_sums = MpiSums(comm)
        self.buckets = None  # while gradients are gathered
        self.bucket_bytes, self.narrow = 1 << 22, None
        self.images, self.waited, self.met = 0, 0.0, False
        node = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.place = node.rank  # on this node, from 0
        self.on_one_node = node.size == self.size
        affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        self.threads = max(cores() // node.allgather(affinity).count(affinity), 1)

    @classmethod
    def world(cls, announced):
        """All processes that were started; raises InputError unless MPI finds as many as the launcher announced."""
        if MPI.COMM_WORLD.size == 1:
            library = " ".join(MPI.Get_library_version().splitlines()[0].strip("\0").split())
            raise InputError(
                f"started as {announced} processes, which find one each: mpi4py uses {library}; start them with its mpiexec"
            )
        return cls(MPI.COMM_WORLD)

    def assemble(self, images):
        self.images = int(self.total(images)[0])
        if not self.images:
            raise _shared(InputError("all images of a batch are damaged; remove them from the folder"))
        return self.images

    def norm_statistics(self, kernels, y, *others):
        def moments(y):
            return self._moments(kernels, y)

        return plain.norm_statistics(y, *others, moments=moments, count=self._rows(y))

    def norm_gradients(self, kernels, delta, *others):
        def sums(*arrays):
            return self.sum(kernels.norm_sums(*arrays))

        return plain.norm_gradients(delta, *others, norm_sums=sums, count=self._rows(delta))

    def join(self, columns, n):
        whole = array_module(columns).zeros((n, len(columns)), dtype=columns.dtype)
        whole[self.share(n)] = columns.T
        return self.sum(whole).T

    def _moments(self, kernels, y):
        """By sums of y and y^2 in float64, where nothing is lost to cancellation, in one message."""
        xp, channels = array_module(y), y.shape[-1]
        sums = xp.zeros((2, channels), dtype=np.float64)
        rows = math.prod(y.shape[:-1])
        if rows:
            mean, variance = (part.astype(np.float64) for part in kernels.moments(y))
            sums[0], sums[1] = rows * mean, rows * (variance + mean * mean)
        mean, square = self.sum(sums) / self._rows(y)
        return mean.astype(y.dtype), (square - mean * mean).astype(y.dtype)

    def _rows(self, y):
        """Of all processes' y (N, ..., C) together."""
        return self.images * math.prod(y.shape[1:-1])

    def sum(self, x):
        with self._waiting():
            return self.sums.sum(x)

    def give(self, *arrays):
        if self.buckets:
            self.buckets.give(*arrays)

    @contextlib.contextmanager
    def gathering(self):
        self.buckets = Buckets(self.sums, self.bucket_bytes, self.narrow)
        try:
            yield
            with self._waiting():
                self.buckets.finish()
        finally:
            self.buckets = None

    def total(self, *numbers):
        with self._waiting():
            return self.host_sums.sum(np.array(numbers, np.float64)).tolist()

    def norm(self, length):
        return math.sqrt(self.total(length * length)[0])

    def largest(self, number):
        return self.comm.allreduce(number, MPI.MAX)

    def union(self, things):
        return set().union(*self.comm.allgather(things))

    def first(self, function):
        result = error = None
        if self.rank == 0:
            try:
                result = function()
            except Exception as raised:
                error = raised
        result, error = self.comm.bcast((result, error))
        if error is not None:
            raise _shared(error)
        return result

    def take_waited(self):
        seconds, self.waited = self.waited, 0.0
        return seconds + self.sums.take_waited()

    def meet(self, facts, error=None):
        self.met = True
        everyones = self.comm.allgather((facts, error))
        errors = [error for _, error in everyones]
        for rank, error in enumerate(errors):
            if error is not None:
                alike = all(str(other) == str(error) for other in errors)
                raise _shared(InputError(error if alike else f"rank {rank}: {error}"))
        for name, ours in everyones[0][0].items():
            for rank, (theirs, _) in enumerate(everyones):
                if theirs.get(name) != ours:
                    wrong = f"the processes differ in {name}: {ours} on rank 0, {theirs.get(name)} on rank {rank}"
                    raise _shared(InputError(f"{wrong}; start all with the same"))

    def prepare(self, device, bucket_bytes, bucket_dtype):
        self.bucket_bytes = bucket_bytes
        if device.name == "cpu" and bucket_dtype != "float32":
            raise _shared(InputError(f"--bucket-dtype {bucket_dtype} needs GPUs; on --device cpu it is float32"))
        if device.name != "cpu":
            from wtref.parallel import nccl

            self.sums = nccl.open_sums(device.xp, self.comm)
            self.narrow = nccl.Bf16() if bucket_dtype == "bf16" else None

    def processes(self):
        everyones = self.comm.gather((socket.gethostname(), os.getpid()))
        nodes = {}
        for rank, (node, pid) in enumerate(everyones or ()):
            nodes.setdefault(node, []).append(f"{rank} is {pid}")
        return "\n".join(f"ranks on {node}, by process id: {', '.join(ranks)}" for node, ranks in nodes.items())

    def agree(self, arrays):
        hashes = {name: hashlib.sha1(array.tobytes()).digest() for name, array in arrays.items()}
        everyones = self.comm.allgather(hashes)
        for name in hashes:
            for rank, theirs in enumerate(everyones):
                if theirs[name] != everyones[0][name]:
                    raise _shared(Drifted(f"the copies of {name} drifted apart: rank {rank}'s is not rank 0's"))

    @contextlib.contextmanager
    def _waiting(self):
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextlib.contextmanager
    def speaking(self):
        with contextlib.ExitStack() as stack:
            if self.on_one_node:
                stack.enter_context(witnessed(self.comm))
            if self.rank:
                nothing = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nothing))
                stack.enter_context(contextlib.redirect_stderr(nothing))
            yield

    def end(self, error, code):
        if isinstance(error, InputError) and not self.met:
            try:
                self.meet({}, str(error))
            except InputError as shared:
                error = shared
        if getattr(error, "shared", False) or isinstance(error, Diverged):  # all processes know the sum of losses
            return super().end(error, code) if self.rank == 0 else code
        if error is not None:
            time.sleep(2 * LAST_WORDS if self.rank else 0)  # what has struck all, as Ctrl-C does, rank 0 says
            print(f"wtref: rank {self.rank}: {printable(error)}", file=sys.stderr, flush=True)
            time.sleep(LAST_WORDS)
        self.comm.Abort(code)
        os._exit(code)  # Abort may return before it has come to this process

    def crash(self, error):
        traceback.print_exception(error)
        self.end(repr(error), 1)


class MpiSums:
    """Sums of host arrays over all processes, by MPI, each array in its own place."""

    def __init__(self, comm):
        self.comm = comm

    def sum(self, x):
        """x lies in memory without gaps; returns x."""
        self.wait(self.start(x if x.flags.c_contiguous else x.T))
        return x

    def start(self, x):
        return self.comm.Iallreduce(MPI.IN_PLACE, x)

    def progress(self, requests):
        """MPI moves what is on its way only while it is called."""
        MPI.Request.Testall(requests)

    def wait(self, request):
        """MPI's own wait would not let go of a core that another process of the crew may need."""
        for _ in range(PATIENCE):
            if request.Test():
                return
            os.sched_yield()
        while not request.Test():
            time.sleep(NAP)

    def take_waited(self):
        """The host waits itself, by the crew's clock."""
        return 0.0


def _shared(error):
    """The same error, which all processes raise together: one of them says it."""
    error.shared = True
    return error
