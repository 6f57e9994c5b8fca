"""The C sources in c/, compiled for this machine when first used.

The compiler is $CC, or cc.  What it makes is kept in ~/.cache/wtref (or under $XDG_CACHE_HOME), by a
name that changes with the sources, the flags, the compiler and the processor.
"""

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
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
    compiler = shlex.split(command) or ["cc"]
    if not shutil.which(compiler[0]):
        raise NoCompiler(f"no C compiler: {compiler[0]} is not there; gcc would do")
    try:
        path = _cache() / f"{real}-{_key(compiler)}.so"
        if not path.exists():
            print(f"wtref: compiling the CPU kernels for {real}, once for this machine", file=sys.stderr, flush=True)
            _compile(compiler, real, path)
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # OpenMP reads it as it is loaded
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NoCompiler(str(error)) from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines() or ["no message"]
        raise NoCompiler(f"{compiler[0]} fails: {lines[0]}") from None


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _run([*compiler, *FLAGS, f"-DREAL={real}", str(SOURCES / "all.c"), "-o", str(temporary)])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _key(compiler):
    """Of all that the library depends on; what the compiler defines tells its version and the processor."""
    machine = _run([*compiler, *FLAGS, "-dM", "-E", "-x", "c", os.devnull])
    sources = b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))
    return hashlib.sha256(machine + sources).hexdigest()[:16]


def _cache():
    """A folder that only its owner may write."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wtref"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o022):
        raise PermissionError(f"{folder} can be written by others")
    return folder


def _run(command):
    return subprocess.run(command, capture_output=True, check=True).stdout
