"""Times a side that is compiled first, torch.compile's or JAX's, beside wtref's in a process of its own.

Compilation may fail, take minutes or end the process; whatever happens, the asking process keeps what it has measured.
"""

import multiprocessing
import os
import signal
import threading
from contextlib import suppress

from wtref.bench.sides import Ours
from wtref.bench.turns import median_seconds
from wtref.runs.jobs import without_main

CPU_LIMIT, GPU_LIMIT = 240, 60  # seconds in which a side must have taken its first step; gpu-report ends a benchmark after 110


class Obstacle(Exception):
    """A side cannot be timed; the message says why in a few words."""


def times_beside(work, repeats, side, seconds=None):
    """(wtref's, the side's) milliseconds of a Work, over `repeats` rounds in which the two take turns.

    side: a function of the Work that makes the side, and can be pickled; seconds: the limit of its first step, compilation
    included, and of each round after it, by default that of the device.  Raises Obstacle.
    """
    seconds = seconds or (GPU_LIMIT if work.on_gpu else CPU_LIMIT)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(work, repeats, side, sender))
    with without_main():
        process.start()
    sender.close()
    try:
        _receive(receiver, seconds, "compiled")
        return [1000 * each for each in _receive(receiver, seconds * repeats, "timed")]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its compilers too
        process.kill()
        process.join()


def _receive(receiver, seconds, done):
    """What the process sends once it has done its next part.  Raises Obstacle if it fails, ends or takes longer."""
    if not receiver.poll(seconds):
        raise Obstacle(f"not {done} after {seconds} s")
    try:
        answer = receiver.recv()
    except EOFError:
        raise Obstacle("its process ended before it was timed") from None
    if isinstance(answer, Obstacle):
        raise answer
    return answer


def _measure(work, repeats, side, sender):
    """Send None after the side's first step, then the median seconds of wtref and of the side; or an Obstacle."""
    os.setsid()  # a process group of its own, which receives no Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # compilers warn at length; errors are sent
    try:
        task = work.task(side(work))
        task()
        sender.send(None)
        ours = Ours(work)
        sender.send(median_seconds([work.task(ours), task], repeats, ours.device.wait))
    except Exception as error:  # PyTorch, Triton and JAX document none
        sender.send(Obstacle(f"{type(error).__name__}: {error}".splitlines()[0]))


def _end_with_parent():
    """End this process and all that it has started when the process that started it ends, however that happens."""
    multiprocessing.parent_process().join()
    os.killpg(0, signal.SIGKILL)
