"""The group of processes that MPI starts.  Importing this file starts MPI, so a process that runs alone does not import it."""

import contextlib
import hashlib
import os
import signal
import socket
import sys
import time
import traceback

import numpy as np
from mpi4py import MPI

from wtref.cores import cores
from wtref.distributed.buckets import Buckets
from wtref.distributed.group import ProcessGroup
from wtref.distributed.messages import Messenger
from wtref.distributed.startup import unlink_shared_memory
from wtref.distributed.watchdog import monitored
from wtref.errors import Diverged, Drifted, InputError, Unanswered
from wtref.interrupts import TERMINATING
from wtref.text import printable

HELP_SHOWN = "--help or --version ends the program"
FLUSH_DELAY = 0.5  # seconds in which mpiexec forwards stderr; what it has not forwarded by MPI_Abort is lost


class MpiGroup(ProcessGroup):
    """Several processes, each with its shard of every batch.  ProcessGroup documents the methods.

    After a sum all processes hold the same bits: MPICH's order of addition depends on the number of processes alone.
    """

    def __init__(self, comm):
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self.messenger = Messenger(comm)
        self.transport = self.host_transport = MpiTransport(comm, self.messenger)
        self.buckets = None  # Buckets within all_reducing
        self.bucket_bytes, self.compression = 1 << 22, None
        self.waited, self.verified = 0.0, False
        node = comm.Split_type(MPI.COMM_TYPE_SHARED)
        unlink_shared_memory()  # all processes of this node have mapped it
        self.local_rank = node.rank  # on this node, from 0
        self.on_one_node = node.size == self.size
        affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        self.threads = max(cores() // node.allgather(affinity).count(affinity), 1)
        self.addresses = self.messenger.all_gather((socket.gethostname(), os.getpid()))
        self.messenger.names = [f"rank {rank} (process {pid} on {host})" for rank, (host, pid) in enumerate(self.addresses)]

    @classmethod
    def world(cls, announced):
        """The group of all processes that were started; raises InputError where MPI finds this one alone."""
        if MPI.COMM_WORLD.size == 1:
            library = " ".join(MPI.Get_library_version().splitlines()[0].strip("\0").split())
            raise InputError(
                f"started as {announced} processes, but MPI finds one in each: mpi4py uses {library}; start them with its mpiexec"
            )
        return cls(MPI.COMM_WORLD)

    def all_reduce(self, x):
        with self._timed_wait():
            return self.transport.all_reduce(x)

    def queue_all_reduce(self, *arrays):
        if self.buckets:
            self.buckets.add(*arrays)

    @contextlib.contextmanager
    def all_reducing(self):
        self.buckets = Buckets(self.transport, self.bucket_bytes, self.compression)
        try:
            yield
            with self._timed_wait():
                self.buckets.finish()
        finally:
            self.buckets = None

    def total(self, *numbers):
        with self._timed_wait():
            return self.host_transport.all_reduce(np.array(numbers, np.float64)).tolist()

    def max(self, number):
        largest = np.array([number], np.float64)
        self.messenger.wait(self.comm.Iallreduce(MPI.IN_PLACE, largest, MPI.MAX))
        return type(number)(largest[0])

    def union(self, values):
        return set().union(*self.messenger.all_gather(values))

    def on_rank_0(self, function):
        def outcome():
            try:
                return function(), None
            except Exception as error:
                return None, error

        result, error = self.messenger.broadcast(outcome)
        if error is not None:
            raise _collective(error)
        return result

    def set_timeout(self, minutes):
        self.messenger.timeout = 60 * minutes

    def watch_stop(self, stop):
        self.messenger.stop = stop

    def pop_waiting_time(self):
        seconds, self.waited = self.waited, 0.0
        return seconds + self.transport.pop_waiting_time()

    def verify(self, facts, error=None):
        self.verified = True
        gathered = self.messenger.all_gather((facts, error))
        errors = [error for _, error in gathered]
        for rank, error in enumerate(errors):
            if error is not None:
                alike = all(str(other) == str(error) for other in errors)
                raise _collective(InputError(error if alike else f"rank {rank}: {error}"))
        for name, wanted in gathered[0][0].items():
            for rank, (found, _) in enumerate(gathered):
                if found.get(name) != wanted:
                    wrong = f"the processes differ in {name}: {wanted} on rank 0, {found.get(name)} on rank {rank}"
                    raise _collective(InputError(f"{wrong}; start all with the same"))

    def prepare_transport(self, device, bucket_bytes, bucket_dtype):
        self.bucket_bytes = bucket_bytes
        if device.name == "cpu" and bucket_dtype != "float32":
            raise _collective(InputError(f"--bucket-dtype {bucket_dtype} needs GPUs; on --device cpu it is float32"))
        if device.name != "cpu":
            from wtref.distributed import nccl

            self.transport = nccl.open_transport(device.xp, self.rank, self.messenger)
            self.compression = nccl.Bf16Compression() if bucket_dtype == "bf16" else None

    def processes(self):
        nodes = {}
        for rank, (node, pid) in enumerate(self.addresses):
            nodes.setdefault(node, []).append(f"{rank} is {pid}")
        return "\n".join(f"ranks on {node}, by process id: {', '.join(ranks)}" for node, ranks in nodes.items())

    def verify_copies(self, arrays):
        hashes = {name: hashlib.sha1(array.tobytes()).digest() for name, array in arrays.items()}
        gathered = self.messenger.all_gather(hashes)
        for name in hashes:
            for rank, found in enumerate(gathered):
                if found[name] != gathered[0][name]:
                    raise _collective(Drifted(f"the copies of {name} drifted apart: rank {rank}'s is not rank 0's"))

    @contextlib.contextmanager
    def _timed_wait(self):
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextlib.contextmanager
    def session(self):
        with contextlib.ExitStack() as stack:
            if self.on_one_node:
                stack.enter_context(monitored(self.rank, self.messenger))
            if self.rank:
                null = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(null))
                stack.enter_context(contextlib.redirect_stderr(null))
            yield
            self.messenger.all_gather("ended")  # MPI_Finalize would wait without a timeout

    def agree_to_exit(self, code):
        try:
            self.verify({}, HELP_SHOWN)
        except InputError as error:
            if str(error) != HELP_SHOWN:
                raise
        return code

    def report_error(self, error, code):
        if isinstance(error, InputError) and not self.verified:
            try:
                self.verify({}, str(error))
            except InputError as shared:
                error = shared
            except Unanswered as unanswered:
                error, code = unanswered, 1
            except KeyboardInterrupt:  # the error is reported by this process alone
                pass
        if getattr(error, "collective", False) or isinstance(error, Diverged):  # all processes have the same loss
            return super().report_error(error, code) if self.rank == 0 else code
        for number in TERMINATING:  # srun sends SIGTERM to all once one has failed; the exit code 143 is for runs that are saved
            signal.signal(number, signal.SIG_IGN)
        if error is not None:
            reporting = getattr(error, "reporting_rank", 0)  # the first to print where all have the same error, as after Ctrl-C
            time.sleep(2 * FLUSH_DELAY if self.rank != reporting else 0)
            rank = "" if isinstance(error, Unanswered) else f"rank {self.rank}: "
            print(f"wtref: {rank}{printable(error)}", file=sys.stderr, flush=True)
            time.sleep(FLUSH_DELAY)
        self.comm.Abort(code)
        os._exit(code)  # Abort may return before it ends this process

    def abort(self, error):
        traceback.print_exception(error)
        self.report_error(repr(error), 1)


class MpiTransport:
    """Sums host arrays over all processes by MPI, in place."""

    def __init__(self, comm, messenger):
        self.comm, self.messenger = comm, messenger

    def all_reduce(self, x):
        """Sum x, contiguous in C or Fortran order, in place; returns x."""
        self.wait(self.start(x if x.flags.c_contiguous else x.T))
        return x

    def start(self, x):
        """Start to sum x in place; returns a request for `wait`."""
        return self.comm.Iallreduce(MPI.IN_PLACE, x)

    def progress(self, requests):
        """Let MPI proceed with requests, which it does only while it is called."""
        MPI.Request.Testall(requests)

    def wait(self, request):
        """Wait for a sum."""
        self.messenger.wait(request)

    def pop_waiting_time(self):
        """0: the host waits, and MpiGroup measures that."""
        return 0.0


def _collective(error):
    """Mark an error as one that all processes raise together, so that rank 0 alone prints it; returns the error."""
    error.collective = True
    return error
