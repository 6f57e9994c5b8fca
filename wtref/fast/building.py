"""The C sources in c/ are compiled for this machine when they are first used.

The library is cached in ~/.cache/wtref (or $XDG_CACHE_HOME/wtref) with its checksum.  Its name is a hash of the sources,
the compiler, its flags and the processor.  Where it cannot be written there, or not be loaded from there, each process
compiles a library of its own.
"""

import ctypes
import functools
import hashlib
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from wtref.fast import compilers
from wtref.fast.compilers import NoCompiler

# How many times a waiting OpenMP thread polls before it gives up its core.  When three ResNet-8 trainings shared two
# cores (170 ms a step if shared evenly), a step took 230 ms with this number, 160 ms with a tenth of it and 410 ms with
# three times as many.  A single training is 5 % slower with a tenth.
SPINS = "10000"

# How many milliseconds it polls under clang, whose OpenMP takes 200 by default.  When two ResNet-8 trainings shared two busy
# cores, a step took 60 to 130 ms with 0, 180 to 460 ms with 1 and 220 to 330 ms with 200.
BLOCK_TIME = "0"


def library(real):
    """Return the compiled functions of c/ as a ctypes.CDLL, compiling them if necessary.

    real: the C type of the numbers, "float" or "double".  Raises NoCompiler where they cannot be compiled or loaded.
    """
    return _library(real, os.environ.get("CC", "cc"))


@functools.cache
def _library(real, compiler):
    command, macros = compilers.command_and_macros(compiler)
    try:
        return _cached(real, command, macros)
    except (OSError, NoCompiler) as error:
        reason = str(error)
    say(f"{reason}; the CPU kernels are compiled for this process alone; set XDG_CACHE_HOME to a folder that can keep them")
    try:
        with tempfile.TemporaryDirectory(prefix="wtref-", ignore_cleanup_errors=True) as folder:  # a loaded library needs no file
            return _load(_compile(real, command, Path(folder) / f"{real}.so"))
    except OSError as error:
        raise NoCompiler(f"{reason}; nor in a temporary folder: {error}; set XDG_CACHE_HOME or TMPDIR to another folder") from None


def _cached(real, command, macros):
    path = cache_folder() / f"{real}-{_key(command, macros)}.so"
    if not _is_whole(path):
        say(f"compiling the CPU kernels for {real}, once for this machine")
        _compile(real, command, path)
    return _load(path)


def _load(path):
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # OpenMP reads these when it is loaded
    os.environ.setdefault("KMP_BLOCKTIME", BLOCK_TIME)
    if sys.platform == "darwin":
        os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")  # else PyTorch's libomp and this one would end the process
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise OSError(f"{path.parent}: {str(error).removeprefix(f'{path}: ')}") from None


@functools.cache
def say(text):
    """Print a line on stderr, once in this process."""
    print(f"wtref: {text}", file=sys.stderr, flush=True)


@contextmanager
def same_cores():
    """A context manager that restores the cores on which this thread may run.

    If OMP_PROC_BIND, OMP_PLACES, GOMP_CPU_AFFINITY or KMP_AFFINITY is set, OpenMP binds the thread that loads it to one core,
    and threads and processes started later inherit that.  OpenMP's own threads remain bound.
    """
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    usual = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)


def _compile(real, command, path):
    """Compile the library in a new folder, then move it to `path`, which is returned; several processes may do this at once."""
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        made = Path(folder) / path.name
        compilers.run([*command, f"-DREAL={real}", str(compilers.SOURCES / "all.c"), "-o", str(made), "-lm"])
        _checksum_file(made).write_text(_checksum(made), encoding="utf-8")
        os.replace(_checksum_file(made), _checksum_file(path))
        os.replace(made, path)
    return path


def _is_whole(path):
    """Whether the library exists and is undamaged; to load a truncated library would end the process."""
    try:
        return _checksum_file(path).read_bytes() == _checksum(path).encode()
    except FileNotFoundError:
        return False


def _checksum_file(path):
    return path.with_suffix(".sha256")


def _checksum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _key(command, macros):
    """A hash of all that the library depends on."""
    sources = b"".join(path.read_bytes() for path in sorted(compilers.SOURCES.iterdir()))
    return hashlib.sha256("\0".join(command).encode() + macros + sources).hexdigest()[:16]


def cache_folder():
    """The folder of the compiled libraries, which only its owner may write.  Raises OSError where there is none."""
    folder = _home() / "wtref"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o022):
        raise PermissionError(f"the folder {folder} must be writable by its owner alone")
    return folder


def _home():
    """The user's cache folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise FileNotFoundError("there is no home folder for the compiled kernels") from None
