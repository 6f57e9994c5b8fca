"""NVRTC, the compiler that CuPy uses, called without a GPU.  Unlike nvcc it has none of the host's headers."""

import ctypes
from ctypes.util import find_library
from pathlib import Path

CUPY_S = "--device-as-default-execution-space", "-ftz=true"  # the options that CuPy adds; without the first CUDA 12 refuses lambdas


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


def compiled(code, architecture, options):
    """(the machine code, the errors and warnings) of the code, both as bytes; without code for a virtual architecture."""
    nvrtc, program = library(), ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None) == 0
    flags = [flag.encode() for flag in (f"-arch={architecture}", *CUPY_S, *options)]
    failed = nvrtc.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
    log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).rstrip(b"\0")
    code = b"" if failed else _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return code, log or (b"NVRTC failed without a message" if failed else b"")


def complaints(code, architecture, options):
    """The errors and warnings of NVRTC for the code, "" if there are none."""
    return compiled(code, architecture, options)[1].decode()


def _text(size_of, copy, program):
    """What `copy` gives of the program, of the size that `size_of` tells."""
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    copy(program, text)
    return text.raw
