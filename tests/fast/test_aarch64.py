"""The compiled kernels on an emulated processor with NEON: the suite's calls are computed by a program that QEMU runs."""

import ctypes
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from kernel_suite import KernelSuite
from wtref.fast import compilers
from wtref.fast.compiled import REALS, Compiled, Geometry

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
FLAGS = ["-O2", "-std=gnu11", "-march=armv8-a", "-fopenmp", "-static", f"-I{compilers.SOURCES}", "-Wall", "-Wextra", "-Werror"]
INTEGER, REAL_NUMBER = -1, -2  # as in kernel_program.c


class Emulated(Compiled):
    """The ops, computed by a program for each dtype."""

    def __init__(self, programs):
        self.programs = programs

    def _new(self, shape, dtype, name, *arguments):
        out = np.zeros(shape, dtype)
        if all(x.size for x in arguments if isinstance(x, np.ndarray)):
            self._call(dtype, name, *arguments, out)
        return out

    def _call(self, dtype, name, *arguments):
        program = self.programs[dtype]
        program.stdin.write(struct.pack("32sq", name.encode(), len(arguments)) + b"".join(map(packed, arguments)))
        program.stdin.flush()
        for address, size in filter(None, map(memory, arguments)):
            answer = program.stdout.read(size)
            assert len(answer) == size, f"the emulated program ended within {name}"
            ctypes.memmove(address, answer, size)


def packed(argument):
    """The argument as kernel_program.c reads it."""
    if argument is None:
        return struct.pack("q", 0)
    if isinstance(argument, float):
        return struct.pack("qd", REAL_NUMBER, argument)
    if place := memory(argument):
        return struct.pack("q", place[1]) + ctypes.string_at(*place)
    return struct.pack("qq", INTEGER, argument)


def memory(argument):
    """(address, number of bytes) of an array, from its first to its last element, or of a Geometry; None for others."""
    if isinstance(argument, Geometry):
        return ctypes.addressof(argument), ctypes.sizeof(argument)
    if isinstance(argument, np.ndarray):
        return argument.ctypes.data, argument.itemsize + sum((n - 1) * step for n, step in zip(argument.shape, argument.strides))
    return None


@pytest.fixture(scope="class")
def emulated_kernels(request, tmp_path_factory):
    if not shutil.which(COMPILER) or not shutil.which(EMULATOR):
        pytest.skip(f"needs {COMPILER} and {EMULATOR}")
    folder, source = tmp_path_factory.mktemp("aarch64"), Path(__file__).parents[1] / "kernel_program.c"
    programs = {}
    for dtype, (real, _) in REALS.items():
        subprocess.run([COMPILER, *FLAGS, f"-DREAL={real}", source, "-o", folder / real, "-lm"], check=True)
        programs[dtype] = subprocess.Popen([EMULATOR, folder / real], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    request.cls.fast = Emulated(programs)
    yield
    for program in programs.values():
        program.communicate()
        assert program.returncode == 0


@pytest.mark.slow
@pytest.mark.usefixtures("emulated_kernels")
class TestNeon(KernelSuite):
    side, depth = 40, 600
