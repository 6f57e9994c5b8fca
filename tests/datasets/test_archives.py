"""Archives that are harmful or damaged: refused, within little memory."""

import functools
import gzip
import os
import tarfile

import numpy as np
import pytest

from published_sets import (
    COUNTS,
    EXTRAS,
    FORMS,
    WRITE,
    contents,
    fuzz,
    mutants,
    packed,
    peak_of,
    place,
    refused,
    rewrite,
)
from wtref.datasets import cifar
from wtref.datasets.base import check_labels
from wtref.errors import InputError

NAMES = ["cifar10", "cifar100"]
LOAD = {"cifar10": cifar.load_cifar10, "cifar100": cifar.load_cifar100}


@pytest.fixture(autouse=True)
def counts(monkeypatch):
    monkeypatch.setattr(cifar, "COUNTS", COUNTS)


def member(name, kind=tarfile.REGTYPE, data=b"", link="", size=None):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


PLACE = "cifar-10-batches-bin"
HARMFUL_MEMBERS = {
    "parent": (member(f"{PLACE}/../../escaped", data=b"x"), "outside"),
    "only parent": (member("../escaped", data=b"x"), "outside"),
    "absolute": (member("/escaped", data=b"x"), "outside"),
    "dots": (member(f"{PLACE}/..", data=b"x"), "outside"),
    "other folder": (member("elsewhere/data_batch_1.bin", data=b"x"), "outside"),
    "deeper": (member(f"{PLACE}/a/b", data=b"x"), "outside"),
    "dotted folder": (member(f"./{PLACE}/a", data=b"x"), "outside"),
    "symbolic link": (member(f"{PLACE}/link", tarfile.SYMTYPE, link="/etc/passwd"), "link"),
    "folder as link": (member(PLACE, tarfile.SYMTYPE, link="/"), "link"),
    "hard link": (member(f"{PLACE}/link", tarfile.LNKTYPE, link=f"{PLACE}/data_batch_1.bin"), "link"),
    "device": (member(f"{PLACE}/zero", tarfile.CHRTYPE), "device"),
    "block device": (member(f"{PLACE}/disk", tarfile.BLKTYPE), "device"),
    "fifo": (member(f"{PLACE}/pipe", tarfile.FIFOTYPE), "device"),
    "sparse": (member(f"{PLACE}/sparse", tarfile.GNUTYPE_SPARSE), "device"),
    "long name": (member("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=8**10), "outside"),
    "long name inside": (member(f"{PLACE}/x", tarfile.GNUTYPE_LONGNAME, size=8**10), "device"),
    "attributes": (member(f"{PLACE}/x", tarfile.XHDTYPE, size=8**10), "attributes of a file claim"),
    "attributes twice": (member(f"{PLACE}/x", tarfile.XHDTYPE, data=b"9 mtime=1") * 2, "device"),
    "attributes of all": (member(f"{PLACE}/x", tarfile.XGLTYPE, data=b"9 mtime=1"), "device"),
    "another name": (member("x", tarfile.XHDTYPE, data=b"12 path=../x\n"), "attributes of a file change its name"),
    "another size": (member("x", tarfile.XHDTYPE, data=b"8 mtime=1\n9 size=2\n"), "attributes of a file change its name"),
    "huge": (member(f"{PLACE}/other", size=8**11 - 1), "8,589,934,591"),
    "beyond octal": (member(f"{PLACE}/other", size=2**70), "bytes"),
    "huge part": (member(f"{PLACE}/data_batch_1.bin", size=1 << 30), "1,073,741,824"),
    "part twice": (member(f"{PLACE}/data_batch_1.bin") * 2, ""),
    "twice": (member(f"{PLACE}/a", data=b"x") * 2, "twice"),
    "many": (b"".join(member(f"{PLACE}/{k}") for k in range(100)), "64"),
    "no header": (b"nonsense" * 64, "damaged"),
    "negative size": (member(f"{PLACE}/a", size=-1), "claims -1"),
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("case", HARMFUL_MEMBERS)
def test_a_harmful_archive_is_refused(case, last, tmp_path):
    bad, wanted = HARMFUL_MEMBERS[case]
    good = packed(PLACE, contents("cifar10", "binary"))
    end = len(good.rstrip(b"\0")) // 512 * 512 + 512
    data = good[:end] + bad + bytes(1024) if last else bad + good
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(gzip.compress(data, 1))
    before = sorted(os.listdir(tmp_path))
    refused(lambda: cifar.load_cifar10(tmp_path), str(path), wanted)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    "damage, wanted",
    [
        (lambda data: gzip.compress(data[:5000]), "cut off inside"),
        (lambda data: gzip.compress(data)[:5000], "cut off"),
        (lambda data: gzip.compress(data)[:-4], "cut off"),
        (lambda data: gzip.compress(data)[:-8] + bytes(8), "CRC"),
        (lambda data: data, "gzip"),
        (lambda data: gzip.compress(b""), "lacks data_batch_1.bin"),
        (lambda data: b"", "lacks data_batch_1.bin"),
        (lambda data: gzip.compress(data + bytes(1 << 21)), "after its end"),
    ],
)
def test_broken_archives(damage, wanted, tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(damage(packed(PLACE, contents("cifar10", "binary"))))
    refused(lambda: cifar.load_cifar10(tmp_path), str(path), wanted)


# --- memory and fuzz --------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("name, some", [("cifar10", (400, 400)), ("cifar100", (2000, 400))])
def test_memory_is_less_than_twice_the_files(name, some, kind, zipped, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "COUNTS", {name: some})
    files = contents(name, kind, some)
    place(tmp_path, name, kind, zipped, files)
    data, peak = peak_of(lambda: LOAD[name](tmp_path))
    assert len(data.test_images) == some[1] and peak < 2 * sum(map(len, files.values()))


@pytest.mark.slow
@pytest.mark.parametrize("bomb", ["behind", "in a file", "in a header"])
def test_a_bomb_is_cut_off(bomb, tmp_path):
    good, zeros = packed(PLACE, contents("cifar10", "binary")), bytes(100_000_000)
    data = {
        "behind": good + zeros,
        "in a file": member(f"{PLACE}/other", size=len(zeros)) + zeros + good,
        "in a header": member(f"{PLACE}/other", tarfile.GNUTYPE_LONGNAME, size=len(zeros)) + zeros + good,
    }[bomb]
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(data, 1))
    error, peak = peak_of(lambda: cifar.load_cifar10(tmp_path))
    assert isinstance(error, InputError) and peak < 4_000_000


def sound(data):
    return (
        data.train_images.shape == (10, 32, 32, 3)
        and data.test_images.shape == (2, 32, 32, 3)
        and data.train_images.dtype == data.test_images.dtype == np.uint8
        and data.train_labels.shape == (10,)
        and max(data.train_labels.max(), data.test_labels.max()) < 10
    )


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(cifar, "COUNTS", {"cifar10": (2, 2)})


@functools.cache
def smooth(kind):
    """{file: bytes} of ten training images, five files of two, and two test images; pixels are zeros."""
    form = cifar.FORMS["cifar10"][FORMS[kind]]
    black, labels = np.zeros((2, 3072), np.uint8), np.arange(2)
    files = enumerate((*form.train, form.test))
    return {file: WRITE[kind](black, (2 * k + labels) % 10) for k, file in files}


def beside_pixels(data):
    """The positions in `data` that are no pixels, these being long runs of zeros."""
    found, at = [], 0
    while at < len(data):
        run = len(data[at : at + 3072]) - len(data[at : at + 3072].lstrip(b"\0"))
        if run < 1000:
            found.append(at)
        at += max(run, 1) if run >= 1000 else 1
    return found


@pytest.mark.parametrize("kind", ["binary", pytest.param("python", marks=pytest.mark.slow)])
def test_fuzz_files(kind):
    base = list(smooth(kind).values())[2]

    def read(data):
        planes, labels = cifar.FORMS["cifar10"][FORMS[kind]].read(bytearray(data), "file", 2, 10)
        check_labels("file", labels, 10)
        return planes, labels

    def sound(found):
        return found[0].shape == (2, 3072) and found[0].dtype == np.uint8 and set(found[1]) <= set(range(10))

    well = fuzz(read, mutants(base, 10_000, seed=3, hot=beside_pixels(base)), sound, len(base))
    assert 0 < well < 8_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "first, kind, count",
    [("damaged", "binary", 5_000), ("damaged", "python", 5_000), ("zipped", "python", 2_000)],
)
def test_fuzz_archives(first, kind, count, tiny, tmp_path):
    form = cifar.FORMS["cifar10"][FORMS[kind]]
    plain = packed(form.folder, smooth(kind), extras=EXTRAS[:1])
    path = tmp_path / form.archive
    base = plain if first == "damaged" else gzip.compress(plain)
    hot = [at for at in beside_pixels(plain) if plain[at]] if first == "damaged" else None

    def read(data):
        rewrite(path, data)
        return cifar.load_cifar10(tmp_path)

    damaged = mutants(base, count, seed=4, hot=hot)
    if first == "damaged":
        damaged = (gzip.compress(data, 0) for data in damaged)
    assert fuzz(read, damaged, sound, len(plain)) < 0.8 * count
