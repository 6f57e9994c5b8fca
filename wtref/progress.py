"""One line at the end of a terminal that says what is being worked on and how much is left, rewritten as the work goes on.

Nothing is shown where standard output is no terminal.  The line belongs to the stream that `cli/streams.py` puts in place of
standard output; whatever else is printed takes its place, and it comes back with the next call of `show` or `update`.
"""

import shutil
import sys
import time

ERASE = "\r\x1b[K"  # back to the first column; erase to the end of the line
INTERVAL = 0.1  # seconds between two updates at least


class StatusLine:
    """The line of one terminal, a text stream."""

    def __init__(self, terminal):
        self.terminal, self.shown, self.due = terminal, False, 0.0
        self.has_item = False  # whether it is about an item of `each`

    def show(self, text):
        """Write the text in the line, cut to the terminal's width."""
        columns = shutil.get_terminal_size().columns
        self.terminal.write(ERASE + text[: columns - 1])
        self.terminal.flush()
        self.shown, self.due = True, time.monotonic() + INTERVAL

    def erase(self):
        """Leave the line empty, if there is something in it."""
        if self.shown:
            self.shown = False
            self.terminal.write(ERASE)
            self.terminal.flush()


def show(text):
    """Show a text in the line of standard output, if there is one."""
    line = _line()
    if line:
        line.show(text)


def stage(text):
    """Show a stage of the work on one thing, unless this thing is an item of `each`, about which the line is."""
    line = _line()
    if line and not line.has_item:
        line.show(text)


def update(text):
    """Show text(), a function's result, unless the line has changed within the last INTERVAL; the function costs nothing then."""
    line = _line()
    if line and time.monotonic() >= line.due:
        line.show(text())


def shown():
    """Whether standard output has such a line."""
    return _line() is not None


def _line():
    return getattr(sys.stdout, "status_line", None)


def each(items, name=str):
    """Yield the items; the line says which is being worked on, the how-manyth it is, and how long the rest will take.

    name: a function that names an item.
    """
    items, start, line = list(items), time.monotonic(), _line() or StatusLine(None)
    line.has_item = True
    try:
        for done, item in enumerate(items):
            show(f"{name(item)}  {done + 1}/{len(items)}{left(done, len(items), time.monotonic() - start)}")
            yield item
    finally:
        line.has_item = False


def left(done, total, seconds):
    """In words: the time that the rest of the work will take, at the pace of what was done in so many seconds; "" before."""
    return f"  {clock(seconds / done * (total - done))} left" if done else ""


def clock(seconds):
    """Seconds as on a clock: "0:05", "1:10", "2:03:00"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
