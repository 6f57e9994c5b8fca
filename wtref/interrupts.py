"""Stopping in good order: Ctrl-C, SIGTERM and SIGHUP end the program as soon as nothing can be lost by it.

While a network is trained, they are noted and obeyed between two steps (`stop_requests`); at all other times they
raise KeyboardInterrupt, so that files and other processes are left in order (`interrupting`).  A signal that is
ignored when the program starts, as SIGHUP under nohup and SIGINT in a job that a script put in the background, stays ignored.
"""

import contextlib
import signal
import threading
import time

ENDING = (signal.SIGTERM, signal.SIGHUP)  # batch systems send them more than once, the first time for all processes


class Interrupted(KeyboardInterrupt):
    """SIGTERM or SIGHUP; signal: its number."""

    def __init__(self, number):
        super().__init__()
        self.signal = number


class StopRequest:
    """signal: the number of the first signal that asked to stop, or None; since: when it came, by time.monotonic()."""

    signal = since = None


def exit_code(interrupt):
    """As a shell reports it: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + getattr(interrupt, "signal", signal.SIGINT)


@contextlib.contextmanager
def interrupting():
    """Within it, SIGTERM and SIGHUP raise Interrupted, once; further ones do not disturb the leaving."""

    def interrupt(number, frame):
        for which in ENDING:
            signal.signal(which, signal.SIG_IGN)
        raise Interrupted(number)

    with _handling(interrupt, ENDING):
        yield


def at_once():
    """A context within which Ctrl-C, too, ends the process at once, even in a call into C that lasts."""
    return _handling(signal.SIG_DFL, [signal.SIGINT])


@contextlib.contextmanager
def stop_requests():
    """Within it, the signals only set the attributes of the StopRequest; a second Ctrl-C raises KeyboardInterrupt."""
    request, interrupts = StopRequest(), []

    def note(number, frame):
        if request.signal is None:
            request.signal, request.since = number, time.monotonic()
        if number == signal.SIGINT:
            if interrupts:
                raise KeyboardInterrupt
            interrupts.append(number)

    with _handling(note, (signal.SIGINT, *ENDING)):
        yield request


@contextlib.contextmanager
def _handling(handler, numbers):
    """Within it, these signals have this handler, in the main thread; Python allows no other to set one."""
    usual = {}
    if threading.current_thread() is threading.main_thread():
        wanted = [which for which in numbers if signal.getsignal(which) != signal.SIG_IGN]
        usual = {which: signal.signal(which, handler) for which in wanted}
    try:
        yield
    finally:
        for which, former in usual.items():
            signal.signal(which, former)
