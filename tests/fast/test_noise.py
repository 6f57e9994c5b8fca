"""The mirrors' noise on a device with ops: its products come from the ops, everything else from NumPy."""

import pickle

import numpy as np
import pytest

from kernel_suite import compiled
from wtref import fast, relatives
from wtref.fast.noise import Noise
from wtref.runs.config import Config
from wtref.runs.prepare import prepare

ops = compiled()


class Counted:
    """The ops, and how many products they computed."""

    def __init__(self):
        self.products = 0

    def product(self, a, b):
        assert type(a) is type(b) is np.ndarray
        self.products += 1
        return ops.product(a, b)


def test_products_come_from_the_ops_and_all_else_from_numpy():
    rng, counted = np.random.default_rng(0), Counted()
    plain, W = rng.standard_normal((50, 20)), rng.standard_normal((7, 20))
    y = Noise.of(plain.copy(), counted)
    for found, wanted in [(y @ W.T, plain @ W.T), ((W @ y.T) @ y, (W @ plain.T) @ plain)]:
        assert type(found) is np.ndarray
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    assert counted.products == 3
    for found, wanted in [(y @ W[0], plain @ W[0]), (2 * y - 1, 2 * plain - 1), ((y * y).sum(axis=0), (plain * plain).sum(axis=0))]:
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, wanted)
    y *= 3
    np.testing.assert_array_equal(y, 3 * plain)
    assert counted.products == 3


def test_products_that_the_ops_lack_come_from_numpy():
    """Factors of other dtypes and kinds, and noise whose ops were lost on the way through pickle."""
    plain, counted = np.arange(6, dtype=np.float32).reshape(2, 3), Counted()
    y, ones = Noise.of(plain.copy(), counted), np.ones((3, 4))
    for other in (ones, ones.astype(np.int64), ones.astype(object), ones.tolist()):
        np.testing.assert_array_equal(y @ other, plain @ ones)
        assert (y @ other).dtype == (plain @ other).dtype
    np.testing.assert_array_equal(ones.T @ y.T, ones.T @ plain.T)
    unpickled = pickle.loads(pickle.dumps(y))
    np.testing.assert_array_equal(unpickled @ ones.astype(np.float32), plain @ ones)
    with pytest.raises(ValueError, match="matmul"):
        y @ 2
    assert counted.products == 0


@pytest.mark.parametrize("rule", ["wm", "aa", "ia"])
def test_a_mirror_s_steps_are_the_plain_ones_with_the_products_of_the_ops(rule):
    """One product with W and one with the rows of noise at least; with plain kernels there are no ops and no Noise."""

    def mirrored(kernels):
        training = prepare(Config(model="mlp", rule=rule, dtype="float64", kernels=kernels, threads=1))
        training.before_training()
        return training

    found, wanted = mirrored("compiled"), mirrored("plain")
    for one, other in zip(found.network.with_feedback, wanted.network.with_feedback):
        np.testing.assert_allclose(one.B, other.B, rtol=0, atol=1e-9 * np.abs(other.B).max())
    s = found.network.with_feedback[0]
    assert type(found.rule.noise(s)) is Noise and type(wanted.rule.noise(s)) is np.ndarray


@pytest.mark.parametrize("model, by_bits", [("resnet8", True), ("mlp", False)])
def test_the_weight_mirror_counts_equal_signs_where_that_is_less_work(model, by_bits, monkeypatch):
    """The output layer of this MLP has 500 inputs and 10 outputs, and its direct products take less time."""

    def prepared(kernels):
        return prepare(Config(model=model, rule="wm", dtype="float64", kernels=kernels, threads=1))

    found, wanted, counted = prepared("compiled"), prepared("plain"), []
    correlations = found.device.ops.sign_correlations
    monkeypatch.setattr(found.device.ops, "sign_correlations", lambda *arguments: counted.append(arguments) or correlations(*arguments))
    for one, other in zip(found.network.with_feedback, wanted.network.with_feedback):
        for eta_B in (1e-3, 1e-4):
            found.rule.mirror(one, eta_B=eta_B)
            wanted.rule.mirror(other, eta_B=eta_B)
        np.testing.assert_allclose(one.B, other.B, rtol=0, atol=1e-12 * np.abs(other.B).max())
    assert found.rule.state == wanted.rule.state
    assert len(counted) == (2 * len(found.network.with_feedback) if by_bits else 0)


def test_rules_without_noise_are_left_alone():
    device = prepare(Config(model="mlp", rule="kp", kernels="compiled")).device
    rule = relatives.RULES["kp"]()
    before = dict(vars(rule))
    fast.accelerate_noise(rule, device)
    assert vars(rule) == before
