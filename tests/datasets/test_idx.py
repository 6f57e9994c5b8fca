"""MNIST and Fashion-MNIST: files in the published format give their pixels, all others one clear line."""

import gzip
import struct

import numpy as np
import pytest

from published_sets import IMAGES, LABELS, TEST, TRAIN, arrays, fuzz, idx_bytes, mutants, peak_of, refused, rewrite, write
from wtref.datasets import idx
from wtref.errors import InputError

LOAD = {"mnist": idx.load_mnist, "fashion-mnist": idx.load_fashion_mnist}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small sound set in tmp_path/mnist, images zipped, labels not."""
    monkeypatch.setattr(idx, "COUNTS", {"train": TRAIN, "t10k": TEST})
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name, array in arrays().items():
        write(folder, name, idx_bytes(array), zipped="images" in name)
    return folder


# --- what is right ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOAD)
@pytest.mark.parametrize("zipped", [True, False])
def test_round_trip(name, zipped, tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "COUNTS", {"train": TRAIN, "t10k": TEST})
    (tmp_path / name).mkdir()
    for file, array in arrays().items():
        write(tmp_path / name, file, idx_bytes(array), zipped)
    data = LOAD[name](tmp_path)
    images, labels, test_images, test_labels = arrays().values()
    assert (data.name, data.classes, data.shape) == (name, 10, (28, 28, 1))
    for found, right in (
        (data.train_images[..., 0], images),
        (data.train_labels, labels),
        (data.test_images[..., 0], test_images),
        (data.test_labels, test_labels),
    ):
        assert found.dtype == np.uint8 and found.flags.writeable and (found == right).all()


def test_rows_come_before_columns(folder):
    images = np.zeros((TRAIN, 28, 28), np.uint8)
    images[3, 5, 7] = 200  # fourth image, sixth row, eighth pixel
    data = bytearray(idx_bytes(images))
    assert data.index(200) == 16 + 3 * 784 + 5 * 28 + 7
    write(folder, IMAGES, data, zipped=False)
    assert idx.load_mnist(folder.parent).train_images[3, 5, 7, 0] == 200


def test_of_a_file_that_is_there_twice_the_zipped_one_counts(folder):
    (folder / IMAGES).write_bytes(b"junk")
    assert len(idx.load_mnist(folder.parent).train_images) == TRAIN


@pytest.mark.parametrize("zipped", [True, False])
def test_the_other_published_names(zipped, folder):
    right = idx.load_mnist(folder.parent)
    for name, array in arrays().items():
        for path in (folder / name, folder / f"{name}.gz"):
            path.unlink(missing_ok=True)
        write(folder, name.replace("-idx", ".idx"), idx_bytes(array), zipped)
    found = idx.load_mnist(folder.parent)
    assert (found.train_images == right.train_images).all() and (found.test_labels == right.test_labels).all()


@pytest.mark.parametrize("where", ["raw", "MNIST", "mnist-original"])
def test_a_folder_that_holds_the_files_themselves(where, folder):
    right = idx.load_mnist(folder.parent)
    assert (idx.load_mnist(folder).train_images == right.train_images).all()
    assert (idx.load_mnist(folder.rename(folder.parent / where)).train_images == right.train_images).all()


def test_a_folder_called_as_the_other_set_is_not_taken(folder):
    refused(lambda: idx.load_fashion_mnist(folder), "fashion-mnist", str(folder / "fashion-mnist"))
    folder = folder.rename(folder.parent / "FashionMNIST")
    refused(lambda: idx.load_mnist(folder), "mnist", str(folder / "mnist"))
    assert len(idx.load_fashion_mnist(folder).train_labels) == TRAIN


# --- what is missing or wrong -----------------------------------------------------------------------------


def test_a_missing_set_says_where_it_was_sought_what_was_expected_and_how_to_fetch_it(tmp_path):
    files = [f"{name}.gz" for name in arrays()]
    for name, load in LOAD.items():
        hint = f"python run.py data fetch {name}"
        refused(lambda load=load: load(tmp_path / "data"), name, str(tmp_path / "data" / name), hint, *files)


def test_only_the_missing_files_are_named(folder):
    (folder / LABELS).unlink()
    assert f"{IMAGES}" not in refused(lambda: idx.load_mnist(folder.parent), LABELS)


def test_the_published_counts_are_enforced(tmp_path):
    path = write(tmp_path, IMAGES, idx_bytes(np.zeros((20, 28, 28), np.uint8)), zipped=False)
    (tmp_path / "mnist").mkdir()
    for name, array in arrays().items():
        write(tmp_path / "mnist", name, idx_bytes(array), zipped=False)
    refused(lambda: idx.load_mnist(tmp_path), path.name, "20 x 28 x 28", "60,000 x 28 x 28")


good = {name: idx_bytes(array) for name, array in arrays().items()}
BROKEN = {
    "nothing": (IMAGES, b"", "nothing"),
    "other magic": (IMAGES, b"\x89PNG" + good[IMAGES][4:], "89 50 4e 47", "00 00 08 03"),
    "floats": (IMAGES, b"\0\0\x0d\x03" + good[IMAGES][4:], "00 00 0d 03"),
    "labels for images": (IMAGES, good[LABELS], "00 00 08 01", "00 00 08 03"),
    "images for labels": (LABELS, good[IMAGES], "00 00 08 03", "00 00 08 01"),
    "header cut off": (IMAGES, good[IMAGES][:10], "20 x", "20 x 28 x 28"),
    "only magic": (IMAGES, good[IMAGES][:4], "no size"),
    "other size": (IMAGES, idx_bytes(np.zeros((TRAIN, 32, 32), np.uint8)), "20 x 32 x 32", "20 x 28 x 28"),
    "other count": (LABELS, idx_bytes(np.zeros(TRAIN - 1, np.uint8)), "19", "20"),
    "cut off": (IMAGES, good[IMAGES][:-1], "15,679 of 15,680"),
    "too long": (IMAGES, good[IMAGES] + b"\0", "more bytes"),
    "label 10": (LABELS, good[LABELS][:-1] + b"\x0a", "label 10", "image 19", "0 to 9"),
    "label 255": (LABELS, good[LABELS][:8] + b"\xff" + good[LABELS][9:], "label 255", "image 0"),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(case, zipped, folder):
    name, data, *wanted = BROKEN[case]
    path = write(folder, name, data, zipped)
    refused(lambda: idx.load_mnist(folder.parent), str(path), *wanted)


def test_a_class_without_images(folder):
    write(folder, LABELS, idx_bytes(np.zeros(TRAIN, np.uint8)), zipped=False)
    refused(lambda: idx.load_mnist(folder.parent), "mnist", "20 training images", "class 1")


@pytest.mark.parametrize(
    "damage, wanted",
    [
        (lambda data: data[:-9], "cut off"),
        (lambda data: data[:40], "cut off"),
        (lambda data: data[:-8] + bytes(4) + data[-4:], "CRC"),
        (lambda data: data[:-4] + bytes(4), "length"),
        (lambda data: data + b"more", "gzip"),
        (lambda data: b"not zipped at all", "gzip"),
        (lambda data: data[:10] + b"\xff" * 20 + data[30:], "decompressing"),
    ],
)
def test_broken_compression(damage, wanted, folder):
    path = folder / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    assert wanted.lower() in refused(lambda: idx.load_mnist(folder.parent), str(path)).lower()


# --- bombs and fuzz ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_large_file_takes_its_own_size_and_a_bomb_no_more(tmp_path):
    shape = (10_000, 28, 28)
    honest, header = int(np.prod(shape)), good[IMAGES][:4] + struct.pack(">3I", 10_000, 28, 28)
    path = write(tmp_path, IMAGES, header + bytes(honest), zipped=True)
    images, peak = peak_of(lambda: idx.read_idx(path, shape))
    assert images.shape == shape and peak < 1.1 * honest
    for claimed in (header, good[IMAGES][:4] + b"\xff" * 12):
        path = write(tmp_path, IMAGES, claimed + bytes(20 * honest), zipped=True)
        assert path.stat().st_size < honest / 20
        error, peak = peak_of(lambda: idx.read_idx(path, shape))
        assert isinstance(error, InputError) and peak < 1.1 * honest


SMALL = (3, 28, 28)


def sound_images(images):
    return images.shape == SMALL and images.dtype == np.uint8


@pytest.mark.slow
@pytest.mark.parametrize("how", ["plain", "zipped, then damaged", "damaged, then zipped"])
def test_fuzz(how, tmp_path):
    plain = idx_bytes(np.random.default_rng(1).integers(256, size=SMALL, dtype=np.uint8))
    path = tmp_path / ("images" if how == "plain" else "images.gz")
    base = gzip.compress(plain) if how.startswith("zipped") else plain
    hot = range(16) if how != "zipped, then damaged" else [*range(40), *range(len(base) - 10, len(base))]

    def read(data):
        rewrite(path, data)
        return idx.read_idx(path, SMALL)

    damaged = mutants(base, 10_000, seed=2, hot=hot)
    if how.startswith("damaged"):
        damaged = (gzip.compress(data, 0) for data in damaged)
    well = fuzz(read, damaged, sound_images, len(plain))
    assert 0 < well < 5_000
