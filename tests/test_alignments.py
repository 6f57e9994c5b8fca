"""The relatives whose B learns apart from the errors: activation, information and symmetric alignment, and the orthogonal mirror."""

import math

import numpy as np
import pytest

from helpers import CPU, close
from rule_networks import bare_synapses, small_network, snapshot, train
from wtref.angles import angle
from wtref.noise import independent_signs
from wtref.optim import SGD
from wtref.randomness import NOISE, generator
from wtref.relatives import RULES

# --- activation alignment ----------------------------------------------------------------------------------


def test_activation_alignment_is_the_delta_rule():
    """Delta B = eta y (beta z - 2 alpha B^T y)^T with beta = 2 alpha = 1, for each row from the same B.  (Kunin et al., 2020.)"""
    s, rule, M = bare_synapses(6, 5), RULES["aa"](rows=4, seed=2), 4
    for t in range(5):
        B, W = s.B.copy(), s.W.copy()
        rule.between_steps(s, None, t)
        wanted = B.copy()
        for y in independent_signs(CPU, generator(2, NOISE, s.layer, t), M, 6):
            for o in range(5):
                z = sum(W[o, i] * y[i] for i in range(6))
                predicted = sum(B[i, o] * y[i] for i in range(6))
                for i in range(6):
                    wanted[i, o] += y[i] * (z - predicted) / (M + 6)
        assert close(s.B, wanted) and np.array_equal(s.W, W)


@pytest.mark.parametrize("n_in, n_out", [(1, 3), (60, 20), (784, 10)])
def test_at_the_transpose_of_W_activation_alignment_changes_nothing(n_in, n_out):
    """With weights of few bits, so that no product rounds."""
    s, rule = bare_synapses(n_in, n_out), RULES["aa"]()
    s.W[...] = np.round(s.W * 2**10) / 2**10
    s.B = s.W.T.copy()
    for _ in range(5):
        rule.mirror(s)
        assert np.array_equal(s.B, s.W.T)


@pytest.mark.parametrize("n, M", [(12, 4), (12, 36), (40, 40)])
def test_the_gap_of_activation_alignment_falls_in_mean_and_mean_square(n, M):
    """One step multiplies the mean of D = B - W^T by 1 - eta M, and the mean of |D|^2 by 1 - 2 eta M + eta^2 M (M + n - 1).

    For (y y^T)^2 = n y y^T of signs, and different rows are independent.
    """
    eta, steps, along, squares = 1 / (M + n), 3, [], []
    for layer in range(1, 801):
        s, rule = bare_synapses(n, 6, layer), RULES["aa"](rows=M)
        start = s.B - s.W.T
        for _ in range(steps):
            rule.mirror(s)
        gap, size = s.B - s.W.T, (start**2).sum()
        along.append((gap * start).sum() / size)
        squares.append((gap**2).sum() / size)
    left, square = 1 - eta * M, 1 - 2 * eta * M + eta**2 * M * (M + n - 1)
    for found, factor in ((along, left), (squares, square)):
        spread = np.std(found) / math.sqrt(len(found))
        assert np.mean(found) == pytest.approx(factor**steps, abs=4 * spread) and spread < 0.05 * factor**steps


@pytest.mark.parametrize("n_in, rows", [(10, None), (300, None), (784, None), (60, 7), (60, 6000)])
def test_the_initial_stretch_of_activation_alignment(n_in, rows):
    """It leaves e^-9 of |B - W^T|^2, about a degree, in however many rows a step and whatever B was."""
    ratios = []
    for layer in range(1, 6):
        s, rule = bare_synapses(n_in, layer=layer), RULES["aa"](rows=rows)
        s.B *= 3
        start = np.linalg.norm(s.B - s.W.T)
        rule.before_training(s)
        ratios.append((np.linalg.norm(s.B - s.W.T) / start) ** 2)
        assert angle(s.B, s.W.T) < 4
    assert 0.01 * math.exp(-9) < np.mean(ratios) < 2 * math.exp(-9)


# --- information alignment ---------------------------------------------------------------------------------


def test_information_alignment_s_update():
    """Delta B = eta (alpha y z^T - 2 beta (B z) z^T - 2 gamma B), alpha = 2, beta = gamma = 1, eta half of the program's step."""
    s, rule, M = bare_synapses(6, 5), RULES["ia"](rows=4, seed=2), 4
    for t in range(5):
        B, W = s.B.copy(), s.W.copy()
        rule.between_steps(s, None, t)
        noise = independent_signs(CPU, generator(2, NOISE, s.layer, t), M, 6)
        step = 1 / (np.linalg.norm(sum(np.outer(W @ y, W @ y) for y in noise)) + M)
        wanted = B.copy()
        for y in noise:
            z = [sum(W[o, i] * y[i] for i in range(6)) for o in range(5)]
            for i in range(6):
                rebuilt = sum(B[i, o] * z[o] for o in range(5))
                for o in range(5):
                    wanted[i, o] += step / 2 * (2 * y[i] * z[o] - 2 * rebuilt * z[o] - 2 * B[i, o])
        assert close(s.B, wanted) and np.array_equal(s.W, W)


def pseudo_inverse(W):
    """W^T (W W^T + I)^-1."""
    return np.linalg.solve(W @ W.T + np.eye(len(W)), W).T


def test_the_fixed_point_of_information_alignment():
    """Under exactly white noise: nothing changes at W^T (W W^T + I)^-1, and from elsewhere each direction nears it as told."""
    s, rule = bare_synapses(8, 5), RULES["ia"]()
    rule.noise = lambda s: np.array([[1 - 2 * (i >> bit & 1) for bit in range(8)] for i in range(256)], float)  # y^T y = 256 I
    rule.rows = 256
    limit, start, W = pseudo_inverse(s.W), s.B.copy(), s.W
    shrink = np.eye(5) - (W @ W.T + np.eye(5)) / (np.linalg.norm(W @ W.T) + 1)
    for t in range(1, 200):
        rule.mirror(s)
        assert close(s.B - limit, (start - limit) @ np.linalg.matrix_power(shrink, t))
    s.B = limit.copy()
    rule.mirror(s)
    assert close(s.B, limit, 1e-15)
    assert angle(limit, W.T) > 5  # and it is not W^T


def test_information_alignment_stays_about_its_fixed_point_under_its_own_noise():
    """The mean of B over many steps lies at the fixed point, and no B strays far, from a start that is far away."""
    s, rule = bare_synapses(10, 6), RULES["ia"](rows=1000)
    s.B *= 100
    for _ in range(300):
        rule.mirror(s)
    found = []
    for _ in range(2000):
        rule.mirror(s)
        found.append(s.B.copy())
    limit = pseudo_inverse(s.W)
    assert np.linalg.norm(np.mean(found, axis=0) - limit) < 0.01 * np.linalg.norm(limit)
    assert max(np.linalg.norm(B - limit) for B in found) < 0.2 * np.linalg.norm(limit)


def test_the_initial_stretch_of_information_alignment_nears_its_fixed_point_in_a_wide_layer():
    """A step of 1 / (trace + M) would leave B 0.38 of the fixed point's length away from it, this one leaves 0.09."""
    s, rule = bare_synapses(100, 80), RULES["ia"]()
    limit = pseudo_inverse(s.W)
    assert np.linalg.norm(s.B - limit) > np.linalg.norm(limit)
    rule.before_training(s)
    assert np.linalg.norm(s.B - limit) < 0.15 * np.linalg.norm(limit)


@pytest.mark.parametrize("rows", [1, 3])
def test_information_alignment_is_stable_with_few_rows_and_large_weights(rows):
    s, rule = bare_synapses(10, 30), RULES["ia"](rows=rows)
    s.W *= 50
    for _ in range(500):
        before = np.linalg.norm(s.B)
        rule.mirror(s)
        assert np.linalg.norm(s.B) <= before + 1


# --- symmetric alignment -----------------------------------------------------------------------------------


def test_symmetric_alignment_follows_W():
    """Delta B = eta (beta W^T - 2 alpha B), beta = 2 alpha = 1, eta = 0.1, before the errors return; at rest B - W^T falls by 0.9."""
    rule, s = RULES["sa"](), bare_synapses(7, 3)
    start = s.B - s.W.T
    for t in range(1, 40):
        rule.before_backward(s, None)
        assert close(s.B - s.W.T, 0.9**t * start)
    network = small_network(rule)
    W, B = snapshot(network, "W"), snapshot(network, "B")
    for _ in train(network, rule, SGD(network.arrays(), 0.1, 0.9), 10):
        B = [b + 0.1 * (w.T - b) for b, w in zip(B, W)]
        W = snapshot(network, "W")
        assert all(close(s.B, b) for s, b in zip(network.with_feedback, B))


# --- orthogonal mirror -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_in", [*range(1, 71), 784, 4608])
def test_one_step_of_the_orthogonal_mirror_shows_W_to_rounding(n_in):
    """For every width, nothing tuned, before the first example."""
    s = bare_synapses(n_in, 4)
    RULES["om"]().before_training(s)
    assert close(s.B, s.W.T)


def test_the_orthogonal_mirror_follows_W_however_fast_it_moves():
    """One step at the start and one after each training step, each from noise of its own."""
    s, rule, rng = bare_synapses(100, 6), RULES["om"](), np.random.default_rng(0)
    array = s.B
    rule.before_training(s)
    for step in range(4):
        s.W += rng.standard_normal(s.W.shape)
        s.B += rng.standard_normal(s.B.shape)
        W = s.W.copy()
        rule.between_steps(s, None, step)
        assert close(s.B, W.T) and np.array_equal(s.W, W) and s.B is array
    assert rule.state == {s.name: 5}


def test_seed_layer_and_step_choose_the_orthogonal_noise():
    """B shows W with a rounding of its own for each noise."""

    def signs(layer=1, seed=0, step=0):
        s, rule, drawn = bare_synapses(24), RULES["om"](seed=seed), []
        draw = rule.draw
        rule.draw = lambda *arguments: drawn.append(draw(*arguments)) or drawn[-1]
        s.layer, rule.state = layer, {s.name: step}
        rule.mirror(s)
        return [*drawn[0].left, *drawn[0].right]

    assert signs() == signs()
    for other in (signs(seed=1), signs(layer=2), signs(step=1)):
        assert signs() != other
