"""Calls of a function in worker processes, several at a time; no worker outlives the process that started it."""

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from types import ModuleType

from wtref.interrupts import TERMINATING, deferring

LOOK = 0.5  # seconds


def completed(function, items, jobs, waiting=None):
    """Yield (item, Future of function(item)) as the calls end, `jobs` of them running at a time.

    waiting: a function that is called every LOOK seconds while none ends.

    The workers are new processes, so each can set its own number of threads.  They end at once when the generator is
    closed or this process ends, even if it is killed.  If a worker is killed, all calls that have not ended raise
    BrokenProcessPool.
    """
    context = multiprocessing.get_context("spawn")
    watched, lifeline = context.Pipe(duplex=False)
    with _signals_blocked():  # for multiprocessing's resource tracker; starting it unblocks two of the signals again
        pool = ProcessPoolExecutor(jobs, context, _end_with, (watched,))
    try:
        ended = queue.SimpleQueue()
        with _signals_blocked(), without_main():  # an exception that a signal raises in here could leave a future's lock taken
            futures = {pool.submit(function, item): item for item in items}
            for future in futures:
                future.add_done_callback(ended.put)
        for _ in futures:
            future = _next(ended, waiting)
            yield futures[future], future
    finally:
        lifeline.close()
        pool.shutdown()
        watched.close()


def _next(ended, waiting):
    """Take an element of the queue; call `waiting`, if it is given, every LOOK seconds until there is one."""
    while True:
        try:
            return ended.get(timeout=LOOK if waiting else None)
        except queue.Empty:
            waiting()


@contextlib.contextmanager
def without_main():
    """A context in which new processes do not run the user's script again, as multiprocessing otherwise has them do.

    What is sent to them may not be defined in that script.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _signals_blocked():
    """A context in which new processes are started with SIGINT, SIGTERM and SIGHUP blocked, and this one handles them at its end.

    Terminals and batch systems send these signals to all processes of a job; only the parent process handles them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    with deferring():
        former = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, *TERMINATING))
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _end_with(watched):
    """End this process as soon as the other end of the pipe is closed, as the system does when the parent is killed."""

    def watch():
        with contextlib.suppress(EOFError, OSError):
            watched.recv()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
