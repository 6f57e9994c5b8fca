"""What computes the fused layers: compiled.py (on a CPU) and cuda.py; plain.py says what each function computes.

`equip` gives a device its own `ops`, with functions named as in plain.py; all equal those to rounding.
"""

import os
from dataclasses import replace

from threadpoolctl import threadpool_limits

from wtref.errors import InputError
from wtref.fast.building import NoCompiler
from wtref.fast.compiled import Compiled
from wtref.fast.cuda import Cuda
from wtref.fast.cuda_launches import BFLOAT16
from wtref.values import LIMITS, check_limits

KERNELS = ("auto", "compiled", "plain")


def equip(device, kernels="auto", threads=None, precision="float32"):
    """The device with ops of its own, and which in words.

    kernels: "auto", "compiled" or "plain"; auto: compiled where there is a C compiler, or on a GPU, else plain.
    threads: of a CPU; None for one on each core.  BLAS, which has one number of threads for the whole process, takes that
    of the device equipped last.  precision: of the factors of float32's products, one of PRECISIONS.
    Raises InputError where compiled kernels, the precision or the number of threads are asked for and cannot be had.
    """
    if device.name != "cpu":
        ops = _cuda_ops(device.xp, kernels, precision)
        return replace(device, ops=ops, kernels=f"CUDA kernels, {precision} products" if ops else "plain kernels")
    if precision != "float32":
        raise InputError(f"--precision {precision} needs a GPU; on --device cpu it is float32")
    threads = min(cores(), LIMITS["threads"].high) if threads is None else threads
    check_limits({"threads": threads})
    threadpool_limits(threads, user_api="blas")
    ops, words, limit = *_cpu_ops(kernels, threads), ""
    if ops and ops.threads < threads:
        threads, limit = ops.threads, " (OpenMP allows no more)"
    return replace(device, ops=ops, kernels=f"{words}, {threads} thread{'s' if threads > 1 else ''}{limit}")


def _cpu_ops(kernels, threads):
    """(Compiled or None, which in words)."""
    if kernels == "plain":
        return None, "plain kernels"
    try:
        return Compiled(threads), "compiled kernels"
    except NoCompiler as reason:
        if kernels == "compiled":
            raise InputError(f"--kernels compiled: {reason}") from None
        return None, f"plain kernels ({reason})"


def _cuda_ops(cupy, kernels, precision):
    if kernels == "plain":
        if precision != "float32":
            raise InputError(f"--precision {precision} needs the CUDA kernels; leave --kernels plain out")
        return None
    if precision == "bf16" and not _knows_bfloat16(cupy):
        raise InputError("--precision bf16 needs ml_dtypes, CuPy 14 and NumPy 2.1.2, or newer ones; or take --precision tf32")
    processors = cupy.cuda.Device().attributes["MultiProcessorCount"]
    return Cuda(cupy, cupy.RawModule, precision, processors)


def _knows_bfloat16(cupy):
    try:
        return BFLOAT16 is not None and cupy.empty(1, BFLOAT16).dtype == BFLOAT16
    except TypeError:
        return False


def cores():
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
