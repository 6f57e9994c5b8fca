"""Standard output and standard error: any text can be printed to them, and their failures are told from all others."""

import contextlib
import errno
import io
import os
import sys


class Unheard(Exception):
    """Standard output cannot be written; said: why, or None where its reader has left, as `head` does."""

    def __init__(self, error):
        super().__init__(error)
        closed = error.errno == errno.EPIPE
        self.said = None if closed else f"cannot write to standard output: {error.strerror or error}"


@contextlib.contextmanager
def guarded():
    """Within it, characters that a stream cannot encode are printed as escapes; what cannot be written to standard
    error is dropped, and where standard output cannot be written, Unheard is raised."""
    _occupy()
    output, complaints = _Stream(sys.stdout, Unheard), _Stream(sys.stderr)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(complaints):
        try:
            yield
        finally:
            with contextlib.suppress(Unheard):
                output.flush()
            complaints.flush()


def _occupy():
    """Let no file that is opened later take the number of a standard stream that is closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, this one


class _Stream:
    """A text stream, or None as Python has it for a closed one, that drops what it cannot write."""

    def __init__(self, stream, failure=None):
        """failure: the exception to raise instead, made from an OSError."""
        self.stream, self.failure = stream or io.StringIO(), failure
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text):
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
        """What is still in the stream's buffer, and all that follows, goes nowhere."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self.stream.fileno())
        os.close(nothing)

    def __getattr__(self, name):
        return getattr(self.stream, name)
