"""The array primitives under the layers: plain.py says what they compute, compiled.py (on a CPU) and cuda.py do it faster.

`primitives(x)` answers with functions named as in plain.py.  `use` and `use_cuda` choose which; all
equal each other to rounding.
"""

import os

import numpy as np
from threadpoolctl import threadpool_limits

from wtref.errors import InputError
from wtref.kernels import plain
from wtref.kernels.building import NoCompiler
from wtref.kernels.compiled import Compiled
from wtref.kernels.cuda import BFLOAT16, PRECISIONS, Cuda

KERNELS = ("auto", "compiled", "plain")
_fast = {}  # type of array -> what computes its float32 and float64, where that is not plain


def primitives(x):
    """The primitives for arrays like x."""
    return _fast.get(type(x), plain) if x.dtype.kind in "fV" else plain  # V: bfloat16


def use(kernels="auto", threads=None):
    """Let the kernels of that name compute NumPy's arrays, on so many threads; returns both in words.

    auto: compiled where there is a C compiler, else plain.  threads: None for one on each core.
    Raises InputError where "compiled" is asked for and cannot be had.
    """
    threads = threads or cores()
    threadpool_limits(threads, user_api="blas")
    _fast[np.ndarray], words = plain, "plain kernels"
    if kernels != "plain":
        try:
            _fast[np.ndarray], words = Compiled(threads), "compiled kernels"
        except NoCompiler as reason:
            if kernels == "compiled":
                raise InputError(f"--kernels compiled: {reason}") from None
            words += f" ({reason})"
    return f"{words}, {threads} thread{'s' if threads > 1 else ''}"


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
    if precision == "bf16" and (BFLOAT16 is None or int(cupy.__version__.partition(".")[0]) < 14):
        wants = "ml_dtypes, from which CuPy has bfloat16" if BFLOAT16 is None else f"CuPy 14, found {cupy.__version__}"
        raise InputError(f"--precision bf16 needs {wants}; pip install --upgrade ml_dtypes cupy, or take --precision tf32")
    processors = cupy.cuda.Device().attributes["MultiProcessorCount"]
    _fast[cupy.ndarray] = Cuda(cupy, cupy.RawModule, precision, processors)
    return f"CUDA kernels, {precision} products"


def cores():
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
