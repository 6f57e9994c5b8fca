"""One run on many processes: each takes its share of every batch, and what a step learns from is summed.

A `ProcessGroup` is the processes that train one network together.  A process started alone is a group of one,
whose sums are its own and which waits for nobody; mpi.py has the group that MPI started, buckets.py the gradients'
way from one to the other, nccl.py how device arrays travel, messenger.py how long processes wait for one another, opening.py
how long for MPI's start, witness.py who names a process that was killed.

Every method that sums, gathers or waits must be called by all processes alike: same calls, same order.
"""

import contextlib
import os
import re
import stat
import sys

from wtref.distributed.startup import in_time
from wtref.errors import InputError
from wtref.interrupts import at_once
from wtref.text import printable

# Where a launcher says how many processes it started, and which of them this is.
LAUNCHERS = {
    "PMI_SIZE": "PMI_RANK",  # MPICH, Intel MPI
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
    "SLURM_STEP_NUM_TASKS": "SLURM_PROCID",
    "MV2_COMM_WORLD_SIZE": "MV2_COMM_WORLD_RANK",
    "FLUX_JOB_SIZE": "FLUX_TASK_RANK",
}
BUCKET_DTYPES = ("float32", "bf16")  # of gradients in float32, on their way


class ProcessGroup:
    """A process by itself.

    Attributes: rank, among size.
    """

    rank, size = 0, 1
    local_rank = 0  # among the group's processes on this machine: which of its devices to take
    threads = None  # for each process, where several share the machine's cores

    def shard(self, n):
        """Which of n things, in a row, are this process's: a slice, perhaps an empty one."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def begin_batch(self, images):
        """Begin a step in which this process has so many images; returns how many all have."""
        return images

    def global_rows(self, y):
        """How many rows of channels the whole batch has, of which y (N, ..., C) is a share."""
        return y.size // y.shape[-1]

    def norm_statistics(self, kernels, y, *others):
        """As in fast/plain.py, of the whole batch, of which y (N, ..., C) is a share."""
        return kernels.norm_statistics(y, *others)

    def norm_gradients(self, kernels, delta, *others):
        """Likewise."""
        return kernels.norm_gradients(delta, *others)

    def gather_columns(self, columns, n):
        """The matrix (m, n) of whose columns each process has its share."""
        return columns

    def all_reduce(self, x):
        """The sum of all processes' x, an array on the device; it takes the place of x."""
        return x

    def queue_all_reduce(self, *arrays):
        """Let these be summed, each in its place, by the end of `gathering`; outside of it nothing happens."""

    def all_reducing(self):
        """A context at whose end every array given within it has become its sum over all processes."""
        return contextlib.nullcontext()

    def total(self, *numbers):
        """The sums of plain numbers, as floats."""
        return list(map(float, numbers))

    def max(self, number):
        """The largest of all processes' numbers."""
        return number

    def union(self, things):
        """All processes' things, a set."""
        return things

    def on_rank_0(self, function):
        """What function() returns or raises, called by rank 0 alone."""
        return function()

    def set_timeout(self, minutes):
        """How long from now on this process waits for another, before it takes it for lost and raises Unanswered."""

    def watch_stop(self, stop):
        """Wait for less long once the signals.StopRequest says that the run is to stop; None: do not."""

    def pop_waiting_time(self):
        """The seconds that this process has waited for the others since it was last asked."""
        return 0.0

    def verify(self, facts):
        """Once, before the first step: see that all are ready, and that the same facts, {name: value}, hold for all.

        Raises InputError.
        """

    def prepare_transport(self, device, bucket_bytes, bucket_dtype):
        """After meeting: how arrays of the device, device.Device, are to travel."""

    def processes(self):
        """Who they are, in words: launchers name a dead process by its id alone."""

    def verify_copies(self, arrays):
        """Raise Drifted unless all processes' host arrays, by name, have the same bits."""

    def session(self):
        """A context in which rank 0 alone prints, and the witness speaks for whoever dies."""
        return contextlib.nullcontext()

    def leave(self, code):
        """Having shown --help or --version, see that all others do so; returns the exit code or raises InputError."""
        return code

    def end(self, error, code):
        """Say why the program ends, once for all processes; returns the exit code, or ends the others too."""
        if error is not None:
            print(f"wtref: {printable(error)}", file=sys.stderr)
        return code

    def crash(self, error):
        """A bug has shown; let no other process wait for this one."""


SINGLE = ProcessGroup()


def open_group():
    """The group that this process was started in.  Raises InputError where MPI is missing, or finds no other process."""
    size, variable = max(_announced(), default=(1, ""))
    if size == 1:
        return SINGLE
    left_over = f"; if no launcher started this process, unset {variable}"
    try:
        with at_once(), in_time():
            from wtref.distributed.mpi import MpiGroup

            return MpiGroup.world(size)
    except ImportError as error:
        needs = "which needs mpi4py: pip install 'wtref[mpi]'"
        raise InputError(f"started as {size} processes, {needs} ({error}){left_over}") from None
    except InputError as error:
        raise InputError(f"{error}{left_over}") from None


def _announced():
    """(number of processes, name of the variable) of every launcher that this process may have been started by."""
    for size, rank in LAUNCHERS.items():
        if -1 < _number(rank) < _number(size) and not (size == "PMI_SIZE" and _launcher_has_gone()):
            yield _number(size), size


def _number(variable):
    """The value of an environment variable, or -1 where it is no natural number that could count processes."""
    text = os.environ.get(variable, "")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else -1


def _launcher_has_gone():
    """Whether PMI_FD, where MPICH's launcher names the socket that leads to it, names no socket of this process."""
    try:
        return "PMI_FD" in os.environ and not stat.S_ISSOCK(os.fstat(int(os.environ["PMI_FD"])).st_mode)
    except (ValueError, OverflowError, OSError):
        return True
