"""Pickles of arrays, lists and dictionaries, read without executing anything in them."""

import math
from dataclasses import dataclass

import numpy as np

from wtref.errors import InputError

# The names that a pickle may refer to, in all versions of NumPy, and the names of their records (Made).
NAMES = {"numpy.ndarray": "array", "numpy.dtype": "dtype", "_codecs.encode": "encode"}
for core in ("numpy.core", "numpy._core"):
    NAMES |= {f"{core}.multiarray._reconstruct": "reconstruct", f"{core}.multiarray.scalar": "scalar"}
    NAMES |= {f"{core}.numeric._frombuffer": "from buffer"}
DTYPES = {"|u1", "|i1"} | {f"{order}{kind}{size}" for order in "<>" for kind in "iu" for size in "248"}
SHORT = 4096  # bytes; longer texts must stand for bytes, because other texts may take four times their size in memory
LATIN = "\xff".encode()[0]  # the largest first byte of a character, in UTF-8, in a text that stands for bytes


@dataclass
class Made:
    """The record of a call that a pickle asks for: the function's name, its arguments, and the state set afterwards."""

    name: str
    arguments: object
    state: object = None


def as_integers(found):
    """An array (N,) of integers from an unpickled list or array of them; None if it is neither."""
    if type(found) is not list:
        return as_array(found)
    values = [value if type(value) is int else as_array(value) for value in found]
    if any(type(value) is not int and (value is None or value.shape != ()) for value in values):
        return None
    return np.array(values, np.int64)


def as_array(made):
    """The array of integers that a Made describes, a view of the pickle's bytes; None if it describes no such array."""
    match made:
        case Made("reconstruct", (Made("array"), *_), (_, shape, dtype, fortran, values)):
            order = "F" if fortran else "C"
        case Made("from buffer", (values, dtype, shape, "C" | "F" as order)):
            pass
        case Made("scalar", (dtype, values)):
            shape, order = (), "C"
        case _:
            return None
    dtype = _as_dtype(dtype)
    if dtype is None or type(values) not in (bytes, memoryview) or type(shape) is not tuple:
        return None
    if not all(type(n) is int and n > 0 for n in shape) or len(values) != math.prod(shape) * dtype.itemsize:
        return None
    return np.frombuffer(values, dtype).reshape(shape, order=order)


def _as_dtype(made):
    match made:
        case Made("dtype", (bytes() | str() as kind, *_), (_, bytes() | str() as order, *_)):
            name = _as_text(order) + _as_text(kind)
            return np.dtype(name) if name in DTYPES else None
    return None


def _as_text(text):
    return text if type(text) is str else text.decode("latin-1")


class Unpickler:
    """A reader of pickles of protocols 2 to 5, as Python 2 and 3 write them, that calls no function they name.

    It supports only the opcodes of arrays, numbers, texts, lists and dictionaries (described in pickletools).  Calls of
    NAMES become records (Made), except that encode turns a text into bytes; any other name is refused.  Long strings
    are views of `data`, and the number of steps, and so of objects, is limited.
    """

    def __init__(self, data, where, steps):
        self.data, self.where, self.steps = memoryview(data), where, steps
        self.at, self.stack, self.marks, self.memo = 0, [], [], {}
        self.room = len(data)  # the most bytes to which texts may be encoded from here on

    def load(self):
        """The pickled object, in which Made and memoryviews occur.  Raises InputError."""
        try:
            for _ in range(self.steps):
                code = bytes(self.take(1))
                if code == b".":
                    return self.finish()
                if code not in OPCODES:
                    self.refuse(f"its opcode {code!r} at byte {self.at - 1:,} has no place in CIFAR")
                OPCODES[code](self)
        except (LookupError, TypeError, UnicodeError):
            self.refuse(f"damaged before byte {self.at:,}")
        self.refuse(f"takes more than {self.steps:,} steps")

    def refuse(self, reason):
        raise InputError(f"{self.where}: {reason}; such a pickle is not read, as it may be harmful")

    def finish(self):
        if self.at < len(self.data):
            self.refuse(f"has more bytes after its end at byte {self.at:,}")
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

    def push_text(self, size):
        text = self.take(size)
        if size > SHORT and np.frombuffer(text, np.uint8).max() > LATIN:
            self.refuse("has a long text")
        self.push(str(text, "utf-8"))

    def pop_marked(self):
        """Pop all values pushed since the last mark."""
        start = self.marks.pop()
        values, self.stack[start:] = self.stack[start:], []
        return values

    def pop_last(self, count):
        values, self.stack[-count:] = self.stack[-count:], []
        return tuple(values)

    def protocol(self):
        if not 2 <= self.number(1) <= 5:
            self.refuse("not of pickle protocols 2 to 5")

    def line(self):
        text, end, _ = bytes(self.data[self.at : self.at + 40]).partition(b"\n")
        if not end:
            self.refuse("mentions a name that is too long")
        self.take(len(text) + 1)
        return text.decode("latin-1")

    def name(self, module, name):
        if type(module) is not str or type(name) is not str:
            self.refuse("asks for what is no name")
        if f"{module}.{name}" not in NAMES:
            self.refuse(f"asks for {f'{module}.{name}'[:80]!r}")
        self.push(Made(NAMES[f"{module}.{name}"], None))

    def call(self):
        arguments, made = self.stack.pop(), self.stack.pop()
        if type(made) is not Made or made.arguments is not None:
            self.refuse("calls what is no name")
        self.push(self.encoded(*arguments) if made.name == "encode" else Made(made.name, arguments))

    def encoded(self, text, encoding):
        """The bytes that Python 3 writes as a text in protocol 2."""
        self.room -= len(text)
        if encoding != "latin1" or self.room < 0:
            self.refuse("encodes what is no string of bytes")
        return str.encode(text, "latin-1")

    def build(self):
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) is not Made:
            self.refuse("sets the state of what is no array")
        made.state = state

    def set_items(self, pairs):
        for at in range(0, len(pairs), 2):
            if type(pairs[at]) not in (bytes, str):
                self.refuse("has a key that is no string")
            dict.__setitem__(self.stack[-1], pairs[at], pairs[at + 1])


OPCODES = {
    b"\x80": Unpickler.protocol,
    b"\x95": lambda self: self.take(8),  # the size of a frame, needed by readers of streams only
    b"N": lambda self: self.push(None),
    b"\x88": lambda self: self.push(True),
    b"\x89": lambda self: self.push(False),
    b"K": lambda self: self.push(self.number(1)),
    b"M": lambda self: self.push(self.number(2)),
    b"J": lambda self: self.push(self.number(4, signed=True)),
    b"U": lambda self: self.push(bytes(self.take(self.number(1)))),
    b"T": lambda self: self.push(self.take(self.number(4, signed=True))),
    b"C": lambda self: self.push(bytes(self.take(self.number(1)))),
    b"B": lambda self: self.push(self.take(self.number(4))),
    b"\x8e": lambda self: self.push(self.take(self.number(8))),
    b"\x96": lambda self: self.push(self.take(self.number(8))),
    b"\x8c": lambda self: self.push_text(self.number(1)),
    b"X": lambda self: self.push_text(self.number(4)),
    b"\x8d": lambda self: self.push_text(self.number(8)),
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
    b"\x94": lambda self: self.memo.update({len(self.memo): self.stack[-1]}),
    b"h": lambda self: self.push(self.memo[self.number(1)]),
    b"j": lambda self: self.push(self.memo[self.number(4)]),
    b"c": lambda self: self.name(self.line(), self.line()),
    b"\x93": lambda self: self.name(*self.pop_last(2)),
    b"R": Unpickler.call,
    b"b": Unpickler.build,
}
