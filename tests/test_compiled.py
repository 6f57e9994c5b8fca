"""The compiled kernels against the plain ones: every function, every vector width, any number of threads."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from kernel_suite import KernelSuite, assert_equal, in_double, normal

from wtref import kernels
from wtref.backend import open_device
from wtref.config import Config
from wtref.datasets import open_feed
from wtref.errors import InputError
from wtref.kernels import building, plain
from wtref.kernels.compiled import REALS, Compiled, Shelf
from wtref.training import Training

try:
    fast = Compiled(2)
except building.NoCompiler as reason:
    pytest.skip(f"no compiled kernels: {reason}", allow_module_level=True)

LIMIT = KernelSuite.limits


class TestCompiled(KernelSuite):
    fast = fast


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


@pytest.mark.parametrize("c_in, c_out", [(96, 192), (192, 176)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_winograd_of_many_channels_and_tiles(c_in, c_out, dtype):
    """Kernels too large for a core's cache: threads share each block of tiles, and there are several blocks."""
    draw = normal(4, dtype)
    y, delta, W, same = draw(2, 62, 64, c_in), draw(2, 62, 64, c_out), draw(c_out, 9 * c_in), [(3, 3), (1, 1), (1, 1)]
    TestCompiled().both("convolve", y, W, *same)
    TestCompiled().both("convolve_outer", delta, y, *same)
    TestCompiled().both("convolve_back", delta, W.T, *same, (62, 64))


@pytest.mark.parametrize("dtype, n", [(np.float32, 27), (np.float64, 13)])
def test_large_results_are_whole(dtype, n):
    """Results of more than 4 MiB are written past the caches: by whole vectors or not, the last rows of a tile too."""
    suite, draw = TestCompiled(), normal(5, dtype)
    y, delta, thin = draw(n, 51, 53, 16), draw(n, 51, 53, 16), draw(n, 51, 53, 3)
    vectors = [draw(16) for _ in range(5)]
    same = [(3, 3), (1, 1), (1, 1)]
    assert y.nbytes > 1 << 22
    suite.both("convolve", y, draw(16, 144), *same)
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


# --- threads and processes ----------------------------------------------------------------------------------


def results(threads):
    """([arrays of products], [arrays of sums over a batch]), computed on so many threads."""
    many, draw = Compiled(threads), normal(7, np.float64)
    y, delta, W = draw(5, 13, 13, 32), draw(5, 13, 13, 48), draw(48, 288)
    same, strided = [(3, 3), (1, 1), (1, 1)], [(3, 3), (2, 2), (1, 1)]
    half, wide = draw(5, 7, 7, 48), draw(5, 7, 7, 192)
    products, sums = [many.product(W, W.T)], [many.moments(y), many.norm_sums(y, y, y[0, 0, 0], y[0, 0, 1])]
    for error, geometry in ((delta, same), (half, strided)):
        products.append(many.convolve(y, W, *geometry))
        products.append(many.convolve_back(error, W.T, *geometry, (13, 13)))
        sums.append(many.convolve_outer(error, y, *geometry))
    products.append(many.convolve(wide, draw(192, 9 * 192), *same))
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


# --- large arrays -------------------------------------------------------------------------------------------


def address(x):
    return x.__array_interface__["data"][0]


def test_a_large_array_is_lent_again_once_no_view_of_it_is_left():
    shelf, shape = Shelf(), (2**23,)
    first = shelf.empty(shape, np.dtype(np.float32))
    view, where = first[5::7].T, address(first)
    del first
    second = shelf.empty(shape, np.dtype(np.float32))
    assert address(second) != where and not np.shares_memory(second, view)
    view[...] = 3
    del view
    assert address(shelf.empty((2**11, 2**11), np.dtype(np.float64))) == where  # as many bytes


def test_the_shelf_does_not_grow_with_every_size_ever_asked_for():
    shelf = Shelf()
    for size in range(2**23, 2**23 + 5):
        shelf.empty((size,), np.dtype(np.float32))
    assert sum(len(blocks) for blocks in shelf.free.values()) == 1


# --- compiling ----------------------------------------------------------------------------------------------


def compiled_with(folder, *flags):
    """Kernels whose sources were compiled with other flags."""
    other = Compiled.__new__(Compiled)
    other.libraries, other.shelf = {}, Shelf()
    for dtype, (real, _) in REALS.items():
        path = folder / f"{real}.so"
        words = [*building.FLAGS, *flags, f"-DREAL={real}", str(building.SOURCES / "all.c"), "-o", str(path)]
        subprocess.run(["cc", *words], check=True)
        other.libraries[dtype] = building.ctypes.CDLL(str(path))
        other.libraries[dtype].use_threads(2)
    return other


@pytest.fixture(scope="module", params=["x86-64", "x86-64-v3"])
def narrower(request, tmp_path_factory):
    """Kernels for processors with narrower vectors than this one may have."""
    if platform.machine() != "x86_64":
        pytest.skip("the flags are those of x86-64")
    return compiled_with(tmp_path_factory.mktemp(request.param), f"-march={request.param}", "-w")


def test_processors_with_narrower_vectors(narrower):
    suite = TestCompiled()
    suite.fast = narrower
    for dtype in LIMIT:
        draw = normal(3, dtype)
        for kernel, stride, padding in [(3, 1, 1), (3, 2, 1), (1, 1, 0), (5, 1, 2)]:
            geometry = [(kernel, kernel), (stride, stride), (padding, padding)]
            suite.convolutions(draw, (9, 8), geometry, 16, 24, 3)
            suite.convolutions(draw, (9, 8), geometry, 3, 10, 3)
        suite.both("product", draw(70, 50), draw(50, 33))


def best_time(function, *arguments):
    def once():
        start = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - start

    return min(once() for _ in range(30))


def test_passes_over_arrays_do_not_lose_their_vectors_to_the_stack(narrower):
    """They take 2 to 4 times as long as NumPy's addition; where each vector went through the stack, 20 to 40 times as long."""
    draw = normal(3, np.float32)
    x, delta, vector = draw(2000, 64), draw(2000, 64), draw(64)
    for functions in narrower.libraries.values():
        functions.use_threads(1)
    usual = best_time(np.add, x, delta)
    assert best_time(narrower.moments, x) < 10 * usual
    assert best_time(narrower.norm_sums, delta, x, vector, vector, vector) < 10 * usual


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
        fast.moments(y), fast.norm_sums(y, y2, mean, mean, mean), fast.norm_forward(y, mean, mean, mean, True)
        fast.norm_back(y, y2, mean, mean, mean, mean, mean), fast.relu(y), fast.relu_back(y, y2), fast.add(y, y2)
        fast.product(W, B), fast.product(W.T, B.T), fast.hadamard_product(W, draw(W.shape[1]), draw(7), 16)
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
