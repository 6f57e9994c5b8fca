"""Which arrays the program computes with: NumPy's on the CPU or CuPy's on a GPU.

The rest of the program is written once, against `array_module(x)`; this is the only file of the plain
program that imports cupy.  Host randomness is drawn with NumPy and moved, so one seed means one run anywhere.
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
    """The module whose functions work on the array x: numpy or cupy."""
    return np if isinstance(x, np.ndarray) else sys.modules[type(x).__module__.partition(".")[0]]


def to_host(x):
    """x as a NumPy array or scalar; the one place where arrays leave the device."""
    return x.get() if hasattr(x, "get") else x


@dataclass(frozen=True)
class Device:
    """Where arrays live and how precise they are.

    Attributes
    ----------
    name : str           "cpu" or "cuda:N"
    xp : module          numpy or cupy
    dtype : type         of every real number
    ops : object         what computes the fused layers of fast/; None: there is nothing but array expressions
    kernels : str        what computes, in words
    """

    name: str
    xp: ModuleType
    dtype: type
    ops: object = None
    kernels: str = "plain kernels"

    def array(self, host):
        """A host array of real numbers, copied to this device in its dtype."""
        return self.xp.array(np.asarray(host, dtype=self.dtype))

    def wait(self):
        """Return when all that the device was given is done; a CPU has always done it."""
        if self.name != "cpu":
            self.xp.cuda.runtime.deviceSynchronize()

    def raw(self, host):
        """A host array (bytes, labels, indices) as it is, on this device; on the CPU the same memory."""
        return self.xp.asarray(host)


def open_device(name="auto", dtype="float32", place=0):
    """The device called auto, cpu, cuda or cuda:N, with array expressions alone; kernels.equip adds what is faster.

    place: which CUDA device to take where N does not say.

    Raises
    ------
    InputError
        If the name is none of these, or CUDA is asked for and CuPy or a GPU is missing.
    """
    real = choose("dtype", dtype, DTYPES)
    if name == "auto":
        name = "cuda" if _cuda_obstacle() is None else "cpu"
    if name == "cpu":
        return Device("cpu", np, real)
    match = re.fullmatch(r"cuda(?::(\d{1,9}))?", name)
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
        raise InputError(f"--device cuda:{index}: there are {count} CUDA devices, cuda:0 to cuda:{count - 1}")
    cupy.cuda.Device(index).use()
    _stream(index).use()
    return Device(f"cuda:{index}", cupy, real)


@functools.cache
def _stream(index):
    """The one stream of all that this program does on a device; the usual one cannot be captured (graphs.py)."""
    import cupy

    return cupy.cuda.Stream(non_blocking=True)


def _cuda_obstacle():
    """Why CUDA cannot be used, in one line, or None when it can."""
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
