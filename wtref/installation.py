"""Where this program is installed, in a clone of the repository or as a package, and where its data sets lie."""

import os
import sys
from pathlib import Path

from wtref.errors import InputError

PACKAGE = Path(__file__).resolve().parent
IS_CLONE = not (PACKAGE / "data").is_dir()  # the folder data/ of a clone becomes a part of an installed package
EMBEDDED = PACKAGE.parent / "data" if IS_CLONE else PACKAGE / "data"


def data_folder(name):
    """The folder in which the data set `name` is looked for where --data-dir is not given.

    The digits are embedded, and synthetic data need no files.  The others lie beside the digits in a clone, and otherwise
    in a folder of the user's own: $XDG_DATA_HOME/wtref, by default ~/.local/share/wtref, and on macOS
    ~/Library/Application Support/wtref.

    Raises InputError where the user has no home folder.
    """
    return EMBEDDED if IS_CLONE or name in ("digits", "synthetic") else _user_data() / "wtref"


def program():
    """The command that starts this program, for messages: `wtref` if it is installed or was started so, else `python run.py`."""
    return "wtref" if not IS_CLONE or Path(sys.argv[0]).stem == "wtref" else "python run.py"


def _user_data():
    """The folder of the user's data."""
    usual = "Library/Application Support" if sys.platform == "darwin" else ".local/share"
    try:
        return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / usual)
    except RuntimeError:
        raise InputError("there is no home folder for data sets; choose a folder by --data-dir, or set XDG_DATA_HOME") from None
