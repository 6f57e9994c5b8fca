"""Standard output and standard error that accept any text, and whose failures have an exception of their own."""

import contextlib
import errno
import io
import os
import sys

from wtref.progress import StatusLine


class OutputError(Exception):
    """Standard output cannot be written; reason: why, or None if its reader has closed the pipe, as `head` does."""

    def __init__(self, error):
        super().__init__(error)
        closed = error.errno == errno.EPIPE
        self.reason = None if closed else f"cannot write to standard output: {error.strerror or error}"


@contextlib.contextmanager
def guarded():
    """A context in which characters that a stream cannot encode are printed as escapes.

    Text that cannot be written to standard error is dropped; if standard output cannot be written, OutputError is raised.
    """
    _open_missing()
    line = _status_line(sys.stdout)
    output, errors = _Stream(sys.stdout, OutputError, line), _Stream(sys.stderr, None, line)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            yield
        finally:
            with contextlib.suppress(OutputError):
                output.write("")
                output.flush()
            errors.flush()


def _status_line(stream):
    """The StatusLine of a stream; None if it is no terminal, or one that cannot rewrite a line."""
    is_terminal = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    return StatusLine(_Stream(stream, OutputError)) if is_terminal else None


def _open_missing():
    """Open the null device in place of standard streams that are closed, so that no other file gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one


class _Stream:
    """A text stream that drops what it cannot write, around another one, or around None, as Python has it for a closed one."""

    def __init__(self, stream, failure=None, status_line=None):
        """failure: the exception to raise instead, made from an OSError; status_line: the StatusLine that gives way to what is written."""
        self.stream, self.failure, self.status_line = stream or io.StringIO(), failure, status_line
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text):
        if self.status_line:
            self.status_line.erase()
        self._try(self.stream.write, text)
        return len(text)

    def flush(self):
        self._try(self.stream.flush)

    def _try(self, function, *args):
        try:
            function(*args)
        except OSError as error:
            self._discard()
            if self.failure:
                raise self.failure(error) from None

    def _discard(self):
        """Send the contents of the stream's buffer, and all later output, to the null device."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.stream.fileno())
        os.close(nothing)

    def __getattr__(self, name):
        return getattr(self.stream, name)
