"""Exclusive locks on files, by which one process at a time writes to a folder.

The kernel holds a lock and releases it when its process ends, in whatever way, so a lock file that a dead process left
behind is no obstacle.  Over NFS locks hold between machines, because Linux turns flock into a lock on the server.  They
hold on one machine only, which no program can detect, where NFS is mounted with `nolock` or `local_lock`, Lustre with
`localflock`, or where a FUSE file system leaves locks to the kernel.  Where locks do not exist (Lustre without
`flock`, Windows), a warning is printed and the work continues without them.
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
    """A context in which this process holds the lock file at path, which it creates and removes.

    what: what the lock protects, for messages.
    Raises InputError, which names the process, if another process holds the lock; Unsaved if the file cannot be created.
    """
    file = _open_locked(path, what)
    try:
        _write_holder(file)
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps a file that is open
            path.unlink()
        file.close()


def try_lock(file, path):
    """Lock an open file until it is closed; returns False if another process has the lock, or path now names another file."""
    try:
        if fcntl is None:
            raise OSError(None, "not on this system")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        warning = "make sure that no other process writes there"
        print(f"wtref: locks are not available for {printable(path)} ({error.strerror}); {warning}", file=sys.stderr)
    return fcntl is None or _is_named(file, path)


def _open_locked(path, what):
    """The file at path, opened and locked."""
    while True:
        try:
            file = open(path, "r+b", buffering=0, opener=_create_without_following)
        except OSError as error:
            if path.is_symlink() or path.is_dir():
                raise _obstacle(path) from None
            raise Unsaved(f"cannot write to {path.parent}: {error.strerror}") from None
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            file.close()
            raise _obstacle(path)
        if try_lock(file, path):
            return file
        with file:
            if _is_named(file, path):  # otherwise its holder has just removed it
                raise InputError(f"{what} is in use by {_holder(file)}; wait for it or stop it")


def _create_without_following(path, flags):
    """Open path, created if it does not exist, without following a symbolic link, which could lead to another file."""
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _obstacle(path):
    return InputError(f"{path} is a link or not a regular file, as a lock file must be; remove it")


def _is_named(file, path):
    """Whether path names this open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _write_holder(file):
    """Write this process's id and host into a lock file."""
    with contextlib.suppress(OSError):  # on a full disk the holder cannot be named
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        os.fsync(file.fileno())  # so that other machines can read it


def _holder(file):
    """The process that holds a lock file, from what `_write_holder` wrote."""
    with contextlib.suppress(OSError):  # some file systems do not let others read a locked file
        signed = file.read(400).decode(errors="replace")
        if re.fullmatch(r"process \d+ on [\w.-]+", signed):
            return signed
    return "another process"
