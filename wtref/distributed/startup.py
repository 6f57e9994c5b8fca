"""The start of MPI, which cannot wait with patience: it hears no signal, and knows no limit.

It waits for all processes that the launcher started, and one that has ended, or that never calls MPI, does not come.
So a small process beside this one ends it when the time is up.  This file is also that process's program.
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys

LIMIT = 600  # seconds, the time that PyTorch, too, waits for NCCL


@contextlib.contextmanager
def in_time():
    """Within it MPI may start; if that has not ended after LIMIT seconds, the process is ended with a line on stderr."""
    command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(LIMIT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True):
        yield  # the process ends when its input does, here or at this one's death


def forget_shared_memory(pid="self"):
    """Remove the names of MPICH's shared memory that a process has open; those who have it open keep it.

    MPICH itself removes them at its end, and so never where a process was killed.
    """
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
            names = set(re.findall(r"/dev/shm/mpich_shm_\w+$", maps.read(), re.MULTILINE))
        for name in names:
            with contextlib.suppress(OSError):  # another process of the node was quicker
                os.unlink(name)


def main(pid, seconds):
    """End that process if this one's input is still open after so many seconds."""
    if select.select([sys.stdin], [], [], float(seconds))[0]:
        return
    why = "another process has ended, hangs, or does not use MPI"
    print(f"wtref: process {pid} has waited for {float(seconds) / 60:g} min for MPI to start; {why}", file=sys.stderr, flush=True)
    forget_shared_memory(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(pid), signal.SIGTERM)


if __name__ == "__main__":
    main(*sys.argv[1:])
