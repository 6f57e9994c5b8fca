"""The CUDA kernels, run on the CPU by cuda_double.py, equal the plain functions, also in whole training steps."""

import numpy as np
import pytest

from cuda_double import emulated, emulator_obstacle
from device_double import xp
from kernel_suite import KernelSuite, normal
from on_device import OnDevice, Rounded
from roundings import bf16, tf32
from wtref import SGD
from wtref.device import DTYPES, Device, to_host
from wtref.errors import InputError
from wtref.fast import cuda_launches, plain
from wtref.fast.cuda import Cuda, Geometry
from wtref.fast.cuda_launches import BFLOAT16
from wtref.fast.noise import accelerate_noise
from wtref.noise import independent_signs
from wtref.randomness import NOISE, generator
from wtref.relatives import OrthogonalMirror
from wtref.rules import WeightMirror
from wtref.runs.config import Config
from wtref.runs.prepare import prepare

if emulator_obstacle():
    pytest.skip(emulator_obstacle(), allow_module_level=True)

with_bf16 = pytest.mark.skipif(BFLOAT16 is None, reason="no ml_dtypes, from which CuPy has bfloat16")
ALL = ["float32", pytest.param("tf32", marks=pytest.mark.slow), pytest.param("bf16", marks=[pytest.mark.slow, with_bf16])]


class TestFloat(KernelSuite):
    """float64, and float32 in full."""

    fast = OnDevice(emulated(), xp)
    side, depth = 90, 150


@pytest.mark.slow
class TestTf32(KernelSuite):
    fast = OnDevice(emulated("tf32"), xp)
    limits, factors = {np.float32: 1e-4}, staticmethod(tf32)
    side, depth = 90, 150


@pytest.mark.slow
@with_bf16
class TestBf16(KernelSuite):
    fast = OnDevice(emulated("bf16"), xp)
    limits, factors = {np.float32: 1e-4}, staticmethod(bf16)
    stored, rounding = staticmethod(bf16), 2**-8
    side, depth = 90, 150


def test_vectors_that_do_not_lie_in_one_piece():
    draw = normal(0, np.float64)
    x, delta, spread, winner = draw(6, 8), draw(6, 8), draw(16), np.array([[[[0, 1], [1, 0]]]])
    there, vector = xp.array(spread)[::2], spread[::2]
    for name, arrays, count in (("norm_forward", [x], 3), ("norm_back", [delta, x], 5), ("norm_sums", [delta, x], 3)):
        found = getattr(emulated(), name)(*map(xp.array, arrays), *[there] * count)
        np.testing.assert_allclose(found.get(), getattr(plain, name)(*arrays, *[vector] * count), rtol=1e-12)
    errors = draw(*winner.shape)
    window = (1, 2), (1, 2), (0, 0), (1, 4)
    found = emulated().max_pool_back(xp.array(errors), xp.array(winner), *window)
    assert np.array_equal(found.get(), plain.max_pool_back(errors, winner, *window))


@pytest.mark.parametrize("precision", ALL)
@pytest.mark.parametrize("shape, cut", [((512, 250, 40), (128, 128, 1)), ((1024, 60, 40), (128, 64, 1)), ((100, 70, 600), (64, 64, 2))])
def test_large_tiles_and_slices_of_k(precision, shape, cut):
    """Tiles of all sizes, and a k that is cut into slices."""
    m, n, k = shape
    suite = {"float32": TestFloat, "tf32": TestTf32, "bf16": TestBf16}[precision]()
    draw = normal(0, np.float32)
    assert emulated(precision)._tiling(np.float32, m, n, k) == cut
    suite.both("product", draw(m, k), draw(k, n))
    suite.both("product", draw(k, m).T, draw(n, k).T)


@pytest.mark.parametrize("precision", ALL)
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1)])
def test_convolutions_whose_tiles_do_not_straddle_taps(precision, stride):
    """Multiples of 32 channels, and slices that begin between the first and the last channel of a tap."""
    suite = {"float32": TestFloat, "tf32": TestTf32, "bf16": TestBf16}[precision]()
    assert emulated(precision)._tiling(np.float32, 30, 96, 864)[2] == 4  # slices, of 27 tiles with 32 values of k
    suite.convolutions(normal(0, np.float32), (5, 3), [(3, 3), stride, (1, 1)], 96, 96, 2)


def test_the_backward_pass_by_strides_multiplies_no_zeros_between_errors():
    """Each of 3 x 3 taps carries the errors of a quarter of the pixels."""
    g = Geometry.of("convolve_back", (2, 8, 8, 32), 64, (3, 3), (2, 2), (1, 1))
    sizes = g.back()[:, 0][len(g) :].reshape(-1, len(g) + 4)
    parts = [Geometry(*each[: len(g)]) for each in sizes]
    assert [part.taps() for part in parts] == [4, 2, 2, 1]
    assert {(part.n, part.h, part.w) for part in parts} == {(2, 4, 4)}
    assert g.pixel_classes() == (4, 2 * 4 * 4)


@pytest.mark.parametrize(
    "m, n, k, blocks",
    [(8192, 512, 4608, 256), (64, 576, 524_288, 396), (512, 4608, 8192, 720), (524_288, 64, 576, 4096), (128, 10, 512, 8)],
)
def test_blocks_fill_an_h100_s_132_processors(m, n, k, blocks):
    """ResNet-18 at batch 512: no second round for a few blocks, and few slices where each costs a whole W."""
    down, across, slices = Cuda(xp, lambda **_: None, processors=132)._tiling(np.float32, m, n, k)
    assert -(-m // down) * -(-n // across) * slices == blocks


def test_an_array_that_32_bits_do_not_index_is_refused(monkeypatch):
    """Also one of which only a smaller array is made, and one of noise."""
    monkeypatch.setattr(cuda_launches, "MAX_SIZE", 49)
    ops, images, double = emulated(), xp.ones((1, 5, 10, 1), np.float32), Device("double", xp, np.float32)
    for call in [
        lambda: ops.product(xp.ones((3, 5), np.float32), xp.ones((5, 10), np.float32)), lambda: ops.average(images),
        lambda: ops.max_pool(images, (2, 2), (2, 2), (0, 0)), lambda: ops.independent_signs(double, generator(0, NOISE), 5, 10),
    ]:  # fmt: skip
        with pytest.raises(InputError, match="an array of 50 numbers is too large.* at most 49"):
            call()


@pytest.mark.parametrize("order", ["backward", "shuffled"])
@pytest.mark.parametrize("precision", ALL)
def test_no_kernel_depends_on_the_order_of_its_threads(precision, order):
    """All orders give the same bits, which they would not if a barrier were missing."""
    draw, same = normal(1, np.float32), [(3, 3), (1, 1), (1, 1)]
    y, delta, W, mean = draw(2, 6, 7, 5), draw(2, 6, 7, 8), draw(8, 45), draw(5)
    calls = {
        "convolve": (y, W, *same), "convolve_gradient": (delta, y, *same), "convolve_back": (delta, W.T, *same, (6, 7)),
        "moments": (y,), "norm_sums": (y, y, mean, mean), "max_pool": (y, (2, 2), (2, 2), (0, 0)),
        "hadamard_product": (W, draw(45), draw(300)),
    }  # fmt: skip
    for name, arguments in calls.items():
        first, other = (np.asarray(getattr(OnDevice(emulated(precision, which), xp), name)(*arguments)[0]) for which in ("forward", order))
        assert np.array_equal(first, other), name


@pytest.mark.parametrize("dtype, order", [(np.float32, 16384), (np.float64, 8192)])
def test_an_order_that_no_block_can_hold(dtype, order):
    draw = normal(0, dtype)
    TestFloat().both("hadamard_product", draw(2, order - 1), draw(order - 1), draw(order))


@pytest.mark.parametrize("rows, n", [(1, 1), (3, 50), (300, 77), (128, 128), (257, 64)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_is_that_of_numpy_s_generator(dtype, rows, n):
    """For any state of the generator: several keys, far along its stream, where the last noise has left it, and half a word on."""
    double, cpu = Device("double", xp, dtype), Device("cpu", np, dtype)
    for seed in range(4):
        rng, host = (generator(seed, NOISE, 3, seed) for _ in range(2))
        for each in (rng, host):
            each.bit_generator.advance(seed * (1 << 70))
        for _ in range(3):
            found, wanted = to_host(emulated().independent_signs(double, rng, rows, n)), independent_signs(cpu, host, rows, n)
            assert np.array_equal(found, wanted) and found.dtype == dtype


@pytest.mark.parametrize("precision", [pytest.param("bf16", marks=[pytest.mark.slow, with_bf16]), "float32"])
def test_a_mirror_is_computed_by_the_kernels(precision):
    """With factors in bf16 W is rounded, and so is what arrives at the cells above; the noise is exact."""

    def mirrored(device):
        training = prepare(Config(model="mlp", rule="wm", hidden=(20,), mirror_rows=64), device)
        s, *_ = training.network.with_feedback
        training.rule.mirror(s, 0.01)
        return to_host(s.B)

    found, wanted = map(mirrored, (Device("double", xp, np.float32, ops=emulated(precision)), Device("cpu", np, np.float32)))
    assert np.abs(found - wanted).max() <= (1e-6 if precision == "float32" else 0.01) * np.abs(wanted).max()


class Gaussian(WeightMirror):
    """A mirror with noise of another kind."""

    draw = staticmethod(lambda device, rng, rows, n: device.array(rng.standard_normal((rows, n))))


class Patterns(OrthogonalMirror):
    """The same with patterns."""

    draw = staticmethod(lambda device, rng, n: device.array(np.eye(n)))


class Halving(WeightMirror):
    """A mirror that does more with its noise than multiply it, in another method than WeightMirror."""

    def between_steps(self, s, sgd, step):
        y = self.noise(s) / 2
        s.B += (y.T @ y) @ s.W.T


@pytest.mark.parametrize("kind", [Gaussian, Patterns, Halving])
def test_a_mirror_of_a_subclass_has_its_own_noise_on_a_gpu(kind):
    double, cpu, found = Device("double", xp, np.float64, ops=emulated()), Device("cpu", np, np.float64), []
    for device in (double, cpu):
        s, *_ = prepare(Config(model="mlp", rule="wm", hidden=(20,), dtype="float64"), device).network.with_feedback
        rule = kind()
        accelerate_noise(rule, device)
        rule.between_steps(s, SGD({}, lr=0.1), 0)
        found.append(to_host(s.B))
    np.testing.assert_allclose(*found, rtol=0, atol=1e-9)


def test_noise_of_another_generator_than_the_kernel_s():
    cpu, rngs = Device("cpu", np, np.float64), [np.random.Generator(np.random.Philox(1)) for _ in range(2)]
    assert np.array_equal(emulated().independent_signs(cpu, rngs[0], 9, 9), independent_signs(cpu, rngs[1], 9, 9))


def test_numbers_divide_exactly():
    """The division by multiplication of operands.cu is exact at multiples of the divisor and just below, up to 2^31."""
    rng = np.random.default_rng(0)
    for d in [*range(1, 200), *rng.integers(200, 2**31, 300)]:
        value, magic, shift = Geometry(*[int(d)] * 13).divisors().view(np.uint32)[0].astype(np.uint64)
        multiples = rng.integers(0, 2**31 // d + 1, 100) * d
        n = np.clip(np.concatenate([multiples, multiples - 1, [0, 2**31 - 1]]), 0, 2**31 - 1).astype(np.uint64)
        assert value == d and np.array_equal((n + (n * magic >> np.uint64(32))) >> shift, n // np.uint64(d))


def trained(steps, dtype, precision="float32", plainly=plain, **options):
    """Train on the double, then on the CPU with the ops `plainly`: the arrays at the start, and of both at the end."""
    config = Config(batch_size=4, dtype=dtype, hidden=(20,), mirror_rows=16, **options)
    double = Device("double", xp, DTYPES[dtype], ops=emulated(precision))
    cpu, found = Device("cpu", np, DTYPES[dtype], ops=plainly), []
    for device in (double, cpu):
        training = prepare(config, device)
        start = arrays_of(training)
        for _, (images, labels) in zip(range(steps), training.feed.train_batches(epoch=0)):
            training.step(images, labels)
            training.position += 1
        found.append(arrays_of(training))
    return start, *found


def arrays_of(training):
    return {name: np.array(to_host(array)) for name, array in training.network.arrays().items()}


@pytest.mark.slow
@pytest.mark.parametrize("rule, model", [("kp", "resnet8"), ("wm", "mlp"), ("ss", "lenet")])
def test_training_on_the_kernels_is_training_on_the_cpu(rule, model):
    _, found, wanted = trained(2, "float64", model=model, rule=rule, dataset="synthetic" if model == "lenet" else "digits")
    for name, array in wanted.items():
        assert np.abs(found[name] - array).max() <= 1e-9 * max(np.abs(array).max(), 1e-3), name


@pytest.mark.slow
@with_bf16
@pytest.mark.parametrize("model, norm", [("resnet8", "before"), ("lenet", None), ("mlp", "after")])
def test_a_step_with_activities_in_bf16_is_the_plain_one_rounded(model, norm):
    """Sums that differ in their last digit may round to different bfloat16 numbers, hence the tolerance."""
    options = {"model": model, "norm": norm, "rule": "kp", "dataset": "synthetic" if model == "lenet" else "digits"}
    start, found, wanted = trained(1, "float32", "bf16", Rounded(bf16, bf16), **options)
    for name, array in wanted.items():
        assert found[name].dtype == np.float32
        assert np.linalg.norm(found[name] - array) <= 0.02 * np.linalg.norm(array - start[name]), name
