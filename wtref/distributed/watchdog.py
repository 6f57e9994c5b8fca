"""The witness: a small process beside the group that names the process which died without a word.

Who is killed (kill -9, too little memory) cannot say so, and the launcher, which then kills all the others, may take
one of them for the first.  So every process of a group holds a pipe open for as long as it lives, and the witness waits
for the first that closes: its epoll lists them in the order in which they do, however late it looks.

On Linux a process that dies closes its descriptors from the highest to the lowest.  The pipe lies above the launcher's
own line, so it has closed before the launcher can know: the first is the one that died.  In kills of one of three
processes on two cores, below that line it was another in 10 of 40, and by pidfds, which speak last of all, in 45 of 140.

All this holds on one node.  Of several, none can tell whether its processes died of a death elsewhere, and there is no
witness; nor is there without epoll and /proc (macOS).
"""

import contextlib
import fcntl
import os
import select
import subprocess
import sys


@contextlib.contextmanager
def watched(rank, messenger):
    """Within it, the first process to die is named on stderr; the first to leave it, in whatever way, ends that for all.

    rank: this process's; messenger: the Messenger of all processes, which are one node's.
    """
    looking, writing = os.pipe()
    pipe = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, int(os.environ.get("PMI_FD", 0)) + 1)
    os.close(writing)
    everyones = messenger.all_gather((os.getpid(), looking))
    if rank == 0:
        with contextlib.suppress(OSError, AttributeError):  # where the system has not what it takes
            _start(everyones)
    messenger.all_gather("the witness looks")
    os.close(looking)
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):  # the witness has gone, or there was none
            os.write(pipe, b"goodbye")
        os.close(pipe)


def _start(pipes):
    """Start the witness; pipes: by rank, (process id, its descriptor of the end to look at)."""
    with contextlib.ExitStack() as ours:
        epoll, names = ours.enter_context(select.epoll()), {}
        for rank, (pid, looking) in enumerate(pipes):
            end = os.open(f"/proc/{pid}/fd/{looking}", os.O_RDONLY)
            ours.callback(os.close, end)
            epoll.register(end, select.EPOLLIN)
            names[end] = f"{end}=rank {rank} (process {pid})"
        command = [sys.executable, "-I", "-S", __file__, str(epoll.fileno()), *names.values()]
        nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        # in a session of its own, where neither Ctrl-C nor the launcher's kill finds it
        subprocess.Popen(command, pass_fds=(epoll.fileno(), *names), start_new_session=True, **nothing)


def main(epoll, *names):
    """Wait for the first goodbye or death in the epoll with this descriptor; names: "descriptor=whose pipe it is"."""
    ((end, _),) = select.epoll.fromfd(int(epoll)).poll(maxevents=1)
    if not os.read(end, 1):
        who = dict(name.split("=") for name in names)[str(end)]
        why = "was killed, as by kill -9 or for want of memory, or crashed"
        print(f"wtref: {who} {why}; what was saved before is whole", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
