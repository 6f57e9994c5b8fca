"""The folder runs/: which runs it holds, and new folders in it for runs and for the other commands' results."""

import contextlib
import glob
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
    while True:
        make_folder(RUNS)
        folder = RUNS / free_name(stem)
        try:
            folder.mkdir()
            return folder
        except (FileExistsError, FileNotFoundError):  # another process has just taken the name, or removed an empty runs/
            continue
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None


@contextlib.contextmanager
def reserved(stem):
    """A context with a new folder, as `free_folder` makes it, which is removed at the end if it is empty."""
    folder = free_folder(stem)
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):  # it holds something
            folder.rmdir()
            RUNS.rmdir()


def free_name(stem):
    """The first of the names STEM-1, STEM-2, ... that neither exists in runs/ nor begins the names of a comparison's runs."""
    number = 1
    while os.path.lexists(RUNS / f"{stem}-{number}") or any(RUNS.glob(f"{glob.escape(stem)}-{number}-*")):
        number += 1
    return f"{stem}-{number}"
