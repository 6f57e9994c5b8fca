"""Every CUDA kernel compiles for the GPUs it is meant for, without a warning and without spilling registers."""

import itertools
import re
import shutil
import subprocess

import numpy as np
import pytest

import nvrtc
from wtref.fast.cuda_launches import PRECISIONS, options, source

NVCC = shutil.which("nvcc")
with_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc, which compiles CUDA without a GPU")
with_nvrtc = pytest.mark.skipif(nvrtc.library() is None, reason="no NVRTC; pip install nvidia-cuda-nvrtc")

KINDS = [(np.float64, "float32"), *((np.float32, precision) for precision in PRECISIONS)]
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")


def compiled(code, folder, architecture, flags):
    """The finished process of nvcc, which reports registers and spills; warnings are errors."""
    path = folder / "kernels.cu"
    path.write_text(code)
    strict = ["-Werror", "all-warnings", "-Xptxas", "-v"]
    command = [NVCC, "-cubin", f"-arch={architecture}", *flags, *strict, path, "-o", folder / "kernels.cubin"]
    return subprocess.run(command, capture_output=True, text=True)


def spilling(report):
    """The kernels that spill registers to memory."""
    kernels = re.findall(r"Compiling entry function '(\w+)'", report)
    spills = [sum(map(int, found)) for found in SPILLS.findall(report)]
    assert len(kernels) == len(spills) > 0
    return [kernel for kernel, spilled in zip(kernels, spills) if spilled]


@with_nvrtc
@pytest.mark.parametrize("dtype, precision", [KINDS[0], *(pytest.param(*kind, marks=pytest.mark.slow) for kind in KINDS[1:])])
def test_cupy_s_compiler_takes_the_kernels(dtype, precision):
    assert nvrtc.complaints(source(), "compute_90", options(dtype, precision)) == ""


@with_nvrtc
def test_what_only_the_host_s_headers_define_is_noticed():
    code = 'extern "C" __global__ void kernel(float *x) { x[0] = INFINITY; }'
    assert "INFINITY" in nvrtc.complaints(code, "sm_90", ("-std=c++17",))


@pytest.mark.slow
@with_nvcc
@pytest.mark.parametrize("kind, architecture", list(zip(KINDS, itertools.cycle(["sm_80", "sm_90"]))))
def test_kernels_compile_cleanly(tmp_path, kind, architecture):
    dtype, precision = kind
    result = compiled(source(), tmp_path, architecture, options(dtype, precision))
    assert result.returncode == 0, result.stderr
    assert spilling(result.stderr) == []


@with_nvcc
def test_a_warning_fails(tmp_path):
    unused = 'extern "C" __global__ void kernel(int *x) { int unused; x[0] = 1; }'
    result = compiled(unused, tmp_path, "sm_80", [])
    assert result.returncode != 0 and "unused" in result.stderr


@with_nvcc
def test_spills_are_noticed(tmp_path):
    """200 live numbers do not fit in 32 registers."""
    hungry = """extern "C" __global__ void __launch_bounds__(1024, 2) hungry(float *x) {
        float kept[200];
        for (int turn = 0; turn < 9; turn++) {
            #pragma unroll
            for (int i = 0; i < 200; i++) kept[i] = x[i * 7] * (turn ? kept[(i * 13 + 5) % 200] : 1);
        }
        #pragma unroll
        for (int i = 0; i < 200; i++) x[i] = kept[i];
    }"""
    result = compiled(hungry, tmp_path, "sm_80", [])
    assert result.returncode == 0, result.stderr
    assert spilling(result.stderr) == ["hungry"]
