"""Checkpoints: arrays and plain values in one .npz file without pickle, with a checksum inside."""

import contextlib
import hashlib
import json
import os
import shutil

import numpy as np

from wtref.files import json_text, saving

PLAIN, SHA256 = "plain.json", "sha256"


class Damaged(Exception):
    """A checkpoint is not intact; the message states which and why."""


def write(path, arrays, plain):
    """Write a checkpoint to path as a whole: `arrays`, {name: host array}, and plain values for JSON.  Raises Unsaved."""
    entries = {**arrays, PLAIN: np.array(json_text(plain))}
    with saving(path) as file:
        np.savez(file, **entries, **{SHA256: np.array(_digest(entries))})


def read(path):
    """(arrays, plain) as they were written; all numbers in the arrays are finite.  Raises FileNotFoundError or Damaged."""
    with _opened(path) as file:
        entries = {name: file[name] for name in file.files}
        if str(entries.pop(SHA256)) != _digest(entries):
            raise ValueError("its checksum does not fit")
        plain = json.loads(str(entries.pop(PLAIN)))
        for name, array in entries.items():
            if array.dtype.kind != "f" or not np.isfinite(array).all():
                raise ValueError(f"{name} must hold finite real numbers")
    return entries, plain


def read_plain(path):
    """The plain values alone.  The arrays are not read, so damage to them is not found.  Raises FileNotFoundError or Damaged."""
    with _opened(path) as file:
        return json.loads(str(file[PLAIN]))


@contextlib.contextmanager
def _opened(path):
    """The entries of a checkpoint.  Raises FileNotFoundError, and Damaged for any other error within the context."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no regular file")
        with np.load(path, allow_pickle=False) as file:
            yield file
    except FileNotFoundError:
        raise
    except Exception as error:  # np.load raises errors of many types, according to the damage
        raise Damaged(f"{path} is damaged ({' '.join(str(error).split()) or repr(error)})") from None


def keep_as(path, copy):
    """Make `copy` a copy of the checkpoint at path, in one step.

    Checkpoints are replaced and never modified, so a hard link serves as a copy.  Where the file system has no hard links
    (exFAT, SMB, some of FUSE), or allows no more of them, the bytes are copied.  Raises Unsaved.
    """
    temporary = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        os.link(path, temporary)
        os.replace(temporary, copy)
    except OSError:  # for other causes, such as a full disk, copying fails too
        with saving(copy) as file, open(path, "rb") as original:
            shutil.copyfileobj(original, file)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _digest(entries):
    """SHA-256 over the names, dtypes, shapes and bytes of all entries, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(entries):
        array = entries[name]
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
