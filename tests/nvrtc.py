"""NVRTC, the compiler that CuPy uses, called without a GPU.  Unlike nvcc it has none of the host's headers."""

import ctypes
from ctypes.util import find_library
from pathlib import Path


def library():
    """libnvrtc of the package nvidia-cuda-nvrtc or of the CUDA toolkit; None if there is neither."""
    try:
        import nvidia

        packaged = [str(path) for folder in nvidia.__path__ for path in Path(folder).glob("*/lib/libnvrtc.so.*")]
    except ImportError:
        packaged = []
    for name in [*packaged, find_library("nvrtc")]:
        if name:
            return ctypes.CDLL(name)
    return None


def complaints(code, architecture, options):
    """The errors and warnings of NVRTC for the code, "" if there are none."""
    nvrtc, program, size = library(), ctypes.c_void_p(), ctypes.c_size_t()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None) == 0
    flags = [flag.encode() for flag in (f"-arch={architecture}", *options)]
    failed = nvrtc.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return log.value.decode() or ("NVRTC failed without a message" if failed else "")
