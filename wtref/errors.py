"""The ways a run can end that are not a bug in the program."""

from wtref.text import printable


class InputError(ValueError):
    """The user asked for something impossible.

    The message is one line: what was wrong, what was found, what would be right.
    The command line prints it to stderr and exits with code 2.
    """

    def __init__(self, message):
        super().__init__(printable(message))


class Diverged(ArithmeticError):
    """The loss became NaN or infinite; the message names epoch, step and learning rate."""


class Drifted(ArithmeticError):
    """The processes of a run no longer hold the same weights; the message names the layer."""


class Unanswered(Exception):
    """Other processes of a run do not answer; the message names them."""


class Unsaved(Exception):
    """A file could not be written; the message says which and why, and of a checkpoint what is still whole."""


def choose(kind, name, choices):
    """choices[name], or an InputError that lists what there is to choose from."""
    check_choice(kind, name, choices)
    return choices[name]


def check_choice(kind, name, choices):
    """Raise an InputError that lists the choices unless name is one of them."""
    if name not in choices:
        raise InputError(f"unknown {kind} {name!r}; choose from: {', '.join(choices)}")
