"""CIFAR-10 and CIFAR-100: both forms, packed and unpacked, give the same arrays; harmful files do no harm."""

import builtins
import functools
import gzip
import operator
import os
import pickle
import tarfile
import warnings

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
    pickled,
    place,
    records,
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


# --- files as published -----------------------------------------------------------------------------------


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
        ("python", pickled(*ones(4)) + b".", ["goes on"]),
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


# --- harmful pickles --------------------------------------------------------------------------------------


class Calls:
    """Pickles as the call of a function."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


touched = "touched-by-a-pickle"
GLOBALS = b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"


def with_data(array):
    """A batch whose 'data' is made by the given opcodes."""
    return b"\x80\2}(U\x06labels](K\0K\1K\2K\3eU\x04data" + array + b"u."


def array(shape=b"K\4M\0\x0c\x86", dtype=b"U\2u1K\0K\1\x87R", values=b"T\0\x30\0\0" + bytes(4 * 3072)):
    made = GLOBALS[0] + GLOBALS[1] + b"K\0\x85U\1b\x87R"
    dtype += b"(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    return made + b"(K\1" + shape + GLOBALS[2] + dtype + b"\x89" + values + b"tb"


HARMFUL = {
    **{
        f"{label}, protocol {protocol}": pickle.dumps({"data": value, "labels": [0, 1, 2, 3]}, protocol)
        for protocol in range(6)
        for label, value in {
            "os.system": Calls(os.system, f"touch {touched}"),
            "eval": Calls(builtins.eval, f"open({touched!r}, 'w')"),
            "open": Calls(builtins.open, touched, "w"),
            "getattr": Calls(builtins.getattr, b"", "join"),
            "getattr chain": Calls(operator.attrgetter, "__class__.__mro__"),
            "import": Calls(builtins.__import__, "this"),
            "partial": Calls(functools.partial, builtins.open, touched, "w"),
            "bytearray": Calls(builtins.bytearray, 1 << 40),
            "numpy load": Calls(np.load, touched),
            "numpy frombuffer": Calls(np.frombuffer, b"data"),
            "numpy objects": np.array([Calls(builtins.open, touched, "w"), None], object),
            "a class": Calls,
        }.items()
    },
    "persistent id": b"\x80\2Psomething\n.",
    "binary persistent id": b"\x80\2U\1xQ.",
    "instance": b"(S'touch x'\nios\nsystem\n.",
    "object": b"\x80\2(cos\nsystem\nU\7touch xo.",
    "new object": b"\x80\2" + GLOBALS[1] + b")\x81.",
    "stack global": b"\x80\4\x8c\x02os\x8c\x06system\x93.",
    "extension": b"\x80\2\x82\1.",
    "name with dots": b"\x80\2cnumpy\nndarray.__class__\n.",
    "name of a submodule": b"\x80\2cnumpy.core\nmultiarray._reconstruct\n)R.",
    "endless name": b"\x80\2c" + b"a" * 5000 + b"\n.",
    "calls a string": b"\x80\2U\x09os.system)R.",
    "calls a number": b"\x80\2K\1)R.",
    "builds a list": b"\x80\2]Nb.",
    "builds a name": b"\x80\2" + GLOBALS[1] + b"Nb.",
    "object array": with_data(array(dtype=b"U\2O8K\0K\1\x87R")),
    "words": with_data(array(dtype=b"U\2u2K\0K\1\x87R")),
    "array of lists": with_data(array(values=b"]")),
    "too few values": with_data(array(values=b"T\1\0\0\0a")),
    "short string values": with_data(array(values=b"U\1a")),
    "huge array": with_data(array(shape=b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86")),
    "negative array": with_data(array(shape=b"J\xff\xff\xff\xffM\0\x0c\x86")),
    "array without state": with_data(GLOBALS[0] + GLOBALS[1] + b"K\0\x85U\1b\x87R"),
    "array made by dtype": with_data(array().replace(GLOBALS[0], GLOBALS[2], 1)),
    "array of no kind": with_data(array().replace(GLOBALS[1], b"N", 1)),
    "a name for data": with_data(GLOBALS[1]),
    "string of 2 GB": b"\x80\2T\xff\xff\xff\x7f" + bytes(100),
    "string of -1": b"\x80\2T\xff\xff\xff\xff" + bytes(100),
    "unicode of 16 EB": b"\x80\4\x8d" + b"\xff" * 8 + b".",
    "frame of 16 EB": b"\x80\4\x95" + b"\xff" * 8 + b".",
    "long of 2 GB": b"\x80\2\x8b\xff\xff\xff\x7f1.",
    "number with many digits": b"L" + b"9" * 5000 + b"L\n.",
    "distant memo": b"\x80\2Nr\xff\xff\xff\xff.",
    "unknown memo": b"\x80\2h\7.",
    "nothing to remember": b"\x80\2q\0.",
    "empty stack": b"\x80\2.",
    "no mark": b"\x80\2]e.",
    "no list": b"\x80\2N(K\1e.",
    "append to nothing": b"\x80\2K\1a.",
    "odd dictionary": b"\x80\2}(U\1aK\1U\1bu.",
    "list for a key": b"\x80\2}]K\1s.",
    "deep tuple for a key": b"\x80\2})" + b"\x85" * 900 + b"K\1s.",
    "items of a list": b"\x80\2]U\1aK\1s.",
    "marks below the stack": b"\x80\2(((((.",
    "calls through marks": b"\x80\2((((R.",
    "itself in itself": b"\x80\2]q\0h\0a.",
    "label in label": with_data(array()).replace(b"(K\0K\1K\2K\3e", b"(K\0K\1K\2]e"),
    "true for a label": with_data(array()).replace(b"(K\0K\1K\2K\3e", b"(K\0K\1K\2\x88e"),
    "negative label": with_data(array()).replace(b"(K\0K\1K\2K\3e", b"(K\0K\1K\2J\xff\xff\xff\xffe"),
    "lists without end": b"\x80\2" + b"]" * 100_000,
    "dictionaries without end": b"\x80\2" + b"}" * 100_000,
    "strings again and again": b"\x80\2U\xff" + bytes(255) + b"q\0" + b"h\0" * 50_000,
    "tuples in tuples": b"\x80\2)" + b"\x85" * 100_000 + b".",
    "only opcodes": bytes(range(256)),
    "encodes as what it likes": b"\x80\2c_codecs\nencode\nX\1\0\0\0aX\6\0\0\0punycd\x86R.",
    "encodes a list": b"\x80\2c_codecs\nencode\n]X\6\0\0\0latin1\x86R.",
    "encodes nothing": b"\x80\2c_codecs\nencode\n)R.",
    "a text again and again": b"\x80\2c_codecs\nencode\nq\0X\0\x10\0\0" + b"a" * 4096 + b"X\6\0\0\0latin1\x86q\1" + b"h\0h\1R" * 10_000,
    "a text of wide characters": b"\x80\2X\x03\x20\0\0" + "\N{SNOWMAN}".encode() + b"a" * 8192 + b".",
    "a text that is no UTF-8": b"\x80\2X\1\0\0\0\xff.",
    "a list for a name": b"\x80\4]\x8c\1x\x93.",
    "lists of lists for a name": b"\x80\4]" + b"q\0]h\0ah\0a" * 20 + b"\x8c\1x\x93.",
}


def test_the_frame_of_the_harmful_pickles_is_a_sound_one():
    """Else they would be refused for another reason."""
    planes, labels = cifar._read_python(bytearray(with_data(array())), "here", 4, 10)
    assert planes.shape == (4, 3072) and labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("case", HARMFUL)
def test_a_harmful_pickle_is_refused_and_nothing_in_it_is_run(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for function in ("system", "popen", "execv", "posix_spawn"):
        monkeypatch.setattr(os, function, lambda *_: pytest.fail("run"))
    files = {**contents("cifar10", "python"), "data_batch_1": HARMFUL[case]}
    place(tmp_path / "data", "cifar10", "python", False, files)

    def load():
        try:
            return cifar.load_cifar10(tmp_path / "data")
        except InputError as error:
            return error

    error, peak = peak_of(load)
    assert isinstance(error, InputError) and "data_batch_1" in str(error) and "\n" not in str(error)
    assert peak < 3_000_000 and not (tmp_path / touched).exists()


@pytest.mark.parametrize("opcode", [b"\x85", b"}", b"]", b"(", b"N", b"U\xff" + bytes(255), b"T\0\0\0\0"])
def test_a_pickle_of_full_size_made_of_one_opcode_takes_little_memory(opcode):
    count = 10_000
    data = bytearray(b"\x80\2)" + opcode * (30_000_000 // len(opcode)))
    result, peak = peak_of(lambda: cifar._read_python(data, "here", count, 10))
    assert isinstance(result, InputError) and "steps" in str(result) and peak < len(data)


# --- harmful archives -------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("kind", FORMS)
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
