"""Exclusive locks on files: one process at a time writes to what a lock stands for.

The kernel holds them and lets go when their process ends, in whatever way, so a lock file that a dead process left
behind is no obstacle.  Over NFS they hold between machines, as Linux turns flock into a lock of the server's; where
NFS is mounted with `nolock` or `local_lock`, Lustre with `localflock`, or a FUSE file system leaves locks to the
kernel, they hold on one machine only, and no program can tell.  Where there are no locks at all (Lustre without
`flock`, Windows), one line says so and the work goes on without.
"""

import contextlib
import os
import re
import socket
import stat
import sys

from wtref.errors import InputError, Unsaved
from wtref.text import printable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def held(path, what):
    """Hold the lock file at path, which must be for this alone; what: that for which it stands, in words.

    Raises InputError, which names the process, if another process holds it, Unsaved if the file cannot be made.
    """
    file = _opened(path, what)
    try:
        _sign(file)
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps a file that is open
            path.unlink()
        file.close()


def take(file, path):
    """Lock an open file until it is closed; False if another process has the lock, or path names another file by now."""
    try:
        if fcntl is None:
            raise OSError(None, "not on this system")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        warning = "let no other process write there meanwhile"
        print(f"wtref: no lock can be had on {printable(path)} ({error.strerror}); {warning}", file=sys.stderr)
    return _is_named(file, path)


def _opened(path, what):
    """The file at path, opened and locked."""
    while True:
        try:
            file = open(path, "r+b", buffering=0, opener=_creating)
        except OSError as error:
            if path.is_symlink() or path.is_dir():
                raise _obstacle(path) from None
            raise Unsaved(f"cannot write to {path.parent}: {error.strerror}") from None
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            file.close()
            raise _obstacle(path)
        if take(file, path):
            return file
        with file:
            if _is_named(file, path):  # else its holder has just ended and removed it
                raise InputError(f"{what} is in use by {_holder(file)}; wait for it or stop it")


def _creating(path, flags):
    """Open path, and make it if need be, but follow no symbolic link: what is written there must hit no other file."""
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _obstacle(path):
    return InputError(f"{path} is a link or no regular file, where a lock file should be; remove it")


def _is_named(file, path):
    """Is this open file the one that path names?"""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _sign(file):
    """Write into a lock file who holds it."""
    with contextlib.suppress(OSError):  # on a full disk the holder stays unnamed
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        os.fsync(file.fileno())  # for other machines to read


def _holder(file):
    """Who holds a lock file, by what `_sign` wrote."""
    with contextlib.suppress(OSError):  # some file systems let nobody read what is locked
        signed = file.read(400).decode(errors="replace")
        if re.fullmatch(r"process \d+ on [\w.-]+", signed):
            return signed
    return "another process"
