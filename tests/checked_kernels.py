"""Tests of the CUDA kernels with guard pages around every array and the undefined-behaviour sanitizer.

A fault ends the process, so fast/test_checked_kernels.py runs them in one of their own.
"""

import numpy as np
import pytest

from cuda_double import emulated
from device_double import xp
from kernel_suite import KernelSuite
from on_device import OnDevice
from roundings import bf16
from wtref.device import Device
from wtref.fast import verification
from wtref.fast.cuda_launches import BFLOAT16


class TestFloat(KernelSuite):
    """float64, and float32 in full."""

    fast = OnDevice(emulated(checked=True), xp)
    side, depth = 70, 80


@pytest.mark.skipif(BFLOAT16 is None, reason="no ml_dtypes, from which CuPy has bfloat16")
class TestBf16(KernelSuite):
    fast = OnDevice(emulated("bf16", checked=True), xp)
    limits, factors = {np.float32: 1e-4}, staticmethod(bf16)
    stored, rounding = staticmethod(bf16), 2**-8
    side, depth = 70, 80


@pytest.mark.parametrize("precision, dtype", [("float32", np.float32), ("float32", np.float64), ("bf16", np.float32)])
def test_every_tile_on_small_odd_shapes(precision, dtype):
    if precision == "bf16" and BFLOAT16 is None:
        pytest.skip("no ml_dtypes, from which CuPy has bfloat16")
    ops = emulated(precision, checked=True)
    device = Device("double", xp, dtype, ops=ops)
    assert {name: verification._fault(name, ops, device) for name in verification.CALLS} == dict.fromkeys(verification.CALLS)
