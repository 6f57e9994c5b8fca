"""One run on many processes: each takes its share of every batch, and what a step learns from is summed.

A `Crew` is the processes that train one network together.  A process started alone is a crew of one,
whose sums are its own and which waits for nobody; mpi.py has the crew that MPI started, buckets.py the gradients'
way from one to the other, nccl.py how device arrays travel, witness.py who names a process that was killed.

Every method that sums, gathers or waits must be called by all processes alike: same calls, same order.
"""

import contextlib
import os
import sys

from wtref.errors import InputError

# How many processes a launcher says it started: MPICH and Intel's, Open MPI, Slurm's srun, MVAPICH, Flux.
LAUNCHERS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "MV2_COMM_WORLD_SIZE", "FLUX_JOB_SIZE")
BUCKET_DTYPES = ("float32", "bf16")  # of gradients in float32, on their way


class Crew:
    """A process by itself.

    Attributes: rank, among size.
    """

    rank, size = 0, 1
    place = 0  # among the crew's processes on this machine: which of its devices to take
    threads = None  # for each process, where several share the machine's cores

    def share(self, n):
        """Which of n things, in a row, are this process's: a slice, perhaps an empty one."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def assemble(self, images):
        """Begin a step in which this process has so many images; returns how many all have."""
        return images

    def norm_statistics(self, kernels, y, *others):
        """As in kernels/plain.py, of the whole batch, of which y (N, ..., C) is a share."""
        return kernels.norm_statistics(y, *others)

    def norm_gradients(self, kernels, delta, *others):
        """Likewise."""
        return kernels.norm_gradients(delta, *others)

    def join(self, columns, n):
        """The matrix (m, n) of whose columns each process has its share."""
        return columns

    def sum(self, x):
        """The sum of all processes' x, an array on the device; it takes the place of x."""
        return x

    def give(self, *arrays):
        """Let these be summed, each in its place, by the end of `gathering`; outside of it nothing happens."""

    def gathering(self):
        """A context at whose end every array given within it has become its sum over all processes."""
        return contextlib.nullcontext()

    def total(self, *numbers):
        """The sums of plain numbers, as floats."""
        return list(map(float, numbers))

    def norm(self, length):
        """The length of a vector of which each process has a part, from the length of that."""
        return length

    def largest(self, number):
        """The largest of all processes' numbers."""
        return number

    def union(self, things):
        """All processes' things, a set."""
        return things

    def first(self, function):
        """What function() returns or raises, called by rank 0 alone."""
        return function()

    def take_waited(self):
        """The seconds that this process has waited for the others since it was last asked."""
        return 0.0

    def meet(self, facts):
        """Once, before the first step: see that all are ready, and that the same facts, {name: value}, hold for all.

        Raises InputError.
        """

    def prepare(self, device, bucket_bytes, bucket_dtype):
        """After meeting: how arrays of the device, backend.Device, are to travel."""

    def processes(self):
        """Who they are, in words: launchers name a dead process by its id alone."""

    def agree(self, arrays):
        """Raise Drifted unless all processes' host arrays, by name, have the same bits."""

    def speaking(self):
        """A context in which rank 0 alone prints, and the witness speaks for whoever dies."""
        return contextlib.nullcontext()

    def end(self, error, code):
        """Say why the program ends, once for all processes; returns the exit code, or ends the others too."""
        if error is not None:
            print(f"wtref: {error}", file=sys.stderr)
        return code

    def crash(self, error):
        """A bug has shown; let no other process wait for this one."""


ALONE = Crew()


def open_crew():
    """The crew that this process was started in.  Raises InputError where MPI is needed and missing."""
    announced = max((int(os.environ.get(name, 1)) for name in LAUNCHERS), default=1)
    if announced == 1:
        return ALONE
    try:
        from wtref.parallel.mpi import MpiCrew
    except ImportError as error:
        raise InputError(f"started as {announced} processes, which needs mpi4py: pip install 'wtref[mpi]' ({error})") from None
    return MpiCrew.world(announced)
