"""The CUDA kernels, run on the CPU by cuda_double.py: against the plain ones, and in whole training steps."""

import numpy as np
import pytest
from cuda_double import EmulatedModule, emulator_obstacle
from device_double import DoubleArray, xp
from kernel_suite import KernelSuite, normal
from on_device import OnDevice, bf16, tf32

from wtref import backend, kernels
from wtref.config import Config
from wtref.datasets import open_feed
from wtref.kernels.cuda import Cuda, Geometry
from wtref.training import Training

if emulator_obstacle():
    pytest.skip(emulator_obstacle(), allow_module_level=True)


def emulated(precision="float32", order="forward"):
    def module(code, options):
        return EmulatedModule(code=code, options=options, order=order)

    return Cuda(xp, module, precision, processors=4)


class TestFloat(KernelSuite):
    """float64, and float32 in full."""

    fast = OnDevice(emulated(), xp)
    side, depth = 90, 150


class TestTf32(KernelSuite):
    fast = OnDevice(emulated("tf32"), xp)
    limits, factors = {np.float32: 1e-4}, staticmethod(tf32)
    side, depth = 90, 150


class TestBf16(KernelSuite):
    fast = OnDevice(emulated("bf16"), xp)
    limits, factors = {np.float32: 1e-4}, staticmethod(bf16)
    side, depth = 90, 150


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("shape", [(512, 130, 40), (512, 60, 40), (100, 70, 600)], ids=["128x128", "128x64", "slices"])
def test_large_tiles_and_slices_of_k(precision, shape):
    """Tiles of all sizes, and a k that several blocks share."""
    m, n, k = shape
    suite = {"float32": TestFloat, "tf32": TestTf32, "bf16": TestBf16}[precision]()
    draw = normal(0, np.float32)
    suite.both("product", draw(m, k), draw(k, n))
    suite.both("product", draw(k, m).T, draw(n, k).T)


@pytest.mark.parametrize("order", ["backward", "shuffled"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_no_kernel_depends_on_the_order_of_its_threads(precision, order):
    """A missing barrier would show: same bits, whichever thread runs first."""
    draw, same = normal(1, np.float32), [(3, 3), (1, 1), (1, 1)]
    y, delta, W, mean = draw(2, 6, 7, 5), draw(2, 6, 7, 8), draw(8, 45), draw(5)
    calls = {
        "convolve": (y, W, *same), "convolve_outer": (delta, y, *same), "convolve_back": (delta, W.T, *same, (6, 7)),
        "moments": (y,), "norm_sums": (y, y, mean), "max_pool": (y, (2, 2), (2, 2), (0, 0)),
        "hadamard_product": (W, draw(45), draw(300), 1024),
    }  # fmt: skip
    for name, arguments in calls.items():
        first, other = (
            np.asarray(getattr(OnDevice(emulated(precision, which), xp), name)(*arguments)[0])
            for which in ("forward", order)
        )
        assert np.array_equal(first, other), name


@pytest.mark.parametrize("dtype, order", [(np.float32, 16384), (np.float64, 8192)])
def test_an_order_that_no_block_can_hold(monkeypatch, dtype, order):
    monkeypatch.setattr(backend, "_modules", {**backend._modules, DoubleArray: xp})
    draw = normal(0, dtype)
    TestFloat().both("hadamard_product", draw(2, order - 1), draw(order - 1), draw(order), order)


def test_numbers_divide_exactly():
    """operands.cu's division by multiplication, for all n that could be wrong: around every multiple near 2^31."""
    rng = np.random.default_rng(0)
    for d in [*range(1, 200), *rng.integers(200, 2**31, 300)]:
        value, magic, shift = Geometry(*[int(d)] * 13).numbers().view(np.uint32)[0].astype(np.uint64)
        multiples = rng.integers(0, 2**31 // d + 1, 100) * d
        n = np.clip(np.concatenate([multiples, multiples - 1, [0, 2**31 - 1]]), 0, 2**31 - 1).astype(np.uint64)
        assert value == d and np.array_equal((n + (n * magic >> np.uint64(32))) >> shift, n // np.uint64(d))


@pytest.mark.parametrize("rule, model", [("kp", "resnet8"), ("wm", "mlp"), ("ss", "lenet")])
def test_training_on_the_kernels_is_training_on_the_cpu(monkeypatch, rule, model):
    monkeypatch.setattr(backend, "_modules", {**backend._modules, DoubleArray: xp})
    monkeypatch.setattr(kernels, "_fast", {**kernels._fast, DoubleArray: emulated()})
    options = {"dataset": "synthetic"} if model == "lenet" else {"dataset": "digits"}
    config = Config(model=model, rule=rule, batch_size=4, dtype="float64", hidden=(20,), mirror_rows=16, **options)
    double, found = backend.Device("double", xp, np.float64), []
    for device in (double, backend.open_device("cpu", "float64")):
        training = Training(config, device, open_feed(config, device))
        for _, (images, labels) in zip(range(2), training.feed.train_batches(epoch=0)):
            training.train_step(images, labels)
            training.position += 1
        found.append({name: backend.to_host(array) for name, array in training.network.arrays().items()})
    for name, array in found[1].items():
        assert np.abs(found[0][name] - array).max() <= 1e-9 * max(np.abs(array).max(), 1e-3), name
