"""An accelerated network against the plain one: the same outputs, errors, gradients and statistics, to rounding."""

import numpy as np
import pytest
from helpers import CPU, equipped, modest
from hypothesis import given
from hypothesis import strategies as st

from wtref.backend import Device
from wtref.fast import accelerate
from wtref.kernels import equip
from wtref.layers import Conv2d
from wtref.losses import softmax_cross_entropy
from wtref.models import Network, Options, build
from wtref.relatives import RULES

DEVICES = {np.float64: CPU, np.float32: Device("cpu", np, np.float32)}
SIDES = {"mlp": 5, "lenet": 12, "resnet8": 9, "resnet20": 9, "resnet18": 17, "resnet50": 17}  # of the smallest images


@st.composite
def cases(draw):
    """(model, shape, options, rule, batch size, dtype, threads, seed)"""
    dtype, stem = draw(st.sampled_from((np.float64, np.float32))), draw(st.sampled_from((None, "cifar", "imagenet")))
    exact = dtype == np.float64  # float32 is for networks that do not amplify its rounding
    model = draw(st.sampled_from(list(SIDES) if exact else ["mlp", "lenet", "resnet8"]))
    side = (4 if stem == "imagenet" else 1) * SIDES[model] + draw(st.integers(0, 3))
    options = Options(
        norm=draw(st.sampled_from((None, "before", "after", "none"))),
        activation=draw(st.sampled_from(("relu", "sigmoid", "tanh") if exact else ("sigmoid", "tanh"))),
        hidden=tuple(draw(st.lists(st.integers(1, 19), min_size=1, max_size=3))),
        stem=stem,
        width=draw(st.integers(2, 5)),
    )
    shape = (side, side + draw(st.integers(0, 2)), draw(st.integers(1, 4)))
    rule = draw(st.sampled_from(list(RULES)))
    return model, shape, options, rule, draw(st.integers(4, 7)), dtype, draw(st.integers(1, 3)), draw(st.integers(0, 9))


@modest
@given(cases())
def test_outputs_errors_gradients_and_statistics_are_the_plain_networks(case):
    model, shape, options, rule, batch, dtype, threads, seed = case
    device, rng = equip(DEVICES[dtype], threads=threads), np.random.default_rng(seed)
    plain, rule = build(model, shape, 4, options), RULES[rule](rng)
    plain.initialise(device, rng)
    for s in plain.with_feedback:
        rule.connect(s, 4)
    for norm in plain.norms:
        norm.gamma += device.array(0.3 * rng.standard_normal(norm.channels))
        norm.beta += device.array(rng.standard_normal(norm.channels))
    images, labels = device.array(rng.standard_normal((batch, *shape))), rng.integers(4, size=batch)
    start = {name: x.copy() for name, x in plain.arrays().items()}

    wanted = _pass(plain, rule, images, labels)
    for name, x in plain.arrays().items():
        x[...] = start[name]
    found = _pass(accelerate(plain, device), rule, images, labels)

    assert found.keys() == wanted.keys()
    room = 1e-9 if dtype == np.float64 else 1e-3
    for name, x in wanted.items():
        assert found[name].dtype == dtype and found[name].shape == x.shape, name
        np.testing.assert_allclose(found[name], x, rtol=0, atol=room * max(1, abs(x).max()), err_msg=name)


def _pass(network, rule, images, labels):
    """Everything that one pass forward and back, and one in evaluation, leave behind, by name."""
    rule.rng = np.random.default_rng(5)
    logits = network.forward(images)
    _, error = softmax_cross_entropy(logits, labels)
    for s in network.with_feedback:
        rule.before_backward(s, error)
        s.keep_delta = True
    network.backward(error)
    found = {"logits": logits, "evaluation": network.forward(images, train=False)}
    for s in network.synapses:
        found[f"{s.name} W"], found[f"{s.name} b"] = s.W_gradient, s.b_gradient
    found |= {f"{s.name} delta": s.delta for s in network.with_feedback}
    for norm in network.norms:
        found |= {f"{norm.name} {name}": x for name, x in norm.arrays().items()}
        found |= {f"{norm.name} gradients": np.stack([norm.gamma_gradient, norm.beta_gradient])}
    return {name: x.copy() for name, x in found.items() if x is not None}


def test_the_plain_network_is_left_as_it_is_where_the_device_has_no_ops():
    network = build("resnet8", (8, 8, 3), 4)
    assert accelerate(network, CPU) is network


def test_two_devices_with_other_thread_counts_live_side_by_side():
    """The gradient of W is a sum of as many parts as there are threads: its last bits tell who computed it."""
    rng = np.random.default_rng(0)
    layer, y = Network(Conv2d("c", 8, 24, 3, padding=1)), rng.standard_normal((16, 12, 12, 8))
    layer.initialise(CPU, rng)
    devices = {threads: equip(CPU, threads=threads) for threads in (1, 2, 3)}
    if devices[1].ops is None:
        pytest.skip(devices[1].kernels)

    def gradient(threads):
        network = accelerate(layer, devices[threads])
        network.backward(network.forward(y))
        return layer.synapses[0].W_gradient

    alone = {}
    for threads in devices:
        devices[threads] = equip(CPU, threads=threads)
        alone[threads] = gradient(threads)
    assert [device.ops.threads for device in devices.values()] == [1, 2, 3]
    assert not any(np.array_equal(alone[a], alone[b]) for a, b in [(1, 2), (1, 3), (2, 3)])
    for threads in (1, 2, 3, 2, 1, 3, 1):
        assert np.array_equal(gradient(threads), alone[threads])


def test_two_devices_with_other_kernels_live_side_by_side():
    y = np.random.default_rng(1).standard_normal((6, 12, 12, 8))
    network, fast = build("resnet8", (12, 12, 8), 4), equipped()
    network.initialise(CPU, np.random.default_rng(0))
    accelerated = accelerate(network, fast)
    alone = network.forward(y), accelerated.forward(y)
    for _ in range(2):
        assert np.array_equal(network.forward(y), alone[0])
        assert np.array_equal(accelerated.forward(y), alone[1])
    assert CPU.ops is None and fast.kernels != CPU.kernels
