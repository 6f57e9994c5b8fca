"""The start of MPI, which a program that never calls it would block, and the shared memory that a killed process leaves."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from launching import MPIEXEC, RUN_PY, SMALL, messages, mpiexec, needs_mpi, nothing_left, process_ids, run, start, write_program

pytestmark = [needs_mpi, pytest.mark.slow]

STARTUP = "import sys\nfrom wtref.distributed import startup\nstartup.TIMEOUT = 1.5\nfrom wtref.cli.main import main\nsys.exit(main())\n"


def shared_memory():
    return set(Path("/dev/shm").glob("mpich_shm_*"))


def gone(left):
    """Whether left() becomes empty within some seconds, as other tests' names in /dev/shm do when those tests end."""
    end = time.monotonic() + 60
    while left() and time.monotonic() < end:
        time.sleep(0.1)
    return not left()


def test_a_program_that_never_calls_mpi_is_not_waited_for_for_ever(here):
    before = shared_memory()
    one, other = mpiexec(1, write_program(STARTUP), *SMALL), [MPIEXEC, "-n", "1", shutil.which("true")]
    done = run([*one, ":", *other[1:]], seconds=60)
    assert done.returncode != 0 and nothing_left(here)
    (line,) = messages(done.stderr)
    why = "another process has ended, hangs, or does not use MPI"
    assert re.fullmatch(rf"wtref: process \d+ has waited for 0.025 min for MPI to start; {why}", line)
    assert not Path("/dev/shm").is_dir() or gone(lambda: shared_memory() - before)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm here")
def test_a_killed_run_leaves_no_shared_memory(here):
    started = start(mpiexec(2, RUN_PY, *SMALL, "--epochs", "900"))
    pids = process_ids(started.stdout, 2).values()
    maps = Path(f"/proc/{min(pids)}/maps").read_text()
    names = set(re.findall(r"(/dev/shm/mpich_shm_\w+)(?: \(deleted\))?$", maps, re.MULTILINE))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    started.communicate(timeout=60)
    assert names and not any(Path(name).exists() for name in names)
