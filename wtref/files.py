"""Files that are either the old ones or the new ones, whatever happens in between."""

import contextlib
import os
from pathlib import Path


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
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
