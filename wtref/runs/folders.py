"""The folder runs/: which runs it holds, and new folders in it for runs and for the other commands' results."""

import os
from pathlib import Path

from wtref.errors import InputError
from wtref.files import make_folder

RUNS = Path("runs")


def run_names():
    """The names of all runs in runs/, in alphabetical order."""
    return sorted(path.parent.name for path in RUNS.glob("*/config.json"))


def free_folder(stem):
    """Make a new folder runs/STEM-N, with the first free N; returns its Path.  Raises InputError where that is impossible."""
    make_folder(RUNS)
    while True:
        folder = RUNS / free_name(stem)
        try:
            folder.mkdir()
            return folder
        except FileExistsError:  # another process has just taken the name
            continue
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None


def free_name(stem):
    """The first of the names STEM-1, STEM-2, ... that does not exist in runs/."""
    number = 1
    while os.path.lexists(RUNS / f"{stem}-{number}"):
        number += 1
    return f"{stem}-{number}"
