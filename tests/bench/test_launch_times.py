"""Timed kernels, on a pretended device whose clock moves on by 2 ms at each launch."""

from types import SimpleNamespace

import numpy as np
import pytest

from device_double import DoubleArray, xp
from wtref.bench.launch_times import flop, kernel_times, timed_device
from wtref.device import Device
from wtref.fast.cuda import Cuda


class Clock:
    """The parts of cupy that launch_times.py uses; every kernel takes 2 ms, and the spin before them 1000."""

    ndarray = DoubleArray

    def __init__(self):
        self.now, self.allowed = 0.0, {}
        stream = SimpleNamespace(record=lambda: self.now, synchronize=lambda: None)
        self.cuda = SimpleNamespace(get_current_stream=lambda: stream, get_elapsed_time=lambda first, second: second - first)

    def __getattr__(self, name):
        return getattr(xp, name)

    def RawModule(self, code, options=()):
        return SimpleNamespace(get_function=lambda name: Kernel(self, name))


class Kernel:
    def __init__(self, clock, name):
        self.clock, self.name, self.max_dynamic_shared_size_bytes = clock, name, 48 << 10

    def __call__(self, grid, block, arguments, shared_mem=0):
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        self.clock.now += 1000 if self.name == "spin" else 2


def devices():
    """(the pretended GPU as it is, the same with timed kernels, their launches)"""
    usual = Device("cuda:0", Clock(), np.float32, ops=Cuda(xp, Clock().RawModule, processors=4))
    return usual, *timed_device(usual, "float32")


def test_every_kernel_s_launches_bytes_and_products_add_up():
    usual, device, launches = devices()
    y, W, delta = (xp.zeros(shape, dtype=np.float32) for shape in ((2, 8, 8, 16), (32, 144), (2, 8, 8, 32)))
    same = (3, 3), (1, 1), (1, 1)

    def step():
        for _ in range(3):
            device.ops.relu(y)
        device.ops.convolve(y, W, *same)
        device.ops.convolve_gradient(delta, y, *same)
        device.ops.convolve_back(delta, W.T, *same, (8, 8))

    found = kernel_times(device.xp, launches, step)
    times = {title.partition(" x")[0]: ms for title, ms in found.items()}
    assert times["relu"] == 6
    (relu,) = [title for title in found if title.startswith("relu")]
    assert relu == f"relu x3, {3 * 2 * y.nbytes / 6 / 1e6:,.0f} GB/s"
    assert "spin" not in times and sum(times.values()) == (device.xp.now - 1000) / 2, "one step of two, all of it"


@pytest.mark.parametrize("name", ["convolve_64x64", "convolve_gradient_128x128", "convolve_back_128x64"])
def test_products_are_counted(name):
    """2 multiply-adds for every position, place of the patch and channel above."""
    numbers, y, W, delta = np.zeros((13, 3)), np.zeros((2, 8, 8, 16)), np.zeros((32, 144)), np.zeros((2, 8, 8, 32))
    arrays = {"convolve_64x64": (y, W, delta), "convolve_gradient_128x128": (delta, y, W), "convolve_back_128x64": (delta, W, y)}
    assert flop(name, [numbers, *arrays[name]]) == 2 * (2 * 8 * 8) * 32 * 144
    assert flop("relu", [y, y]) == 0


def test_the_device_s_own_kernels_stay_as_they_are():
    usual, device, launches = devices()
    x = xp.zeros(4, dtype=np.float32)
    usual.ops.relu(x)
    assert launches == []
    device.ops.relu(x)
    assert [name for name, *_ in launches] == ["relu"]
    assert device.ops.processors == usual.ops.processors == 4 and type(usual.ops._kernel(x.dtype, "relu")) is Kernel
