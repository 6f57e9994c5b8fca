"""MNIST and Fashion-MNIST from their IDX files, plain or .gz.

An IDX file is two zero bytes, the type of its values (8: unsigned byte), the number of its dimensions, each
dimension as a big-endian 32-bit number, and the values, the last dimension running fastest
(http://yann.lecun.com/exdb/mnist/).  Each set is looked for in a folder of its own, DATA_DIR/mnist/ or
DATA_DIR/fashion-mnist/, and then in DATA_DIR itself.  If a file exists in both forms, the .gz is read, as it has a checksum.
"""

import math
import os
from pathlib import Path

import numpy as np

from wtref.datasets.archives import Missing, check_end, fetch_hint, opened, read_up_to
from wtref.datasets.base import Dataset, check_classes, check_labels
from wtref.errors import InputError

COUNTS = {"train": 60_000, "t10k": 10_000}  # images in each part of both sets
CLASSES, SIDE = 10, 28


def load_mnist(data_dir):
    """MNIST, handwritten digits: 60,000 training and 10,000 test images (28, 28, 1), uint8, of ten classes.

    Raises InputError for missing or damaged files.
    """
    return _load("mnist", data_dir)


def load_fashion_mnist(data_dir):
    """Fashion-MNIST, clothes (Xiao et al., 2017): 60,000 training and 10,000 test images (28, 28, 1), uint8, of ten classes.

    Raises InputError for missing or damaged files.
    """
    return _load("fashion-mnist", data_dir)


def find_idx(name, data_dir):
    """The paths of the set's four files: training images, labels, test images, labels.

    Raises Missing, which names the files that were not found.
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
    """True if the folder's name is that of the other set, whose files have the same names."""
    fashion = "fashion" in folder.resolve().name.lower()
    return fashion if name == "mnist" else not fashion and "mnist" in folder.resolve().name.lower()


def _find_file(folder, name):
    """The path of a file, published as train-images-idx3-ubyte or train-images.idx3-ubyte; None if it does not exist."""
    dotted = name.replace("-idx", ".idx")
    paths = [folder / file for file in (f"{name}.gz", name, f"{dotted}.gz", dotted)]
    return next((path for path in paths if os.path.isfile(path)), None)


def read_idx(path, shape):
    """The values of an IDX file, plain or .gz, as a uint8 array of the given shape.

    The header must state this shape, so no file, however well compressed, takes more memory than that.  Raises
    InputError for any other file.
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
        raise InputError(f"{path}: starts with {found}, right would be {magic.hex(' ')}")
    right = b"".join(n.to_bytes(4, "big") for n in shape)
    if header[4:] != right:
        found = _times(header[4:]) or "no size"
        raise InputError(f"{path}: its header states {found}, the published file has {_times(right)}")


def _times(dimensions):
    """Big-endian 32-bit numbers in words, such as 60,000 x 28 x 28."""
    numbers = (dimensions[at : at + 4] for at in range(0, len(dimensions), 4))
    return " x ".join(f"{int.from_bytes(n, 'big'):,}" for n in numbers)


def _load(name, data_dir):
    paths, parts = find_idx(name, data_dir), []
    for images, labels, count in zip(paths[::2], paths[1::2], COUNTS.values(), strict=True):
        parts += read_idx(images, (count, SIDE, SIDE))[..., None], read_idx(labels, (count,))
        check_labels(labels, parts[-1], CLASSES)
    check_classes(name, parts[1], CLASSES)
    return Dataset(name, CLASSES, *parts)
