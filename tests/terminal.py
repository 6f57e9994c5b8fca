"""A terminal of 80 columns, in which run.py is run, and what its reader sees at the end."""

import contextlib
import os
import re
import signal
import subprocess
import sys

from launching import RUN_PY, environment

try:
    import fcntl
    import pty
    import struct
    import termios
except ImportError:  # Windows
    pty = None

ERASE = "\r\x1b[K"


def on_terminal(*argv, columns=80, program=RUN_PY):
    """(exit code, all that run.py, or another program, writes to a terminal)."""
    keyboard, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    own = {"env": environment() | {"TERM": "xterm"}, "start_new_session": True}
    process = subprocess.Popen([sys.executable, program, *map(str, argv)], stdin=screen, stdout=screen, stderr=screen, **own)
    os.close(screen)
    try:
        written = b"".join(iter(lambda: _read(keyboard), b""))
        return process.wait(timeout=60), written.decode().replace("\r\n", "\n")
    finally:
        os.close(keyboard)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(keyboard):
    try:
        return os.read(keyboard, 65536)
    except OSError:  # the other side is closed
        return b""


def lasting(written):
    """What stays on the screen: of each line that is erased, what was written after."""
    return "\n".join(line.rpartition(ERASE)[2] for line in written.split("\n"))


def passing(written):
    """The texts that were erased again, in order."""
    return [text for text in re.findall(r"\x1b\[K([^\r\n]+)(?=\r)", written)]
