"""Pickles that are harmful: refused, and nothing in them is run."""

import builtins
import functools
import operator
import os
import pickle

import numpy as np
import pytest

from published_sets import (
    COUNTS,
    contents,
    peak_of,
    place,
)
from wtref.datasets import cifar
from wtref.errors import InputError


@pytest.fixture(autouse=True)
def counts(monkeypatch):
    monkeypatch.setattr(cifar, "COUNTS", COUNTS)


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


@pytest.mark.slow
@pytest.mark.parametrize("opcode", [b"\x85", b"}", b"]", b"(", b"N", b"U\xff" + bytes(255), b"T\0\0\0\0"])
def test_a_pickle_of_full_size_made_of_one_opcode_takes_little_memory(opcode):
    count = 10_000
    data = bytearray(b"\x80\2)" + opcode * (30_000_000 // len(opcode)))
    result, peak = peak_of(lambda: cifar._read_python(data, "here", count, 10))
    assert isinstance(result, InputError) and "steps" in str(result) and peak < len(data)
