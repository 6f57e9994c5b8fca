"""New folders in runs/, for runs and for what else the commands write."""

import os
from pathlib import Path

from wtref.errors import InputError

RUNS = Path("runs")


def free_folder(stem):
    """A new folder runs/STEM-N, with the first free N.  Raises InputError where it cannot be made."""
    make_folder(RUNS)
    while True:
        folder = RUNS / free_name(stem)
        try:
            folder.mkdir()
            return folder
        except FileExistsError:  # another process has just taken the name
            continue
        except OSError as error:
            raise _unmade(folder, error) from None


def free_name(stem):
    """stem-1, stem-2, ...: the first that nothing in runs/ has."""
    number = 1
    while os.path.lexists(RUNS / f"{stem}-{number}"):
        number += 1
    return f"{stem}-{number}"


def make_folder(folder):
    """Make a folder unless it is there.  Raises InputError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unmade(folder, error) from None


def _unmade(folder, error):
    return InputError(f"cannot make the folder {folder}: {error.strerror}")
