"""The paper's theorems, and what each rule promises, on real training steps and on bare synapses."""

import itertools
import math

import numpy as np
import pytest

from helpers import CPU, close, inside, places
from wtref.activations import ReLU, Tanh
from wtref.angles import angle
from wtref.device import Device
from wtref.errors import InputError
from wtref.layers import BatchNorm, Conv2d, Flatten, Linear, Residual, Sequential
from wtref.losses import softmax_cross_entropy
from wtref.models import Network
from wtref.noise import DecorrelatedNoise, IndependentNoise, Patterns, hadamard, power_of_two
from wtref.optim import SGD
from wtref.relatives import RULES
from wtref.rules import WeightMirror
from wtref.runs.config import Config
from wtref.synapses import Synapses
from wtref.training import train_step

CLASSES = 4


def small_network(rule, seed=0):
    """conv, ReLU, strided conv, ReLU, linear, batch norm, tanh, linear; connected and ready to train."""
    rng = np.random.default_rng(seed)
    network = Network(
        Conv2d("conv1", 2, 3, 3, padding=1), ReLU(), Conv2d("conv2", 3, 4, (3, 2), 2), ReLU(), Flatten(),
        Linear("hidden", 4 * 2 * 2, 6), BatchNorm("hidden.norm", 6), Tanh(), Linear("output", 6, CLASSES),
    )  # fmt: skip
    return connected(network, rule, rng)


def connected(network, rule, rng):
    network.initialise(CPU, rng)
    for s in network.with_feedback:
        rule.connect(s, CLASSES)
        rule.before_training(s)
    return network


def train(network, rule, sgd, steps, seed=1):
    """Real training steps on 12 random images; yields after each step."""
    rng = np.random.default_rng(seed)
    images, labels = rng.standard_normal((12, 5, 5, 2)), rng.integers(CLASSES, size=12)
    for step in range(steps):
        yield train_step(network, rule, sgd, softmax_cross_entropy, images, labels, step)[0]


def bare_synapses(n_in, n_out=20, layer=1):
    """One layer's synapses, with an independent random B, in no network."""
    s = Synapses(f"layer{layer}", n_in, n_out, bias=False, std=1 / math.sqrt(n_in), sign_scale=0.5)
    rng = np.random.default_rng(layer)
    s.initialise(CPU, rng)
    s.layer, s.B = layer, s.draw_feedback(rng)
    return s


def snapshot(network, name):
    return [getattr(s, name).copy() for s in network.with_feedback]


def tan2(s):
    return math.tan(math.radians(angle(s.B, s.W.T))) ** 2


# --- all rules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_every_rule_learns_and_leaves_the_first_layer_without_feedback(name):
    rule = RULES[name]()
    network = small_network(rule)
    losses = list(train(network, rule, SGD(network.arrays(), 0.05, 0.9), 60))
    assert losses[-1] < 0.5 * losses[0]
    assert network.synapses[0].B is None
    assert all(s.B is not None for s in network.with_feedback)


@pytest.mark.parametrize("name", RULES)
def test_forward_learning(name):
    """(4) Delta W = -eta delta y^T - lambda W and Delta b = -eta delta, under every rule."""
    rule = RULES[name]()
    network = small_network(rule)
    before = [(s.W.copy(), s.b.copy()) for s in network.synapses]
    for _ in train(network, rule, SGD(network.arrays(), 0.1, weight_decay=0.2), 1):
        for s, (W, b) in zip(network.synapses, before):
            assert close(s.W, (1 - 0.1 * 0.2) * W - 0.1 * s.W_gradient)
            assert close(s.b, b - 0.1 * s.b_gradient)


def test_backprop_s_B_is_the_forward_weights_own_memory():
    rule = RULES["bp"]()
    network = small_network(rule)
    W = snapshot(network, "W")
    for _ in train(network, rule, SGD(network.arrays(), 0.1, 0.9, True, 0.01), 5):
        for s in network.with_feedback:
            assert np.shares_memory(s.B, s.W) and np.array_equal(s.B, s.W.T)
    assert all(np.abs(s.W - w).max() > 0.01 for s, w in zip(network.with_feedback, W))


@pytest.mark.parametrize("name", ["fa", "dfa"])
def test_fixed_feedback_stays_fixed(name):
    rule = RULES[name]()
    network = small_network(rule)
    drawn = snapshot(network, "B")
    for _ in train(network, rule, SGD(network.arrays(), 0.1, 0.9, weight_decay=0.01), 5):
        assert all(np.array_equal(s.B, B) for s, B in zip(network.with_feedback, drawn))


@pytest.mark.parametrize("name", ["fa", "frsf", "brsf", "wm", "kp", "dfa"])
def test_B_is_memory_of_its_own(name):
    network = small_network(RULES[name]())
    arrays = [array for s in network.with_feedback for array in (s.W, s.B)]
    assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(arrays, 2))


def test_feedback_is_drawn_like_W_and_apart_from_it():
    s = bare_synapses(300, 400)
    assert s.B.shape == (300, 400) and s.W.shape == (400, 300)
    room = 4 / math.sqrt(2 * s.B.size)
    assert s.B.std() == pytest.approx(s.std, rel=room) and s.W.std() == pytest.approx(s.std, rel=room)
    assert abs(s.B.mean()) < 4 * s.std / math.sqrt(s.B.size)
    assert abs(np.corrcoef(s.B.ravel(), s.W.T.ravel())[0, 1]) < 4 / math.sqrt(s.B.size)


# --- Kolen-Pollack -----------------------------------------------------------------------------------------


def test_kolen_pollack_contracts_by_one_minus_lambda():
    """W(t) - B(t)^T = (1 - lambda)^t [W(0) - B(0)^T], whatever is being learned."""
    rule, lr, decay = RULES["kp"](), 0.1, 0.2
    network, shrink = small_network(rule), 1 - lr * decay
    weights = snapshot(network, "W")
    start = [s.W - s.B.T for s in network.with_feedback]
    gaps = start
    for t, _ in enumerate(train(network, rule, SGD(network.arrays(), lr, weight_decay=decay), 100), start=1):
        before, gaps = gaps, [s.W - s.B.T for s in network.with_feedback]
        for s, gap, last, first in zip(network.with_feedback, gaps, before, start):
            ulp = np.finfo(float).eps * max(np.abs(s.W).max(), np.abs(s.B).max())
            assert np.abs(gap - shrink * last).max() < 4 * ulp
            assert np.abs(gap - shrink**t * first).max() < 4 * ulp * t
    assert all(np.abs(s.W - w).max() > 0.1 for s, w in zip(network.with_feedback, weights))
    assert all(np.linalg.norm(gap) < 0.14 * np.linalg.norm(first) for gap, first in zip(gaps, start))


@pytest.mark.parametrize("momentum, nesterov", [(0, False), (0.9, False), (0.9, True)])
def test_kolen_pollack_with_momentum_obeys_the_same_linear_recursion(momentum, nesterov):
    """Run on the difference alone, without a gradient; the learning rate changes on the way."""
    rule, decay = RULES["kp"](), 0.3
    network = small_network(rule)
    sgd = SGD(network.arrays(), 0.05, momentum, nesterov, decay)
    gaps = [s.W - s.B.T for s in network.with_feedback]
    velocities = [np.zeros_like(gap) for gap in gaps]
    for t, _ in enumerate(train(network, rule, sgd, 100)):
        for s, gap, v in zip(network.with_feedback, gaps, velocities):
            g = decay * gap
            v[...] = momentum * v + g
            gap -= sgd.lr * (g + momentum * v if nesterov else v)
            assert close(s.W - s.B.T, gap, 1e-13)
        sgd.lr = 0.05 / (1 + t / 50)


def test_without_decay_kolen_pollack_never_closes_the_gap():
    rule = RULES["kp"]()
    network = small_network(rule)
    start = [s.W - s.B.T for s in network.with_feedback]
    for _ in train(network, rule, SGD(network.arrays(), 0.1, 0.9), 20):
        pass
    assert all(close(s.W - s.B.T, gap) for s, gap in zip(network.with_feedback, start))


def test_the_shared_product_is_the_feedback_synapse_s_own():
    """(17) computed apart from (16): y_l delta_{l+1}^T, one connection and one example at a time."""
    rule, lr, decay = RULES["kp"](), 0.1, 0.2
    network = small_network(rule)
    for s in network.with_feedback:
        s.keep_delta = True
    before = {s.name: s.B.copy() for s in network.with_feedback}
    images = {}
    conv = network.layers[2]
    forward = conv.forward
    conv.forward = lambda y, train: images.update(y=y) or forward(y, train)
    for _ in train(network, rule, SGD(network.arrays(), lr, weight_decay=decay), 1):
        pass

    products = {name: np.zeros_like(B) for name, B in before.items()}
    for name, layer in (("hidden", network.layers[5]), ("output", network.layers[8])):
        for y, delta in zip(layer.y, layer.synapses.delta):
            for i, o in itertools.product(range(len(y)), range(len(delta))):
                products[name][i, o] += y[i] * delta[o]
    y, delta = images["y"], conv.synapses.delta  # (12, 5, 5, 3), (12, 2, 2, 4)
    for row, column, i, j, down, across in places((5, 5), (3, 2), (2, 2), (0, 0)):
        assert inside((5, 5), down, across)
        for n, c, o in itertools.product(range(12), range(3), range(4)):
            products["conv2"][(i * 2 + j) * 3 + c, o] += y[n, down, across, c] * delta[n, row, column, o]

    assert set(products) == {"conv2", "hidden", "output"}
    for s in network.with_feedback:
        assert close(s.B, before[s.name] - lr * products[s.name] - lr * decay * before[s.name])
        assert np.abs(products[s.name]).max() > 1e-3


# --- sign-symmetry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ss", "usf"])
def test_sign_symmetry_has_the_signs_of_W_and_the_published_scales(name):
    """sqrt(2 / (k_h k_w C_out)) in a convolution, 1 / sqrt(n_in) in a linear layer, after every batch."""
    rule = RULES[name]()
    network = small_network(rule)
    scales = [math.sqrt(2 / (3 * 2 * 4)), 1 / math.sqrt(16), 1 / math.sqrt(6)]
    W = snapshot(network, "W")
    first = [np.sign(w) for w in W]
    for _ in train(network, rule, SGD(network.arrays(), 0.2, 0.9), 10):  # B was set from W as it was before this step
        for s, w, scale in zip(network.with_feedback, W, scales):
            assert np.allclose(s.B, np.where(w.T > 0, scale, -scale), rtol=1e-15, atol=0)
        W = snapshot(network, "W")
    assert any((np.sign(w) != signs).any() for w, signs in zip(W, first))


def test_fixed_random_sign_symmetry_keeps_its_magnitudes():
    rule = RULES["frsf"]()
    network = small_network(rule)
    magnitudes = [np.abs(B) for B in snapshot(network, "B")]
    W = snapshot(network, "W")
    first = [np.sign(w) for w in W]
    for _ in train(network, rule, SGD(network.arrays(), 0.2, 0.9), 10):
        for s, w, magnitude in zip(network.with_feedback, W, magnitudes):
            assert np.array_equal(s.B, np.sign(w.T) * magnitude)
        W = snapshot(network, "W")
    assert any((np.sign(s.W) != signs).any() for s, signs in zip(network.with_feedback, first))


@pytest.mark.parametrize("name", ["bp", "fa", "frsf", "wm", "kp", "dfa"])
def test_what_a_step_reads_again_stays_where_it_is(name):
    """A replayed CUDA graph reads the memory that the recorded step read (graphs.py)."""
    rule = RULES[name]()
    network = small_network(rule)
    before = [array for s in network.with_feedback for array in (s.W, s.B)]
    for _ in train(network, rule, SGD(network.arrays(), 0.2, 0.9), 2):
        pass
    assert all(now is array for now, array in zip([x for s in network.with_feedback for x in (s.W, s.B)], before))


def test_batch_random_sign_symmetry_draws_its_magnitudes_anew():
    rule, s = RULES["brsf"](), bare_synapses(100, 80)
    magnitudes = []
    for _ in range(3):
        rule.before_backward(s, None)
        assert np.array_equal(np.sign(s.B), np.sign(s.W.T))
        assert math.sqrt((s.B**2).mean()) == pytest.approx(s.std, rel=4 / math.sqrt(2 * s.B.size))
        magnitudes.append(np.abs(s.B))
    for a, b in itertools.combinations(magnitudes, 2):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / math.sqrt(a.size)


# --- direct feedback alignment -----------------------------------------------------------------------------


def residual_network(rule, shortcut):
    """first, tanh, [tanh(up(tanh(down(y))) + shortcut(y))], output: fully connected, 5 cells a layer."""
    body = Sequential(Linear("down", 5, 5), Tanh(), Linear("up", 5, 5))
    block = Residual(body, Linear("shortcut", 5, 5) if shortcut else Sequential(), Tanh())
    network = Network(Linear("first", 5, 5), Tanh(), block, Linear("output", 5, CLASSES))
    return connected(network, rule, np.random.default_rng(0))


@pytest.mark.parametrize("shortcut", [True, False])
def test_direct_feedback_across_a_residual_block(shortcut):
    """Weights send down their own B e; a shortcut without weights passes on what comes from above."""
    rng, rule = np.random.default_rng(1), RULES["dfa"]()
    network = residual_network(rule, shortcut)
    e = rng.standard_normal((3, CLASSES))
    network.forward(rng.standard_normal((3, 5)))
    for s in network.synapses:
        s.keep_delta = True
    for s in network.with_feedback:
        rule.before_backward(s, e)
    network.backward(e)

    first, block = network.layers[1], network.layers[2]
    s = {s.name: s for s in network.synapses}
    sent = {name: e @ s[name].B.T for name in s if name != "first"}
    into_block = (1 - block.layers[2].y ** 2) * sent["output"]
    inner = block.layers[0].layers[1]
    assert close(s["output"].delta, e)
    assert close(s["up"].delta, into_block)
    assert close(s["down"].delta, (1 - inner.y**2) * sent["up"])
    from_shortcut = sent["shortcut"] if shortcut else into_block
    assert close(s["first"].delta, (1 - first.y**2) * (sent["down"] + from_shortcut))


def test_direct_feedback_hears_the_output_error_of_each_batch():
    rule, rng = RULES["dfa"](), np.random.default_rng(0)
    s = bare_synapses(7, 3)
    rule.connect(s, CLASSES)
    assert s.B.shape == (7, CLASSES)
    for error in rng.standard_normal((2, 5, CLASSES)):
        rule.before_backward(s, error)
        assert np.array_equal(s.received(np.ones((5, 3))), error)


# --- weight mirror -----------------------------------------------------------------------------------------


def laid_out(noise):
    """Drawn noise as an ordinary array."""
    return noise.laid_out() if isinstance(noise, Patterns) else noise


def mirror_average(s, rows_total, **options):
    """Mirror into s.B the plain average over rows_total rows of noise; returns their number."""
    rule = WeightMirror(window=1e9, **options)  # so long a memory that nothing is forgotten
    steps = rows_total // rule.batch(s)
    for _ in range(steps):
        rule.mirror(s)
    return steps * rule.batch(s)


@pytest.mark.parametrize("noise, block", [("independent", 6), ("decorrelated", 8)])
def test_a_mirror_step_is_equation_7_with_matched_decay(noise, block):
    """B <- (1 - lambda_B) B + eta_B y_l y_{l+1}^T with lambda_B = eta_B M sigma^2, row by row."""
    s, rule = bare_synapses(6, 5), WeightMirror(noise=noise, window=3, rows=4)
    M, S = 4, 3 * block
    a = 2 * M / (S + M)
    for t in range(1, 8):
        B, W = s.B.copy(), s.W.copy()
        rule.mirror(s)
        noise = laid_out(rule.noise.draw(CPU, (0, s.layer, t - 1), M, 6))
        lambda_B = max(a, 1 / t)
        wanted = (1 - lambda_B) * B + lambda_B / M * sum(np.outer(y, W @ y) for y in noise)
        assert close(s.B, wanted)
        assert np.array_equal(s.W, W)


def test_expected_feedback_is_the_transpose_of_W():
    """E[x (Wx)^T] = W^T: each entry of the average lies within its own theoretical standard error.

    For Gaussian x the variance of x_i (w x), over S rows, is (|w|^2 + w_i^2) / S.
    """
    s = bare_synapses(64, 64)
    S = mirror_average(s, 64 * 200, noise="independent")
    error = np.sqrt(((s.W**2).sum(axis=1, keepdims=True) + s.W**2).T / S)
    z = (s.B - s.W.T) / error
    assert abs(z.mean()) < 4 / 64 and np.abs(z).max() < 5
    assert (z**2).mean() == pytest.approx(1, abs=0.125)  # 4 standard errors
    assert tan2(s) == pytest.approx(65 / S, rel=0.125)
    assert angle(s.B, s.W.T) == pytest.approx(math.degrees(math.atan(math.sqrt(64 / S))), rel=0.07)


def gaussian_mean(f, std):
    """E[f(a)] for a ~ N(0, std^2), by a fine sum."""
    a = np.linspace(-8, 8, 4001)
    density = np.exp(-(a**2) / 2)
    return (f(std * a) * density).sum() / density.sum()


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


PHIS = {
    "relu": (lambda a: np.maximum(a, 0), lambda a: np.where(a == 0, 0.5, a > 0)),
    "sigmoid": (sigmoid, lambda a: sigmoid(a) * (1 - sigmoid(a))),
    "tanh": (np.tanh, lambda a: 1 - np.tanh(a) ** 2),
}


@pytest.mark.parametrize("name", PHIS)
def test_noise_through_an_activation_still_shows_W(name):
    """Stein: E[x phi(wx)] = E[phi'] w.  Divided by the mean phi', each column has w's own length,
    under the sampling error n E[phi^2] / (S E[phi']^2 |w|^2)."""
    (phi, slope), ratios = PHIS[name], []
    for layer in range(1, 5):
        s = bare_synapses(64, 64, layer)
        S = mirror_average(s, 64 * 400, noise="independent", activation=name)
        lengths = np.linalg.norm(s.W, axis=1)
        power = [gaussian_mean(lambda a: phi(a) ** 2, w) / gaussian_mean(slope, w) ** 2 for w in lengths]
        ratios.append(tan2(s) / (64 * sum(power) / S / (lengths**2).sum()))
        along = (s.B.T * s.W).sum(axis=1) / lengths**2  # 1 on average
        spread = np.sqrt(np.array(power) / S) / lengths
        bias = 1 / 512  # 1 / M, as a ratio of averages has
        assert along.mean() == pytest.approx(1, abs=5 * spread.mean() / 8 + bias)
        assert np.abs(along - 1).max() < 5 * spread.max() + bias
    assert np.mean(ratios) == pytest.approx(1, rel=0.125)


def test_a_cell_silent_through_a_whole_step_does_no_harm():
    """One ReLU cell in 16 is silent in all of a step's 4 rows: its mean phi' is 0, and none to divide by."""
    s, rule = bare_synapses(4), WeightMirror(noise="independent", window=100, activation="relu")
    silent = 0
    for step in range(50):
        noise = rule.noise.draw(CPU, (0, s.layer, step), 4, 4)
        silent += (noise @ s.W.T <= 0).all(axis=0).any()
        rule.mirror(s)
    assert silent > 5 and np.isfinite(s.B).all()
    assert angle(s.B, s.W.T) < 45


@pytest.mark.parametrize("n_in", [10, 60, 784, 4608])
def test_the_initial_stretch_of_decorrelated_noise_shows_W_exactly(n_in):
    """One constant for all widths, nothing tuned: B = W^T to rounding before the first example."""
    s = bare_synapses(n_in, 4)
    WeightMirror().before_training(s)
    assert close(s.B, s.W.T)


@pytest.mark.parametrize("n_in, rows", [(10, 4), (60, 16), (784, 512), (4608, 512)])
def test_whole_blocks_of_decorrelated_noise_average_to_W_exactly(n_in, rows):
    s = bare_synapses(n_in, 4)
    block = power_of_two(n_in)
    assert mirror_average(s, block, rows=rows) == block
    assert close(s.B, s.W.T)
    mirror_average(s, 2 * block, rows=rows)
    assert close(s.B, s.W.T)


@pytest.mark.parametrize("n_in", [10, 60])
def test_where_one_slice_is_a_whole_block_the_gap_decays_by_one_minus_a(n_in):
    """W has moved; B follows at the one rate a = 2 / (window + 1), without noise."""
    s, rule = bare_synapses(n_in), WeightMirror(window=9)
    rule.before_training(s)
    s.W += np.random.default_rng(0).standard_normal(s.W.shape)
    gap = s.B - s.W.T
    for t in range(1, 20):
        rule.mirror(s)
        assert close(s.B - s.W.T, 0.8**t * gap)


@pytest.mark.parametrize("n_in, layers", [(10, 12), (60, 4), (784, 1), (4608, 1)])
def test_the_initial_stretch_of_independent_noise(n_in, layers):
    """An average over half a window's rows: tan^2 = (n + 1) / rows, and W^T's own length."""
    window, errors = 6, []
    for layer in range(layers):
        s, rule = bare_synapses(n_in, 4000 // n_in + 12, layer), WeightMirror(noise="independent", window=window)
        rule.before_training(s)
        rows, size = rule.state[s.name] * rule.batch(s), (s.W**2).sum()
        assert rows == pytest.approx((window * n_in + rule.batch(s)) / 2, abs=rule.batch(s))
        errors.append(((s.B - s.W.T) ** 2).sum() / size * rows / (n_in + 1))
        spread = math.sqrt(2 * np.linalg.norm(s.W @ s.W.T) ** 2 / rows) / size  # of tr(W C W^T) / |W|^2
        assert (s.B * s.W.T).sum() / size == pytest.approx(1, abs=4 * spread)
    assert np.mean(errors) == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize("window", [0.1, 1])
def test_a_memory_shorter_than_a_step_remembers_that_step(window):
    """M = 64 rows but S = 33 or fewer: B is the last step's own product, not -a times the one before."""
    s, rule = bare_synapses(33), WeightMirror(noise="independent", window=window, rows=64)
    for step in range(4):
        rule.mirror(s)
        y = rule.noise.draw(CPU, (0, s.layer, step), 64, 33)
        assert close(s.B, y.T @ (y @ s.W.T) / 64)


@pytest.mark.parametrize("n_in, n_out", [(1, 3), (5, 7), (64, 10), (100, 1), (576, 64), (1152, 3)])
def test_the_default_mirrors_w_to_rounding_however_fast_it_moves(n_in, n_out):
    """One step of mirror mode at the start, and one after each training step, each from noise of its own."""
    s, rule, rng = bare_synapses(n_in, n_out), WeightMirror(), np.random.default_rng(0)
    rule.before_training(s)
    assert close(s.B, s.W.T)
    for step in range(4):
        s.W += rng.standard_normal(s.W.shape)
        s.B += rng.standard_normal(s.B.shape)
        W = s.W.copy()
        rule.between_steps(s, step)
        assert close(s.B, W.T) and np.array_equal(s.W, W)
    assert rule.state == {s.name: 5}


@pytest.mark.parametrize("options", [{"rows": 16}, {"window": 2}, {"bound": "scaling"}, {"activation": "relu"}])
def test_what_shows_w_less_than_exactly_is_averaged(options):
    """Slices of a block, a longer memory by choice, B of another length, noise through phi: none is W^T in one step."""
    s, rule = bare_synapses(64), WeightMirror(**options)
    rule.before_training(s)
    s.W += np.random.default_rng(0).standard_normal(s.W.shape)
    rule.mirror(s)
    assert rule.memory(s) >= 2 * rule.batch(s) and 0 < rule.rate(s, math.inf) < 1 and not close(s.B, s.W.T, 1e-3)


@pytest.mark.parametrize("window", [5, 20])
def test_the_steady_state_of_independent_noise(window):
    """tan^2 = n / S = 1 / window (and w_i^2's share, 1 / n)."""
    found, n_in = [], 40
    for layer in range(1, 7):
        s, rule = bare_synapses(n_in, 40, layer), WeightMirror(noise="independent", window=window, rows=32)
        steps = 4 * math.ceil(1 / rule.rate(s, math.inf))
        for _ in range(steps):
            rule.mirror(s)
        found.append(((s.B - s.W.T) ** 2).sum() / (s.W**2).sum())
    assert np.mean(found) == pytest.approx((1 + 1 / n_in) / window, rel=0.1)


def steady_state(window, n_in=128, rows=8, layers=4):
    """Mean |B - W^T|^2 / |W|^2 at each phase of a block in a slow average: (slices,)."""
    slices = n_in // rows
    found = np.zeros((layers, slices))
    for layer in range(layers):
        s, rule = bare_synapses(n_in, 60, layer), WeightMirror(window=window, rows=rows)
        for step in range(1, slices * 5 * window + 1):
            rule.mirror(s)
            if step > slices * 3 * window:
                found[layer, step % slices] += ((s.B - s.W.T) ** 2).sum() / (s.W**2).sum() / (2 * window)
    return found.mean(axis=0), rule.rate(s, math.inf)


@pytest.mark.parametrize("window", [4, 8])
def test_the_steady_state_of_decorrelated_noise(window):
    """B's error is that of the unequal weights of a block's slices, whose errors add up to 0.

    A slice's error has the squared length K - 1 (n = P = K M, in units of |W|^2) and the correlation
    -1 / (K - 1) with the other slices of its block, so a block whose slices weigh w_1 ... w_K in
    the average leaves K sum (w_k - mean w)^2.
    """
    found, a = steady_state(window)
    K = len(found)
    wanted = np.zeros(K)
    for phase in range(K):  # slices of the unfinished block; those to come weigh nothing
        ages = np.arange(60 * window * K // 2)
        weights = np.concatenate([np.zeros((K - phase) % K), a * (1 - a) ** ages])
        blocks = weights[: len(weights) // K * K].reshape(-1, K)
        wanted[phase] = K * ((blocks - blocks.mean(axis=1, keepdims=True)) ** 2).sum()
    assert found == pytest.approx(wanted, rel=0.1)
    # in closed form, for long windows: least at the end of a block, most in the middle of one
    assert found[0] == pytest.approx(1 / (3 * window**3), rel=0.1)
    assert found.max() == pytest.approx(1 / window**2, rel=0.2)
    assert found.mean() == pytest.approx(2 / (3 * window**2), rel=0.15)


@pytest.mark.parametrize("noise, rows, drawn", [
    ("independent", None, 512), ("independent", 512, 512), ("independent", 1, 1), ("independent", 4096, 4096),
    ("decorrelated", None, 64), ("decorrelated", 512, 64), ("decorrelated", 64, 64), ("decorrelated", 16, 16),
])  # fmt: skip
@pytest.mark.parametrize("n_in", [33, 64])
def test_a_step_draws_the_rows_that_were_asked_for(noise, rows, drawn, n_in, monkeypatch):
    """A block of decorrelated noise has 64 rows for these inputs, and no more can be asked of it."""
    s, rule = bare_synapses(n_in), WeightMirror(noise=noise, rows=rows, window=10)
    shapes, draw = [], rule.noise.draw

    def recorded(*arguments):
        x = draw(*arguments)
        shapes.append(laid_out(x).shape)
        return x

    monkeypatch.setattr(rule.noise, "draw", recorded)
    rule.before_training(s)
    S = 10 * (n_in if noise == "independent" else 64)
    assert shapes == [(drawn, n_in)] * math.ceil(S / drawn / 2)
    assert rule.rate(s, math.inf) == pytest.approx(min(2 * drawn / (S + drawn), 1))


@pytest.mark.parametrize("noise", ["decorrelated", "independent"])
def test_scaling_keeps_B_s_norm_and_aligns_it(noise):
    """Synaptic scaling: after every mirror step |B| is what a draw of B has, std sqrt(size)."""
    s, rule = bare_synapses(60), WeightMirror(noise=noise, bound="scaling")
    s.W *= 3  # B takes W's direction, not its length
    rule.before_training(s)
    for _ in range(30):
        rule.mirror(s)
        assert np.linalg.norm(s.B) == pytest.approx(s.std * math.sqrt(s.B.size), rel=1e-12)
    # W three times as long as B makes B's memory a third as long: tan^2 = 3 / window
    assert angle(s.B, s.W.T) < (0.1 if noise == "decorrelated" else 11)


@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_scaling_of_numbers_whose_squares_float32_does_not_hold(size):
    s, single = bare_synapses(60), Device("cpu", np, np.float32)
    s.initialise(single, np.random.default_rng(0))
    s.W *= np.float32(size)
    s.B = np.zeros((60, 20), np.float32)
    WeightMirror(bound="scaling").mirror(s)
    assert np.linalg.norm(s.B) == pytest.approx(s.std * math.sqrt(s.B.size), rel=1e-5)
    assert angle(s.B, s.W.T) < 1e-3


def test_mirroring_every_third_step():
    """Mirror mode comes after steps 3, 6, 9, ...; engaged mode leaves B alone."""
    s, rule = bare_synapses(8), WeightMirror(every=3)
    changed = []
    for step in range(7):
        B = s.B.copy()
        rule.between_steps(s, step)
        changed.append(not np.array_equal(s.B, B))
    assert changed == [False, False, True, False, False, True, False]
    assert rule.state == {s.name: 2}


def test_mirroring_keeps_feedback_aligned_through_training():
    rule = WeightMirror()
    network = small_network(rule)
    start = snapshot(network, "W")
    for _ in train(network, rule, SGD(network.arrays(), 0.02, 0.9), 30):
        assert max(angle(s.B, s.W.T) for s in network.with_feedback) < 10
    assert all(angle(s.W, w) > 10 for s, w in zip(network.with_feedback, start))


def test_a_rule_goes_on_from_its_state():
    """The mirror's noise depends on seed, layer and step alone, so a copied state repeats the run."""
    s, other, rule = bare_synapses(24), bare_synapses(24), WeightMirror(rows=8, seed=3)
    rule.before_training(s)
    other.B = s.B.copy()
    again = WeightMirror(rows=8, seed=3)
    again.state.update(rule.state)
    for _ in range(5):
        rule.mirror(s)
        again.mirror(other)
        assert np.array_equal(s.B, other.B)


def test_seed_and_layer_choose_the_noise():
    def first_B(layer, seed):
        s = bare_synapses(24)
        s.layer = layer
        WeightMirror(rows=8, seed=seed).mirror(s)
        return s.B

    assert np.array_equal(first_B(1, 0), first_B(1, 0))
    for other in ((1, 1), (2, 0)):
        assert not np.array_equal(first_B(1, 0), first_B(*other))


# --- noise -------------------------------------------------------------------------------------------------


def test_power_of_two():
    assert [power_of_two(n) for n in (1, 2, 3, 4, 5, 8, 9, 784, 4608)] == [1, 2, 4, 4, 8, 8, 16, 1024, 8192]


@pytest.mark.parametrize("order", [1, 2, 8, 64])
def test_hadamard_matrices(order):
    h = hadamard(order)
    assert set(np.unique(h)) <= {-1, 1} and np.array_equal(h @ h.T, order * np.eye(order))


@pytest.mark.parametrize("n, rows", [(1, 1), (2, 1), (5, 2), (10, 16), (60, 4), (64, 64), (100, 32)])
def test_a_block_of_decorrelated_noise_has_exactly_the_covariance_I(n, rows):
    noise = DecorrelatedNoise()
    block = noise.block(n)
    for first in (0, 3):  # the first block and the fourth
        steps = range(first * block // rows, (first + 1) * block // rows)
        x = np.concatenate([laid_out(noise.draw(CPU, (0, 1, step), rows, n)) for step in steps])
        assert x.shape == (block, n) and set(np.unique(x)) <= {-1, 1}
        assert np.array_equal(x.T @ x, block * np.eye(n))


@pytest.mark.parametrize("noise", [DecorrelatedNoise(), IndependentNoise()])
def test_noise_has_mean_0_and_covariance_I_at_every_step(noise):
    """Over many draws of one slice, the second of a block of four: each moment within 5 standard errors."""
    n, rows, draws = 8, 2, 3000
    x = np.stack([laid_out(noise.draw(CPU, (seed, 1, 1), rows, n)) for seed in range(draws)])
    fourth = (x**4).mean()
    assert fourth == pytest.approx(1 if isinstance(noise, DecorrelatedNoise) else 3, rel=0.1)
    assert np.abs(x.mean(axis=0)).max() < 5 / math.sqrt(draws)
    covariance = np.einsum("dri,drj->rij", x, x) / draws - np.eye(n)
    assert np.abs(covariance).max() < 5 * math.sqrt(2 / draws)
    later = np.stack([laid_out(noise.draw(CPU, (seed, 1, 2), rows, n)) for seed in range(draws)])
    for other in (x[:, 1], later[:, 0]):  # no row says anything of another, in its step or the next
        assert np.abs(x[:, 0].T @ other).max() < 5 * math.sqrt(draws)


@pytest.mark.parametrize("noise", [DecorrelatedNoise, IndependentNoise])
def test_noise_is_a_function_of_its_seed(noise):
    def draw(noise, seed, device=CPU):
        return laid_out(noise.draw(device, seed, 4, 30))

    used, fresh = noise(), noise()
    first = draw(used, (7, 2, 5))
    for seed in ((7, 2, 4), (7, 2, 5 + 8), (7, 3, 5), (8, 2, 5)):
        assert not np.array_equal(draw(used, seed), first)
    assert np.array_equal(draw(used, (7, 2, 5)), first)
    assert np.array_equal(draw(fresh, (7, 2, 5)), first)
    single = draw(noise(), (7, 2, 5), Device("cpu", np, np.float32))
    assert single.dtype == np.float32 and np.array_equal(single, first.astype(np.float32))


@pytest.mark.parametrize("n, rows", [(1, 1), (5, 2), (10, 16), (60, 4), (64, 64), (100, 32), (300, 512)])
def test_patterns_multiply_like_the_matrix_they_are(n, rows):
    rng = np.random.default_rng(0)
    x = DecorrelatedNoise().draw(CPU, (0, 1, 3), rows, n)
    v, y = rng.standard_normal((n, 7)), rng.standard_normal((rows, 7))
    assert close(x @ v, x.laid_out() @ v) and close(x.T @ y, x.laid_out().T @ y)
    assert np.array_equal(x.T.laid_out(), x.laid_out().T)


# --- what cannot be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 3, 500, -4])
def test_mirror_rows_are_a_power_of_two(rows):
    with pytest.raises(InputError, match=f"power of two, found {rows}"):
        WeightMirror(rows=rows)


@pytest.mark.parametrize("option", ["noise", "bound", "activation"])
def test_unknown_mirror_options(option):
    with pytest.raises(InputError, match="'loud'; choose from: "):
        WeightMirror(**{option: "loud"})


@pytest.mark.parametrize("option, value", [("rule", "hebb"), ("mirror_every", 0), ("mirror_window", 0), ("mirror_window", -3)])
def test_rule_options_of_a_run(option, value):
    with pytest.raises(InputError, match=f"{value}"):
        Config(**{option: value})
