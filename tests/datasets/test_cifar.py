"""CIFAR-10 and CIFAR-100: both forms, packed and unpacked, give the same arrays."""

import gzip
import os
import pickle
import tarfile
import warnings

import numpy as np
import pytest

from published_sets import (
    COUNTS,
    FORMS,
    WRITE,
    contents,
    pickled,
    place,
    records,
    refused,
)
from wtref.datasets import cifar

NAMES = ["cifar10", "cifar100"]
LOAD = {"cifar10": cifar.load_cifar10, "cifar100": cifar.load_cifar100}


@pytest.fixture(autouse=True)
def counts(monkeypatch):
    monkeypatch.setattr(cifar, "COUNTS", COUNTS)


def same(one, other):
    fields = ("train_images", "train_labels", "test_images", "test_labels")
    return all(np.array_equal(getattr(one, field), getattr(other, field)) for field in fields)


# --- what is right ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_all_forms_give_the_same(name, tmp_path):
    found = []
    for kind in FORMS:
        for zipped in (True, False):
            place(tmp_path / kind / str(zipped) / name, name, kind, zipped)
            found.append(LOAD[name](tmp_path / kind / str(zipped)))
    data, classes = found[0], cifar.CLASSES[name]
    train = COUNTS[name][0] * len(cifar.FORMS[name][0].train)
    assert all(same(data, other) for other in found)
    assert (data.name, data.classes, data.shape) == (name, classes, (32, 32, 3))
    assert (data.train_labels == np.arange(train) % classes).all()
    assert data.train_images.dtype == data.train_labels.dtype == np.uint8
    assert data.train_images.flags.c_contiguous and data.test_images.flags.c_contiguous
    planes = np.random.default_rng(0).integers(256, size=(COUNTS[name][0], 3072), dtype=np.uint8)
    assert (data.train_images[: len(planes)] == planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)).all()


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_red_is_red_and_rows_are_rows(name, kind, tmp_path):
    """Image 2: red at row 1, column 2; green at row 3, column 4; blue at row 31, column 0."""
    files = dict(contents(name, kind))
    first, count = next(iter(files)), COUNTS[name][0]
    planes = np.zeros((count, 3072), np.uint8)
    planes[2, 32 + 2], planes[2, 1024 + 3 * 32 + 4], planes[2, 2048 + 31 * 32] = 201, 202, 203
    files[first] = WRITE[kind](planes, np.arange(count), name)
    place(tmp_path, name, kind, True, files)
    image = LOAD[name](tmp_path).train_images[2]
    assert image[1, 2].tolist() == [201, 0, 0]
    assert image[3, 4].tolist() == [0, 202, 0]
    assert image[31, 0].tolist() == [0, 0, 203]
    assert np.count_nonzero(image) == 3


def test_the_tests_own_pickles_are_pickles():
    """Python's own unpickler agrees with what the reader below makes of them."""
    data = contents("cifar10", "python")["data_batch_2"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy.core has another name by now
        right = pickle.loads(data, encoding="bytes")
    planes, labels = cifar._read_python(bytearray(data), "here", 4, 10)
    assert labels.tolist() == right[b"labels"] == [4, 5, 6, 7]
    assert (planes == right[b"data"]).all()


def test_an_array_in_columns_order():
    planes = np.random.default_rng(1).integers(256, size=(4, 3072), dtype=np.uint8)
    data = pickled(np.asfortranarray(planes), np.arange(4))
    assert (cifar._read_python(bytearray(data), "here", 4, 10)[0] == planes).all()


def test_long_lists_and_memos():
    """2,500 images: lists in several pieces, more than 256 memo entries."""
    labels = np.arange(2500) % 10
    data = pickled(np.zeros((2500, 3072), np.uint8), labels)
    assert (cifar._read_python(bytearray(data), "here", 2500, 10)[1] == labels).all()


def saved_by_python3(data, protocol, core, text_keys, labels):
    """A published pickle, read and saved again: Python 3's, with the names of NumPy's modules as they are in `core`."""
    batch = pickle.loads(data, encoding="bytes")
    batch = {key: LABELS[labels](value) if key.endswith(b"labels") else value for key, value in batch.items()}
    if text_keys:
        batch = {key.decode(): value for key, value in batch.items()}
    saved = pickle.dumps(batch, protocol)
    for now in ("numpy.core", "numpy._core"):
        for module in ("multiarray", "numeric"):
            old, new = (f"{name}.{module}".encode() for name in (now, core))
            saved = saved.replace(b"\x8c" + bytes([len(old)]) + old, b"\x8c" + bytes([len(new)]) + new)
            saved = saved.replace(b"c" + old + b"\n", b"c" + new + b"\n")
    return saved


LABELS = {"a list": list, "an array": np.array, "a big-endian array": lambda x: np.array(x, ">i4"),
          "a list of NumPy's integers": lambda x: list(np.array(x))}  # fmt: skip


def archived_by_python3(path, folder, files, where):
    """An archive in Python 3's own format, which notes times with fractions of a second."""
    (where / folder).mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        for file, data in files.items():
            (where / folder / file).write_bytes(data)
            os.utime(where / folder / file, (1.5, 1.5))
        archive.add(where / folder, folder)


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_what_python_3_saved_again_is_read(name, protocol, core, tmp_path):
    place(tmp_path, name, "python", True)
    right = LOAD[name](tmp_path)
    form = cifar.FORMS[name][FORMS["python"]]
    for number, labels in enumerate(LABELS):
        if labels == "a list of NumPy's integers" and (name == "cifar100" or protocol == 2):
            continue  # takes too many steps
        again = {file: saved_by_python3(data, protocol, core, number % 2, labels)
                 for file, data in contents(name, "python").items()}  # fmt: skip
        (tmp_path / str(number)).mkdir()
        archived_by_python3(tmp_path / str(number) / form.archive, form.folder, again, tmp_path / "unpacked" / str(number))
        assert same(LOAD[name](tmp_path / str(number)), right)
    assert b"PaxHeader" in gzip.decompress((tmp_path / "0" / form.archive).read_bytes())


def test_every_byte_saved_again_fits(tmp_path):
    """In protocol 2 bytes of 128 and more take two bytes each."""
    files = dict(contents("cifar10", "python"))
    white = pickled(np.full((4, 3072), 255, np.uint8), np.arange(4))
    files["data_batch_2"] = saved_by_python3(white, 2, "numpy._core", False, "a list")
    for zipped in (True, False):
        place(tmp_path / str(zipped), "cifar10", "python", zipped, files)
        assert (cifar.load_cifar10(tmp_path / str(zipped)).train_images[4:8] == 255).all()


@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_holds_the_files_themselves(name, kind, tmp_path):
    path = place(tmp_path / "elsewhere", name, kind, False)
    right = LOAD[name](tmp_path / "elsewhere")
    assert same(LOAD[name](path), right)
    path.rename(tmp_path / name)
    assert same(LOAD[name](tmp_path), right)
    (tmp_path / name / sorted(os.listdir(tmp_path / name))[-1]).rename(tmp_path / "lost")
    refused(lambda: LOAD[name](tmp_path), name, "lacks" if (tmp_path / name / "data_batch_1").exists() else "")


def test_archives_come_before_folders_binary_before_python_and_the_own_folder_first(tmp_path):
    def found():
        return cifar.find_cifar("cifar10", tmp_path)[1].relative_to(tmp_path).as_posix()

    for where in (tmp_path, tmp_path / "cifar10"):
        before = "" if where == tmp_path else "cifar10/"
        for kind, zipped, name in (
            ("python", False, "cifar-10-batches-py"),
            ("binary", False, "cifar-10-batches-bin"),
            ("python", True, "cifar-10-python.tar.gz"),
            ("binary", True, "cifar-10-binary.tar.gz"),
        ):
            place(where, "cifar10", kind, zipped)
            assert found() == before + name


# --- what is missing or wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_set_says_where_it_was_sought_what_was_expected_and_how_to_fetch_it(name, tmp_path):
    expected = [part for form in cifar.FORMS[name] for part in (form.archive, f"{form.folder}/")]
    line = refused(lambda: LOAD[name](tmp_path / "data"), str(tmp_path / "data" / name), *expected)
    assert line.startswith(f"{name}: ") and f"python run.py data fetch {name}" in line


def test_the_published_counts_are_enforced(tmp_path, monkeypatch):
    monkeypatch.undo()
    place(tmp_path / "a", "cifar10", "binary", True)
    refused(lambda: cifar.load_cifar10(tmp_path / "a"), "test_batch.bin", "10,000 records", "9,219 bytes")
    place(tmp_path / "b", "cifar100", "python", True)
    refused(lambda: cifar.load_cifar100(tmp_path / "b"), "test", "10,000")


def ones(count, label=0, name="cifar10"):
    return np.ones((count, 3072), np.uint8), np.full(count, label)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "kind, data, wanted",
    [
        ("binary", b"", ["0 bytes", "4 records of 3,073"]),
        ("binary", records(*ones(3)), ["9,219 bytes"]),
        ("binary", records(*ones(4)) + b"\0", ["12,293 bytes"]),
        ("binary", records(*ones(40)), []),
        ("binary", records(*ones(4, 10)), ["label 10", "0 to 9"]),
        ("python", b"", ["cut off"]),
        ("python", pickled(*ones(3)), ["4"]),
        ("python", pickled(*ones(40)), []),
        ("python", pickled(*ones(4, 10)), ["label 10", "0 to 9"]),
        ("python", pickled(*ones(4))[:-1], ["cut off"]),
        ("python", pickled(*ones(4))[:-5000], ["cut off"]),
        ("python", pickled(*ones(4)) + b".", ["more bytes"]),
        ("python", pickled(*ones(4), name="cifar100"), ["'labels'"]),
        ("python", pickled(np.ones((4, 3073), np.uint8), np.arange(4)), ["4 x 3,072"]),
        ("python", pickled(np.ones((3072, 4), np.uint8), np.arange(4)), ["4 x 3,072"]),
        ("python", b"\x80\x01" + pickled(*ones(4))[2:], ["protocols 2 to 5"]),
        ("python", b"\x80\x06" + pickled(*ones(4))[2:], ["protocols 2 to 5"]),
        ("python", b"\x80\x02N.", ["no dictionary"]),
        ("python", b"\x80\x02}(U\x04dataNU\x06labelsNu.", ["'labels'"]),
    ],
)
def test_broken_files(kind, data, wanted, zipped, tmp_path):
    files = dict(contents("cifar10", kind))
    file = list(files)[1]
    files[file] = data
    path = place(tmp_path, "cifar10", kind, zipped, files)
    refused(lambda: cifar.load_cifar10(tmp_path), str(path), file, *wanted)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", FORMS)
def test_a_file_that_is_not_there(kind, zipped, tmp_path):
    files = dict(contents("cifar10", kind))
    gone = list(files)[2]
    del files[gone]
    path = place(tmp_path, "cifar10", kind, zipped, files)
    refused(lambda: cifar.load_cifar10(tmp_path), str(path), f"lacks {gone}")


def test_a_class_without_images(tmp_path):
    files = {**contents("cifar100", "binary"), "train.bin": records(*ones(100), "cifar100")}
    place(tmp_path, "cifar100", "binary", False, files)
    refused(lambda: cifar.load_cifar100(tmp_path), "cifar100", "100 training images", "class 1")
