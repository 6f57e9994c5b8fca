"""The parser of every command: its errors are InputError, and it guesses what a mistyped word was meant to be."""

import argparse
import sys

from wtref.errors import InputError, check_choice, resembling
from wtref.installation import program


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations of flags, as `--seed` would be one of `--seeds`."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, but raises InputError for unknown arguments, of a command's own parser too."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            close = resembling(unknown[0].partition("=")[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}" + (f", did you mean {close}?" if close else ""))
        return found, unknown

    def _check_value(self, action, value):
        """Called by argparse for the names of commands and the values of flags with choices."""
        if action.choices is not None:
            check_choice(action.metavar.lower() if action.metavar else action.dest, value, action.choices)

    def error(self, message):
        command = self.prog.replace("run.py", program(), 1)  # usage lines leave out `python`, for lack of room
        raise InputError(f"{message} (see {command} --help)")

    def exit(self, *args):
        sys.stdout.flush()
        super().exit(*args)


class Distinct(argparse.Action):
    """Stores the values of a flag that takes several, each once."""

    def __call__(self, parser, namespace, values, flag=None):
        setattr(namespace, self.dest, list(dict.fromkeys(values)))
