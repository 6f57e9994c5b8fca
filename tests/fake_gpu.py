"""CuPy's own wheel on a machine without a GPU: its calls of CUDA reach fake_gpu.cpp, its kernels run in cuda_double.h.

    python tests/fake_gpu.py run.py train --device cuda

runs a Python command so.  The wheel contains NVIDIA's runtime, whose functions would look for a driver: `install` overwrites
the first bytes of each with a jump to the function of the same name in fake_gpu.cpp.  CuPy finds the other libraries of
CUDA by their names in a folder that is in LD_LIBRARY_PATH when Python starts.
"""

import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cuda_double import build, compiler, emulator_obstacle, parameter_types

HERE = Path(__file__).parent
JUMP = b"\x48\xb8%b\xff\xe0"  # mov rax, address; jmp rax
COMPLAIN = b"\x48\xbf%b" + JUMP  # mov rdi, address of a name; then the same
NEED_NO_DRIVER = ("cudaGetErrorName", "cudaGetErrorString")
ARITHMETIC = ("complex", "atomics")  # headers of CuPy that its kernels include, and that no kernel here needs
FOR_CUPY = ["-D__CUDACC_RTC__", "-D__popc=__builtin_popcount", "-D__popcll=__builtin_popcountll"]


def obstacle():
    """The reason why there can be no fake GPU here; None if there can."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "the fake GPU needs Linux on x86-64"
    if importlib.util.find_spec("cupy_backends") is None:
        return "CuPy is not installed"
    if shutil.which("nm") is None:
        return "the fake GPU needs nm, which was not found"
    return emulator_obstacle()


def environment(folder):
    """Build the libraries in an empty folder; return the environment of a Python that has a fake GPU."""
    symbols = _nm("-D", "--undefined-only", _cublas_module())
    needed, version = set(re.findall(r"(cublas\w+)@", symbols)), re.search(r"@(libcublas\.so\.(\d+))", symbols)
    source = (HERE / "fake_gpu.cpp").read_text(encoding="utf-8")
    missing = needed - set(re.findall(r"\b(cublas\w+)\(", source))
    stubs = "\n".join(f'extern "C" int {name}() {{ return fake_gpu_missing("{name}"); }}' for name in sorted(missing))
    (folder / "versions").write_text(f"{version[1]} {{ *; }};")
    library = folder / "libcuda.so.1"
    flags = ["-O1", "-shared", "-fPIC", f"-DCUDA_MAJOR={version[2]}", f"-Wl,--version-script={folder}/versions"]
    _run([compiler(), *flags, "-x", "c++", "-", "-ldl", "-o", library], f"{source}\n{stubs}\n")
    for name in ("nvrtc", "cublas", "cublasLt"):
        (folder / f"lib{name}.so.{version[2]}").symlink_to(library)
    header = shutil.copy(HERE / "cuda_double.h", folder)
    _run([compiler(), "-std=c++17", "-O2", "-fPIC", "-w", "-x", "c++-header", header, "-o", f"{header}.gch"])  # for speed
    (folder / "sitecustomize.py").write_text("import fake_gpu\nfake_gpu.install()\n")
    paths = os.pathsep.join(map(str, (folder, HERE, HERE.parent)))
    return {
        **os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": paths,
        "FAKE_GPU": str(folder), "CUPY_ACCELERATORS": "", "CUPY_CACHE_DIR": str(folder), "XDG_CACHE_HOME": str(folder),
    }  # fmt: skip


def install():
    """Redirect the functions of the runtime in this process, and compile what it gives to NVRTC."""
    import cupy_backends.cuda.api.runtime as runtime

    symbols = {name: int(address, 16) for address, name in re.findall(r"(\w+) [tT] (\w+)", _nm(runtime.__file__))}
    start = _address(ctypes.PyDLL(runtime.__file__).PyInit_runtime) - symbols["PyInit_runtime"]
    for name, offset in symbols.items():
        if re.match("cuda[A-Z]", name) and name not in NEED_NO_DRIVER:
            _overwrite(start + offset, _redirection(name))
    _library().fake_gpu_compiler(_compile)


def launches():
    """{kernel: the number of its launches in this process}; "graph" counts those of graphs."""
    names = _library().fake_gpu_names().decode().split()
    return {name: _library().fake_gpu_launches(name.encode()) for name in names}


@functools.cache
def _library():
    library = ctypes.CDLL("libcuda.so.1")
    library.fake_gpu_names.restype, library.fake_gpu_launches.restype = ctypes.c_char_p, ctypes.c_long
    return library


def _redirection(name):
    """Machine code that jumps to the function of that name in fake_gpu.cpp, or says that there is none."""
    found = getattr(_library(), name, None)
    if found is not None:
        return JUMP % _address(found).to_bytes(8, "little")
    text = ctypes.addressof(_text(name)), _address(_library().fake_gpu_missing)
    return COMPLAIN % tuple(address.to_bytes(8, "little") for address in text)


@functools.cache
def _text(name):
    return ctypes.create_string_buffer(name.encode())


def _overwrite(address, code):
    page = address & -4096
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), ctypes.c_size_t(address + len(code) - page), 7) == 0
    ctypes.memmove(address, code, len(code))


@ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p)
def _compile(source, options, path, log):
    """Write the path of a library with the kernels of the source to `path`, or the reason why there is none to `log`."""
    try:
        place, text = path, str(_compiled(source.decode(), options.decode().split("\n")))
    except RuntimeError as reason:
        place, text = log, str(reason)
    ctypes.memmove(place, text.encode()[:4000] + b"\0", len(text.encode()[:4000]) + 1)


def _compiled(source, options):
    """The path of a library with the kernels of the source, which is kept for other processes."""
    path = Path(os.environ["FAKE_GPU"], hashlib.sha256("\n".join([source, *options]).encode()).hexdigest() + ".so")
    if not path.exists():
        flags = [option for option in options if option.startswith(("-D", "-I"))]
        source = re.sub(rf"#include <cupy/({'|'.join(ARITHMETIC)})\.cuh>", "", source)
        unfinished = path.with_suffix(f".{os.getpid()}")
        build(source, ["-std=c++17", *flags, *FOR_CUPY], _bind, unfinished, Path(os.environ["FAKE_GPU"], "cuda_double.h"))
        unfinished.rename(path)
    return path


def _bind(name, parameters):
    """The source of a C++ function that makes a launch of a kernel, which may be done later and repeated."""
    types = parameter_types(parameters)
    copies = "".join(f", argument_{i} = *({type} *) arguments[{i}]" for i, type in enumerate(types))
    values = ", ".join(f"argument_{i}" for i in range(len(types)))
    return f"""
        extern "C" void bind_{name}(const dim3 &grid, const dim3 &block, int shared, void **arguments,
                                    std::function<const char *()> &work)
        {{
            work = [grid, block, shared{copies}] {{
                const unsigned blocks[] = {{grid.x, grid.y, grid.z}}, threads[] = {{block.x, block.y, block.z}};
                return cuda_double::launch(blocks, threads, shared, 0, [&] {{ {name}({values}); }});
            }};
        }}"""


def _cublas_module():
    (folder,) = importlib.util.find_spec("cupy_backends").submodule_search_locations
    return next(Path(folder).glob("cuda/libs/cublas.*.so"))


def _nm(*arguments):
    return _run(["nm", *arguments])


def _run(command, text=None):
    return subprocess.run(list(map(str, command)), input=text, capture_output=True, text=True, check=True).stdout


def _address(function):
    return ctypes.cast(function, ctypes.c_void_p).value


if __name__ == "__main__":
    if obstacle():
        sys.exit(f"fake_gpu.py: {obstacle()}")
    with tempfile.TemporaryDirectory() as found:
        sys.exit(subprocess.run([sys.executable, *sys.argv[1:]], env=environment(Path(found))).returncode)
