"""The paper's theorems, and what each of its five rules promises, on real training steps and on bare synapses."""

import itertools
import math

import numpy as np
import pytest

from helpers import close
from rule_networks import bare_synapses, linear_products, patch_products, recording_inputs, small_network, snapshot, train
from wtref.errors import InputError
from wtref.optim import SGD
from wtref.relatives import RULES
from wtref.runs.config import Config


# --- all rules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_every_rule_learns_and_leaves_the_first_layer_without_feedback(name):
    rule = RULES[name]()
    network = small_network(rule)
    losses = list(train(network, rule, SGD(network.arrays(), 0.05, 0.9), 60))
    assert losses[-1] < 0.5 * losses[0]
    assert network.synapses[0].B is None
    assert all(s.B is not None for s in network.with_feedback)


@pytest.mark.parametrize("name", sorted(RULES.keys() - {"frozen"}))
def test_forward_learning(name):
    """(4) Delta W = -eta delta y^T - lambda W and Delta b = -eta delta, under every rule that learns in all layers."""
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


@pytest.mark.parametrize("name", sorted(RULES.keys() - {"bp", "frozen"}))
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


@pytest.mark.parametrize("name", sorted(RULES.keys() - {"ss", "usf", "brsf", "pfa"}))
def test_what_a_step_reads_again_stays_where_it_is(name):
    """A replayed CUDA graph reads the memory that the recorded step read (graphs.py)."""
    rule = RULES[name]()
    network = small_network(rule)
    before = [array for s in network.with_feedback for array in (s.W, s.B)]
    for _ in train(network, rule, SGD(network.arrays(), 0.2, 0.9), 2):
        pass
    assert all(now is array for now, array in zip([x for s in network.with_feedback for x in (s.W, s.B)], before))


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
    before, y = {s.name: s.B.copy() for s in network.with_feedback}, recording_inputs(network)
    for _ in train(network, rule, SGD(network.arrays(), lr, weight_decay=decay), 1):
        pass
    delta = {s.name: s.delta for s in network.with_feedback}
    products = {name: linear_products(y[name], delta[name]) for name in ("hidden", "output")}
    products["conv2"] = patch_products(y["conv2"], delta["conv2"], (3, 2), (2, 2), (0, 0))
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


@pytest.mark.parametrize("option, value", [("rule", "hebb"), ("mirror_rows", 0), ("mirror_window", 0), ("mirror_window", -3)])
def test_rule_options_of_a_run(option, value):
    with pytest.raises(InputError, match=f"{value}"):
        Config(**{option: value})
