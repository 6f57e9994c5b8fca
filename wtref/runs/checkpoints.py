"""Checkpoints: arrays and plain values in one .npz file without pickle, with a checksum inside."""

import contextlib
import hashlib
import json
import os
import shutil

import numpy as np

from wtref.files import replacing

PLAIN, SHA256 = "plain.json", "sha256"


class Damaged(Exception):
    """A checkpoint cannot be trusted; the message says which and why."""


def write(path, arrays, plain):
    """Write host arrays by name and plain values (for JSON) to path: whole, or not at all."""
    entries = {**arrays, PLAIN: np.array(json.dumps(plain))}
    with replacing(path) as file:
        np.savez(file, **entries, **{SHA256: np.array(_digest(entries))})


def read(path):
    """(arrays, plain) as they were written, all numbers of the arrays finite.  Raises FileNotFoundError or Damaged."""
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
    """The plain values alone, at once: the arrays are left unread, and damage to them unseen.  Raises as `read` does."""
    with _opened(path) as file:
        return json.loads(str(file[PLAIN]))


@contextlib.contextmanager
def _opened(path):
    """A checkpoint's entries.  Raises FileNotFoundError, or Damaged for whatever goes wrong within the context."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no regular file")
        with np.load(path, allow_pickle=False) as file:
            yield file
    except FileNotFoundError:
        raise
    except Exception as error:  # np.load raises what the file makes it raise
        raise Damaged(f"{path} is damaged ({' '.join(str(error).split()) or repr(error)})") from None


def keep_as(path, copy):
    """Let `copy` be what path is now, at once and whole.

    Checkpoints are replaced, never changed, so a second link to the same file is a copy.  Where the file system has
    no links (exFAT, SMB, some of FUSE), or no more to give, the bytes are copied.
    """
    temporary = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
        os.replace(temporary, copy)
    except OSError:  # a copy fails too where the cause is another, such as a full disk
        with open(path, "rb") as original, replacing(copy) as file:
            shutil.copyfileobj(original, file)
    finally:
        temporary.unlink(missing_ok=True)


def _digest(entries):
    """SHA-256 over names, types, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(entries):
        array = entries[name]
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
