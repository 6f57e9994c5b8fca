"""The group of processes that train one network together, each with its shard of every batch.

A process that was started alone is a group of one, whose sums are its own values and which never waits.  The group that
MPI starts is in mpi.py; buckets.py sums gradients, nccl.py transports device arrays, messages.py limits the time
that processes wait for one another, startup.py the time in which MPI starts, and watchdog.py reports a process
that was killed.

All processes must call every method that communicates, in the same order.
"""

import contextlib
import os
import re
import stat
import sys

from wtref.distributed.startup import time_limit
from wtref.errors import InputError
from wtref.interrupts import interruptible
from wtref.text import printable

# The environment variables in which launchers give the number of processes, and the rank of each.
LAUNCHERS = {
    "PMI_SIZE": "PMI_RANK",  # MPICH, Intel MPI
    "OMPI_COMM_WORLD_SIZE": "OMPI_COMM_WORLD_RANK",
    "SLURM_STEP_NUM_TASKS": "SLURM_PROCID",
    "MV2_COMM_WORLD_SIZE": "MV2_COMM_WORLD_RANK",
    "FLUX_JOB_SIZE": "FLUX_TASK_RANK",
}
BUCKET_DTYPES = ("float32", "bf16")  # in which float32 gradients are sent


class ProcessGroup:
    """A group of one process, and the interface of mpi.MpiGroup.

    Attributes
    ----------
    rank, size : int             this process's number, from 0, and how many there are
    local_rank : int             this process's number among those of its machine, which chooses its device
    threads : int or None        for each process, where several share the cores of a machine
    images : int                 the number of images of the present batch in all processes
    """

    rank, size = 0, 1
    local_rank = 0
    threads = None
    images = 0

    def shard(self, n):
        """The slice of n items in a row that belongs to this process; it may be empty."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def begin_batch(self, images):
        """Set the attribute `images` for a batch of which this process has so many."""
        self.images = int(self.total(images)[0])

    def all_reduce(self, x):
        """Replace x, an array on the device, by its sum over all processes; returns x."""
        return x

    def queue_all_reduce(self, *arrays):
        """Have arrays summed in place by the end of the block `with all_reducing()`; outside of one, do nothing."""

    def all_reducing(self):
        """A context at whose end all arrays that were queued in it have been summed over the processes."""
        return contextlib.nullcontext()

    def total(self, *numbers):
        """The sums of plain numbers over all processes, as floats."""
        return list(map(float, numbers))

    def max(self, number):
        """The largest of the numbers of all processes."""
        return number

    def union(self, values):
        """The union of the sets of all processes."""
        return values

    def on_rank_0(self, function):
        """The result of function(), which rank 0 alone calls; an exception in it is raised in all processes."""
        return function()

    def set_timeout(self, minutes):
        """Set how long this process waits for another before it raises Unanswered."""

    def watch_stop(self, stop):
        """Shorten the timeout once the interrupts.StopRequest reports a signal; None ends this."""

    def pop_waiting_time(self):
        """The seconds that this process has waited for others since the last call."""
        return 0.0

    def verify(self, facts):
        """Check once, before the first step, that all processes are ready and have the same facts, {name: value}.

        Raises InputError where they differ.
        """

    def prepare_transport(self, device, bucket_bytes, bucket_dtype):
        """Set how arrays of a device.Device are sent.  To be called after verify; raises InputError where it is impossible."""

    def processes(self):
        """The rank and process id of every process, as text: launchers give a dead process's id alone.  None in a group of one."""

    def verify_copies(self, arrays):
        """Raise Drifted unless the host arrays, by name, have the same bits in all processes."""

    def session(self):
        """A context in which rank 0 alone prints, and a process that is killed is reported."""
        return contextlib.nullcontext()

    def agree_to_exit(self, code):
        """Check that all processes were started with --help or --version; returns the exit code or raises InputError."""
        return code

    def report_error(self, error, code):
        """Print why the program ends, once for all processes; returns the exit code or aborts the other processes."""
        if error is not None:
            print(f"wtref: {printable(error)}", file=sys.stderr)
        return code

    def abort(self, error):
        """Print the traceback of an unexpected exception and end all processes; in a group of one, do nothing."""


SINGLE = ProcessGroup()


def open_group():
    """The group in which this process was started.

    Raises InputError where several processes were announced but mpi4py is missing, or finds no other process.
    """
    size, variable = max(_announced(), default=(1, ""))
    if size == 1:
        return SINGLE
    left_over = f"; if no launcher started this process, unset {variable}"
    try:
        with interruptible(), time_limit():
            from wtref.distributed.mpi import MpiGroup

            return MpiGroup.world(size)
    except ImportError as error:
        needs = "which needs mpi4py: pip install 'wtref[mpi]'"
        raise InputError(f"started as {size} processes, {needs} ({error}){left_over}") from None
    except InputError as error:
        raise InputError(f"{error}{left_over}") from None


def _announced():
    """(number of processes, name of the variable) for every launcher that may have started this process."""
    for size, rank in LAUNCHERS.items():
        if -1 < _number(rank) < _number(size) and not (size == "PMI_SIZE" and _launcher_has_ended()):
            yield _number(size), size


def _number(variable):
    """The value of an environment variable, or -1 where it is not a number of at most nine digits."""
    text = os.environ.get(variable, "")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else -1


def _launcher_has_ended():
    """Whether PMI_FD, the descriptor of the connection to MPICH's launcher, is set but is no socket of this process."""
    try:
        return "PMI_FD" in os.environ and not stat.S_ISSOCK(os.fstat(int(os.environ["PMI_FD"])).st_mode)
    except (ValueError, OverflowError, OSError):
        return True
