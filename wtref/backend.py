"""Which arrays the program computes with: NumPy's on the CPU or CuPy's on a GPU.

The rest of the program is written once, against `array_module(x)`; this is the only file that
imports cupy.  Host randomness is drawn with NumPy and moved, so one seed means one run anywhere.
"""

import functools
import re
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from wtref.errors import InputError, choose
from wtref.parallel import ALONE, Crew

DTYPES = {"float32": np.float32, "float64": np.float64}
_modules = {np.ndarray: np}


def register(array_type, module):
    """Let `array_module` answer `module` for arrays of `array_type`."""
    _modules[array_type] = module


def array_module(x):
    """The module whose functions work on x: numpy, cupy, or one that was registered."""
    return _modules[type(x)]


def to_host(x):
    """x as a NumPy array or scalar; the one place where arrays leave the device."""
    return x.get() if hasattr(x, "get") else x


@dataclass(frozen=True)
class Device:
    """Where arrays live and how precise they are.

    Attributes: name ("cpu" or "cuda:N"), xp (the array module), dtype (of every real number), kernels
    (which compute, in words), crew (the processes whose devices train the same network).
    """

    name: str
    xp: ModuleType
    dtype: type
    kernels: str = ""
    crew: Crew = ALONE

    def array(self, host):
        """A host array of real numbers, copied to this device in its dtype."""
        return self.xp.array(np.asarray(host, dtype=self.dtype))

    def wait(self):
        """Until all that the device was given is done; a CPU has always done it."""
        if self.name != "cpu":
            self.xp.cuda.runtime.deviceSynchronize()

    def raw(self, host):
        """A host array (bytes, labels, indices) as it is, on this device; on the CPU the same memory."""
        return self.xp.asarray(host)


def open_device(name="auto", dtype="float32", kernels="auto", threads=None, precision="float32", crew=ALONE):
    """The device called auto, cpu, cuda or cuda:N; kernels, and threads or precision, go to kernels.use or use_cuda.

    The processes of a crew on one machine take a CUDA device each, unless N says which.

    Raises
    ------
    InputError
        If the name is none of these, or CUDA is asked for and CuPy or a GPU is missing, or compiled kernels
        and a C compiler is, or a precision that the device does not have.
    """
    real = choose("dtype", dtype, DTYPES)
    if name == "auto":
        name = "cuda" if _cuda_obstacle() is None else "cpu"
    if name == "cpu":
        from wtref.kernels import use  # it needs this module in turn

        if precision != "float32":
            raise InputError(f"--precision {precision} needs a GPU; on --device cpu it is float32")
        return Device("cpu", np, real, use(kernels, crew.threads if threads is None else threads), crew)
    match = re.fullmatch(r"cuda(?::(\d{1,9}))?", name)
    if match is None:
        raise InputError(f"unknown device {name!r}; choose from: auto, cpu, cuda, cuda:N")
    return _open_cuda(match[1] and int(match[1]), real, kernels, precision, crew)


def _open_cuda(index, real, kernels, precision, crew):
    obstacle = _cuda_obstacle()
    if obstacle:
        raise InputError(f"--device cuda: {obstacle}")
    import cupy

    count = cupy.cuda.runtime.getDeviceCount()
    index = crew.place % count if index is None else index
    if index >= count:
        raise InputError(f"--device cuda:{index}: there are {count} CUDA devices, cuda:0 to cuda:{count - 1}")
    cupy.cuda.Device(index).use()
    _stream(index).use()
    register(cupy.ndarray, cupy)
    from wtref.kernels import use_cuda

    return Device(f"cuda:{index}", cupy, real, use_cuda(cupy, kernels, precision), crew)


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
