"""MNIST and Fashion-MNIST from their IDX files, plain or .gz, and what every reader of data files needs.

An IDX file is two zero bytes, the type of its values (8: unsigned byte), the number of its dimensions, each
dimension as a big-endian 32-bit number, and the values, the last dimension running fastest
(http://yann.lecun.com/exdb/mnist/).  Each set is looked for in a folder of its own, DATA_DIR/mnist/ or
DATA_DIR/fashion-mnist/, and then in DATA_DIR itself; of a file that is there twice the .gz counts, whose checksum guards it.
"""

import contextlib
import gzip
import math
import os
import re
import tarfile
import zlib
from pathlib import Path

import numpy as np

from wtref.datasets.base import Dataset, check_labels
from wtref.errors import InputError

COUNTS = {"train": 60_000, "t10k": 10_000}  # images in each part, of both sets
CLASSES, SIDE = 10, 28
PIECE = 1 << 16  # bytes read at a time
MEMBERS, SMALL = 64, 1 << 16  # an archive's entries, and the bytes of one that is not wanted, are at most


def load_mnist(data_dir):
    """Handwritten digits: 60,000 training and 10,000 test images (28, 28, 1) of bytes, ten classes.

    Raises InputError for missing or damaged files.
    """
    return _load("mnist", data_dir)


def load_fashion_mnist(data_dir):
    """Clothes (Xiao et al., 2017): 60,000 training and 10,000 test images (28, 28, 1) of bytes, ten classes.

    Raises InputError for missing or damaged files.
    """
    return _load("fashion-mnist", data_dir)


def find_idx(name, data_dir):
    """The paths of the set's four files: training images, labels, test images, labels.

    Raises Missing, naming all that were looked for and not found.
    """
    names = [f"{part}-{kind}-ubyte" for part in COUNTS for kind in ("images-idx3", "labels-idx1")]
    folders = [Path(data_dir) / name]
    if not _is_of_another(name, Path(data_dir)):
        folders.append(Path(data_dir))
    for folder in folders:
        found = [_find_file(folder, file) for file in names]
        if any(found):
            break
    else:
        folder = folders[0]
    absent = [f"{file}.gz" for file, path in zip(names, found, strict=True) if path is None]
    if absent:
        raise Missing(f"{name}: {folder} lacks {', '.join(absent)} (or without .gz); {fetch_hint(name)}")
    return found


def _is_of_another(name, folder):
    """Is the folder, by its name, that of the other set, whose files have the same names?"""
    fashion = "fashion" in folder.resolve().name.lower()
    return fashion if name == "mnist" else not fashion and "mnist" in folder.resolve().name.lower()


def _find_file(folder, name):
    """The path of a file, which is published as train-images-idx3-ubyte and as train-images.idx3-ubyte, or None."""
    dotted = name.replace("-idx", ".idx")
    paths = [folder / file for file in (f"{name}.gz", name, f"{dotted}.gz", dotted)]
    return next((path for path in paths if os.path.isfile(path)), None)


def read_idx(path, shape):
    """The bytes of an IDX file, plain or .gz, as an array of the given shape.

    The header must promise this shape, so no file, however it was compressed, fills more memory than it.
    Raises InputError.
    """
    with opened(path) as file:
        _check_header(path, read_up_to(file, 4 + 4 * len(shape)), shape)
        values, size = read_up_to(file, math.prod(shape)), math.prod(shape)
        if len(values) < size:
            raise InputError(f"{path}: cut off after {len(values):,} of {size:,} bytes of values")
        check_end(file, path)
    return np.frombuffer(values, np.uint8).reshape(shape)


def _check_header(path, header, shape):
    magic = bytes((0, 0, 8, len(shape)))
    if header[:4] != magic:
        found = header[:4].hex(" ") or "nothing"
        raise InputError(f"{path}: starts with {found}, an IDX file of this kind with {magic.hex(' ')}")
    right = b"".join(n.to_bytes(4, "big") for n in shape)
    if header[4:] != right:
        found = _times(header[4:]) or "no size"
        raise InputError(f"{path}: its header promises {found}, the published file is {_times(right)}")


def _times(dimensions):
    """60,000 x 28 x 28, from big-endian 32-bit numbers."""
    numbers = (dimensions[at : at + 4] for at in range(0, len(dimensions), 4))
    return " x ".join(f"{int.from_bytes(n, 'big'):,}" for n in numbers)


def _load(name, data_dir):
    paths, parts = find_idx(name, data_dir), []
    for images, labels, count in zip(paths[::2], paths[1::2], COUNTS.values(), strict=True):
        parts += read_idx(images, (count, SIDE, SIDE))[..., None], read_idx(labels, (count,))
        check_labels(labels, parts[-1], CLASSES)
    check_classes(name, parts[1], CLASSES)
    return Dataset(name, CLASSES, *parts)


# --- for every reader of data files -----------------------------------------------------------------------


class Missing(InputError):
    """A data set's files are not where they were looked for."""


def fetch_hint(name):
    """What to do about a data set whose files are missing or damaged."""
    return f"fetch it with: python run.py data fetch {name}"


@contextlib.contextmanager
def opened(path):
    """Open a file, decompressing .gz, for reading bytes; what may go wrong while reading is an InputError."""
    try:
        with gzip.open(path) if str(path).endswith(".gz") else open(path, "rb") as file:
            yield file
    except EOFError:
        raise InputError(f"{path}: cut off, its compressed data has no end") from None
    except (OSError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def read_up_to(file, size):
    """The next `size` bytes of an open file, or what there is of them, as a bytearray."""
    data, at = bytearray(size), 0
    with memoryview(data) as view:
        while count := file.readinto(view[at : at + PIECE]):
            at += count
    del data[at:]
    return data


def check_end(file, path, size=0):
    """Read an open file to its end, where .gz has a checksum; InputError for more than `size` more bytes."""
    while piece := file.read(PIECE):
        size -= len(piece)
        if size < 0:
            raise InputError(f"{path}: goes on after its end")


def tar_files(path, folder, limits):
    """Read files out of a .tar.gz in memory; limits: {file: bytes it may have}.

    Yields (file, its bytes) for each of limits, in the archive's order.  Raises InputError, also for an
    archive with anything but plain files right inside `folder`, each there once.
    """
    seen = set()
    with opened(path) as stream:
        for _ in range(MEMBERS):
            header = _after_attributes(read_up_to(stream, tarfile.BLOCKSIZE), stream, path)
            if not any(header):
                break
            file, size = _check_member(header, path, folder)
            limit = limits.get(file, SMALL)
            if not 0 <= size <= limit:
                raise InputError(f"{path}: {file!r} claims {size:,} bytes, right would be up to {limit:,}")
            if file in seen:
                raise InputError(f"{path}: {file!r} is there twice")
            seen.add(file)
            data = read_up_to(stream, size)
            padding = read_up_to(stream, -size % tarfile.BLOCKSIZE)
            if len(data) + len(padding) < size + -size % tarfile.BLOCKSIZE:
                raise InputError(f"{path}: cut off inside {file!r}")
            if file in limits:
                yield file, data
            del data  # before memory is taken for the next file
        else:
            raise InputError(f"{path}: has more than {MEMBERS} entries")
        check_end(stream, path, SMALL)
    absent = [file for file in limits if file not in seen]
    if absent:
        raise InputError(f"{path}: lacks {', '.join(absent)}")


def _after_attributes(header, stream, path):
    """The header itself or, if it begins attributes of the next file, such as Python writes for times, that file's header."""
    if header[156:157] != tarfile.XHDTYPE:
        return header
    size = _read_header(header, path).size
    if not 0 <= size <= SMALL:
        raise InputError(f"{path}: attributes of a file claim {size:,} bytes, right would be up to {SMALL:,}")
    if re.search(rb" (path|linkpath|size|GNU\.[^=]*)=", read_up_to(stream, size + -size % tarfile.BLOCKSIZE)):
        raise InputError(f"{path}: attributes of a file change its name or size")
    return read_up_to(stream, tarfile.BLOCKSIZE)


def _read_header(header, path):
    try:
        return tarfile.TarInfo.frombuf(bytes(header), "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        raise InputError(f"{path}: damaged, no file starts where one should ({error})") from None


def _check_member(header, path, folder):
    """(name, size) of a file, from its header in a tar archive; the folder itself is ""."""
    info = _read_header(header, path)
    within, _, file = info.name.partition("/")
    if within != folder or "/" in file or file in (".", ".."):
        raise InputError(f"{path}: {info.name!r} lies outside of {folder}/")
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        raise InputError(f"{path}: {info.name!r} is a link or device (type {info.type!r}), not a file")
    return file, info.size


def check_classes(where, labels, classes):
    """Raise an InputError unless every class occurs among the labels (N,)."""
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        raise InputError(f"{where}: none of {len(labels):,} training images is of class {counts.argmin()}")
