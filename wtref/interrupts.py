"""Ctrl-C, SIGTERM and SIGHUP end the program as soon as no work is lost by it.

While a network is trained, a signal is recorded, and the program stops after the current step (`stop_requests`).  At all
other times it raises KeyboardInterrupt, so that files and other processes are cleaned up (`interrupting`).  A signal that
is ignored when the program starts, as SIGHUP under nohup and SIGINT in a script's background job, stays ignored.
"""

import contextlib
import signal
import threading
import time

# Batch systems may send them more than once; Windows has no SIGHUP.
TERMINATING = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Interrupted(KeyboardInterrupt):
    """Raised by SIGTERM and SIGHUP; signal: its number."""

    def __init__(self, number):
        super().__init__()
        self.signal = number


class StopRequest:
    """A signal's request to stop.

    Attributes: signal, the number of the first signal, or None as long as there was none; since, its time by time.monotonic().
    """

    signal = since = None


def exit_code(interrupt):
    """The exit code after an interrupt, as a shell reports it: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + getattr(interrupt, "signal", signal.SIGINT)


@contextlib.contextmanager
def interrupting():
    """A context in which the first SIGTERM or SIGHUP raises Interrupted; later ones are ignored, so that cleaning up is not disturbed."""

    def interrupt(number, frame):
        for which in TERMINATING:
            signal.signal(which, signal.SIG_IGN)
        raise Interrupted(number)

    with _handling(interrupt, TERMINATING):
        yield


def interruptible():
    """A context in which Ctrl-C ends the process immediately, even during a long call into C."""
    return _handling(signal.SIG_DFL, [signal.SIGINT])


@contextlib.contextmanager
def stop_requests():
    """A context that gives a StopRequest, which signals set and do nothing else; a second Ctrl-C raises KeyboardInterrupt."""
    request, ctrl_c = StopRequest(), []

    def record(number, frame):
        if request.signal is None:
            request.signal, request.since = number, time.monotonic()
        if number == signal.SIGINT:
            if ctrl_c:
                raise KeyboardInterrupt
            ctrl_c.append(number)

    with _handling(record, (signal.SIGINT, *TERMINATING)):
        yield request


@contextlib.contextmanager
def deferring():
    """A context in which no signal raises an exception; the first that came is handled at its end.

    To block signals is not enough: the system delivers them to another thread of the process, and Python handles them in this one.
    """
    came = []
    with _handling(lambda number, frame: came.append(number), (signal.SIGINT, *TERMINATING)):
        yield
    if came:
        signal.raise_signal(came[0])


@contextlib.contextmanager
def _handling(handler, numbers):
    """A context in which these signals have this handler; without effect outside the main thread, where Python allows no handler."""
    former = {}
    if threading.current_thread() is threading.main_thread():
        wanted = [which for which in numbers if signal.getsignal(which) != signal.SIG_IGN]
        former = {which: signal.signal(which, handler) for which in wanted}
    try:
        yield
    finally:
        for which, original in former.items():
            signal.signal(which, original)
