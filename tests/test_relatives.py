"""The relatives of the paper's rules: each one's update once more in loops, and its theorem."""

import itertools
import math

import numpy as np
import pytest

from helpers import close, equipped
from rule_networks import (
    CLASSES, bare_synapses, connected, linear_products, patch_products, recording_inputs, small_network, snapshot, train,
)  # fmt: skip
from wtref.activations import Tanh
from wtref.angles import angle
from wtref.fast import accelerate
from wtref.layers import Linear, Residual, Sequential
from wtref.losses import softmax_cross_entropy
from wtref.models import Network
from wtref.optim import SGD
from wtref.relatives import RULES, OutputByBackprop
from wtref.rules import WeightMirror
from wtref.training import train_step


def test_the_rules_that_transport_weights():
    transporting = {name for name, rule in RULES.items() if rule.transports_weights}
    assert transporting == {"bp", "ss", "usf", "frsf", "brsf", "sa", "frozen"} and OutputByBackprop(RULES["fa"]()).transports_weights


# --- sign-symmetry with random magnitudes ------------------------------------------------------------------


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


def test_direct_feedback_receives_the_output_error_of_each_batch():
    rule, rng = RULES["dfa"](), np.random.default_rng(0)
    s = bare_synapses(7, 3)
    rule.connect(s, CLASSES)
    assert s.B.shape == (7, CLASSES) and s.direct
    for error in rng.standard_normal((2, 5, CLASSES)):
        rule.before_backward(s, error)
        assert np.array_equal(s.direct_error((5, 3)), error)
        assert np.array_equal(s.direct_error((5, 2, 4, 3)), np.stack([[[e / 8] * 4] * 2 for e in error]))


# --- direct Kolen-Pollack ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("momentum", [0, 0.9])
def test_direct_kolen_pollack_learns_from_the_activity_and_the_output_error(momentum, fast):
    """Delta B = -eta y e^T - lambda B; in a convolution y e^T / P, summed over its P positions.  (Webster et al., 2021.)"""
    rule, lr, decay, errors = RULES["dkp"](), 0.1, 0.2, []
    network = small_network(rule)
    used = accelerate(network, equipped()) if fast else network
    inputs, sgd = recording_inputs(used), SGD(network.arrays(), lr, momentum, weight_decay=decay)
    wanted = {s.name: s.B.copy() for s in network.with_feedback}
    velocity = {name: np.zeros_like(B) for name, B in wanted.items()}

    def loss(logits, labels):
        value, e = softmax_cross_entropy(logits, labels)
        errors.append(e.copy())
        return value, e

    for _ in train(used, rule, sgd, 3, loss=loss):
        e = errors[-1]
        products = {name: linear_products(inputs[name], e) for name in ("hidden", "output")}
        everywhere = np.stack([[[e_n / 4] * 2] * 2 for e_n in e])  # conv2 has 2 x 2 positions
        products["conv2"] = patch_products(inputs["conv2"], everywhere, (3, 2), (2, 2), (0, 0))
        for s in network.with_feedback:
            velocity[s.name] = momentum * velocity[s.name] + products[s.name] + decay * wanted[s.name]
            wanted[s.name] = wanted[s.name] - lr * velocity[s.name]
            assert close(s.B, wanted[s.name]) and np.abs(products[s.name]).max() > 1e-3


def test_in_the_output_layer_direct_kolen_pollack_is_kolen_pollack():
    """There e is delta, and W - B^T shrinks by 1 - lambda a step."""
    rule, lr, decay = RULES["dkp"](), 0.1, 0.2
    network = small_network(rule)
    s = network.synapses[-1]
    start = s.W - s.B.T
    for t, _ in enumerate(train(network, rule, SGD(network.arrays(), lr, weight_decay=decay), 60), start=1):
        assert close(s.W - s.B.T, (1 - lr * decay) ** t * start)


def test_direct_kolen_pollack_s_B_aligns_with_the_product_of_all_W_above():
    """In a network of linear layers, where that product is what backprop would send the error through."""
    rule, rng = RULES["dkp"](), np.random.default_rng(3)
    network = connected(Network(Linear("first", 9, 8), Linear("second", 8, 7), Linear("output", 7, CLASSES)), rule, rng)
    images, labels = rng.standard_normal((60, 9)), rng.integers(CLASSES, size=60)
    sgd, s = SGD(network.arrays(), 0.2, weight_decay=0.05), network.synapses

    def between():
        return angle(s[1].B, (s[2].W @ s[1].W).T)

    before = between()
    for step in range(1500):
        train_step(network, rule, sgd, softmax_cross_entropy, images, labels, step)
    assert before > 75 and between() < 35


# --- product feedback alignment ----------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_product_feedback_alignment_s_update(momentum):
    """Delta R = -eta y (F delta)^T - lambda R, errors through B = R F, F fixed.  (Li Ji-An and Benna, 2024.)"""
    rule, lr, decay = RULES["pfa"](), 0.1, 0.2
    network = small_network(rule)
    for s in network.with_feedback:
        s.keep_delta = True
    inputs, sgd = recording_inputs(network), SGD(network.arrays(), lr, momentum, weight_decay=decay)
    F = {s.name: s.extra["F"].copy() for s in network.with_feedback}
    R = {s.name: s.extra["R"].copy() for s in network.with_feedback}
    velocity = {name: np.zeros_like(R[name]) for name in R}
    for _ in train(network, rule, sgd, 3):
        for s in network.with_feedback:
            assert R[s.name].shape == (s.n_in, 4 * s.n_out) and F[s.name].shape == (4 * s.n_out, s.n_out)
            assert close(s.B, R[s.name] @ F[s.name])  # as this step's errors returned
            shared = s.delta @ F[s.name].T  # F delta, in each example and position
            y = inputs[s.name]
            product = linear_products(y, shared) if y.ndim == 2 else patch_products(y, shared, (3, 2), (2, 2), (0, 0))
            velocity[s.name] = momentum * velocity[s.name] + product + decay * R[s.name]
            R[s.name] = R[s.name] - lr * velocity[s.name]
            assert close(s.extra["R"], R[s.name]) and np.array_equal(s.extra["F"], F[s.name])


def test_product_feedback_alignment_contracts_by_one_minus_lambda():
    """R(t) - W(t)^T F^T = (1 - lambda)^t [R(0) - W(0)^T F^T]."""
    rule, lr, decay = RULES["pfa"](), 0.1, 0.2
    network = small_network(rule)
    F = [s.extra["F"] for s in network.with_feedback]
    weights, start = snapshot(network, "W"), [s.extra["R"] - s.W.T @ f.T for s, f in zip(network.with_feedback, F)]
    for t, _ in enumerate(train(network, rule, SGD(network.arrays(), lr, weight_decay=decay), 100), start=1):
        for s, f, gap in zip(network.with_feedback, F, start):
            assert close(s.extra["R"] - s.W.T @ f.T, (1 - lr * decay) ** t * gap)
    assert all(np.abs(s.W - w).max() > 0.1 for s, w in zip(network.with_feedback, weights))


def test_with_an_orthogonal_F_product_feedback_alignment_is_kolen_pollack():
    """Step for step, from the same start."""
    pfa, kp = RULES["pfa"](), RULES["kp"]()
    network, twin = small_network(pfa), small_network(kp)
    rng = np.random.default_rng(0)
    for s, other in zip(network.with_feedback, twin.with_feedback):
        F = np.linalg.qr(rng.standard_normal((s.n_out, s.n_out)))[0]
        s.extra["F"], s.extra["R"] = F, other.B @ F.T
    options = 0.1, 0.9, True, 0.05
    runs = train(network, pfa, SGD(network.arrays(), *options), 30), train(twin, kp, SGD(twin.arrays(), *options), 30)
    for ours, theirs in zip(*runs):
        assert close(ours, theirs, 1e-11)
        for s, other in zip(network.synapses, twin.synapses):
            assert close(s.W, other.W, 1e-11) and close(s.b, other.b, 1e-11)
            assert s.B is None or close(s.extra["R"] @ s.extra["F"], other.B, 1e-11)


@pytest.mark.parametrize("width", [1, 4, 9])
def test_the_angle_at_which_product_feedback_alignment_settles(width):
    """tan^2 = 1 / width between W^T F^T F and W^T."""
    rule, s = RULES["pfa"](width=width), bare_synapses(50, 80)
    rule.connect(s, CLASSES)
    assert close(s.B, s.extra["R"] @ s.extra["F"])
    limit = s.W.T @ s.extra["F"].T @ s.extra["F"]
    assert math.tan(math.radians(angle(limit, s.W.T))) ** 2 == pytest.approx(1 / width, rel=0.1)


# --- frozen ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [False, True])
def test_frozen_hidden_weights_beside_backprop_s_output_layer(fast):
    """Hidden W and b never change; the output layer and all batch norms learn as in backprop with W and b put back each step."""
    frozen, bp = RULES["frozen"](), RULES["bp"]()
    network, twin = small_network(frozen), small_network(bp)
    used, twin_used = (accelerate(x, equipped()) for x in (network, twin)) if fast else (network, twin)
    first = {name: x.copy() for name, x in network.arrays().items()}
    kept = [s for s in twin.synapses if s.name != "output"]
    runs = (train(x, rule, SGD(x.arrays(), 0.1, 0.9, weight_decay=0.05), 20) for x, rule in ((used, frozen), (twin_used, bp)))
    for _ in zip(*runs):
        for s in kept:
            s.W[...], s.b[...] = first[f"{s.name}.W"], first[f"{s.name}.b"]
        for name, x in network.arrays().items():
            assert np.array_equal(x, twin.arrays()[name])
    changed = {name for name, x in network.arrays().items() if not np.array_equal(x, first[name])}
    learning = {f"hidden.norm.{x}" for x in ("gamma", "beta", "running_mean", "running_var")}
    assert changed == {"output.W", "output.b", "output.B", *learning}


# --- the output layer by backprop --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fa", "kp", "ss", "wm"])
def test_errors_leave_the_output_layer_through_its_own_W(name):
    """Whatever the rule: B is W's own memory, and the error that arrives below is W^T delta."""
    rule = OutputByBackprop(RULES[name]())
    network = small_network(rule)
    hidden, output = network.synapses[-2:]
    for s in (hidden, output):
        s.keep_delta = True
    W = output.W.copy()
    norm, tanh = network.layers[6:8]
    for _ in train(network, rule, SGD(network.arrays(), 0.1, 0.9, weight_decay=0.05), 10):
        assert np.shares_memory(output.B, output.W) and np.array_equal(output.B, output.W.T)
        arrived = output.delta @ W * (1 - tanh.y**2)
        assert close(norm.beta_gradient, arrived.sum(axis=0))
        W = output.W.copy()
    assert np.abs(hidden.delta).max() > 0


def hidden_layers(network):
    return network.with_feedback[:-1]


def test_below_the_output_layer_feedback_alignment_s_B_stays():
    rule, fa = OutputByBackprop(RULES["fa"]()), RULES["fa"]()
    network, plain = small_network(rule), small_network(fa)
    for _ in train(network, rule, SGD(network.arrays(), 0.1, 0.9), 5):
        assert all(np.array_equal(s.B, other.B) for s, other in zip(hidden_layers(network), hidden_layers(plain)))


def test_below_the_output_layer_kolen_pollack_contracts():
    rule = OutputByBackprop(RULES["kp"]())
    network = small_network(rule)
    start = [s.W - s.B.T for s in hidden_layers(network)]
    for t, _ in enumerate(train(network, rule, SGD(network.arrays(), 0.1, weight_decay=0.2), 30), start=1):
        assert all(close(s.W - s.B.T, 0.98**t * gap) for s, gap in zip(hidden_layers(network), start))


def test_below_the_output_layer_sign_symmetry_has_the_signs_of_W():
    rule = OutputByBackprop(RULES["ss"]())
    network = small_network(rule)
    W = snapshot(network, "W")
    for _ in train(network, rule, SGD(network.arrays(), 0.2, 0.9), 5):
        assert all(close(s.B, s.sign_scale * np.sign(w).T) for s, w in zip(hidden_layers(network), W))
        W = snapshot(network, "W")


def test_below_the_output_layer_the_weight_mirror_mirrors():
    rule, by_hand = OutputByBackprop(WeightMirror(rows=8)), WeightMirror(rows=8)
    network = small_network(rule)
    twins = [bare_synapses(s.n_in, s.n_out, s.layer) for s in hidden_layers(network)]
    for twin, s in zip(twins, hidden_layers(network)):
        twin.name, twin.B = s.name, s.B.copy()
    by_hand.state.update(rule.state)
    sgd = SGD(network.arrays(), 0.05, 0.9)
    for _ in train(network, rule, sgd, 5):
        for twin, s in zip(twins, hidden_layers(network)):
            twin.W = s.W
            by_hand.between_steps(twin, sgd, 0)
            assert close(s.B, twin.B)
    assert rule.state == rule.rule.state == by_hand.state and "output" not in rule.state
