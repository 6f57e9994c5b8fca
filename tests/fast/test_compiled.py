"""The compiled kernels equal the plain ones, and use memory only as intended."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kernel_suite import KernelSuite, assert_equal, compiled_for, compiler_for, in_double, instruction_sets, normal
from wtref.fast import plain
from wtref.fast.compiled import BufferPool
from wtref.runs.config import Config
from wtref.runs.prepare import prepare

OWN, *NARROWER = instruction_sets()


@pytest.fixture(scope="module", params=[OWN, *(pytest.param(name, marks=pytest.mark.slow) for name in NARROWER)])
def fast(request):
    """The compiled kernels, for each instruction set of this machine."""
    return compiled_for(request.param)


@pytest.fixture(scope="class")
def kernels_of_the_class(request, fast):
    request.cls.fast = fast


@pytest.mark.usefixtures("kernels_of_the_class")
class TestCompiled(KernelSuite):
    pass


@pytest.fixture
def suite(fast):
    suite = KernelSuite()
    suite.fast = fast
    return suite


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows, n", [(1, 1), (7, 9), (64, 3), (65, 8), (513, 27), (1030, 147)])
def test_sign_correlations_are_exact(rows, n, dtype, fast):
    bits = np.random.default_rng(rows).integers(256, size=-(-rows * n // 8), dtype=np.uint8)
    found = fast.sign_correlations(bits, rows, n, np.dtype(dtype))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, plain.sign_correlations(bits, rows, n, dtype))


def test_sign_correlations_refuse_other_bits(fast):
    for bits in (np.zeros(3, np.uint8), np.zeros(5, np.uint8), np.zeros(4, np.int8), np.zeros((2, 2), np.uint8), None):
        with pytest.raises(ValueError, match=r"^sign_correlations: bits must be an array uint8 \(4,\), found "):
            fast.sign_correlations(bits, 5, 6, np.dtype(np.float32))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_joined_descents_are_those_of_each_array(dtype, nesterov, fast):
    draw = normal(7, dtype)
    ws, vs = ([draw(n) for n in (16, 5, 64, 1)] for _ in range(2))
    alone = [(w.copy(), v.copy()) for w, v in zip(ws, vs)]
    descend_all = fast.joined_descent(ws, vs)
    for lr in (0.1, 0.01):
        gradients = [draw(2, 16)[1], draw(10)[::2], draw(64), draw(1)]
        descend_all(gradients, lr, 0.9, nesterov)
        for (w, v), gradient in zip(alone, gradients):
            fast.descend(w, v, gradient, lr, 0.9, 0.0, nesterov)
    for w, v, (other_w, other_v) in zip(ws, vs, alone):
        assert np.array_equal(w, other_w) and np.array_equal(v, other_v)


def test_joined_descents_of_arrays_that_do_not_fit(fast):
    draw = normal(8, np.float32)
    for w, v in ((draw(3), draw(4)), (draw(3), draw(3).astype(np.float64))):
        with pytest.raises(ValueError, match="^descend_all: v must be"):
            fast.joined_descent([draw(2), w], [draw(2), v])
    descend_all = fast.joined_descent([draw(2), draw(3)], [draw(2), draw(3)])
    with pytest.raises(ValueError, match="^descend_all: gradient must be"):
        descend_all([draw(2), draw(4)], 0.1, 0.9, False)
    with pytest.raises(ValueError):
        descend_all([draw(2)], 0.1, 0.9, False)
    w, v, gradient = draw(6)[::2], draw(3), draw(3)
    wanted = w - 0.5 * (0.9 * v + gradient)
    fast.joined_descent([w], [v])([gradient], 0.5, 0.9, False)
    np.testing.assert_allclose(w, wanted, rtol=1e-6)


@pytest.mark.parametrize("c", [16, 64, 256])
def test_winograd_costs_a_digit_of_float32(c, fast):
    """Its root-mean-square error is 1e-6 to 5e-6 of the output's root mean square; a direct sum's is 2e-7 to 4e-7."""
    draw = normal(c, np.float32)
    y, W = draw(2, 16, 16, c), draw(c, 9 * c) / np.float32(3 * np.sqrt(c))
    same = (3, 3), (1, 1), (1, 1)
    for name, arguments in {"convolve": (y, W, *same), "convolve_gradient": (draw(*y.shape), y, *same)}.items():
        exact = getattr(plain, name)(*in_double(*arguments))
        for kernels, limit in ((fast, 1e-5), (plain, 1e-6)):
            assert np.std(getattr(kernels, name)(*arguments) - exact) < limit * np.std(exact)


@pytest.mark.slow
@pytest.mark.parametrize("c_in, c_out", [(96, 192), (192, 176)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_winograd_of_many_channels_and_tiles(c_in, c_out, dtype, suite):
    """The kernel is too large for a core's cache, so threads share each block of tiles; there are several blocks."""
    draw = normal(4, dtype)
    y, delta, W, same = draw(2, 62, 64, c_in), draw(2, 62, 64, c_out), draw(c_out, 9 * c_in), [(3, 3), (1, 1), (1, 1)]
    suite.both("convolve", y, W, *same)
    suite.both("convolve_gradient", delta, y, *same)
    suite.both("convolve_back", delta, W.T, *same, (62, 64))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size, c_in, c_out, batch, geometry", [
    ((32, 32), 64, 72, 1, [(3, 3), (2, 2), (1, 1)]),
    ((33, 31), 64, 40, 2, [(3, 3), (2, 2), (0, 0)]),  # rows of the input in place
    ((30, 40), 35, 17, 2, [(2, 3), (1, 1), (0, 1)]),
])  # fmt: skip
def test_convolutions_of_several_strips(size, c_in, c_out, batch, geometry, dtype, suite):
    """The rows of an image are too many for a core's cache."""
    suite.convolutions(normal(6, dtype), size, geometry, c_in, c_out, batch)


@pytest.mark.parametrize("c", [3, 16, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_over_many_rows(dtype, c, suite):
    """There are many strips of rows, the last of them a part."""
    draw = normal(9, dtype)
    x, delta, mean, scale = draw(32_771, c) + 1000, draw(32_771, c), draw(c) + 1000, draw(c)
    for found, wanted in zip(suite.fast.moments(x), plain.moments(*in_double(x))):
        assert_equal(found, wanted, suite.limits[dtype])
    suite.both("norm_sums", delta, x, mean, scale)


def test_rounding_leaves_no_variance_below_zero(fast):
    """All rows but the first, to which differences are taken, are equal; the variance is a millionth of the squares."""
    x = np.full((1 << 20, 8), [0.1, 0.3, 0.7, 1 / 3, 1.1, 1.7, 2.3, 3.3], np.float32)
    x[0] = 0
    _, variance = fast.moments(x)
    assert (variance >= 0).all() and (variance < 1e-5).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("nesterov", [False, True])
def test_a_large_array_descends_as_a_whole(dtype, nesterov, suite):
    draw = normal(10, dtype)
    w, v, gradient = draw(20_003), draw(20_003), draw(20_003)
    wanted = in_double(w, v)
    suite.fast.descend(w, v, gradient, 0.1, 0.9, 0.01, nesterov)
    plain.descend(*wanted, gradient, 0.1, 0.9, 0.01, nesterov)
    for found, right in zip((w, v), wanted):
        assert_equal(found, right, suite.limits[dtype])


@pytest.mark.parametrize("dtype, n", [(np.float32, 27), (np.float64, 13)])
def test_large_results_are_whole(dtype, n, suite):
    """Results of more than 4 MiB are written by non-temporal stores, except for parts of vectors and of tiles."""
    draw = normal(5, dtype)
    y, delta, thin = draw(n, 51, 53, 16), draw(n, 51, 53, 16), draw(n, 51, 53, 3)
    vectors = [draw(16) for _ in range(5)]
    same = [(3, 3), (1, 1), (1, 1)]
    assert y.nbytes > 1 << 22
    suite.both("convolve", y, draw(16, 144), *same)
    suite.both("convolve_gradient", delta[:2], y[:2], *same)
    suite.both("convolve", thin, draw(16, 27), *same)
    suite.both("convolve", thin, draw(17, 27), *same)
    suite.both("product", y.reshape(-1, 16), draw(16, 32))
    suite.both("product", y.reshape(-1, 16), draw(16, 19))
    suite.both("norm_forward", y, *vectors[:3], True, delta)
    suite.both("norm_back", delta, y, *vectors)
    for c in (3, 7):  # no whole vectors in a row of channels
        x = draw((1 << 20) // c + 5, c)
        suite.both("norm_forward", x, *(v[:c] for v in vectors[:3]), True)
    flat = delta.ravel()[:-5]
    suite.both("relu", flat)
    suite.both("relu_back", flat, y.ravel()[5:])
    suite.both("add", flat, y.ravel()[:-5])


# --- memory -------------------------------------------------------------------------------------------------


def address(x):
    return x.__array_interface__["data"][0]


def test_the_memory_of_a_large_array_is_used_again_once_no_view_of_it_is_left():
    pool, shape = BufferPool(), (2**23,)
    first = pool.empty(shape, np.dtype(np.float32))
    view, where = first[5::7].T, address(first)
    del first
    second = pool.empty(shape, np.dtype(np.float32))
    assert address(second) != where and not np.shares_memory(second, view)
    view[...] = 3
    del view
    assert address(pool.empty((2**11, 2**11), np.dtype(np.float64))) == where  # the same number of bytes


def test_free_memory_of_other_sizes_is_given_up_even_while_an_array_of_their_size_is_alive():
    pool, real = BufferPool(), np.dtype(np.float32)
    kept, dropped, late = (pool.empty((2**23,), real) for _ in range(3))
    del dropped
    assert [len(blocks) for blocks in pool.free.values()] == [1]
    other = pool.empty((2**23 + 1,), real)
    del late
    assert list(pool.free.values()) == [[]] and kept.size < other.size


def test_the_pool_does_not_grow_with_every_size_ever_asked_for():
    pool = BufferPool()
    for size in range(2**23, 2**23 + 5):
        pool.empty((size,), np.dtype(np.float32))
    assert sum(len(blocks) for blocks in pool.free.values()) == 1


GUARDED = """
import ctypes, mmap, sys
import numpy as np
from wtref.fast.compiled import Compiled
from wtref.geometry import output_size

fast, rng, kept = Compiled(2), np.random.default_rng(0), []

def at_the_edge(array):
    pages = -(-array.nbytes // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + pages * mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
    kept.append(memory)
    offset = pages * mmap.PAGESIZE - array.nbytes
    placed = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    placed[...] = array
    return placed

def draw(*shape):
    return at_the_edge(rng.standard_normal(shape).astype(np.float32))

np.empty = lambda shape, dtype=float: at_the_edge(np.zeros(shape, dtype))  # results too
for c_in, c_out in [(3, 5), (6, 16), (16, 16), (17, 33), (32, 48)]:
    for kernel, stride, padding in [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (5, 1, 0), (2, 2, 0)]:
        geometry = [(kernel, kernel), (stride, stride), (padding, padding)]
        y, W, B = draw(2, 6, 7, c_in), draw(c_out, kernel**2 * c_in), draw(c_out, kernel**2 * c_in).T
        delta = draw(2, *output_size((6, 7), *geometry), c_out)
        fast.convolve(y, W, *geometry), fast.convolve_gradient(delta, y, *geometry)
        fast.convolve_back(delta, B, *geometry, (6, 7))
        if padding <= kernel // 2:
            largest, winner = fast.max_pool(y, *geometry)
            fast.max_pool_back(largest, winner, *geometry, (6, 7))
        mean, y2 = draw(c_in), draw(2, 6, 7, c_in)
        fast.moments(y), fast.norm_sums(y, y2, mean, mean, mean), fast.norm_forward(y, mean, mean, mean, True)
        fast.norm_back(y, y2, mean, mean, mean, mean, mean), fast.relu(y), fast.relu_back(y, y2), fast.add(y, y2)
        fast.product(W, B), fast.product(W.T, B.T), fast.hadamard_product(W, draw(W.shape[1]), draw(7))
        fast.descend(W, draw(*W.shape), draw(*W.shape), 0.1, 0.9, 0.1, True)
        fast.sign_correlations(at_the_edge(np.zeros(-(-9 * c_out // 8), np.uint8)), 9, c_out, np.dtype(np.float32))
print("whole")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect by way of ctypes")
def test_no_read_or_write_beyond_an_array(fast):
    """Every array ends at a page that may not be accessed, so an access beyond the array ends the process."""
    root, name = Path(__file__).parents[2], fast.instruction_set
    environment = os.environ | ({} if name == OWN else {"CC": compiler_for(name)})
    done = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True, cwd=root, env=environment)
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr


# --- the whole program --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule, norm", [
    ("kp", "before"), *(pytest.param(*case, marks=pytest.mark.slow) for case in [
        ("bp", "before"), ("fa", "before"), ("ss", "before"), ("wm", "before"), ("dfa", "before"), ("kp", "after"), ("wm", "none"),
    ]),
])  # fmt: skip
def test_training_ends_with_the_same_network(rule, norm):
    def trained(kernels):
        config = Config(rule=rule, norm=norm, batch_size=64, lr=1e-3, dtype="float64", epochs=1, kernels=kernels)
        training = prepare(config)
        for _, (images, labels) in zip(range(5), training.feed.train_batches(epoch=0)):
            training.step(images, labels)
            training.position += 1
        return training.network.arrays()

    found, wanted = trained("compiled"), trained("plain")
    for name, array in wanted.items():
        assert np.abs(found[name] - array).max() <= 1e-8 * max(np.abs(array).max(), 1e-3)
