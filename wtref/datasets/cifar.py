"""CIFAR-10 and CIFAR-100 in both published forms, binary and python (Krizhevsky, 2009).

Each form is one folder, published as a .tar.gz.  Archives and extracted folders are looked for under their
published names in DATA_DIR/cifar10/ (DATA_DIR/cifar100/) and then in DATA_DIR; archives before folders, as a
checksum guards them, and binary before python.  The first one found counts: if it is damaged, the next is
not tried.  Archives are read member by member, nothing is extracted.

The binary form is one record per image: its label (CIFAR-100: coarse, then fine) and 3 x 1024 bytes, the
red, the green and the blue plane (https://www.cs.toronto.edu/~kriz/cifar.html).  The python form is a pickle
of the same pixels; Unpickler below reads it.
"""

import itertools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wtref.datasets.base import Dataset
from wtref.datasets.idx import Missing, fetch_hint, opened, tar_files
from wtref.datasets.idx import check_classes, check_end, check_labels, read_up_to
from wtref.errors import InputError

COUNTS = {"cifar10": (10_000, 10_000), "cifar100": (50_000, 10_000)}  # images: each training file, test file
CLASSES = {"cifar10": 10, "cifar100": 100}
SIDE, PIXELS = 32, 3 * 32 * 32
RECORD, PICKLED = PIXELS + 2, PIXELS + 64  # bytes that an image may take in a file, by form


@dataclass(frozen=True)
class Form:
    """How a set is published.

    read(bytearray, where, count, classes) gives a file's colour planes (count, 3072) and labels (count,).
    """

    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    room: int  # bytes that an image may take in a file
    read: Callable


def load_cifar10(data_dir):
    """Photographs: 50,000 training and 10,000 test images (32, 32, 3) of bytes, ten classes.

    Raises InputError for missing or damaged files.
    """
    return _load("cifar10", data_dir)


def load_cifar100(data_dir):
    """The same with a hundred (fine) classes."""
    return _load("cifar100", data_dir)


def find_cifar(name, data_dir):
    """(Form, path of its archive or folder) of the first that is there.  Raises Missing."""
    data_dir, forms = Path(data_dir), FORMS[name]
    for folder in (data_dir / name, data_dir):
        for form in forms:
            if os.path.isfile(folder / form.archive):
                return form, folder / form.archive
        for form in forms:
            if os.path.isdir(folder / form.folder):
                return form, folder / form.folder
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
        del data, planes, found  # before memory is taken for the next file
    split = ends[form.train[-1]]
    check_classes(name, labels[:split], classes)
    return Dataset(name, classes, images[:split], labels[:split], images[split:], labels[split:])


def _folder_files(path, _, limits):
    """Yield (file, its bytes) of an extracted folder."""
    absent = [file for file in limits if not os.path.isfile(path / file)]
    if absent:
        raise InputError(f"{path}: lacks {', '.join(absent)}; complete or remove it")
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


# --- the python form --------------------------------------------------------------------------------------


@dataclass
class Made:
    """What a pickle would have called, with what; nothing is called."""

    name: str
    arguments: object
    state: object = None


NAMES = "numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype"


def _read_python(data, where, count, classes):
    key = b"labels" if classes == 10 else b"fine_labels"
    found = Unpickler(data, where, steps=6 * count + 1000).load()
    if type(found) is not dict or not {key, b"data"} <= found.keys():
        raise InputError(f"{where}: its pickle holds no dictionary of 'data' and {key.decode()!r}")
    labels = found[key]
    if type(labels) is not list or len(labels) != count or not all(type(label) is int for label in labels):
        raise InputError(f"{where}: {key.decode()!r} is no list of {count:,} whole numbers")
    return _byte_array(found[b"data"], (count, PIXELS), where), np.array(labels)


def _byte_array(made, shape, where):
    """The array that a Made stands for, in the memory of the file; it must have the given shape."""
    match made:
        case Made(call, (kind, *_), (*_, found, Made(dtype, (b"u1", *_)), fortran, memoryview() as values)):
            if (call, kind, dtype, found, len(values)) == (*NAMES, shape, math.prod(shape)):
                return np.frombuffer(values, np.uint8).reshape(shape, order="F" if fortran else "C")
    raise InputError(f"{where}: 'data' is no array of {shape[0]:,} x {shape[1]:,} bytes")


class Unpickler:
    """Reads pickles as far as Python 2 wrote them into the published files; there is nothing it could run.

    It knows the opcodes that those files are made of and no more (pickletools describes them all).  Calls
    of the three NAMES become records, any other name is refused.  Long strings stay where they are in
    `data`, and the number of steps, hence of objects, is limited.
    """

    def __init__(self, data, where, steps):
        self.data, self.where, self.steps = memoryview(data), where, steps
        self.at, self.stack, self.marks, self.memo = 0, [], [], {}

    def load(self):
        """The pickled object, with Made and memoryviews in it.  Raises InputError."""
        try:
            for _ in range(self.steps):
                code = bytes(self.take(1))
                if code == b".":
                    return self.finish()
                if code not in OPCODES:
                    self.refuse(f"its opcode {code!r} at byte {self.at - 1:,} has no place in CIFAR")
                OPCODES[code](self)
        except (LookupError, TypeError):
            self.refuse(f"damaged before byte {self.at:,}")
        self.refuse(f"takes more than {self.steps:,} steps")

    def refuse(self, reason):
        raise InputError(f"{self.where}: {reason}; not read, a pickle may be harmful")

    def finish(self):
        if self.at < len(self.data):
            self.refuse(f"goes on after its end at byte {self.at:,}")
        return self.stack.pop()

    def take(self, size):
        """The next bytes, as a view."""
        start, self.at = self.at, self.at + size
        if size < 0 or self.at > len(self.data):
            self.refuse("cut off, or a string in it claims a wrong length")
        return self.data[start : self.at]

    def number(self, size, signed=False):
        return int.from_bytes(self.take(size), "little", signed=signed)

    def push(self, value):
        self.stack.append(value)

    def pop_marked(self):
        """What was pushed since the last mark."""
        start = self.marks.pop()
        values, self.stack[start:] = self.stack[start:], []
        return values

    def pop_last(self, count):
        values, self.stack[-count:] = self.stack[-count:], []
        return tuple(values)

    def protocol(self):
        if self.number(1) != 2:
            self.refuse("not of pickle protocol 2")

    def line(self):
        text, end, _ = bytes(self.data[self.at : self.at + 40]).partition(b"\n")
        if not end:
            self.refuse("mentions a name that is too long")
        self.take(len(text) + 1)
        return text.decode("latin-1")

    def name(self):
        name = f"{self.line()}.{self.line()}"
        if name not in NAMES:
            self.refuse(f"asks for {name!r}")
        self.push(name)

    def call(self):
        arguments, name = self.stack.pop(), self.stack.pop()
        if type(name) is not str:
            self.refuse("calls what is no name")
        self.push(Made(name, arguments))

    def build(self):
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) is not Made:
            self.refuse("sets the state of what is no array")
        made.state = state

    def set_items(self, pairs):
        for at in range(0, len(pairs), 2):
            if type(pairs[at]) is not bytes:
                self.refuse("has a key that is no string")
            dict.__setitem__(self.stack[-1], pairs[at], pairs[at + 1])


OPCODES = {
    b"\x80": Unpickler.protocol,
    b"N": lambda self: self.push(None),
    b"\x88": lambda self: self.push(True),
    b"\x89": lambda self: self.push(False),
    b"K": lambda self: self.push(self.number(1)),
    b"M": lambda self: self.push(self.number(2)),
    b"J": lambda self: self.push(self.number(4, signed=True)),
    b"U": lambda self: self.push(bytes(self.take(self.number(1)))),
    b"T": lambda self: self.push(self.take(self.number(4, signed=True))),
    b"}": lambda self: self.push({}),
    b"]": lambda self: self.push([]),
    b")": lambda self: self.push(()),
    b"\x85": lambda self: self.push(self.pop_last(1)),
    b"\x86": lambda self: self.push(self.pop_last(2)),
    b"\x87": lambda self: self.push(self.pop_last(3)),
    b"(": lambda self: self.marks.append(len(self.stack)),
    b"t": lambda self: self.push(tuple(self.pop_marked())),
    b"a": lambda self: list.append(self.stack[-2], self.stack.pop()),
    b"e": lambda self: (values := self.pop_marked(), list.extend(self.stack[-1], values)),
    b"s": lambda self: self.set_items(self.pop_last(2)),
    b"u": lambda self: self.set_items(self.pop_marked()),
    b"q": lambda self: self.memo.update({self.number(1): self.stack[-1]}),
    b"r": lambda self: self.memo.update({self.number(4): self.stack[-1]}),
    b"h": lambda self: self.push(self.memo[self.number(1)]),
    b"j": lambda self: self.push(self.memo[self.number(4)]),
    b"c": Unpickler.name,
    b"R": Unpickler.call,
    b"b": Unpickler.build,
}

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
