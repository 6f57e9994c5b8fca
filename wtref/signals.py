"""Stopping in good order: Ctrl-C and SIGTERM are noted, and obeyed between two steps."""

import contextlib
import signal


class StopRequest:
    """signal: the number of the signal that asked to stop, or None."""

    signal = None


@contextlib.contextmanager
def stop_requests():
    """Within it, Ctrl-C and SIGTERM only set request.signal; a second one acts as it always does."""
    request = StopRequest()
    usual = {}

    def note(number, frame):
        request.signal = number
        for which, handler in usual.items():
            signal.signal(which, handler)

    for which in (signal.SIGINT, signal.SIGTERM):
        usual[which] = signal.signal(which, note)
    try:
        yield request
    finally:
        for which, handler in usual.items():
            signal.signal(which, handler)
