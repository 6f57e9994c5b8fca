"""Files that are replaced as a whole: a reader finds the old content or the new one, whatever happens in between."""

import contextlib
import errno
import json
import math
import os
from pathlib import Path

from wtref.errors import InputError, Unsaved

# The errors of file systems that cannot flush a folder: FUSE, SMB and others, and Windows, which cannot open one.
NO_FOLDER_FLUSH = {errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM}


@contextlib.contextmanager
def saving(path):
    """Open a temporary neighbour of path for writing bytes; on success flush it and move it to path.

    Raises Unsaved, with the path and the reason, where the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise Unsaved(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def make_folder(path):
    """Make the folder path, and those above it, where it does not exist yet.  Raises InputError where that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path}: {error.strerror or error}") from None


def remove(path):
    """Remove a file.  Raises Unsaved where that is impossible."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise Unsaved(f"cannot remove {path}: {error.strerror or error}") from None


def write_text(path, text):
    """Write text to path, in UTF-8; surrogates, which stand for undecodable bytes of file names, are escaped.  Raises Unsaved."""
    with saving(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def write_json(path, value):
    """Write a value to path as indented JSON, as `json_text` does.  Raises Unsaved."""
    write_text(path, json_text(value, indent=2) + "\n")


def write_lines(path, records):
    """Write one line of JSON to path for each record, as `json_text` does.  Raises Unsaved."""
    write_text(path, "".join(json_text(record) + "\n" for record in records))


def json_text(value, indent=None):
    """A value of dicts, lists, texts and numbers as JSON, which has no NaN and no infinity: null stands for them."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def nan_for_null(value):
    """The value, read from JSON, with NaN in place of each null."""
    if isinstance(value, dict):
        return {name: nan_for_null(part) for name, part in value.items()}
    if isinstance(value, list):
        return [nan_for_null(part) for part in value]
    return math.nan if value is None else value


def _finite(value):
    """The value with None in place of each NaN and infinity."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sync_folder(folder):
    """Flush the list of names in a folder, where the file system can do so."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_FLUSH:
            raise
