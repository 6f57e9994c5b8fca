"""The C sources in c/, compiled for this machine when first used.

The compiler is $CC, or cc.  What it makes is kept in ~/.cache/wtref (or under $XDG_CACHE_HOME), by a
name that changes with the sources, the flags, the compiler and the processor, with its checksum beside it.
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

# How long an OpenMP thread that waits for the others keeps its core.  Of three programs at once on two
# cores (ResNet-8, a fair share would be 170 ms a step) each took 230 ms with this number, 160 with a
# tenth and 410 with three times as much; alone the step is a twentieth slower with a tenth.
SPINS = "10000"


class NoCompiler(Exception):
    """Why there are no compiled kernels, in a few words."""


def library(real):
    """The functions of c/ for numbers of the C type `real`, float or double, as a ctypes.CDLL.

    Raises NoCompiler.
    """
    return _library(real, os.environ.get("CC", "cc"))


@functools.cache
def _library(real, command):
    compiler = _words(command)
    if not shutil.which(compiler[0]):
        raise NoCompiler(f"no C compiler: {compiler[0]} is not there; gcc would do")
    try:
        path = _cache() / f"{real}-{_key(compiler)}.so"
        if not _is_whole(path):
            print(f"wtref: compiling the CPU kernels for {real}, once for this machine", file=sys.stderr, flush=True)
            _compile(compiler, real, path)
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # OpenMP reads it as it is loaded
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NoCompiler(f"{error}; XDG_CACHE_HOME can name another folder for them") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines() or ["no message"]
        raise NoCompiler(f"{compiler[0]} fails: {lines[0]}") from None


def _words(command):
    try:
        return shlex.split(command) or ["cc"]
    except ValueError as error:
        raise NoCompiler(f"the variable CC is no command: {command!r}: {error}") from None


@contextmanager
def same_cores():
    """This thread may run on the same cores afterwards.

    Under OMP_PROC_BIND, OMP_PLACES or GOMP_CPU_AFFINITY OpenMP binds the thread that loads it to one core, which every
    thread and process started later would inherit.  OpenMP's own threads stay where they were bound.
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
    """Each process in a folder of its own: several may compile the same at once."""
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        made = Path(folder) / path.name
        _run([*compiler, *FLAGS, f"-DREAL={real}", str(SOURCES / "all.c"), "-o", str(made)])
        _checksum_file(made).write_text(_checksum(made), encoding="utf-8")
        os.replace(_checksum_file(made), _checksum_file(path))
        os.replace(made, path)


def _is_whole(path):
    """Is the library there, as it was compiled?  One that was cut short would end the process that loads it."""
    try:
        return _checksum_file(path).read_bytes() == _checksum(path).encode()
    except FileNotFoundError:
        return False


def _checksum_file(path):
    return path.with_suffix(".sha256")


def _checksum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _key(compiler):
    """Of all that the library depends on; what the compiler defines tells its version and the processor."""
    machine = _run([*compiler, *FLAGS, "-dM", "-E", "-x", "c", os.devnull])
    sources = b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))
    return hashlib.sha256(machine + sources).hexdigest()[:16]


def _cache():
    """A folder that only its owner may write."""
    folder = _home() / "wtref"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o022):
        raise PermissionError(f"{folder} can be written by others")
    return folder


def _home():
    """The folder of all caches."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise NoCompiler("no home folder to keep the compiled kernels in; set XDG_CACHE_HOME to a folder") from None


def _run(command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout
