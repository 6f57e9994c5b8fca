"""The moments that convolve_with_moments of the CUDA kernels returns are those of its result, and batch norm uses them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuda_double import ORDERS, EmulatedKernel, emulated, emulator_obstacle
from device_double import xp
from helpers import CPU, geometries, ready
from kernel_suite import assert_equal, modest, normal, seeds
from wtref.device import Device
from wtref.distributed.group import ProcessGroup
from wtref.distributed.network import ReducingLayer, distribute
from wtref.fast import accelerate, cuda_launches, plain
from wtref.fast.cuda_launches import BFLOAT16, NULL
from wtref.layers import walk
from wtref.models import Options, build

if emulator_obstacle():
    pytest.skip(emulator_obstacle(), allow_module_level=True)

with_bf16 = pytest.mark.skipif(BFLOAT16 is None, reason="no ml_dtypes, from which CuPy has bfloat16")
ALL = ["float32", pytest.param("tf32", marks=pytest.mark.slow), pytest.param("bf16", marks=[pytest.mark.slow, with_bf16])]
SAME = (3, 3), (1, 1), (1, 1)


def factors(draw, size=(5, 6), c_in=4, c_out=10, batch=4, mean=0, geometry=SAME):
    """y and W on the device; outputs whose patch does not overlap the padding have the given mean."""
    y, W = draw(batch, *size, c_in), draw(c_out, *geometry[0], c_in)
    y[..., -1], W[..., -1], W[:, 0, 0, -1] = 1, 0, mean
    return xp.array(y), xp.array(W.reshape(c_out, -1))


def convolved(fast, *arguments, geometry=SAME, **options):
    """The result, and its moments as partial sums."""
    return fast.convolve_with_moments(*factors(*arguments, geometry=geometry, **options), *geometry)


def moments(fast, known):
    """Mean and variance from partial sums."""
    return fast._joined("moments_total", 2, known)


def assert_moments(found, x, limit):
    """The moments of the values in memory are those of plain.moments in float64.

    The mean's error is relative to the largest value: values of both signs may have a mean near 0.
    """
    values = x.get().astype(np.float64)
    (mean, variance), (wanted, spread) = (each.get() for each in found), plain.moments(values)
    assert np.abs(mean - wanted).max() <= limit * np.abs(values).max()
    assert_equal(variance, spread, limit)


@pytest.mark.parametrize("precision", ALL)
@given(geometries(), st.sampled_from([1, 17, 70]), st.integers(1, 20), st.sampled_from([0, 1000]), seeds)
@modest
def test_they_are_those_of_what_is_stored(precision, geometry, c_out, batch, mean, seed):
    """Tiles may be cut by the last row, the last column or both."""
    fast, (size, *geometry), dtype = emulated(precision), geometry, (np.float32, np.float64)[seed % 2]
    out, known = convolved(fast, normal(seed, dtype), size, 3, c_out, batch, mean, geometry=geometry)
    assert_moments(moments(fast, known), out, 1e-5 if dtype == np.float32 else 1e-11)


@pytest.mark.parametrize("precision", ALL)
@pytest.mark.parametrize("c_out, batch, cut", [(250, 2, (128, 128, 1)), (60, 4, (128, 64, 1))])
def test_large_tiles_leave_them_too(precision, c_out, batch, cut):
    fast = emulated(precision)
    out, known = convolved(fast, normal(0, np.float32), (10, 25), c_out=c_out, batch=batch, mean=1000)
    assert fast._tiling(np.float32, batch * 10 * 25, c_out, 36) == cut
    assert_moments(moments(fast, known), out, 1e-5)


@pytest.mark.parametrize("precision", ALL)
def test_batch_norm_s_statistics_are_made_of_them(precision):
    fast, draw = emulated(precision), normal(0, np.float32)
    out, known = convolved(fast, draw, mean=1000)
    gamma, *running = draw(10), draw(10), draw(10)
    on_device = [xp.array(x) for x in running]
    found = fast.norm_statistics(out, xp.array(gamma), *on_device, 0.3, 0.1, known=known)
    exact = [x.astype(np.float64) for x in (out.get(), gamma, *running)]
    for one, other in zip([*found, *on_device], [*plain.norm_statistics(*exact, 0.3, 0.1), *exact[2:]]):
        assert_equal(one.get(), other, 1e-5)


@pytest.mark.parametrize("precision", ALL)
def test_they_do_not_depend_on_the_order_of_threads(precision):
    kinds = [emulated(precision, order) for order in ORDERS]
    first, *others = [moments(fast, convolved(fast, normal(1, np.float32), batch=9)[1]) for fast in kinds]
    for other in others:
        assert all(np.array_equal(a.get(), b.get()) for a, b in zip(first, other))


@pytest.mark.slow
@pytest.mark.parametrize(
    "right, wrong",
    [
        ("rows = min(m - top, (int) Core::TM)", "rows = Core::TM"),
        ("first = count == 0 ? x : first;", "first = 0;"),
        ("    __syncthreads();  // all threads are done with the factors\n", ""),
        ("    __syncthreads();\n    for (int i = threadIdx.x; i < Core", "    for (int i = threadIdx.x; i < Core"),
    ],
)
def test_a_fault_shows(monkeypatch, right, wrong):
    """Rows after the last are counted, a mean far from 0 costs precision, or a barrier is missing."""
    code, options = cuda_launches.source(), {"size": (9, 7), "mean": 1e6, "geometry": [(3, 3), (1, 1), (0, 0)]}
    assert code.count(right) == 1
    usual = emulated()
    out, known = convolved(usual, normal(0, np.float64), **options)
    assert_moments(moments(usual, known), out, 1e-9)
    monkeypatch.setattr(cuda_launches, "source", lambda: code.replace(right, wrong))
    faulty = emulated(order="shuffled")
    _, known = convolved(faulty, normal(0, np.float64), **options)
    with pytest.raises(AssertionError):
        assert_moments(moments(faulty, known), out, 1e-9)


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
    """The number of passes over a whole array to compute moments."""
    return [name for name, _ in launches].count("moments_parts")


def test_an_array_with_known_moments_is_not_read_again(launches):
    fast, vectors = emulated(), [xp.array(normal(seed, np.float32)(10)) for seed in range(3)]
    out, known = convolved(fast, normal(0, np.float32))
    found = fast.norm_statistics(out, *(x.copy() for x in vectors), 0.3, 0.1, known=known)
    assert [name for name, _ in launches] == ["convolve_64x64", "norm_statistics"]
    read = fast.norm_statistics(out, *vectors, 0.3, 0.1)
    assert passes(launches) == 1, "of an array about which nothing is known"
    for one, other in zip(found, read):
        assert_equal(one.get(), other.get(), 1e-5)


def test_a_convolution_without_moments_finds_none(launches):
    fast = emulated()
    out = fast.convolve(*factors(normal(0, np.float32)), *SAME)
    assert np.array_equal(out.get(), convolved(fast, normal(0, np.float32))[0].get())
    assert [arguments[3] is NULL for _, arguments in launches] == [True, False]


def test_sums_in_slices_of_k_leave_none():
    fast = emulated()
    out, known = convolved(fast, normal(0, np.float32), c_in=64, batch=1)
    assert fast._tiling(np.float32, 30, 10, 9 * 64)[2] > 1 and known is None


def test_an_empty_batch_leaves_none():
    out, known = convolved(emulated(), normal(0, np.float32), batch=0)
    assert out.shape == (0, 5, 6, 10) and known is None


class OneOfTwo(ProcessGroup):
    """A process of a group whose other processes have no images."""

    size = 2


@pytest.mark.parametrize("precision", ALL)
def test_several_processes_use_them(launches, precision):
    images, device = normal(0, np.float32)(2, 8, 8, 1), Device("double", xp, np.float32, ops=emulated(precision))
    alone, shared = network("before", device), distribute(network("before", device), OneOfTwo())
    alone.forward(xp.array(images)), shared.forward(xp.array(images))
    assert passes(launches) == 0
    reducing = [layer.layer for layer in walk(shared.network) if isinstance(layer, ReducingLayer)]
    assert len(reducing) == 10 and not any(getattr(layer, "moments", None) for layer in reducing), "they are used once"
    one, other = (built.norms[0] for built in (alone, shared))
    for name in ("running_mean", "running_var"):
        assert_equal(getattr(other, name).get(), getattr(one, name).get(), 1e-6)


def network(norm, device):
    """An accelerated ResNet-8 with random weights and batch-norm parameters."""
    built = build("resnet8", (8, 8, 1), 3, Options(norm=norm, width=4))
    ready(built, np.random.default_rng(0))
    built.device = device
    for part in built.synapses + built.norms:
        for name, array in part.arrays().items():
            setattr(part, name, device.array(array))
    return accelerate(built, device)


@pytest.mark.parametrize("norm, train, leaving", [("before", True, 9), ("before", False, 0), ("after", True, 0), ("none", True, 0)])
def test_only_convolutions_that_training_norms_leave_them(launches, norm, train, leaving):
    """Each batch norm uses the moments of its own convolution, so all results equal the plain network's."""
    images, delta = (normal(seed, np.float32)(2, *shape) for seed, shape in [(0, (8, 8, 1)), (1, (3,))])
    fast = network(norm, Device("double", xp, np.float32, ops=emulated()))
    logits = fast.forward(xp.array(images), train)
    found = [arguments[3] for name, arguments in launches if name.startswith("convolve")]
    assert len(found) == 9 and sum(x is not NULL for x in found) == leaving
    assert passes(launches) == (9 if norm == "after" else 0)
    assert not any(getattr(layer, "moments", None) for layer in walk(fast)), "they are used once"

    plain = network(norm, CPU)
    assert_equal(logits.get(), plain.forward(images.astype(np.float64), train), 1e-4)
    if train:
        fast.backward(xp.array(delta)), plain.backward(delta.astype(np.float64))
        for s, wanted in zip(fast.synapses, plain.synapses):
            assert_equal(s.W_gradient.get(), wanted.W_gradient, 1e-4)
        for one, wanted in zip(fast.norms, plain.norms):
            for name in ("running_mean", "running_var", "gamma_gradient", "beta_gradient"):
                assert_equal(getattr(one, name).get(), getattr(wanted, name), 1e-4)
