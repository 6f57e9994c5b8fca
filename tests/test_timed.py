"""Timed kernels: on a pretended device whose clock goes on by what each launch is said to take."""

from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
from device_double import DoubleArray, xp

from wtref import kernels
from wtref.kernels import plain, timed
from wtref.kernels.cuda import Cuda


class Clock:
    """cupy's face, as far as timed.py looks at it; every kernel takes 2 ms, and the spin before them 1000."""

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


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(kernels, "_fast", {DoubleArray: Cuda(xp, Clock().RawModule, processors=4)})
    return Clock()


def test_every_kernel_s_launches_bytes_and_products_add_up(clock):
    y, W, delta = (xp.zeros(shape, dtype=np.float32) for shape in ((2, 8, 8, 16), (32, 144), (2, 8, 8, 32)))
    same = (3, 3), (1, 1), (1, 1)

    def step():
        fast = kernels.primitives(y)
        for _ in range(3):
            fast.relu(y)
        fast.convolve(y, W, *same)
        fast.convolve_outer(delta, y, *same)
        fast.convolve_back(delta, W.T, *same, (8, 8))

    usual = kernels.primitives(y)
    with kernels.between_events(clock, "float32") as launches:
        found = timed.profile(clock, launches, step)
    assert kernels.primitives(y) is usual
    times = {title.partition(" x")[0]: ms for title, ms in found.items()}
    assert times["relu"] == 6
    (relu,) = [title for title in found if title.startswith("relu")]
    assert relu == f"relu x3, {3 * 2 * y.nbytes / 6 / 1e6:,.0f} GB/s"
    assert "spin" not in times and sum(times.values()) == (clock.now - 1000) / 2, "one step of two, all of it"


@pytest.mark.parametrize("name", ["convolve_64x64", "convolve_outer_128x128", "convolve_back_128x64"])
def test_products_are_counted(name):
    """2 multiply-adds for every position, place of the patch and channel above."""
    numbers, y, W, delta = np.zeros((13, 3)), np.zeros((2, 8, 8, 16)), np.zeros((32, 144)), np.zeros((2, 8, 8, 32))
    arrays = {"convolve_64x64": (y, W, delta), "convolve_outer_128x128": (delta, y, W), "convolve_back_128x64": (delta, W, y)}
    assert timed.flop(name, [numbers, *arrays[name]]) == 2 * (2 * 8 * 8) * 32 * 144
    assert timed.flop("relu", [y, y]) == 0


def test_the_usual_kernels_come_back_after_an_error(clock):
    x = xp.zeros(4, dtype=np.float32)
    usual = kernels.primitives(x)
    with suppress(RuntimeError), kernels.between_events(clock, "float32"):
        assert kernels.primitives(x) is not usual and kernels.primitives(x) is not plain
        raise RuntimeError
    assert kernels.primitives(x) is usual
