"""The compiled kernels against the plain ones: every function, every vector width, any number of threads."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import geometries, modest
from hypothesis import given
from hypothesis import strategies as st

from wtref import kernels
from wtref.backend import open_device
from wtref.config import Config
from wtref.datasets import open_feed
from wtref.errors import InputError
from wtref.kernels import building, plain
from wtref.kernels.compiled import REALS, Compiled
from wtref.training import Training

try:
    fast = Compiled(2)
except building.NoCompiler as reason:
    pytest.skip(f"no compiled kernels: {reason}", allow_module_level=True)

LIMIT = {np.float64: 1e-10, np.float32: 1e-4}
seeds, dtypes = st.integers(0, 2**32 - 1), st.sampled_from(list(LIMIT))
channels, vectors = st.sampled_from([1, 3, 8, 10, 16, 17, 32, 40]), st.sampled_from([16, 32, 48, 80])


def normal(seed, dtype):
    """A function that draws standard normal arrays."""
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape).astype(dtype)


def assert_equal(found, wanted, limit):
    """Relative to the largest entry, both in their own precision and against NaN."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    scale = np.abs(wanted).max(initial=0)
    assert np.abs(found - wanted).max(initial=0) <= limit * max(scale, 1e-30)


def in_double(*arguments):
    """The same arguments, arrays in float64."""
    return [x.astype(np.float64) if isinstance(x, np.ndarray) else x for x in arguments]


def both(name, *arguments, fast=fast):
    """The compiled function beside the plain one, which computes in float64."""
    dtype = next(x.dtype.type for x in arguments if isinstance(x, np.ndarray))
    assert_equal(getattr(fast, name)(*arguments), getattr(plain, name)(*in_double(*arguments)), LIMIT[dtype])


# --- every function on random shapes ------------------------------------------------------------------------


def convolutions(draw, size, geometry, c_in, c_out, batch, fast=fast):
    kernel, stride, padding = geometry
    n_in = kernel[0] * kernel[1] * c_in
    y, W, B = draw(batch, *size, c_in), draw(c_out, n_in), draw(c_out, n_in).T
    delta = draw(batch, *plain.output_size(size, *geometry), c_out)
    both("convolve", y, W, *geometry, fast=fast)
    both("convolve_outer", delta, y, *geometry, fast=fast)
    both("convolve_back", delta, B, *geometry, size, fast=fast)
    both("convolve_back", delta, np.ascontiguousarray(B), *geometry, size, fast=fast)


@given(geometries(), channels, channels, st.integers(1, 3), dtypes, seeds)
@modest
def test_convolutions(geometry, c_in, c_out, batch, dtype, seed):
    size, *rest = geometry
    convolutions(normal(seed, dtype), size, rest, c_in, c_out, batch)


@given(st.tuples(*[st.integers(3, 14)] * 2), vectors, vectors, dtypes, seeds)
@modest
def test_convolutions_by_winograd(size, c_in, c_out, dtype, seed):
    """3x3, stride 1, padding 1 and whole vectors of channels; images of whole tiles and of broken ones."""
    convolutions(normal(seed, dtype), size, [(3, 3), (1, 1), (1, 1)], c_in, c_out, 3)


@pytest.mark.parametrize("c", [16, 64, 256])
def test_winograd_costs_a_digit_of_float32(c):
    """Its root-mean-square error, relative to the output's, is 1e-6 to 5e-6 where a direct sum's is 2e-7 to 4e-7."""
    draw = normal(c, np.float32)
    y, W = draw(2, 16, 16, c), draw(c, 9 * c) / np.float32(3 * np.sqrt(c))
    same = (3, 3), (1, 1), (1, 1)
    for name, arguments in {"convolve": (y, W, *same), "convolve_outer": (draw(*y.shape), y, *same)}.items():
        exact = getattr(plain, name)(*in_double(*arguments))
        for kernels, limit in ((fast, 1e-5), (plain, 1e-6)):
            assert np.std(getattr(kernels, name)(*arguments) - exact) < limit * np.std(exact)


@given(geometries(half_padding=True), channels, dtypes, seeds)
@modest
def test_max_pool(geometry, c, dtype, seed):
    size, *window = geometry
    draw = normal(seed, dtype)
    y = np.round(draw(2, *size, c), 1)  # with ties
    largest, winner = fast.max_pool(y, *window)
    wanted, places = plain.max_pool(y, *window)
    assert np.array_equal(largest, wanted) and np.array_equal(winner, places)
    delta = draw(*winner.shape)
    found = fast.max_pool_back(delta, winner, *window, size)
    assert_equal(found, plain.max_pool_back(delta.astype(np.float64), places, *window, size), LIMIT[dtype])


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 2100), dtypes, seeds)
@modest
def test_products_of_any_strides(m, n, k, dtype, seed):
    draw = normal(seed, dtype)
    a, b, at, bt = draw(m, k), draw(k, n), draw(k, m).T, draw(n, k).T
    both("product", a, b)
    both("product", at, b)
    both("product", a, bt)
    both("product", np.broadcast_to(draw(k), (m, k)), b)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), channels, st.sampled_from([0, 1000]), dtypes, seeds)
@modest
def test_batch_norm(leading, c, mean, dtype, seed):
    draw = normal(seed, dtype)
    x, delta, scale, shift, slope = draw(*leading, c) + dtype(mean), draw(*leading, c), draw(c), draw(c), draw(c)
    centre = x.reshape(-1, c)[0]
    y = np.maximum(draw(*leading, c), 0)
    for out, wanted in zip(fast.moments(x), plain.moments(x.astype(np.float64))):
        assert_equal(out, wanted, LIMIT[dtype] if mean == 0 else 10 * LIMIT[dtype])
    for rectified in (None, y):
        both("norm_sums", delta, x, centre, rectified)
        both("norm_back", delta, x, centre, scale, slope, shift, rectified)
    for rectify in (False, True):
        both("norm_forward", x, centre, scale, shift, rectify)


@given(st.integers(1, 5000), dtypes, seeds)
@modest
def test_element_by_element(n, dtype, seed):
    draw = normal(seed, dtype)
    a, b = draw(n), draw(n)
    both("relu", a)
    both("relu_back", a, b)
    for rectify in (False, True):
        both("add", a, b, rectify)


@given(st.integers(1, 70), st.sampled_from([1, 4, 16]), dtypes, seeds)
@modest
def test_signed(n, m, dtype, seed):
    draw = normal(seed, dtype)
    both("signed", draw(5, m), draw(5), draw(n))


@given(st.integers(1, 30), st.integers(1, 30), st.booleans(), st.booleans(), dtypes, seeds)
@modest
def test_descend(rows, columns, transposed, nesterov, dtype, seed):
    draw = normal(seed, dtype)
    w, v, gradient = draw(rows, columns), draw(rows, columns), draw(rows, columns)
    if transposed:  # as B lies in memory
        w, v = np.asfortranarray(w), np.asfortranarray(v)
    plain_w, plain_v = in_double(w, v)
    start = w
    fast.descend(w, v, gradient, 0.1, 0.9, 0.01, nesterov)
    plain.descend(plain_w, plain_v, gradient, 0.1, 0.9, 0.01, nesterov)
    assert w is start
    assert_equal(w, plain_w, LIMIT[dtype])
    assert_equal(v, plain_v, LIMIT[dtype])


@pytest.mark.parametrize("dtype", LIMIT)
def test_nan_and_infinity_are_not_hidden(dtype):
    a = np.array([np.nan, np.inf, -np.inf, -1, 2], dtype)
    zero, one = np.zeros(1, dtype), np.ones(1, dtype)
    normed = fast.norm_forward(a[:, None], zero, one, zero, True)[:, 0]
    for found in (fast.relu(a), fast.add(a, np.zeros_like(a), True), normed):
        np.testing.assert_array_equal(found, np.maximum(a, 0))
    windows = np.array([[np.nan, 1], [1, np.nan], [-np.inf, -2]], dtype)[:, :, None, None]
    largest, winner = fast.max_pool(windows, (2, 1), (1, 1), (0, 0))
    np.testing.assert_array_equal(largest.ravel(), [np.nan, np.nan, -2])
    assert winner.ravel().tolist() == [0, 1, 1]
    assert np.isnan(fast.moments(a[:, None])[0]).all()


def test_what_does_not_fit_is_refused():
    draw, same = normal(0, np.float32), [(3, 3), (1, 1), (1, 1)]
    y, W, x = draw(2, 5, 5, 3), draw(4, 27), draw(6)
    for call in [
        lambda: fast.product(W, W), lambda: fast.convolve(y, W[:, 1:], *same), lambda: fast.add(x, x[1:]),
        lambda: fast.convolve_outer(draw(2, 4, 5, 4), y, *same), lambda: fast.relu_back(x, x[1:]),
        lambda: fast.convolve_back(draw(2, 5, 5, 3), W.T, *same, (5, 5)), lambda: fast.norm_sums(y, y[1:], draw(3)),
        lambda: fast.norm_back(y, y[1:], *[draw(3)] * 4), lambda: fast.descend(W, W.copy(), W.T, 1, 0, 0, False),
        lambda: fast.product(W, W.T.astype(np.float64)),
    ]:  # fmt: skip
        with pytest.raises(ValueError):
            call()


# --- threads and processes ----------------------------------------------------------------------------------


def results(threads):
    """([arrays of products], [arrays of sums over a batch]), computed on so many threads."""
    many, draw = Compiled(threads), normal(7, np.float64)
    y, delta, W = draw(5, 13, 13, 32), draw(5, 13, 13, 48), draw(48, 288)
    same, strided = [(3, 3), (1, 1), (1, 1)], [(3, 3), (2, 2), (1, 1)]
    half, wide = draw(5, 7, 7, 48), draw(5, 7, 7, 192)
    products, sums = [many.product(W, W.T)], [many.moments(y), many.norm_sums(y, y, y[0, 0, 0])]
    for error, geometry in ((delta, same), (half, strided)):
        products.append(many.convolve(y, W, *geometry))
        products.append(many.convolve_back(error, W.T, *geometry, (13, 13)))
        sums.append(many.convolve_outer(error, y, *geometry))
    sums.append(many.convolve_outer(wide, wide, *same))
    Compiled(kernels.cores())
    return products, sums


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_change_nothing_but_rounding(threads):
    (products, sums), alone = results(threads), results(1)
    for found, again in zip(products + sums, sum(results(threads), [])):
        assert np.array_equal(found, again)
    for found, wanted in zip(sums, alone[1]):
        assert_equal(found, wanted, 1e-14)
    for found, wanted in zip(products, alone[0]):
        assert np.array_equal(found, wanted)  # each summed in one order by any number of threads


def test_a_forked_process_computes_on(tmp_path):
    """OpenMP's threads do not survive a fork: the child must do without, not wait for them."""
    wanted = results(1)
    results(2)
    child = os.fork()
    if child == 0:
        os._exit(0 if all(np.array_equal(a, b) for a, b in zip(sum(results(2), []), sum(wanted, []))) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- compiling ----------------------------------------------------------------------------------------------


def compiled_with(folder, *flags):
    """Kernels whose sources were compiled with other flags."""
    other = Compiled.__new__(Compiled)
    other.libraries = {}
    for dtype, (real, _) in REALS.items():
        path = folder / f"{real}.so"
        words = [*building.FLAGS, *flags, f"-DREAL={real}", str(building.SOURCES / "all.c"), "-o", str(path)]
        subprocess.run(["cc", *words], check=True)
        other.libraries[dtype] = building.ctypes.CDLL(str(path))
        other.libraries[dtype].use_threads(2)
    return other


@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86-64")
@pytest.mark.parametrize("march", ["x86-64", "x86-64-v3"])
def test_processors_with_narrower_vectors(march, tmp_path):
    narrow = compiled_with(tmp_path, f"-march={march}", "-w")
    for dtype in LIMIT:
        draw = normal(3, dtype)
        for kernel, stride, padding in [(3, 1, 1), (3, 2, 1), (1, 1, 0), (5, 1, 2)]:
            geometry = [(kernel, kernel), (stride, stride), (padding, padding)]
            convolutions(draw, (9, 8), geometry, 16, 24, 3, narrow)
            convolutions(draw, (9, 8), geometry, 3, 10, 3, narrow)
        both("product", draw(70, 50), draw(50, 33), fast=narrow)


def test_sources_compile_without_a_warning(tmp_path):
    compiled_with(tmp_path, "-Wall", "-Wextra", "-Werror")


GUARDED = """
import ctypes, mmap, sys
import numpy as np
from wtref.kernels import plain
from wtref.kernels.compiled import Compiled

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
        delta = draw(2, *plain.output_size((6, 7), *geometry), c_out)
        fast.convolve(y, W, *geometry), fast.convolve_outer(delta, y, *geometry)
        fast.convolve_back(delta, B, *geometry, (6, 7))
        if padding <= kernel // 2:
            largest, winner = fast.max_pool(y, *geometry)
            fast.max_pool_back(largest, winner, *geometry, (6, 7))
        mean, y2 = draw(c_in), draw(2, 6, 7, c_in)
        fast.moments(y), fast.norm_sums(y, y2, mean, y), fast.norm_forward(y, mean, mean, mean, True)
        fast.norm_back(y, y2, mean, mean, mean, mean, y), fast.relu(y), fast.relu_back(y, y2), fast.add(y, y2)
        fast.product(W, B), fast.product(W.T, B.T), fast.signed(draw(4, 8), draw(4), draw(c_in))
        fast.descend(W, draw(*W.shape), draw(*W.shape), 0.1, 0.9, 0.1, True)
print("whole")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect by way of ctypes")
def test_no_read_or_write_beyond_an_array():
    """Every array ends where the process may not read on; a step too far would kill it."""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True, cwd=root)
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr


def test_words_and_refusals_without_a_compiler(monkeypatch):
    for compiler, reason in [("no-such-compiler", "no-such-compiler is not there"), ("false", "false fails")]:
        monkeypatch.setenv("CC", compiler)
        assert reason in kernels.use("auto", 1) and kernels.use("auto", 1).startswith("plain kernels")
        assert kernels.primitives(np.zeros(1)) is plain
        with pytest.raises(InputError, match=f"--kernels compiled: .*{reason}"):
            kernels.use("compiled")
    monkeypatch.undo()
    assert kernels.use() == f"compiled kernels, {kernels.cores()} thread{'s' * (kernels.cores() > 1)}"


def test_a_library_that_others_could_have_written_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    building._library.cache_clear()
    building.library("float")
    (tmp_path / "wtref").chmod(0o777)
    building._library.cache_clear()
    with pytest.raises(building.NoCompiler, match="can be written by others"):
        building.library("float")
    building._library.cache_clear()


def test_a_source_that_does_not_compile_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(building, "FLAGS", [*building.FLAGS, "-DV=broken("])
    building._library.cache_clear()
    with pytest.raises(building.NoCompiler, match="cc fails"):
        building.library("double")
    assert list((tmp_path / "wtref").iterdir()) == []
    building._library.cache_clear()


# --- the whole program --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["bp", "fa", "ss", "wm", "kp", "dfa"])
@pytest.mark.parametrize("norm", ["before", "after", "none"])
def test_training_ends_with_the_same_network(rule, norm):
    config = Config(model="resnet8", rule=rule, norm=norm, batch_size=64, lr=1e-3, dtype="float64", epochs=1)

    def trained(which):
        device = open_device("cpu", "float64", which)
        training = Training(config, device, open_feed(config, device))
        for _, (images, labels) in zip(range(5), training.feed.train_batches(epoch=0)):
            training.train_step(images, labels)
            training.position += 1
        return training.network.arrays()

    try:
        found, wanted = trained("compiled"), trained("plain")
    finally:
        kernels.use()
    for name, array in wanted.items():
        assert np.abs(found[name] - array).max() <= 1e-8 * max(np.abs(array).max(), 1e-3)
