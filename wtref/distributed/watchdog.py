"""The watchdog, a small process beside the group that reports which process was killed.

A killed process (kill -9, lack of memory) cannot report its end, and the launcher, which then kills all the others, may
name one of those instead.  So every process of a group holds a pipe open as long as it lives, and the watchdog waits for
the first pipe to close: its epoll lists them in the order in which they close, however late it reads the list.

On Linux a dying process closes its descriptors from the highest to the lowest.  The pipe's descriptor lies above that of
the launcher's connection, so the pipe closes before the launcher can notice: the first one to close belongs to the process
that died first.  Of three processes on two cores, one of which was killed, pipes below that descriptor gave another process
in 10 of 40 trials, and pidfds, which report a death last of all, in 45 of 140.

This works on one node.  On several, a watchdog could not tell whether its processes died because of a death on another
node, so there is none; nor is there one on systems without epoll and /proc (macOS).
"""

import contextlib
import fcntl
import os
import select
import subprocess
import sys


@contextlib.contextmanager
def monitored(rank, messenger):
    """A context in which the first process to die is named on stderr; once a process has left it, none is named any more.

    rank: this process's; messenger: the Messenger of all processes, which run on one node.
    """
    reading, writing = os.pipe()
    pipe = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, int(os.environ.get("PMI_FD", 0)) + 1)
    os.close(writing)
    pipes = messenger.all_gather((os.getpid(), reading))
    if rank == 0:
        with contextlib.suppress(OSError, AttributeError):  # no epoll or no /proc on this system
            _start(pipes)
    messenger.all_gather("the watchdog has opened the pipes")
    os.close(reading)
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):  # the watchdog has ended, or there was none
            os.write(pipe, b"left")
        os.close(pipe)


def _start(pipes):
    """Start the watchdog; pipes: by rank, (process id, the descriptor in that process of the pipe's reading end)."""
    with contextlib.ExitStack() as stack:
        epoll, names = stack.enter_context(select.epoll()), {}
        for rank, (pid, reading) in enumerate(pipes):
            end = os.open(f"/proc/{pid}/fd/{reading}", os.O_RDONLY)
            stack.callback(os.close, end)
            epoll.register(end, select.EPOLLIN)
            names[end] = f"{end}=rank {rank} (process {pid})"
        command = [sys.executable, "-I", "-S", __file__, str(epoll.fileno()), *names.values()]
        no_input_or_output = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        # in a session of its own, which neither Ctrl-C nor the launcher's kill reaches
        subprocess.Popen(command, pass_fds=(epoll.fileno(), *names), start_new_session=True, **no_input_or_output)


def main(epoll, *names):
    """Wait for the first process to leave or to die; epoll: its descriptor; names: "descriptor=process" of every pipe."""
    ((end, _),) = select.epoll.fromfd(int(epoll)).poll(maxevents=1)
    if not os.read(end, 1):
        name = dict(each.split("=") for each in names)[str(end)]
        why = "was killed, for example by kill -9 or for lack of memory, or crashed"
        print(f"wtref: {name} {why}; what was saved before is whole", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
