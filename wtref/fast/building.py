"""The C sources in c/ are compiled for this machine when they are first used.

The compiler is $CC, or cc; its command may name another processor, as in CC="gcc -march=x86-64-v3".  The library is
cached in ~/.cache/wtref (or $XDG_CACHE_HOME/wtref) with its checksum.  Its name is a hash of the sources, the flags, the
compiler and the processor.
"""

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

SOURCES = Path(__file__).parent / "c"
FLAGS = ["-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", "-fopenmp"]

# How many times a waiting OpenMP thread polls before it gives up its core.  When three ResNet-8 trainings shared two
# cores (170 ms a step if shared evenly), a step took 230 ms with this number, 160 ms with a tenth of it and 410 ms with
# three times as many.  A single training is 5 % slower with a tenth.
SPINS = "10000"


class NoCompiler(Exception):
    """The compiled kernels are not available; the message gives the reason in a few words."""


def library(real):
    """Return the compiled functions of c/ as a ctypes.CDLL, compiling them if necessary.

    real: the C type of the numbers, "float" or "double".  Raises NoCompiler where they cannot be compiled or loaded.
    """
    return _library(real, os.environ.get("CC", "cc"))


@functools.cache
def _library(real, command):
    compiler = _compiler(command)
    if not shutil.which(compiler[0]):
        raise NoCompiler(f"the C compiler {compiler[0]!r} was not found; install gcc, or set CC to a C compiler")
    try:
        path = _cache() / f"{real}-{_key(compiler)}.so"
        if not _is_whole(path):
            print(f"wtref: compiling the CPU kernels for {real}, once for this machine", file=sys.stderr, flush=True)
            _compile(compiler, real, path)
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # OpenMP reads it when it is loaded
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NoCompiler(f"{error}; set XDG_CACHE_HOME to another folder for the compiled kernels") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines() or ["no message"]
        raise NoCompiler(f"the C compiler failed: {lines[0]}") from None


def _compiler(command):
    """The command of the compiler as a list of words."""
    try:
        return shlex.split(command) or ["cc"]
    except ValueError as error:
        raise NoCompiler(f"the environment variable CC must be a command, found {command!r}: {error}") from None


@contextmanager
def same_cores():
    """A context manager that restores the cores on which this thread may run.

    If OMP_PROC_BIND, OMP_PLACES or GOMP_CPU_AFFINITY is set, OpenMP binds the thread that loads it to one core, and threads
    and processes started later inherit that.  OpenMP's own threads remain bound.
    """
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    usual = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)


def _compile(compiler, real, path):
    """Compile the library in a new folder, then move it to `path`: several processes may do this at the same time."""
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        made = Path(folder) / path.name
        _run([*compiler, *_flags(compiler), f"-DREAL={real}", str(SOURCES / "all.c"), "-o", str(made)])
        _checksum_file(made).write_text(_checksum(made), encoding="utf-8")
        os.replace(_checksum_file(made), _checksum_file(path))
        os.replace(made, path)


def _flags(compiler):
    """FLAGS; without -march=native if the command of the compiler has a -march of its own, which comes first and would lose."""
    chosen = any(word.startswith("-march=") for word in compiler)
    return [flag for flag in FLAGS if not (chosen and flag == "-march=native")]


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


def _key(compiler):
    """A hash of all that the library depends on.

    The macros that the compiler predefines identify its version and the processor.
    """
    machine = _run([*compiler, *_flags(compiler), "-dM", "-E", "-x", "c", os.devnull])
    sources = b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))
    return hashlib.sha256(machine + sources).hexdigest()[:16]


def _cache():
    """The folder of the compiled libraries, which only its owner may write."""
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
        raise NoCompiler("there is no home folder for the compiled kernels; set XDG_CACHE_HOME to a folder") from None


def _run(command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout
