"""Measuring a rule changes nothing, whatever the rule does and wherever it keeps its values, and gives it what training gives it."""

import copy

import numpy as np
import pytest

import wtref
from helpers import CPU
from measuring import deltas_of, ready_to_measure
from wtref.angles import angle, delta_angles
from wtref.fast import accelerate
from wtref.fast.ops import equip
from wtref.losses import softmax_cross_entropy
from wtref.optim import SGD
from wtref.relatives import RULES, OutputByBackprop
from wtref.rules import Rule
from wtref.runs import resuming
from wtref.runs.config import Config
from wtref.runs.prepare import prepare
from wtref.training import train_step


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_measuring_leaves_no_trace(rule, fast):
    """Training goes on with the same numbers, from the plain network or the accelerated one."""

    def trained(measured):
        network, rule_, images, labels = ready_to_measure(rule)
        used = accelerate(network, equip(CPU)) if fast else network
        sgd = SGD(network.arrays(), 0.1, 0.9, weight_decay=0.01)
        for step in range(3):
            train_step(used, rule_, sgd, softmax_cross_entropy, images[::-1], labels, step)
            if measured and step < 2:  # the last step sets the B's that are set anew for each batch
                before = {name: x.copy() for name, x in network.arrays().items() if not name.endswith(".B")}
                angles = delta_angles(used, rule_, softmax_cross_entropy, images, labels)
                assert all(np.array_equal(network.arrays()[name], x) for name, x in before.items())
                assert all(s.delta is None and not s.keep_delta for s in network.synapses)
                assert rule in ("bp", "frozen") or 0 < min(angles[s.name] for s in network.synapses[:-2])
        return network.arrays()

    found, wanted = trained(measured=True), trained(measured=False)
    assert found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)


class Restless(Rule):
    """Changes in each method all that it can reach, some of it in place and some not."""

    def connect(self, s, classes):
        super().connect(s, classes)
        s.extra |= {"kept": 0 * s.B, "replaced": 0 * s.B}

    def before_backward(self, s, error):
        s.B = s.B + 0.1 * self.rng.standard_normal(s.B.shape)

    def learn(self, s, sgd):
        super().learn(s, sgd)
        self.state["steps"] = self.state.get("steps", 0) + 1
        s.W *= 0.9
        if s.B is not None:
            s.B *= 0.9
            s.extra["kept"] += s.B
            s.extra["replaced"] = s.extra["replaced"] + s.B


@pytest.mark.parametrize("wrap", [lambda rule: rule, OutputByBackprop])
def test_measuring_undoes_whatever_a_rule_of_one_s_own_does(monkeypatch, wrap):
    """And compares its errors with backprop's through the W that it found."""
    monkeypatch.setitem(RULES, "restless", lambda: wrap(Restless()))
    network, rule, images, labels = ready_to_measure("restless", "mlp", hidden=(7, 6))
    train_step(network, rule, SGD(network.arrays(), 0.1), softmax_cross_entropy, images, labels, 0)
    own, before = network.arrays(), {name: x.copy() for name, x in network.arrays().items()}
    drawn, state = rule.rng.bit_generator.state, dict(rule.state)
    found = delta_angles(network, rule, softmax_cross_entropy, images, labels)
    assert all(network.arrays()[name] is x and np.array_equal(x, before[name]) for name, x in own.items())
    assert rule.rng.bit_generator.state == drawn and rule.state == state and state["steps"] > 1

    us = deltas_of(network, rule, images, labels)
    for s in network.with_feedback:
        s.B = s.W.T
    network.forward(images)
    bp = deltas_of(network, RULES["bp"](), images, labels)
    assert found == pytest.approx({name: angle(us[name], bp[name]) for name in found}, rel=1e-9)


@pytest.mark.parametrize("name", RULES)
def test_every_B_and_output_error_stays_the_very_array_it_was(name):
    """A step recorded as a CUDA graph goes on writing into the arrays of its recording."""
    network, rule, images, labels = ready_to_measure(name)
    train_step(network, rule, SGD(network.arrays(), 0.1), softmax_cross_entropy, images, labels, 0)
    own = [(s.B, s.B.copy(), s.output_error) for s in network.with_feedback]
    delta_angles(network, rule, softmax_cross_entropy, images[::-1], labels)
    for s, (B, before, output_error) in zip(network.with_feedback, own, strict=True):
        assert s.B is B and np.array_equal(B, before) and s.output_error is output_error


class Keeping(Rule):
    """Keeps values of its own in attributes of many kinds, and changes them in place and by others in their stead."""

    def __init__(self, rng=None):
        super().__init__(rng)
        self.velocity, self.nested, self.seen, self.pair = {}, [[0], {"steps": 0}], set(), (np.zeros(2), [])
        self.count, self.other, self.part, self.constant = 0, np.random.default_rng(7), Restless(), np.broadcast_to(1.0, 3)

    def connect(self, s, classes):
        self.part.connect(s, classes)
        s.mine = 0 * s.B

    def before_backward(self, s, error):
        s.error = error

    def learn(self, s, sgd):
        self.part.learn(s, sgd)
        self.count += 1
        self.nested[0][0] += 1
        self.nested[1]["steps"] += 1
        self.nested.append(self.count)
        self.seen.add(self.count)
        self.pair[0][:] += self.other.standard_normal(2)
        self.pair[1].append(s.name)
        if s.B is not None:
            self.velocity[s.name] = 0.9 * self.velocity.get(s.name, 0) + s.W_gradient.T
            s.mine += s.error.sum()
            s.B -= sgd.lr * self.velocity[s.name]


def held(x):
    """All that x holds, as plain values that can be compared."""
    if isinstance(x, (Rule, wtref.synapses.Synapses)):
        return held(vars(x))
    if isinstance(x, dict):
        return {name: held(value) for name, value in x.items()}
    if isinstance(x, (list, tuple)):
        return list(map(held, x))
    if isinstance(x, np.random.Generator):
        return x.bit_generator.state
    return x.tolist() if isinstance(x, np.ndarray) else copy.copy(x)


@pytest.mark.parametrize("wrap", [lambda rule: rule, OutputByBackprop])
def test_measuring_changes_nothing_that_a_rule_or_its_synapses_hold(monkeypatch, wrap):
    monkeypatch.setitem(RULES, "keeping", lambda: wrap(Keeping()))
    network, rule, images, labels = ready_to_measure("keeping", "mlp", hidden=(7, 6))
    train_step(network, rule, SGD(network.arrays(), 0.1), softmax_cross_entropy, images, labels, 0)
    before = held(rule), held(network.synapses)
    assert 2 <= getattr(rule, "rule", rule).count <= 3 == len(network.synapses)
    delta_angles(network, rule, softmax_cross_entropy, images[::-1], labels)
    assert held(rule) == before[0] and held(network.synapses) == before[1]


class Numbers(Rule):
    """An honest rule that computes with all of the optimizer's numbers."""

    def learn(self, s, sgd):
        super().learn(s, sgd)
        if s.B is not None:
            factor = 1 + sgd.momentum if sgd.nesterov else 1
            s.B -= sgd.lr * factor * (s.W_gradient.T + sgd.weight_decay * s.B)
            s.B *= 1 - 0.001 * (0.001 / sgd.lr)


class Seeing(Rule):
    """Learns from what the cells did, and from the error that it was given before the backward pass."""

    def connect(self, s, classes):
        super().connect(s, classes)
        s.keep_activity = s.keep_delta = True

    def before_backward(self, s, error):
        s.error = error

    def learn(self, s, sgd):
        sgd.descend(s.W, s.W_gradient if s.B is None else s.delta.T @ s.y, decay=True)
        if s.B is not None:
            s.B -= 0.01 * s.y.T @ s.y_next * abs(s.error).sum() / (s.y * s.y).sum()


SMALL = {"model": "mlp", "hidden": (9, 8), "epochs": 2, "batch_size": 400, "device": "cpu", "kernels": "plain"}


@pytest.mark.parametrize("rule", [Numbers, Seeing, Keeping])
def test_an_own_rule_is_measured_and_goes_on_as_if_it_had_not_been(monkeypatch, rule):
    """With the optimizer's numbers, its activities and its deltas; and a checkpoint of it can be taken up."""
    monkeypatch.setitem(RULES, "own", rule)
    config = Config(**SMALL, rule="own", nesterov=True)
    left = prepare(config)
    steps = left.run()
    while not next(steps):
        pass
    again = prepare(config)
    own = held(again.rule)
    resuming.check_training(*resuming.state(left), again)
    assert held(again.rule) == own

    measured, unmeasured = (prepare(config) for _ in range(2))
    monkeypatch.setattr(type(unmeasured), "record", lambda self, *test: {"angles": None})
    list(unmeasured.run())
    monkeypatch.undo()
    monkeypatch.setitem(RULES, "own", rule)
    records = [record for record in measured.run() if record]
    assert 0 < records[-1]["update_angle"] < 180
    found, wanted = measured.network.arrays(), unmeasured.network.arrays()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
