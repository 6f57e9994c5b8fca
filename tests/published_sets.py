"""Small sets in the published formats of MNIST and CIFAR, and what the tests of all readers share."""

import functools
import gzip
import io
import random
import struct
import tarfile
import tracemalloc

import numpy as np
import pytest

from wtref.datasets import cifar
from wtref.errors import InputError

TRAIN, TEST = 20, 10
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx_bytes(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def arrays(train=TRAIN, test=TEST):
    """{file name: array} of a small set; every class occurs."""
    rng = np.random.default_rng(0)
    found = {}
    for part, count in (("train", train), ("t10k", test)):
        found[f"{part}-images-idx3-ubyte"] = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        found[f"{part}-labels-idx1-ubyte"] = (np.arange(count) * 3 % 10).astype(np.uint8)
    return found


def write(folder, name, data, zipped):
    (folder / name).unlink(missing_ok=True)
    (folder / f"{name}.gz").unlink(missing_ok=True)
    path = folder / (f"{name}.gz" if zipped else name)
    path.write_bytes(gzip.compress(data) if zipped else data)
    return path


def rewrite(path, data):
    """A new file in place of the old one; many file systems wait for the disk when a file is written over."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def refused(action, *wanted):
    """The line in which the action is refused; it must hold all that is wanted."""
    with pytest.raises(InputError) as caught:
        action()
    line = str(caught.value)
    assert "\n" not in line and all(part in line for part in wanted), line
    return line


def peak_of(action):
    """(what the action gives or the InputError it raises, the most bytes it took)."""
    tracemalloc.start()
    try:
        result = action()
    except InputError as error:
        result = error
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return result, peak


def mutants(base, count, seed, hot=None):
    """Yield `count` damaged copies of base: bytes changed, cut, doubled, moved, put in.

    hot: positions where most of the damage is done.
    """
    rng = random.Random(seed)
    hot = hot or range(len(base))

    def place():
        return rng.choice(hot) if rng.random() < 0.8 else rng.randrange(len(base))

    for _ in range(count):
        data = bytearray(base)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            at, size, kind = place(), rng.choice((1, 1, 2, 4, 16, 300)), rng.randrange(8)
            if kind == 0:
                data[at : at + 1] = bytes([data[at % len(data)] ^ 1 << rng.randrange(8)]) if data else b""
            elif kind == 1:
                data[at : at + 1] = bytes([rng.randrange(256)])
            elif kind == 2:
                data[at : at + 4] = rng.choice((bytes(4), b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80"))
            elif kind == 3:
                del data[at : at + size]
            elif kind == 4:
                data[at:at] = rng.randbytes(size)
            elif kind == 5:
                other = place()
                data[at:at] = base[other : other + size]
            elif kind == 6:
                other = place()
                data[at : at + size] = base[other : other + size]
            elif rng.random() < 0.3:
                del data[at:]
        yield bytes(data)


def fuzz(read, damaged, sound, honest, slack=200_000):
    """Every damaged file must be refused by an InputError or be read as something sound.

    read(data), sound(result); of every 50th the memory is held against twice the honest size.
    Returns how many were read.
    """
    well = 0
    for k, data in enumerate(damaged):
        if k % 50 == 0:
            result, peak = peak_of(lambda data=data: read(data))
            assert peak < 2 * honest + slack, peak
        else:
            try:
                result = read(data)
            except InputError as error:
                result = error
        if isinstance(result, InputError):
            assert "\n" not in str(result)
        else:
            assert sound(result)
            well += 1
    return well


FORMS = {"binary": 0, "python": 1}
COUNTS = {"cifar10": (4, 3), "cifar100": (100, 7)}
EXTRAS = ("batches.meta", "readme.html", "file.txt~")


def python2(value, memo):
    """The opcodes with which Python 2's cPickle wrote a value in protocol 2; memo: a list, to count in."""
    if isinstance(value, int):
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)
    if isinstance(value, bytes):
        return string(value) + put(memo)
    if isinstance(value, np.ndarray):
        return python2_array(value, memo)
    if isinstance(value, list):
        start = b"]" + put(memo)
        batches = [value[at : at + 1000] for at in range(0, len(value), 1000)]
        return start + b"".join(b"(" + b"".join(python2(x, memo) for x in batch) + b"e" for batch in batches)
    start, items = b"}" + put(memo), value.items()
    return start + b"(" + b"".join(python2(key, memo) + python2(x, memo) for key, x in items) + b"u"


def python2_array(array, memo):
    start = b"cnumpy.core.multiarray\n_reconstruct\n" + put(memo) + b"cnumpy\nndarray\n" + put(memo)
    start += b"K\0\x85U\1b\x87R" + put(memo)
    shape = b"".join(python2(n, memo) for n in array.shape) + b"\x86"
    dtype = b"cnumpy\ndtype\n" + put(memo) + b"U\2u1K\0K\1\x87R" + put(memo)
    dtype += b"(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    order, flag = ("C", b"\x89") if array.flags.c_contiguous else ("F", b"\x88")
    return start + b"(K\1" + shape + dtype + flag + string(array.tobytes(order)) + b"tb"


def string(value):
    short = len(value) < 256
    return (b"U" + bytes([len(value)]) if short else b"T" + struct.pack("<I", len(value))) + value


def put(memo):
    memo.append(None)
    return b"q" + bytes([len(memo)]) if len(memo) < 256 else b"r" + struct.pack("<I", len(memo))


def pickled(planes, labels, name="cifar10"):
    files = [b"some_thing_s_%06d.png" % k for k in range(len(labels))]
    mine = {b"batch_label": b"training batch 1 of 5"}
    if name == "cifar10":
        mine |= {b"labels": labels.tolist(), b"data": planes, b"filenames": files}
    else:
        mine = {b"filenames": files} | mine
        mine |= {b"fine_labels": labels.tolist(), b"coarse_labels": (labels // 5).tolist(), b"data": planes}
    return b"\x80\2" + python2(mine, []) + b"."


def records(planes, labels, name="cifar10"):
    before = [labels] if name == "cifar10" else [labels // 5, labels]
    return np.column_stack([*before, planes]).astype(np.uint8).tobytes()


WRITE = {"binary": records, "python": pickled}


@functools.cache
def contents(name, kind, counts=None):
    """{file: bytes} of a small set: colour planes at random, every class in it."""
    rng, classes = np.random.default_rng(0), cifar.CLASSES[name]
    form = cifar.FORMS[name][FORMS[kind]]
    train, test = counts or COUNTS[name]
    files = {}
    for k, file in enumerate((*form.train, form.test)):
        count = test if file == form.test else train
        labels = (np.arange(count) + k * count) % classes
        files[file] = WRITE[kind](rng.integers(256, size=(count, 3072), dtype=np.uint8), labels, name)
    return files


def packed(folder, files, extras=EXTRAS):
    """The bytes of a .tar as the authors made theirs: the folder, then its files, not in order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo(folder)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(info)
        for file, data in [*((extra, b"words") for extra in extras), *reversed(files.items())]:
            info = tarfile.TarInfo(f"{folder}/{file}")
            info.size, info.uid, info.gid = len(data), 2156, 1103
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def place(where, name, kind, zipped, files=None):
    """Write a set under `where`; returns the archive's or folder's path."""
    form, files = cifar.FORMS[name][FORMS[kind]], files or contents(name, kind)
    where.mkdir(parents=True, exist_ok=True)
    if zipped:
        (where / form.archive).write_bytes(gzip.compress(packed(form.folder, files), 1))
        return where / form.archive
    (where / form.folder).mkdir()
    for file, data in files.items():
        (where / form.folder / file).write_bytes(data)
    return where / form.folder
