"""The group of processes that MPI started.  It is imported only where there are several."""

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

from wtref.device import array_module
from wtref.distributed.buckets import Buckets
from wtref.distributed.group import ProcessGroup
from wtref.distributed.messages import Messenger
from wtref.distributed.startup import forget_shared_memory
from wtref.distributed.watchdog import watched
from wtref.errors import Diverged, Drifted, InputError, Unanswered
from wtref.fast import plain
from wtref.fast.ops import cores
from wtref.text import printable

SHOWN = "--help or --version ends the program"
LAST_WORDS = 0.5  # seconds in which mpiexec passes on what was said; when it aborts, the rest is lost


class MpiGroup(ProcessGroup):
    """Several processes, each with its share of every batch.  See ProcessGroup for what the methods mean.

    All processes hold the same bits after a sum: MPICH adds in one order for one number of processes.
    """

    def __init__(self, comm):
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self.messenger = Messenger(comm)
        self.sums = self.host_sums = MpiSums(comm, self.messenger)
        self.buckets = None  # while gradients are gathered
        self.bucket_bytes, self.narrow = 1 << 22, None
        self.images, self.waited, self.verified = 0, 0.0, False
        node = comm.Split_type(MPI.COMM_TYPE_SHARED)
        forget_shared_memory()  # all processes of this node have it open
        self.local_rank = node.rank  # on this node, from 0
        self.on_one_node = node.size == self.size
        affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        self.threads = max(cores() // node.allgather(affinity).count(affinity), 1)
        self.addresses = self.messenger.all_gather((socket.gethostname(), os.getpid()))
        self.messenger.names = [f"rank {rank} (process {pid} on {host})" for rank, (host, pid) in enumerate(self.addresses)]

    @classmethod
    def world(cls, announced):
        """All processes that were started; raises InputError unless MPI finds as many as the launcher announced."""
        if MPI.COMM_WORLD.size == 1:
            library = " ".join(MPI.Get_library_version().splitlines()[0].strip("\0").split())
            raise InputError(
                f"started as {announced} processes, which find one each: mpi4py uses {library}; start them with its mpiexec"
            )
        return cls(MPI.COMM_WORLD)

    def begin_batch(self, images):
        self.images = int(self.total(images)[0])
        return self.images

    def global_rows(self, y):
        return self.images * math.prod(y.shape[1:-1])

    def norm_statistics(self, kernels, y, *others):
        def moments(y):
            return self._moments(kernels, y)

        return plain.norm_statistics(y, *others, moments=moments, count=self.global_rows(y))

    def norm_gradients(self, kernels, delta, *others):
        def sums(*arrays):
            return self.all_reduce(kernels.norm_sums(*arrays))

        return plain.norm_gradients(delta, *others, norm_sums=sums, count=self.global_rows(delta))

    def gather_columns(self, columns, n):
        whole = array_module(columns).zeros((n, len(columns)), dtype=columns.dtype)
        whole[self.shard(n)] = columns.T
        return self.all_reduce(whole).T

    def _moments(self, kernels, y):
        """Of all processes' y, from the moments of each, in one message in which every process has its own place."""
        parts = array_module(y).zeros((3, self.size, y.shape[-1]), dtype=np.float64)
        rows = math.prod(y.shape[:-1])
        if rows:
            mean, variance = kernels.moments(y)
            parts[0, self.rank], parts[1, self.rank], parts[2, self.rank] = rows, mean, variance
        mean, variance = plain.joint_moments(*self.all_reduce(parts))
        return mean.astype(y.dtype), variance.astype(y.dtype)

    def all_reduce(self, x):
        with self._waiting():
            return self.sums.sum(x)

    def queue_all_reduce(self, *arrays):
        if self.buckets:
            self.buckets.add(*arrays)

    @contextlib.contextmanager
    def all_reducing(self):
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

    def max(self, number):
        largest = np.array([number], np.float64)
        self.messenger.wait(self.comm.Iallreduce(MPI.IN_PLACE, largest, MPI.MAX))
        return type(number)(largest[0])

    def union(self, things):
        return set().union(*self.messenger.all_gather(things))

    def on_rank_0(self, function):
        def outcome():
            try:
                return function(), None
            except Exception as error:
                return None, error

        result, error = self.messenger.broadcast(outcome)
        if error is not None:
            raise _shared(error)
        return result

    def set_timeout(self, minutes):
        self.messenger.limit = 60 * minutes

    def watch_stop(self, stop):
        self.messenger.stop = stop

    def pop_waiting_time(self):
        seconds, self.waited = self.waited, 0.0
        return seconds + self.sums.pop_waiting_time()

    def verify(self, facts, error=None):
        self.verified = True
        everyones = self.messenger.all_gather((facts, error))
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

    def prepare_transport(self, device, bucket_bytes, bucket_dtype):
        self.bucket_bytes = bucket_bytes
        if device.name == "cpu" and bucket_dtype != "float32":
            raise _shared(InputError(f"--bucket-dtype {bucket_dtype} needs GPUs; on --device cpu it is float32"))
        if device.name != "cpu":
            from wtref.distributed import nccl

            self.sums = nccl.open_sums(device.xp, self.rank, self.messenger)
            self.narrow = nccl.Bf16() if bucket_dtype == "bf16" else None

    def processes(self):
        nodes = {}
        for rank, (node, pid) in enumerate(self.addresses):
            nodes.setdefault(node, []).append(f"{rank} is {pid}")
        return "\n".join(f"ranks on {node}, by process id: {', '.join(ranks)}" for node, ranks in nodes.items())

    def verify_copies(self, arrays):
        hashes = {name: hashlib.sha1(array.tobytes()).digest() for name, array in arrays.items()}
        everyones = self.messenger.all_gather(hashes)
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
    def session(self):
        with contextlib.ExitStack() as stack:
            if self.on_one_node:
                stack.enter_context(watched(self.rank, self.messenger))
            if self.rank:
                nothing = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(nothing))
                stack.enter_context(contextlib.redirect_stderr(nothing))
            yield
            self.messenger.all_gather("ended")  # MPI's own ending would wait without a limit

    def leave(self, code):
        try:
            self.verify({}, SHOWN)
        except InputError as error:
            if str(error) != SHOWN:
                raise
        return code

    def end(self, error, code):
        if isinstance(error, InputError) and not self.verified:
            try:
                self.verify({}, str(error))
            except InputError as shared:
                error = shared
            except Unanswered as unanswered:
                error, code = unanswered, 1
            except KeyboardInterrupt:  # the others need not say the same
                pass
        if getattr(error, "shared", False) or isinstance(error, Diverged):  # all processes know the sum of losses
            return super().end(error, code) if self.rank == 0 else code
        if error is not None:
            speaker = getattr(error, "speaker", 0)  # says what has struck all, as Ctrl-C does
            time.sleep(2 * LAST_WORDS if self.rank != speaker else 0)
            who = "" if isinstance(error, Unanswered) else f"rank {self.rank}: "
            print(f"wtref: {who}{printable(error)}", file=sys.stderr, flush=True)
            time.sleep(LAST_WORDS)
        self.comm.Abort(code)
        os._exit(code)  # Abort may return before it has come to this process

    def crash(self, error):
        traceback.print_exception(error)
        self.end(repr(error), 1)


class MpiSums:
    """Sums of host arrays over all processes, by MPI, each array in its own place."""

    def __init__(self, comm, messenger):
        self.comm, self.messenger = comm, messenger

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
        self.messenger.wait(request)

    def pop_waiting_time(self):
        """The host waits itself, by the group's clock."""
        return 0.0


def _shared(error):
    """The same error, which all processes raise together: one of them says it."""
    error.shared = True
    return error
