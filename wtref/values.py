"""Checks of the values of flags and of entries in files: their types, and the ranges of numbers."""

import math
import reprlib
from types import NoneType
from typing import NamedTuple, get_args, get_origin

from wtref.errors import InputError

WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", dict: "names with values", NoneType: "none"}


class Range(NamedTuple):
    """The numbers from low to high; above: low itself is excluded; below: high itself is excluded."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def misfit(self, number):
        """A phrase that states what a number outside the range must be; None for a number inside.  NaN is outside every range."""
        if not -math.inf < number < math.inf:
            return "a finite number"
        if number < self.low or self.above and number == self.low:
            return f"more than {self.low:,}" if self.above else f"at least {self.low:,}"
        if number > self.high or self.below and number == self.high:
            return f"less than {self.high:,}" if self.below else f"at most {self.high:,}"
        return None


LIMITS = {  # the range of each number on the command line, by the name of its flag
    "epochs": Range(1, 1_000_000),
    "batch_size": Range(1, 10_000_000),
    "lr": Range(0, 1e300, above=True),
    "momentum": Range(0, 1, below=True),
    "weight_decay": Range(0, 1e300),
    "warmup": Range(0, 1, below=True),
    "milestones": Range(0, 1),
    "hidden": Range(1, 1_000_000),
    "crop": Range(0, 1_000),
    "rotate": Range(0, 180),
    "jitter": Range(0, 100),
    "image_size": Range(1, 10_000),
    "workers": Range(1, 1_000),
    "save_every": Range(1, 2**31 - 1),
    "seed": Range(0, 2**64 - 1),
    "threads": Range(1, 1024),  # each thread has memory of its own, and a number that the system refuses would end the process
    "bucket_mib": Range(0, 1_000_000, above=True),
    "wait_limit": Range(0, 1_000_000, above=True),
    "check_copies": Range(0, 2**31 - 1),
    "mirror_window": Range(0, 10_000, above=True),  # B learns from half as many rows times n_in before training begins
    "mirror_rows": Range(1, 2**24),
    "noise_steps": Range(0, 1_000_000),
    "seeds": Range(1, 10_000),
    "jobs": Range(1, 1_000),
    "batches": Range(1, 10_000_000),
    "shape": Range(1, 4_096),
    "repeats": Range(1, 10_000),
    "inputs": Range(64, 100_000),
    "steps": Range(1, 1_000_000),
}


def check_limits(values):
    """Raise InputError, which names the flag, if a number is out of range.  values: {name of the flag: value}."""
    for name in [name for name in values if name in LIMITS]:
        for number in _numbers(values[name]):
            misfit = LIMITS[name].misfit(number)
            if misfit:
                refuse(name, misfit, number)


def _numbers(value):
    """The numbers in the value of a flag, as a tuple or list; empty for None."""
    if value is None:
        return ()
    return value if isinstance(value, (tuple, list)) else (value,)


def check_type(name, value, kind):
    """Raise InputError, which names the flag, unless value is of the type `kind`, such as int, float | None or tuple[int, ...].

    Integers are accepted as floats; True and False are accepted as neither.
    """
    if not fits(value, kind):
        refuse(name, in_words(kind), value)


def check_entries(found, kinds):
    """Raise ValueError unless `found` is a dict with entries of the types `kinds`, {name: type}; other entries are allowed."""
    if not isinstance(found, dict):
        raise ValueError(f"it must hold {', '.join(kinds)}, found {reprlib.repr(found)}")
    for name, kind in kinds.items():
        if name not in found:
            raise ValueError(f"{name} is missing")
        if not fits(found[name], kind):
            raise ValueError(f"{name} must be {in_words(kind)}, found {reprlib.repr(found[name])}")


def fits(value, kind):
    """True if value is of the type `kind`; see check_type."""
    parts = get_args(kind)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(fits(part, parts[1]) for part in value.values())
    if Ellipsis in parts:
        return isinstance(value, tuple) and len(value) > 0 and all(fits(part, parts[0]) for part in value)
    if parts:
        return any(fits(value, each) for each in parts)
    if kind is str:
        return isinstance(value, str) and "\0" not in value  # no file name can contain it
    if isinstance(value, bool):
        return kind is bool
    if kind is float and isinstance(value, int):
        return abs(value) < 2**1000  # else it does not fit into a float
    return isinstance(value, kind)


def in_words(kind):
    """The type `kind` in words, for messages."""
    parts = get_args(kind)
    if get_origin(kind) is dict:
        return f"names, each with {WORDS[parts[1]]}"
    if Ellipsis in parts:
        return f"a list, each {WORDS[parts[0]]}"
    return " or ".join(map(in_words, parts)) if parts else WORDS[kind]


def refuse(name, right, found):
    """Raise InputError about the value of a flag: `right` states what it must be."""
    raise InputError(f"--{name.replace('_', '-')} must be {right}, found {reprlib.repr(found)}")
