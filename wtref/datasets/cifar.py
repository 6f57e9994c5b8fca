"""CIFAR-10 and CIFAR-100 in both published forms, binary and python (Krizhevsky, 2009).

Each form is one folder, published as a .tar.gz.  Archives and extracted folders are looked for under their published
names in DATA_DIR/cifar10/ (DATA_DIR/cifar100/) and then in DATA_DIR: archives before folders, because archives have a
checksum, and binary before python.  The extracted files may also lie directly in either place.  The first form found is
read; if it is damaged, the next is not tried.  Archives are read in memory, member by member.

The binary form has one record per image: its label (CIFAR-100: coarse, then fine) and 3 x 1024 bytes, the red, the green
and the blue plane (https://www.cs.toronto.edu/~kriz/cifar.html).  The python form is a pickle of the same pixels, as
published or as saved again by Python 3 (unpickling.py).
"""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wtref.datasets.archives import Missing, check_end, fetch_hint, opened, read_up_to, tar_files
from wtref.datasets.base import Dataset, check_classes, check_labels
from wtref.datasets.unpickling import Unpickler, as_array, as_integers
from wtref.errors import InputError

COUNTS = {"cifar10": (10_000, 10_000), "cifar100": (50_000, 10_000)}  # images in each training file, and in the test file
CLASSES = {"cifar10": 10, "cifar100": 100}
SIDE, PIXELS = 32, 3 * 32 * 32
# The most bytes of an image in a file of each form; in protocol 2, Python 3 writes each byte as a character in UTF-8.
RECORD, PICKLED = PIXELS + 2, 2 * PIXELS + 256


@dataclass(frozen=True)
class Form:
    """A form in which a data set is published.

    read(bytearray, where, count, classes) returns the colour planes (count, 3072) and labels (count,) of a file.
    """

    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    room: int  # the most bytes of an image in a file
    read: Callable


def load_cifar10(data_dir):
    """CIFAR-10, photographs: 50,000 training and 10,000 test images (32, 32, 3), uint8, of ten classes.

    Raises InputError for missing or damaged files.
    """
    return _load("cifar10", data_dir)


def load_cifar100(data_dir):
    """CIFAR-100: the same with a hundred (fine) classes."""
    return _load("cifar100", data_dir)


def find_cifar(name, data_dir):
    """(Form, path of its archive or of the folder of its files) of the first form found.  Raises Missing."""
    data_dir, forms = Path(data_dir), FORMS[name]
    for folder in (data_dir / name, data_dir):
        for form in forms:
            if os.path.isfile(folder / form.archive):
                return form, folder / form.archive
        for form in forms:
            if os.path.isdir(folder / form.folder):
                return form, folder / form.folder
        for form in forms:
            if os.path.isfile(folder / form.train[0]):
                return form, folder
    expected = ", ".join([form.archive for form in forms] + [f"{form.folder}/" for form in forms])
    places = f"neither {data_dir / name} nor {data_dir}"
    raise Missing(f"{name}: {places} holds any of {expected}; {fetch_hint(name)}")


def _load(name, data_dir):
    form, path = find_cifar(name, data_dir)
    files, classes, packed = (*form.train, form.test), CLASSES[name], path.is_file()
    counts = dict.fromkeys(form.train, COUNTS[name][0]) | {form.test: COUNTS[name][1]}
    ends = dict(zip(files, itertools.accumulate(counts.values()), strict=True))
    images = np.empty((ends[form.test], SIDE, SIDE, 3), np.uint8)
    labels = np.empty(len(images), np.uint8)
    limits = {file: counts[file] * form.room + 4096 for file in files}
    for file, data in (tar_files if packed else _folder_files)(path, form.folder, limits):
        where = f"{path}: {file}" if packed else path / file
        part = slice(ends[file] - counts[file], ends[file])
        planes, found = form.read(data, where, counts[file], classes)
        check_labels(where, found, classes)
        images[part], labels[part] = planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), found
        del data, planes, found  # before memory is allocated for the next file
    split = ends[form.train[-1]]
    check_classes(name, labels[:split], classes)
    return Dataset(name, classes, images[:split], labels[:split], images[split:], labels[split:])


def _folder_files(path, _, limits):
    """Yield (file, its bytes) for each file of an extracted folder, as archives.tar_files does."""
    absent = [file for file in limits if not os.path.isfile(path / file)]
    if absent:
        raise InputError(f"{path}: lacks {', '.join(absent)}; complete the folder or remove it")
    for file, limit in limits.items():
        with opened(path / file) as stream:
            data = read_up_to(stream, min(limit, (path / file).stat().st_size))
            check_end(stream, path / file)
        yield file, data
        del data


def _read_binary(data, where, count, classes):
    before = 1 if classes == 10 else 2
    if len(data) != count * (before + PIXELS):
        right = f"{count:,} records of {before + PIXELS:,} bytes"
        raise InputError(f"{where}: holds {len(data):,} bytes, right would be {right}")
    records = np.frombuffer(data, np.uint8).reshape(count, -1)
    return records[:, before:], records[:, before - 1]


def _read_python(data, where, count, classes):
    key = b"labels" if classes == 10 else b"fine_labels"
    found = Unpickler(data, where, steps=10 * count + 1000).load()
    if type(found) is dict:  # Python 3 may have saved the keys as text
        found = {name.encode() if type(name) is str else name: value for name, value in found.items()}
    if type(found) is not dict or not {key, b"data"} <= found.keys():
        raise InputError(f"{where}: its pickle holds no dictionary of 'data' and {key.decode()!r}")
    planes, labels = as_array(found[b"data"]), as_integers(found[key])
    if labels is None or labels.shape != (count,):
        raise InputError(f"{where}: {key.decode()!r} is no list of {count:,} whole numbers")
    if planes is None or (planes.dtype, planes.shape) != (np.uint8, (count, PIXELS)):
        raise InputError(f"{where}: 'data' is no array of {count:,} x {PIXELS:,} bytes")
    return planes, labels


BATCHES = tuple(f"data_batch_{k}" for k in range(1, 6))
BINS = tuple(f"{file}.bin" for file in BATCHES)
FORMS = {
    "cifar10": (
        Form("cifar-10-binary.tar.gz", "cifar-10-batches-bin", BINS, "test_batch.bin", RECORD, _read_binary),
        Form("cifar-10-python.tar.gz", "cifar-10-batches-py", BATCHES, "test_batch", PICKLED, _read_python),
    ),
    "cifar100": (
        Form("cifar-100-binary.tar.gz", "cifar-100-binary", ("train.bin",), "test.bin", RECORD, _read_binary),
        Form("cifar-100-python.tar.gz", "cifar-100-python", ("train",), "test", PICKLED, _read_python),
    ),
}
