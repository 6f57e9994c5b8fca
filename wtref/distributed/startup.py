"""A limit for the time in which MPI may start.

MPI_Init waits until all processes that the launcher started have called it, without a timeout and without handling
signals; a process that has ended, or that never calls MPI, would block the others for ever.  So a small watchdog process
ends this one when the time is over.  This file is also the program of that process.
"""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys

TIMEOUT = 600  # seconds; PyTorch's default for NCCL


@contextlib.contextmanager
def time_limit():
    """A context in which MPI may start.  After TIMEOUT seconds in it, the process is ended with a line on stderr."""
    command = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(TIMEOUT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True):
        yield  # the watchdog ends when its stdin is closed: at the end of this block or at this process's death


def unlink_shared_memory(pid="self"):
    """Remove the names of MPICH's shared-memory files that a process has mapped; the mappings stay valid.

    MPICH removes the names when it ends, and so not where a process is killed.
    """
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
            names = set(re.findall(r"/dev/shm/mpich_shm_\w+$", maps.read(), re.MULTILINE))
        for name in names:
            with contextlib.suppress(OSError):  # another process of the node has removed it
                os.unlink(name)


def main(pid, seconds):
    """End the process `pid` unless stdin is closed within so many seconds."""
    if select.select([sys.stdin], [], [], float(seconds))[0]:
        return
    why = "another process has ended, hangs, or does not use MPI"
    print(f"wtref: process {pid} has waited for {float(seconds) / 60:g} min for MPI to start; {why}", file=sys.stderr, flush=True)
    unlink_shared_memory(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(pid), signal.SIGTERM)


if __name__ == "__main__":
    main(*sys.argv[1:])
