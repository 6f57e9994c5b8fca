"""The errors that can end a run without being bugs in the program."""

from difflib import get_close_matches
from numbers import Integral

from wtref.text import printable


class InputError(ValueError):
    """The user asked for something impossible.

    The message is one line that states what was wrong, what was found, and what would be right.  The command line prints
    it to stderr and exits with code 2.
    """

    def __init__(self, message):
        super().__init__(printable(message))


class Diverged(ArithmeticError):
    """The loss became NaN or infinite; the message names epoch, step and learning rate."""


class Drifted(ArithmeticError):
    """The processes of a run no longer hold the same weights; the message names the layer."""


class Unanswered(Exception):
    """Other processes of a run do not respond; the message names them."""


class Unsaved(Exception):
    """A file could not be written; the message states which and why, and for a run how far its newest checkpoint goes."""


def memory_reason(error):
    """The message of a MemoryError as part of a sentence; NumPy's and Python's have one, CuPy's ends with a full stop."""
    return " ".join(str(error).split()).rstrip(".") or "no more to be had"


def choose(kind, name, choices):
    """choices[name].  Raises InputError, which lists the choices, for any other name; kind: what is chosen, for the message."""
    check_choice(kind, name, choices)
    return choices[name]


def check_choice(kind, name, choices):
    """Raise InputError, which lists the choices and names one that the name resembles, unless it is one of them."""
    if not isinstance(name, str) or name not in choices:
        close = resembling(str(name), choices)
        hint = f", did you mean {close!r}?" if close else ";"
        raise InputError(f"unknown {kind} {name!r}{hint} choose from: {', '.join(choices)}")


def resembling(name, choices):
    """The one of the choices that a mistyped name resembles most, in upper case or lower; None if it resembles none."""
    return next(iter(get_close_matches(name.lower(), choices, n=1)), None)


def check_integer(name, value, least):
    """value as an int.  Raises InputError, which gives the value its name, unless it is an integer of at least `least`."""
    if not isinstance(value, Integral) or value < least:
        raise InputError(f"{name} must be an integer of at least {least}, found {value!r}")
    return int(value)


def check_pair(name, value, least):
    """value, an integer or two of them, as a pair of ints; raises InputError as check_integer does."""
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise InputError(f"{name} must be an integer or a pair of them, found {value!r}")
    return tuple(check_integer(name, each, least) for each in pair)
