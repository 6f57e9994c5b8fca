"""What a run's numbers were computed with: the versions of the software, and a checksum of wtref's own source code."""

import hashlib
import platform

import numpy as np

import wtref
from wtref.installation import PACKAGE

LANGUAGES = {".py", ".c", ".cu"}


def versions():
    """{name: version} of wtref, NumPy and Python."""
    return {"wtref": wtref.__version__, "numpy": np.__version__, "python": platform.python_version()}


def checksum(folder=PACKAGE):
    """Twelve hexadecimal digits of a SHA-256 over the names and contents of all source files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in LANGUAGES:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]
