"""A convolution on CUDA kernels leaves the moments of its result: the right ones, and only to whom they belong."""

import gc

import numpy as np
import pytest
from cuda_double import ORDERS, EmulatedKernel, emulated, emulator_obstacle
from device_double import DoubleArray, xp
from helpers import geometries
from hypothesis import given
from hypothesis import strategies as st
from kernel_suite import assert_equal, modest, normal, seeds

from wtref import backend, kernels
from wtref.backend import Device
from wtref.kernels import cuda, plain
from wtref.kernels.cuda import BFLOAT16, NULL
from wtref.models import Options, build

if emulator_obstacle():
    pytest.skip(emulator_obstacle(), allow_module_level=True)

with_bf16 = pytest.mark.skipif(BFLOAT16 is None, reason="no ml_dtypes, from which CuPy has bfloat16")
ALL = ["float32", "tf32", pytest.param("bf16", marks=with_bf16)]
SAME = (3, 3), (1, 1), (1, 1)


def factors(draw, size=(5, 6), c_in=4, c_out=10, batch=4, mean=0, geometry=SAME):
    """y and W on the device; where a patch does not reach into the padding, its values in the image above have this mean."""
    y, W = draw(batch, *size, c_in), draw(c_out, *geometry[0], c_in)
    y[..., -1], W[..., -1], W[:, 0, 0, -1] = 1, 0, mean
    return xp.array(y), xp.array(W.reshape(c_out, -1))


def convolved(fast, *arguments, geometry=SAME, **options):
    return fast.convolve(*factors(*arguments, geometry=geometry, **options), *geometry, True)


def assert_moments(found, x, limit):
    """Of the values that lie in memory, as plain.moments finds them in float64."""
    for one, other in zip(found, plain.moments(x.get().astype(np.float64))):
        assert_equal(one.get(), other, limit)


@pytest.mark.parametrize("precision", ALL)
@given(geometries(), st.sampled_from([1, 17, 70]), st.integers(1, 20), st.sampled_from([0, 1000]), seeds)
@modest
def test_they_are_those_of_what_is_stored(precision, geometry, c_out, batch, mean, seed):
    """Of tiles that rows, columns or both end in."""
    fast, (size, *geometry), dtype = emulated(precision), geometry, (np.float32, np.float64)[seed % 2]
    out = convolved(fast, normal(seed, dtype), size, 3, c_out, batch, mean, geometry=geometry)
    assert list(fast.known) == [id(out)]
    assert_moments(fast.moments(out), out, 1e-5 if dtype == np.float32 else 1e-11)


@pytest.mark.parametrize("precision", ALL)
@pytest.mark.parametrize("c_out, batch, cut", [(130, 2, (128, 128, 1)), (60, 4, (128, 64, 1))])
def test_large_tiles_leave_them_too(precision, c_out, batch, cut):
    fast = emulated(precision)
    out = convolved(fast, normal(0, np.float32), (10, 25), c_out=c_out, batch=batch, mean=1000)
    assert fast._cut(np.float32, batch * 10 * 25, c_out, 36) == cut and fast.known
    assert_moments(fast.moments(out), out, 1e-5)


@pytest.mark.parametrize("precision", ALL)
def test_batch_norm_s_statistics_are_made_of_them(precision):
    fast, draw = emulated(precision), normal(0, np.float32)
    out = convolved(fast, draw, mean=1000)
    gamma, *running = draw(10), draw(10), draw(10)
    on_device = [xp.array(x) for x in running]
    found = fast.norm_statistics(out, xp.array(gamma), *on_device, 0.3, 0.1)
    exact = [x.astype(np.float64) for x in (out.get(), gamma, *running)]
    for one, other in zip([*found, *on_device], [*plain.norm_statistics(*exact, 0.3, 0.1), *exact[2:]]):
        assert_equal(one.get(), other, 1e-5)
    assert not fast.known


@pytest.mark.parametrize("precision", ALL)
def test_they_do_not_depend_on_the_order_of_threads(precision):
    kinds = [emulated(precision, order) for order in ORDERS]
    first, *others = [fast.moments(convolved(fast, normal(1, np.float32), batch=9)) for fast in kinds]
    for other in others:
        assert all(np.array_equal(a.get(), b.get()) for a, b in zip(first, other))


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("rows = min(m - top, (int) Core::TM)", "rows = Core::TM"),
        ("first = count == 0 ? x : first;", "first = 0;"),
        ("    __syncthreads();  // nobody is at the factors any more\n", ""),
        ("    __syncthreads();\n    const int column", "    const int column"),
    ],
)
def test_a_fault_shows(monkeypatch, right, wrong):
    """Rows behind the last are counted, a mean far from 0 costs digits, a barrier is missing."""
    code, options = cuda.source(), {"size": (9, 7), "mean": 1e6, "geometry": [(3, 3), (1, 1), (0, 0)]}
    assert code.count(right) == 1
    usual, out = emulated(), convolved(emulated(), normal(0, np.float64), **options)
    assert_moments(usual.moments(convolved(usual, normal(0, np.float64), **options)), out, 1e-9)
    monkeypatch.setattr(cuda, "source", lambda: code.replace(right, wrong))
    faulty = emulated(order="shuffled")
    found = faulty.moments(convolved(faulty, normal(0, np.float64), **options))
    with pytest.raises(AssertionError):
        assert_moments(found, out, 1e-9)


@pytest.fixture
def launches(monkeypatch):
    """(name, arguments) of every kernel launched."""
    found, launch = [], EmulatedKernel.__call__

    def noted(kernel, grid, block, arguments, **options):
        found.append((kernel.name, arguments))
        return launch(kernel, grid, block, arguments, **options)

    monkeypatch.setattr(EmulatedKernel, "__call__", noted)
    return found


def passes(launches):
    """Over a whole array for its moments."""
    return [name for name, _ in launches].count("moments_parts")


def test_whose_moments_are_known_is_not_read_again(launches):
    fast = emulated()
    out = convolved(fast, normal(0, np.float32))
    fast.moments(out)
    assert [name for name, _ in launches] == ["convolve_64x64", "moments_total"]
    assert not fast.known, "nor are they kept"
    assert_moments(fast.moments(out), out, 1e-5)
    assert passes(launches) == 1, "once more, and they have to be found"


def test_any_other_array_is_read(launches):
    fast, draw = emulated(), normal(0, np.float32)
    out = convolved(fast, draw)
    others = fast.biased(out, xp.array(draw(10))), out.reshape(out.shape), xp.array(draw(4, 5, 6, 10))
    for count, other in enumerate(others, start=1):
        assert_moments(fast.moments(other), other, 1e-5)
        assert passes(launches) == count and fast.known


def test_two_branches_may_be_convolved_before_either_is_normed(launches):
    fast = emulated()
    a, b = (convolved(fast, normal(seed, np.float32)) for seed in (0, 1))
    for out in (a, b):
        assert_moments(fast.moments(out), out, 1e-5)
    assert passes(launches) == 0


def test_an_array_that_is_gone_leaves_no_moments_to_the_next_in_its_place(launches):
    fast, (y, W) = emulated(), factors(normal(0, np.float32))
    for turn in range(1, 9):
        out = convolved(fast, normal(turn, np.float32))
        del out
        gc.collect()
        assert not fast.known
        out = fast.convolve(y, W, *SAME)
        assert_moments(fast.moments(out), out, 1e-5)
        assert passes(launches) == turn


def test_sums_in_slices_of_k_leave_none(launches):
    fast = emulated()
    out = convolved(fast, normal(0, np.float32), c_in=64, batch=1)
    assert fast._cut(np.float32, 30, 10, 9 * 64)[2] > 1 and not fast.known
    assert_moments(fast.moments(out), out, 1e-5)
    assert passes(launches) == 1


def test_nothing_at_all_leaves_none():
    fast = emulated()
    assert convolved(fast, normal(0, np.float32), batch=0).shape == (0, 5, 6, 10) and not fast.known


@pytest.fixture
def network(monkeypatch):
    """Makes a ResNet-8 on the double; a function of images, and of whether they are to be learnt from."""
    monkeypatch.setattr(backend, "_modules", {**backend._modules, DoubleArray: xp})
    monkeypatch.setattr(kernels, "_fast", {**kernels._fast, DoubleArray: emulated()})

    def made(norm):
        built = build("resnet8", (8, 8, 1), 3, Options(norm=norm, width=4))
        built.initialise(Device("double", xp, np.float32), np.random.default_rng(0))
        return lambda train: built.forward(xp.array(normal(0, np.float32)(2, 8, 8, 1)), train)

    return made


@pytest.mark.parametrize("norm, train, leaving", [("before", True, 9), ("before", False, 0), ("after", True, 0), ("none", True, 0)])
def test_only_convolutions_that_training_norms_leave_them(network, launches, norm, train, leaving):
    network(norm)(train)
    moments = [arguments[3] for name, arguments in launches if name.startswith("convolve")]
    assert len(moments) == 9 and sum(x is not NULL for x in moments) == leaving
    assert passes(launches) == (9 if norm == "after" else 0)
