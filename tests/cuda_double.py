"""A stand-in for cupy.RawModule on a machine without a GPU: CUDA sources compiled by the C++ compiler.

`cuda_double.h` defines the kernel language.  This module reads the signatures of the kernels, so that a launch with an
argument of the wrong type, which CuPy would not notice, raises TypeError.
"""

import ctypes
import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from device_double import DoubleArray, xp
from guard_pages import GuardedCopies
from wtref.fast.cuda import Cuda
from wtref.fast.cuda_launches import BFLOAT16, NULL

HEADER = Path(__file__).with_name("cuda_double.h")
KERNEL = re.compile(r'extern "C" __global__ void\s+(?:__launch_bounds__\([\d, ]+\)\s+)?(\w+)\s*\(([^)]*)\)')
DYNAMIC = re.compile(r"extern __shared__ [^;]*?char (\w+)\[\];")
SHARED = re.compile(r"__shared__ ([^;]+?) (\w+)\[([^\]]+)\];")
COMMA = re.compile(r",(?![^<]*>)")  # between parameters, not between the arguments of a template
TYPES = {"int": np.int32, "float": np.float32, "double": np.float64, "bf16": BFLOAT16}
TYPES |= {"long long": np.int64, "unsigned long long": np.uint64}
USUAL_SHARED = 48 << 10  # bytes of dynamic shared memory that a kernel may use unless it sets a higher limit
SANITIZER = ("-fsanitize=undefined", "-fno-sanitize-recover=undefined")
ORDERS = ("forward", "backward", "shuffled")


def emulator_obstacle():
    """The reason why kernels cannot be run here; None if they can."""
    return None if shutil.which(compiler()) else f"the CUDA double needs a C++ compiler; {compiler()} was not found"


def emulated(precision="float32", order="forward", checked=False):
    """The ops of an emulated GPU with four multiprocessors; checked: as in EmulatedModule."""

    def module(code, options):
        return EmulatedModule(code=code, options=options, order=order, checked=checked)

    return Cuda(xp, module, precision, processors=4)


class EmulatedModule:
    """The kernels of a CUDA source.

    order: the order in which the threads of a block run.  checked: undefined behaviour and an access outside of the arrays
    end the process.
    """

    def __init__(self, code, options=(), order="forward", checked=False):
        self.code, self.options, self.order, self.checked = code, (*options, *SANITIZER * checked), ORDERS.index(order), checked

    def get_function(self, name):
        library, signatures = _built(self.code, self.options)
        if name not in signatures:
            raise KeyError(f"no kernel named {name}; there are {', '.join(signatures)}")
        launch = getattr(library, f"launch_{name}")
        launch.restype = ctypes.c_char_p
        return EmulatedKernel(name, launch, signatures[name], self.order, self.checked)


class EmulatedKernel:
    """A kernel with the interface of cupy.RawKernel."""

    def __init__(self, name, launch, parameters, order, checked):
        self.name, self.launch, self.parameters, self.order, self.checked = name, launch, parameters, order, checked
        self.max_dynamic_shared_size_bytes = USUAL_SHARED

    def __call__(self, grid, block, arguments, shared_mem=0):
        if max(grid[1:], default=0) > 65535 or shared_mem > self.max_dynamic_shared_size_bytes:
            raise ValueError(f"{self.name}: no launch of {grid} blocks with {shared_mem} bytes of shared memory")
        copies = GuardedCopies()
        address = copies.address if self.checked else (lambda array: array.ctypes.data)
        values = _converted(self.name, self.parameters, arguments, address)
        addresses = (ctypes.c_void_p * len(values))(*[value.ctypes.data for value in values])
        grid, block = ((ctypes.c_uint * 3)(*size, *[1] * (3 - len(size))) for size in (grid, block))
        stuck = self.launch(grid, block, shared_mem, self.order, addresses)
        if stuck:
            raise RuntimeError(f"{self.name}: {stuck.decode()}")
        if not copies.restore():
            raise RuntimeError(f"{self.name}: it writes beside an array")


def _converted(name, parameters, arguments, address):
    """The arguments as NumPy scalars of the types of the kernel's parameters; address(array): of an array for the kernel."""
    if len(arguments) != len(parameters):
        raise TypeError(f"{name} takes {len(parameters)} arguments, found {len(arguments)}")
    return [_value(f"{name}, argument {i}", *pair, address) for i, pair in enumerate(zip(parameters, arguments))]


def _value(where, parameter, argument, address):
    pointer, dtype = parameter
    found = _found(argument)
    if pointer and argument is NULL:
        return np.array(0, np.uintp)
    if found != (pointer, dtype):
        raise TypeError(f"{where} must be {'*' * pointer}{dtype.__name__}, found {argument!r}")
    return np.array(address(argument._hidden), np.uintp) if pointer else np.array(argument, dtype)


def _found(argument):
    """(whether CuPy passes the argument as an address, its type); CuPy passes None as an address that is not null."""
    if isinstance(argument, DoubleArray):
        return True, argument.dtype.type
    if isinstance(argument, np.generic):
        return False, type(argument)
    return False, {int: np.int64, float: np.float64}.get(type(argument))


@functools.cache
def _built(code, options):
    """Compile the code: (library, {kernel: [(whether an address, type) of each parameter]})."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/kernels.so"
        kernels = build(code, options, _launch, path)
        library = ctypes.CDLL(path)
    return library, {name: [_signature(parameter) for parameter in each] for name, each in kernels.items()}


def build(code, options, launch, path, header=HEADER):
    """Compile CUDA code into the library `path`: {kernel: the declarations of its parameters}.

    launch(name, parameters) gives the source of the C function that launches a kernel; header: cuda_double.h or a copy of it.
    """
    flags = [*options, "-w", "-x", "c++"]
    expanded = _run([compiler(), *flags, "-DCUDA_DOUBLE", "-E", "-P", "-"], code)
    kernels = {name: [part.strip() for part in COMMA.split(text)] for name, text in KERNEL.findall(expanded)}
    shared = iter(range(len(expanded)))
    expanded = DYNAMIC.sub(r"char *\1 = cuda_double::dynamic_memory;", expanded)
    expanded = SHARED.sub(
        lambda found: "typedef {0} {1}_type[{2}]; {1}_type &{1} = cuda_double::shared<{1}_type, {3}>();".format(
            *found.groups(), next(shared)
        ),
        expanded,
    )
    launches = "\n".join(launch(name, parameters) for name, parameters in kernels.items())
    always = ["-O2", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", "-shared", "-fPIC"]
    _run([compiler(), *flags, *always, "-", "-o", str(path)], f'#include "{header}"\n{expanded}\n{launches}\n')
    return kernels


def _launch(name, parameters):
    """The source of a C function that launches a kernel, whose arguments it takes by address."""
    values = ", ".join(f"*({type} *) arguments[{i}]" for i, type in enumerate(parameter_types(parameters)))
    return (
        f'extern "C" const char *launch_{name}(const unsigned *grid, const unsigned *block, int shared, int order, void **arguments)'
        f" {{ return cuda_double::launch(grid, block, shared, order, [=] {{ {name}({values}); }}); }}"
    )


def parameter_types(parameters):
    """["const double *x"] -> ["const double *"]"""
    return [parameter[: re.search(r"\w+$", parameter).start()] for parameter in parameters]


def _signature(parameter):
    """const double *x -> (True, np.float64)"""
    kind = re.match(r"(?:const )?(int|long long|unsigned long long|float|double|bf16)\b", parameter).group(1)
    return "*" in parameter, TYPES[kind]


def compiler():
    return os.environ.get("CXX", "c++")


def _run(command, text):
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} fails:\n{done.stderr[:4000]}")
    return done.stdout
