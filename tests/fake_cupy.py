"""A stand-in for the parts of the module cupy that count and open devices."""

from types import SimpleNamespace

import numpy as np


def fake_cupy(devices, error=None):
    """A stand-in for cupy on a machine with `devices` GPUs, or whose driver raises CUDARuntimeError(error)."""

    class CUDARuntimeError(RuntimeError):
        pass

    def count():
        if error:
            raise CUDARuntimeError(error)
        return devices

    def device(index=0):
        return SimpleNamespace(use=lambda: used.append(index), attributes={"MultiProcessorCount": 4})

    def module(code, options):
        compiled.append(options)
        return SimpleNamespace(get_function=lambda name: None)

    used, compiled, accelerators = [], [], ["cub"]
    runtime = SimpleNamespace(getDeviceCount=count, CUDARuntimeError=CUDARuntimeError)
    stream = SimpleNamespace(__enter__=lambda: None)
    cuda = SimpleNamespace(runtime=runtime, Device=device, Stream=lambda non_blocking: stream)
    array = type("ndarray", (), {"dtype": np.dtype(np.float32), "__module__": "cupy"})
    core = SimpleNamespace(set_reduction_accelerators=lambda names: accelerators.__setitem__(slice(None), names))
    return SimpleNamespace(cuda=cuda, ndarray=array, RawModule=module, _core=core, used=used, compiled=compiled, accelerators=accelerators)
