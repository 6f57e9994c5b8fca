"""Files that are either the old ones or the new ones, whatever happens in between."""

import contextlib
import errno
import os
from pathlib import Path

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
