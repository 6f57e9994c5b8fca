"""`equip`: a device with `ops`, the functions that the fused layers call.

compiled.py has them for a CPU, cuda.py for a GPU.  plain.py defines what each function computes; all agree up to rounding.
"""

from dataclasses import replace

from threadpoolctl import threadpool_limits

from wtref.cores import default_threads
from wtref.errors import InputError
from wtref.fast import verification
from wtref.fast.building import say
from wtref.fast.compiled import Compiled
from wtref.fast.compilers import NoCompiler
from wtref.fast.cuda import Cuda
from wtref.fast.cuda_launches import BFLOAT16
from wtref.values import check_limits

KERNELS = ("auto", "compiled", "plain")


def equip(device, kernels="auto", threads=None, precision="float32"):
    """Return the device with ops of its own and a description of them in `kernels`.

    Parameters
    ----------
    device : Device      as open_device returns it
    kernels : str        "auto": compiled kernels if possible, else none, and on a GPU only functions that verification.py
                         finds right there; "compiled": required, and not verified; "plain": none
    threads : int        the number of CPU threads; None for one per core, or OMP_NUM_THREADS if that is less.  BLAS has one
                         number of threads for the whole process, that of the device equipped last
    precision : str      of the factors of products in float32 on a GPU: "float32", "tf32" or "bf16"

    Raises
    ------
    InputError
        If the kernels, the number of threads or the precision are not available.
    """
    if device.name != "cpu":
        ops, words = _cuda_ops(device, kernels, precision)
        return replace(device, ops=ops, kernels=words)
    if precision != "float32":
        raise InputError(f"--precision {precision} needs a GPU; the CPU computes in float32")
    threads = default_threads() if threads is None else threads
    check_limits({"threads": threads})
    threadpool_limits(threads, user_api="blas")
    ops, words, limit = *_cpu_ops(kernels, threads), ""
    if ops and ops.threads < threads:
        threads, limit = ops.threads, f" ({_why_fewer(ops)})"
    return replace(device, ops=ops, kernels=f"{words}, {threads} thread{'s' if threads > 1 else ''}{limit}")


def _why_fewer(ops):
    """Why there are fewer threads than were requested, in words."""
    if not ops.has_openmp:
        return "the C compiler has no OpenMP"
    return "a forked process has one" if ops.is_forked else "OpenMP allows no more"


def _cpu_ops(kernels, threads):
    """(the ops or None, their description)"""
    if kernels == "plain":
        return None, "plain kernels"
    try:
        ops = Compiled(threads)
    except NoCompiler as reason:
        if kernels == "compiled":
            raise InputError(f"--kernels compiled: {reason}") from None
        return None, f"plain kernels ({reason})"
    return ops, f"compiled kernels ({ops.instruction_set})"


def _cuda_ops(device, kernels, precision):
    """(the ops or None, their description)"""
    if kernels == "plain":
        if precision != "float32":
            raise InputError(f"--precision {precision} needs the CUDA kernels; omit --kernels plain")
        return None, "plain kernels"
    cupy = device.xp
    if precision == "bf16" and not _supports_bfloat16(cupy):
        raise InputError("--precision bf16 needs ml_dtypes, CuPy 14 and NumPy 2.1.2, or newer; --precision tf32 does not")
    processors = cupy.cuda.Device().attributes["MultiProcessorCount"]
    ops = Cuda(cupy, cupy.RawModule, precision, processors)
    if kernels == "compiled":
        why = verification.compiler_s_fault(ops, device)
        if why:
            raise InputError(f"--kernels compiled: {why}; --kernels auto and plain do without them")
    faults = verification.verify(ops, device, precision) if kernels == "auto" else {}
    if not faults:
        return ops, f"CUDA kernels, {precision} products"
    why = verification.describe(faults)
    if ops.bf16 or len(faults) == len(verification.CALLS):  # array expressions cannot compute with bfloat16
        say(f"{device.name}: plain CuPy computes everything: {why}")
        return None, f"plain kernels ({why})"
    say(f"{device.name}: plain CuPy replaces the CUDA kernels of {why}")
    return ops, f"CUDA kernels without {' and '.join(faults)}, {precision} products"


def _supports_bfloat16(cupy):
    try:
        return BFLOAT16 is not None and cupy.empty(1, BFLOAT16).dtype == BFLOAT16
    except (TypeError, ValueError):  # CuPy raises the second for a dtype that it does not know
        return False
