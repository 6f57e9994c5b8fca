"""What several test files need: CPU devices, layers ready to run, finite differences, loops over pixels."""

import itertools

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from wtref.device import Device
from wtref.fast.ops import equip
from wtref.layers import BatchNorm, walk

CPU = Device("cpu", np, np.float64)  # array expressions alone
modest = settings(deadline=None, max_examples=25, derandomize=True, database=None)


def equipped(dtype=np.float64, threads=1):
    """A CPU with the ops that there are: compiled ones, or none without a C compiler and under `pytest --kernels plain`.

    One thread: of arrays as small as those of the tests more would wait for each other.
    """
    return equip(Device("cpu", np, dtype), threads=threads)


def ready(layer, rng):
    """The layer with its arrays drawn, at no special values; every B is its W's transpose."""
    for s in synapses_of(layer):
        s.initialise(CPU, rng)
        s.B = s.W.T
        if s.b is not None:
            s.b += rng.standard_normal(s.b.shape)
    for norm in norms_of(layer):
        norm.initialise(CPU, rng)
        norm.gamma += 0.3 * rng.standard_normal(norm.channels)
        norm.beta += rng.standard_normal(norm.channels)
        norm.running_mean += rng.standard_normal(norm.channels)
        norm.running_var += rng.random(norm.channels)
    return layer


def synapses_of(layer):
    return [part.synapses for part in walk(layer) if hasattr(part, "synapses") and not hasattr(part, "layers")]


def norms_of(layer):
    return [part for part in walk(layer) if isinstance(part, BatchNorm)]


def slope(f, x, direction, h=1e-4):
    """d f(x + t direction) / dt at 0 by central differences of the fourth order; x is put back."""
    start = x.copy()

    def at(t):
        x[...] = start + t * direction
        return f()

    slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    x[...] = start
    return slope


def assert_gradient(f, x, gradient, rng, directions=3):
    """The gradient of f() with respect to the array x, held against slopes in random directions."""
    assert gradient.shape == x.shape
    for _ in range(directions):
        direction = rng.standard_normal(x.shape)
        room = 1e-8 * (1 + np.linalg.norm(gradient) * np.linalg.norm(direction))
        assert abs(slope(f, x, direction) - (gradient * direction).sum()) < room


def distinct(rng, shape, gap=0.1):
    """Values in random order of which no two, and none and 0, are nearer than gap / 2."""
    size = int(np.prod(shape))
    return (rng.permutation(size).reshape(shape) - size // 2 + 0.5) * gap


def close(a, b, tolerance=1e-12):
    """Every entry within `tolerance` of the other's, measured in units of the largest entry (or of 1)."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    return bool(np.abs(a - b).max(initial=0) <= tolerance * max(1, np.abs(b).max(initial=0)))


# --- images and their patches, one number at a time --------------------------------------------------------


def places(size, kernel, stride, padding):
    """Every (row, column, i, j, y, x): place (i, j) of patch (row, column) lies on pixel (y, x).

    Pixels in the padding have y or x outside the image.  Patches are found by walking the padded
    image, not by a formula for their number.
    """
    starts = [range(-p, n + p - k + 1, s) for n, k, s, p in zip(size, kernel, stride, padding)]
    for (row, top), (column, left) in itertools.product(*map(enumerate, starts)):
        for i, j in itertools.product(*map(range, kernel)):
            yield row, column, i, j, top + i, left + j


def patch_count(size, kernel, stride, padding):
    return tuple(len(range(-p, n + p - k + 1, s)) for n, k, s, p in zip(size, kernel, stride, padding))


def inside(size, y, x):
    return 0 <= y < size[0] and 0 <= x < size[1]


def naive_gather(image, kernel, stride, padding, fill=0):
    n, height, width, channels = image.shape
    size = height, width
    patches = np.full((n, *patch_count(size, kernel, stride, padding), *kernel, channels), float(fill))
    for row, column, i, j, y, x in places(size, kernel, stride, padding):
        if inside(size, y, x):
            patches[:, row, column, i, j] = image[:, y, x]
    return patches


def naive_scatter(patches, size, stride, padding):
    n, _, _, k_h, k_w, channels = patches.shape
    image = np.zeros((n, *size, channels))
    for row, column, i, j, y, x in places(size, (k_h, k_w), stride, padding):
        if inside(size, y, x):
            image[:, y, x] += patches[:, row, column, i, j]
    return image


@st.composite
def geometries(draw, half_padding=False):
    """(size, kernel, stride, padding), each a pair, the kernel no larger than the padded image.

    half_padding: at most half of the kernel, as pooling wants.
    """
    pairs = [draw(axis(half_padding)) for _ in range(2)]
    return tuple(zip(*pairs))


@st.composite
def axis(draw, half_padding):
    n, stride = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    if half_padding:
        kernel = draw(st.integers(1, min(n, 4)))
        return n, kernel, stride, draw(st.integers(0, kernel // 2))
    padding = draw(st.integers(0, 2))
    return n, draw(st.integers(1, min(n + 2 * padding, 4))), stride, padding
