"""The device that the program computes on: NumPy arrays on the CPU, or CuPy arrays on a GPU.

The rest of the program is written once, with the functions of `array_module(x)`; only this file imports cupy.
Random numbers are those of NumPy's generators on the host, so a seed gives the same numbers on every device.
"""

import functools
import re
import sys
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from wtref.errors import InputError, choose

DTYPES = {"float32": np.float32, "float64": np.float64}


def array_module(x):
    """Return the module of the array x, numpy or cupy."""
    return np if isinstance(x, np.ndarray) else sys.modules[type(x).__module__.partition(".")[0]]


def to_host(x):
    """Return x as a NumPy array or scalar; arrays leave a device here and nowhere else."""
    return x.get() if hasattr(x, "get") else x


@dataclass(frozen=True)
class Device:
    """A place for arrays, and their precision.

    Attributes
    ----------
    name : str           "cpu" or "cuda:N"
    xp : module          numpy or cupy
    dtype : type         the dtype of all real numbers, np.float32 or np.float64
    ops : object         the functions that the fused layers of fast/ call; None where only array expressions are used
    kernels : str        a description of the ops for the user
    """

    name: str
    xp: ModuleType
    dtype: type
    ops: object = None
    kernels: str = "plain kernels"

    def array(self, host):
        """Return a copy of an array of real numbers on this device, in the device's dtype."""
        return self.xp.array(np.asarray(host, dtype=self.dtype))

    def wait(self):
        """Return when all work queued on the device is done; does nothing on a CPU."""
        if self.name != "cpu":
            self.xp.cuda.runtime.deviceSynchronize()

    def raw(self, host):
        """Return an array (bytes, labels, indices) on this device in its own dtype; on the CPU without a copy."""
        return self.xp.asarray(host)


def open_device(name="auto", dtype="float32", place=0):
    """Return the Device of a name, without ops; fast.ops.equip adds them.

    Parameters
    ----------
    name : str           "auto" (a GPU if there is one, else the CPU), "cpu", "cuda" or "cuda:N"
    dtype : str or type  "float32" or "float64", or NumPy's type or dtype of that name
    place : int          the number of the GPU where the name gives none, modulo the number of GPUs

    Raises
    ------
    InputError
        If the name or dtype is none of these, or a GPU is asked for and CuPy or the GPU is missing.
    """
    real = choose("dtype", getattr(dtype, "__name__", getattr(dtype, "name", dtype)), DTYPES)
    if name == "auto":
        name = "cuda" if _cuda_obstacle() is None else "cpu"
    if name == "cpu":
        return Device("cpu", np, real)
    match = re.fullmatch(r"cuda(?::(\d{1,9}))?", str(name))
    if match is None:
        raise InputError(f"unknown device {name!r}; choose from: auto, cpu, cuda, cuda:N")
    return _open_cuda(match[1] and int(match[1]), real, place)


def _open_cuda(index, real, place):
    obstacle = _cuda_obstacle()
    if obstacle:
        raise InputError(f"--device cuda: {obstacle}")
    import cupy

    count = cupy.cuda.runtime.getDeviceCount()
    index = place % count if index is None else index
    if index >= count:
        raise InputError(f"--device cuda:{index}: the last CUDA device here is cuda:{count - 1}")
    cupy.cuda.Device(index).use()
    _stream(index).__enter__()  # never left; use() would be undone by the first `with stream` in CuPy, as in get() of a transpose
    cupy._core.set_reduction_accelerators([])  # those of CUB would each compile for seconds inside a training step
    return Device(f"cuda:{index}", cupy, real)


@functools.cache
def _stream(index):
    """The stream of all work on a GPU; the default stream cannot be captured (fast/graphs.py)."""
    import cupy

    return cupy.cuda.Stream(non_blocking=True)


def _cuda_obstacle():
    """The reason why CUDA cannot be used, in one line; None if it can."""
    try:
        import cupy
    except ImportError:
        return "CuPy is not installed; pip install 'wtref[cuda12]' (or cuda13), or use --device cpu"
    try:
        if cupy.cuda.runtime.getDeviceCount() > 0:
            return None
        reason = "no device"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        reason = str(error).split(":")[-1].strip()
    return f"CuPy is installed but finds no GPU ({reason}); use --device cpu"
