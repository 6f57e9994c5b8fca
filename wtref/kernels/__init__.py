"""The array primitives under the layers: plain.py says what they compute, compiled.py does it faster on a CPU.

`primitives(x)` answers with functions named as in plain.py.  `use` chooses which; both equal each
other to rounding.
"""

import os

import numpy as np
from threadpoolctl import threadpool_limits

from wtref.errors import InputError
from wtref.kernels import plain
from wtref.kernels.building import NoCompiler
from wtref.kernels.compiled import Compiled

KERNELS = ("auto", "compiled", "plain")
_on_numpy = plain  # what computes NumPy's float32 and float64


def primitives(x):
    """The primitives for arrays like x."""
    return _on_numpy if type(x) is np.ndarray and x.dtype.kind == "f" else plain


def use(kernels="auto", threads=None):
    """Let the kernels of that name compute NumPy's arrays, on so many threads; returns both in words.

    auto: compiled where there is a C compiler, else plain.  threads: None for one on each core.
    Raises InputError where "compiled" is asked for and cannot be had.
    """
    global _on_numpy
    threads = threads or cores()
    threadpool_limits(threads, user_api="blas")
    _on_numpy, words = plain, "plain kernels"
    if kernels != "plain":
        try:
            _on_numpy, words = Compiled(threads), "compiled kernels"
        except NoCompiler as reason:
            if kernels == "compiled":
                raise InputError(f"--kernels compiled: {reason}") from None
            words += f" ({reason})"
    return f"{words}, {threads} thread{'s' if threads > 1 else ''}"


def cores():
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
