"""An accelerated network against the plain one: the same outputs, errors, gradients and statistics, to rounding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import CPU, close, equipped, modest, norms_of, ready
from wtref.activations import Identity, ReLU, Tanh
from wtref.device import Device
from wtref.fast import accelerate
from wtref.fast import layers as fast
from wtref.fast.ops import equip
from wtref.layers import BatchNorm, Conv2d, Flatten, Linear, MaxPool, Residual, Sequential, walk
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
    """Run one training pass and one in evaluation: {name: every output, gradient and statistic}."""
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


with_ops = pytest.mark.skipif(equipped().ops is None, reason=equipped().kernels)


def kinds(layer):
    """The class names of all layers in forward order, without containers, "+" marking those that rectify."""
    marks = (f"{type(part).__name__}{'+' * getattr(part, 'rectify', False)}" for part in walk(layer) if not hasattr(part, "layers"))
    return " ".join(marks)


@with_ops
@pytest.mark.parametrize("norm, body, shortcut, end", [
    ("before", "Conv2d BatchNorm+ Conv2d", "Conv2d BatchNorm", "BatchNorm+"),
    ("after", "Conv2d ReLU BatchNorm Conv2d ReLU BatchNorm", "Conv2d BatchNorm", "Identity"),
    ("none", "Conv2d ReLU Conv2d", "Conv2d", "ReLU"),
])  # fmt: skip
def test_which_layers_are_taken_in_one_pass(norm, body, shortcut, end):
    network = accelerate(build("resnet8", (8, 8, 3), 4, Options(norm=norm)), equipped())
    stem = {"before": ["Conv2d", "BatchNorm+"], "after": ["Conv2d", "ReLU", "BatchNorm"], "none": ["Conv2d", "ReLU"]}[norm]
    first = len(stem)
    assert [kinds(layer) for layer in network.layers[:first]] == stem
    assert [kinds(part) for part in network.layers[first].layers] == [body, "", end]
    assert [kinds(part) for part in network.layers[first + 1].layers] == [body, shortcut, end]
    normed = [layer.normed for layer in walk(network) if isinstance(layer, fast.Conv2d)]
    assert len(normed) == 9 and all(normed) == any(normed) == (norm == "before")
    for layer in walk(network):
        assert type(layer).__module__ == "wtref.fast.layers" or type(layer).__name__ in ("Network", "Sequential", "Identity")


@pytest.mark.parametrize("train", [True, False])
@given(st.sampled_from([(4,), (7,), (2, 3, 2)]), st.integers(1, 3), st.integers(0, 2**32 - 1))
@modest
def test_one_pass_is_batch_norm_and_what_follows_one_by_one(train, shape, c, seed):
    """The following ReLU is included, and at the end of a residual block the sum; elsewhere neither is."""
    rng = np.random.default_rng(seed)
    for make in (
        lambda norm: Sequential(norm, ReLU()),
        lambda norm: Sequential(norm, ReLU(), ReLU()),
        lambda norm: Residual(norm, Sequential(), ReLU()),
        lambda norm: Residual(Sequential(norm, ReLU()), Sequential(), ReLU()),
        lambda norm: Residual(Sequential(), norm, ReLU()),
        lambda norm: Residual(norm, Sequential(), Tanh()),
        lambda norm: Residual(Sequential(), Sequential(norm, ReLU()), Identity()),
    ):
        plain, twin = (ready(make(BatchNorm("n", c)), np.random.default_rng(seed)) for _ in range(2))
        a, delta = rng.standard_normal((2, *shape, c))
        one_pass = accelerate(Sequential(twin), equipped())
        assert close(one_pass.forward(a, train), plain.forward(a, train), 1e-13)
        (norm,), (found,) = norms_of(plain), norms_of(twin)
        if train:
            assert close(one_pass.backward(delta), plain.backward(delta), 1e-13)
            for name in ("gamma_gradient", "beta_gradient", "running_mean", "running_var"):
                assert close(getattr(found, name), getattr(norm, name), 1e-13), name


@pytest.mark.parametrize("kind", [Linear, Conv2d, BatchNorm, ReLU, MaxPool, Residual])
def test_a_subclass_of_a_layer_stays_as_it_is(kind):
    layer = object.__new__(type("Mine", (kind,), {}))
    assert accelerate(Sequential(layer), equipped()).layers[0] is layer


def test_the_plain_network_is_left_as_it_is_where_the_device_has_no_ops():
    network = build("resnet8", (8, 8, 3), 4)
    assert accelerate(network, CPU) is network


def test_two_devices_with_other_thread_counts_live_side_by_side():
    """The gradient of W is a sum of one part per thread, so its last bits differ between numbers of threads."""
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


def test_a_residual_block_around_the_first_weights_has_no_error_to_return():
    device, rng = equipped(), np.random.default_rng(0)
    block = Residual(Sequential(Linear("a", 6, 6)), Sequential(), ReLU())
    network = Network(Flatten(), block, Linear("o", 6, 3))
    network.initialise(device, rng)
    network.with_feedback[0].B = network.with_feedback[0].W.T
    for each in (network, accelerate(network, device)):
        _, error = softmax_cross_entropy(each.forward(rng.standard_normal((4, 6))), np.arange(4) % 3)
        assert each.backward(error) is None
        assert network.synapses[0].W_gradient.any()
