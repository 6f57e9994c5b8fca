"""Files that are either the old ones or the new ones, whatever happens in between."""

import contextlib
import errno
import json
import os
from pathlib import Path

from wtref.errors import Unsaved

# What file systems answer that cannot flush a folder: FUSE, SMB and others, and Windows, which opens none.
NO_FOLDER_FLUSH = {errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM}


@contextlib.contextmanager
def replacing(path):
    """Open a temporary neighbour of path for writing bytes; on success flush it and move it to path."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def saving(path):
    """The same as `replacing`; raises Unsaved, with the path and the reason, where the file cannot be written."""
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise Unsaved(f"cannot write {path}: {error.strerror or error}") from None


def make_folder(path):
    """Make the folder path, and those above it, where it is not there yet.  Raises Unsaved."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unsaved(f"cannot make the folder {path}: {error.strerror or error}") from None


def write_text(path, text):
    """Write text to path, in UTF-8; what stands for a file name's bytes that are none is escaped.  Raises Unsaved."""
    with saving(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def write_lines(path, records):
    """Write a line of JSON for each record to path.  Raises Unsaved."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def _sync_folder(folder):
    """Flush the folder's list of names, where the file system can do so."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_FLUSH:
            raise
