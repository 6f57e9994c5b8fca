"""The weight mirror beside its theory: equation (7), its expectation, its standard error, and its constants."""

import math

import numpy as np
import pytest

from helpers import CPU, close
from rule_networks import bare_synapses, small_network, snapshot, tan2, train
from wtref.angles import angle
from wtref.errors import InputError
from wtref.noise import independent_signs
from wtref.optim import SGD
from wtref.randomness import NOISE, generator
from wtref.rules import WeightMirror


def average(s, rows_total, rows):
    """Mirror into s.B the plain average over rows_total rows of noise, a multiple of `rows`; returns their number."""
    WeightMirror(rows=rows, window=2 * rows_total / s.n_in).before_training(s)
    return rows_total


def between_steps(rule, s, eta_W=0.1):
    """What mirror mode does after a training step at that learning rate."""
    rule.between_steps(s, SGD({}, eta_W), 0)


def relative_error(s):
    """|B - W^T|^2 / |W|^2, which is (n - 1) / S in expectation."""
    return ((s.B - s.W.T) ** 2).sum() / (s.W**2).sum()


# --- equation (7) ----------------------------------------------------------------------------------------------


def by_equation_7(s, seed, t, M, eta_B):
    """B after Delta B = eta_B y_l y_{l+1}^T for each of M rows of noise, one connection at a time, and - eta_B M B once."""
    B, W = s.B, s.W
    wanted = B - eta_B * M * B
    for y_l in independent_signs(CPU, generator(seed, NOISE, s.layer, t), M, s.n_in):
        y_next = [sum(W[o, i] * y_l[i] for i in range(s.n_in)) for o in range(s.n_out)]
        for i in range(s.n_in):
            for o in range(s.n_out):
                wanted[i, o] += eta_B * y_l[i] * y_next[o]
    return wanted


@pytest.mark.parametrize("eta_W, S", [(0.1, 18), (0.8, 4.5), (0.0125, 72)])
def test_a_mirror_step_is_equation_7_with_matched_decay(eta_W, S):
    """eta_B = 2 / (S + M); at an eighth of the learning rate S is four times as large."""
    s, rule = bare_synapses(6, 5), WeightMirror(window=3, rows=4, seed=2)
    for t in range(10):
        wanted, W, array = by_equation_7(s, 2, t, 4, 2 / (S + 4)), s.W.copy(), s.B
        between_steps(rule, s, eta_W)
        assert close(s.B, wanted) and s.B is array and np.array_equal(s.W, W)


def test_the_initial_stretch_is_equation_7_with_a_falling_rate():
    """eta_B = 1 / (t M) in step t: a plain average, in which nothing is left of the random B."""
    s, other, by_hand = (bare_synapses(6, 5) for _ in range(3))
    other.B += 1e3
    rule = WeightMirror(window=3, rows=4, seed=2)
    for layer in (s, other):
        WeightMirror(window=3, rows=4, seed=2).before_training(layer)
    rule.before_training(s)
    for t in range(1, 4):  # S / 2 = 9 rows
        by_hand.B = by_equation_7(by_hand, 2, t - 1, 4, 1 / (4 * t))
    assert rule.state == {s.name: 3}
    assert close(s.B, by_hand.B) and close(s.B, other.B, 1e-9)


@pytest.mark.parametrize("window", [0.1, 1])
def test_a_memory_shorter_than_a_step_remembers_that_step(window):
    """64 rows a step but S = 33 or fewer: B is the last step's own mean product."""
    s, rule = bare_synapses(33), WeightMirror(window=window, rows=64)
    for step in range(4):
        between_steps(rule, s)
        y = independent_signs(CPU, generator(0, NOISE, s.layer, step), 64, 33)
        assert close(s.B, y.T @ (y @ s.W.T) / 64)


@pytest.mark.parametrize("n_in, rows", [(1, 6), (10, 60), (591, 3546), (592, 3542), (784, 2674), (4608, 455), (2**21 + 1, 1)])
def test_six_rows_an_input_up_to_two_million_values(n_in, rows):
    s = bare_synapses(n_in, 1)
    assert WeightMirror().rows_of(s) == rows and rows * n_in <= max(2**21, n_in)
    assert WeightMirror(rows=7).rows_of(s) == 7


# --- what B becomes --------------------------------------------------------------------------------------------


def test_expected_feedback_is_the_transpose_of_W():
    """E[y (Wy)^T] = W^T: each entry of the average lies within its own theoretical standard error.

    For signs the variance of y_i (w y), over S rows, is (|w|^2 - w_i^2) / S: y_i^2 is 1 without doubt.
    """
    s = bare_synapses(64, 64)
    S = average(s, 64 * 200, rows=512)
    error = np.sqrt(((s.W**2).sum(axis=1, keepdims=True) - s.W**2).T / S)
    z = (s.B - s.W.T) / error
    assert abs(z.mean()) < 4 / 64 and np.abs(z).max() < 5
    assert (z**2).mean() == pytest.approx(1, abs=0.125)  # 4 standard errors
    assert tan2(s) == pytest.approx(63 / S, rel=0.125)


@pytest.mark.parametrize("n_in, rows_per_input, layers", [(10, 20, 60), (60, 20, 12), (60, 100, 12), (784, 8, 4)])
def test_the_plain_average_has_its_angle(n_in, rows_per_input, layers):
    """tan^2(theta) = (n - 1) / S of S rows."""
    found = []
    for layer in range(1, layers + 1):
        s = bare_synapses(n_in, 40, layer)
        S = average(s, rows_per_input * n_in, rows=n_in)
        found.append(tan2(s) * S / (n_in - 1))
    assert np.mean(found) == pytest.approx(1, rel=0.1)


def test_a_single_input_shows_W_at_once():
    s = bare_synapses(1, 7)
    WeightMirror(rows=1).before_training(s)
    assert close(s.B, s.W.T)


@pytest.mark.parametrize("window, eta_W", [(5, 0.1), (20, 0.1), (20, 0.8), (5, 0.0125)])
def test_the_steady_state_has_the_angle_of_its_window(window, eta_W):
    """tan^2(theta) = (n - 1) / S with S = window n (0.1 / eta_W)^(2/3): at 8 times the learning rate, 4 times as much."""
    found, n_in, rows = [], 40, 32
    S = window * n_in * {0.1: 1, 0.8: 1 / 4, 0.0125: 4}[eta_W]
    memory = math.ceil(S / rows)
    for layer in range(1, 9):
        s, rule = bare_synapses(n_in, 40, layer), WeightMirror(window=window, rows=rows)
        for _ in range(3):  # moments of which no two share much of their noise
            for _ in range(2 * memory):
                between_steps(rule, s, eta_W)
            found.append(relative_error(s))
    assert np.mean(found) == pytest.approx((n_in - 1) / S, rel=0.1)


def test_B_follows_a_moved_W_at_the_rate_lambda_B():
    """The mean gap falls by 1 - lambda_B a step: measured over layers whose W was moved alike."""
    n_in, M, window, steps = 20, 40, 10, 6
    shrink = (1 - 2 * M / (window * n_in + M)) ** steps
    left = []
    for layer in range(1, 201):
        s, rule = bare_synapses(n_in, 20, layer), WeightMirror(rows=M, window=window)
        rule.before_training(s)
        moved = np.random.default_rng(layer).standard_normal(s.W.shape) * 5 * s.std
        s.W += moved
        for _ in range(steps):
            between_steps(rule, s)
        left.append(((s.W.T - s.B) * moved.T).sum() / (moved**2).sum())
    spread = np.std(left) / math.sqrt(len(left))
    assert np.mean(left) == pytest.approx(shrink, abs=4 * spread) and spread < 0.05 * shrink


@pytest.mark.parametrize("n_in, window, layers", [(10, 20, 24), (60, 20, 8), (784, 20, 2), (4608, 3, 1)])
def test_the_initial_stretch(n_in, window, layers):
    """An average over half a window's rows: tan^2 = (n - 1) / rows, and W^T's own length."""
    errors = []
    for layer in range(layers):
        s, rule = bare_synapses(n_in, 2000 // n_in + 12, layer), WeightMirror(window=window)
        rule.before_training(s)
        rows, size = rule.state[s.name] * rule.rows_of(s), (s.W**2).sum()
        assert 0 <= rows - window * n_in / 2 < rule.rows_of(s)
        errors.append(relative_error(s) * rows / (n_in - 1))
        spread = math.sqrt(2 * np.linalg.norm(s.W @ s.W.T) ** 2 / rows) / size  # of tr(W C W^T) / |W|^2, at most
        assert (s.B * s.W.T).sum() / size == pytest.approx(1, abs=4 * spread)
    assert np.mean(errors) == pytest.approx(1, rel=0.2)


def test_the_default_window_begins_at_the_angle_that_it_keeps():
    """tan^2 = 1 / 24 after the initial stretch of 4 steps of 6 n rows; 1 / 40 later, at learning rate 0.1."""
    s, rule = bare_synapses(300, 100), WeightMirror()
    rule.before_training(s)
    assert angle(s.B, s.W.T) == pytest.approx(math.degrees(math.atan(math.sqrt(1 / 24))), rel=0.05)
    for _ in range(30):
        between_steps(rule, s)
    assert angle(s.B, s.W.T) == pytest.approx(math.degrees(math.atan(math.sqrt(1 / 40))), rel=0.05)


# --- within training -------------------------------------------------------------------------------------------


def test_mirror_mode_follows_each_step_at_its_learning_rate():
    """After training, B is what mirror mode makes of W as each step left it."""
    network, by_hand = small_network(WeightMirror(window=3, rows=8)), WeightMirror(window=3, rows=8)
    rule = WeightMirror(window=3, rows=8)
    twins = [bare_synapses(s.n_in, s.n_out, s.layer) for s in network.with_feedback]
    for twin, s in zip(twins, network.with_feedback):
        twin.name, twin.B = s.name, s.B.copy()
        rule.state[s.name] = by_hand.state[s.name] = 5
    sgd = SGD(network.arrays(), 0.01, 0.9)
    for t, _ in enumerate(train(network, rule, sgd, 6)):
        for twin, s in zip(twins, network.with_feedback):
            twin.W = s.W
            between_steps(by_hand, twin, (0.01, 0.04, 0.2)[t % 3])
            assert close(s.B, twin.B)
        sgd.lr = (0.01, 0.04, 0.2)[(t + 1) % 3]
    assert rule.state == by_hand.state == {s.name: 11 for s in network.with_feedback}


def test_mirroring_keeps_feedback_aligned_through_training():
    """Within the paper's 12 degrees in every layer, though all of them turn by more than that."""
    rule = WeightMirror(window=100, rows=200)
    network = small_network(rule)
    start = snapshot(network, "W")
    for _ in train(network, rule, SGD(network.arrays(), 0.02, 0.9), 60):
        assert max(angle(s.B, s.W.T) for s in network.with_feedback) < 12
    assert all(angle(s.W, w) > 12 for s, w in zip(network.with_feedback, start))


def test_the_rule_goes_on_from_its_state():
    """The noise depends on seed, layer and step alone, so a copied state repeats the run."""
    s, other, rule = bare_synapses(24), bare_synapses(24), WeightMirror(rows=8, seed=3)
    rule.before_training(s)
    other.B = s.B.copy()
    again = WeightMirror(rows=8, seed=3)
    again.state.update(rule.state)
    for _ in range(5):
        between_steps(rule, s)
        between_steps(again, other)
        assert np.array_equal(s.B, other.B)


def test_seed_layer_and_step_choose_the_noise():
    def noise(layer=1, seed=0, step=0):
        s, rule = bare_synapses(24), WeightMirror(rows=8, seed=seed)
        s.layer, rule.state = layer, {s.name: step}
        return rule.noise(s)

    assert np.array_equal(noise(), noise())
    for other in (noise(seed=1), noise(layer=2), noise(step=1)):
        assert not np.array_equal(noise(), other)


@pytest.mark.parametrize("options", [{"rows": -3}, {"rows": 0}, {"rows": 2.5}, {"window": 0}, {"window": math.inf}, {"seed": -1}])
def test_impossible_options_are_one_line(options):
    (name,) = options
    with pytest.raises(InputError, match=f"^{name} must be .*, found {options[name]}$"):
        WeightMirror(**options)
