"""The kernels on a real GPU, against NumPy in float64."""

import functools

import numpy as np
import pytest

pytest.importorskip("hypothesis")

from kernel_suite import KernelSuite
from on_device import OnDevice
from roundings import bf16, normal, tf32
from wtref.device import open_device
from wtref.fast.cuda_launches import BFLOAT16
from wtref.fast.ops import equip

with_bf16 = pytest.mark.skipif(BFLOAT16 is None, reason="no ml_dtypes, from which CuPy has bfloat16")
ALL = ["float32", "tf32", pytest.param("bf16", marks=with_bf16)]


class OnGpu(KernelSuite):
    precision = "float32"

    @property
    def fast(self):
        return on_gpu(self.precision)


@functools.cache
def on_gpu(precision):
    device = equip(open_device("cuda"), "compiled", precision=precision)
    return OnDevice(device.ops, device.xp)


class TestFloat(OnGpu):
    """float64, and float32 in full."""


class TestTf32(OnGpu):
    precision, limits, factors = "tf32", {np.float32: 1e-4}, staticmethod(tf32)


@with_bf16
class TestBf16(OnGpu):
    precision, limits, factors = "bf16", {np.float32: 1e-4}, staticmethod(bf16)
    stored, rounding = staticmethod(bf16), 2**-8


@pytest.mark.parametrize("precision", ALL)
@pytest.mark.parametrize("c_in, c_out, size, stride", [(64, 64, 32, 1), (128, 256, 16, 2), (512, 512, 4, 1), (3, 64, 32, 1)])
def test_convolutions_of_resnet18(precision, c_in, c_out, size, stride):
    """Large tiles, and slices of k."""
    suite = {"float32": TestFloat, "tf32": TestTf32, "bf16": TestBf16}[precision]()
    draw = normal(0, np.float32)
    suite.convolutions(draw, (size, size), [(3, 3), (stride, stride), (1, 1)], c_in, c_out, 32)
