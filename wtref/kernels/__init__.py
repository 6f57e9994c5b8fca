"""The array primitives under the layers: plain.py says what they compute, compiled.py (on a CPU) and cuda.py do it faster.

`primitives(x)` answers with functions named as in plain.py.  `use` and `use_cuda` choose which; all
equal each other to rounding.
"""

import os
from contextlib import contextmanager
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from wtref.errors import InputError
from wtref.kernels import plain
from wtref.kernels.building import NoCompiler
from wtref.kernels.compiled import Compiled
from wtref.kernels.cuda import BFLOAT16, PRECISIONS, Cuda
from wtref.kernels.timed import TimedModule
from wtref.values import LIMITS, check_limits

KERNELS = ("auto", "compiled", "plain")
_fast = {}  # type of array -> what computes its float32 and float64, where that is not plain


def primitives(x):
    """The primitives for arrays like x."""
    return _fast.get(type(x), plain) if x.dtype.kind in "fV" else plain  # V: bfloat16


def use(kernels="auto", threads=None):
    """Let the kernels of that name compute NumPy's arrays, on so many threads; returns both in words.

    auto: compiled where there is a C compiler, else plain.  threads: None for one on each core.
    Raises InputError where "compiled" is asked for and cannot be had or the number of threads cannot be.
    """
    threads = min(cores(), LIMITS["threads"].high) if threads is None else threads
    check_limits({"threads": threads})
    threadpool_limits(threads, user_api="blas")
    _fast[np.ndarray], words, limit = plain, "plain kernels", ""
    if kernels != "plain":
        try:
            _fast[np.ndarray], words = Compiled(threads), "compiled kernels"
        except NoCompiler as reason:
            if kernels == "compiled":
                raise InputError(f"--kernels compiled: {reason}") from None
            words += f" ({reason})"
        else:
            found = _fast[np.ndarray].threads
            threads, limit = found, " (OpenMP allows no more)" if found < threads else ""
    return f"{words}, {threads} thread{'s' if threads > 1 else ''}{limit}"


def use_cuda(cupy, kernels="auto", precision="float32"):
    """The same for CuPy's arrays on the present device; cupy: the module.

    precision: of the factors of float32's products, one of PRECISIONS.
    Raises InputError where that precision cannot be had.
    """
    if kernels == "plain":
        if precision != "float32":
            raise InputError(f"--precision {precision} needs the CUDA kernels; leave --kernels plain out")
        _fast[cupy.ndarray] = plain
        return "plain kernels"
    if precision == "bf16" and not _knows_bfloat16(cupy):
        raise InputError("--precision bf16 needs ml_dtypes, CuPy 14 and NumPy 2.1.2, or newer ones; or take --precision tf32")
    processors = cupy.cuda.Device().attributes["MultiProcessorCount"]
    _fast[cupy.ndarray] = Cuda(cupy, cupy.RawModule, precision, processors)
    return f"CUDA kernels, {precision} products"


def _knows_bfloat16(cupy):
    try:
        return BFLOAT16 is not None and cupy.empty(1, BFLOAT16).dtype == BFLOAT16
    except TypeError:
        return False


@contextmanager
def between_events(cupy, precision):
    """For as long, CuPy's arrays are computed by kernels that are timed; yields the list of their launches (timed.py)."""
    usual, launches = _fast[cupy.ndarray], []
    _fast[cupy.ndarray] = Cuda(cupy, partial(TimedModule, cupy, launches), precision, usual.processors)
    try:
        yield launches
    finally:
        _fast[cupy.ndarray] = usual


def cores():
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
