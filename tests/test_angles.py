"""Angles worked out by hand, and delta angles against PyTorch's autograd."""

import math
from fractions import Fraction

import numpy as np
import pytest

from helpers import CPU
from measuring import CLASSES, deltas_of, ready_to_measure
from wtref import models
from wtref.angles import angle, compare_with_backprop, delta_angles, feedback_ratios, matrix_angles, mean_angle
from wtref.device import Device
from wtref.fast import accelerate
from wtref.fast.ops import equip
from wtref.losses import softmax_cross_entropy
from wtref.optim import SGD
from wtref.relatives import RULES
from wtref.training import train_step


def degrees(x):
    return pytest.approx(x, rel=1e-14, abs=1e-14)


@pytest.mark.parametrize(
    "u, v, wanted",
    [
        ([1, 0], [3, 0], 0),
        ([1, 0], [0, 2], 90),
        ([1, 0], [-5, 0], 180),
        ([1, 0], [1, 1], 45),
        ([0, 2], [-3, -3], 135),
        ([1, 0], [1, math.sqrt(3)], 60),
        ([3, 4], [4, 3], math.degrees(math.acos(24 / 25))),
        ([1, 2, 3], [-1e-9, -2e-9, -3e-9], 180),
        ([[1, 1], [1, 1]], [[1, 1], [1, 1]], 0),
        ([[1, 1], [1, 1]], [[1, 1], [-1, -1]], 90),
    ],
)
def test_angles_by_hand(u, v, wanted):
    u, v = np.array(u, float), np.array(v, float)
    assert angle(u, v) == degrees(wanted) and angle(v, u) == degrees(wanted)


def test_the_angle_of_bfloat16_is_that_of_the_same_numbers():
    """Though no sum of 10,000 of them would be exact in it."""
    ml_dtypes, rng = pytest.importorskip("ml_dtypes"), np.random.default_rng(0)
    u, v = (rng.standard_normal(10_000).astype(ml_dtypes.bfloat16) for _ in range(2))
    assert angle(u, v) == pytest.approx(angle(u.astype(float), v.astype(float)), rel=1e-5)


@pytest.mark.parametrize("tiny", [1e-3, 1e-7, 1e-12])
def test_tiny_and_nearly_opposite_angles_keep_their_digits(tiny):
    """The cosine of 1e-7 degrees is 1 to the last digit; the angle is not lost all the same."""
    u, v = np.array([1, 0.0]), np.array([math.cos(math.radians(tiny)), math.sin(math.radians(tiny))])
    assert angle(u, v) == pytest.approx(tiny, rel=1e-10)
    assert 180 - angle(u, -v) == pytest.approx(tiny, abs=1e-13 + 1e-6 * tiny)


def test_an_angle_does_not_depend_on_memory_order_or_precision():
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((2, 4, 3))
    assert angle(u, v) == degrees(angle(np.asfortranarray(u), v))
    found = angle(u.astype(np.float32), v.astype(np.float32))
    assert isinstance(found, float) and found == pytest.approx(angle(u, v), abs=1e-4)


def exact_angle(u, v):
    """From sums that are exact."""
    u, v = ([Fraction(float(x)) for x in vector] for vector in (u, v))
    dot, uu, vv = (sum(a * b for a, b in zip(*pair)) for pair in ((u, v), (u, u), (v, v)))
    cos2 = dot * dot / (uu * vv)
    return math.degrees(math.atan2(math.sqrt(1 - cos2), math.sqrt(cos2) * (1 if dot > 0 else -1)))


@pytest.mark.parametrize("dtype, exponents, room", [
    (np.float64, (-300, -200, -150, 0, 150, 200, 300), 1e-13), (np.float32, (-37, -30, -20, 0, 15, 18, 38), 2e-5),
])  # fmt: skip
def test_angles_of_vectors_of_any_size(dtype, exponents, room):
    """Whose squares, or whose length, the dtype does not hold; of all such vectors the angle is that of exact numbers."""
    rng = np.random.default_rng(0)
    pairs = [(np.array([3, 4]), np.array([-4, 3])), *rng.uniform(-1, 1, (3, 2, 7))]
    for p in exponents:
        for q in exponents:
            for u, v in pairs:
                u, v = u / abs(u).max() * 10.0**p, v / abs(v).max() * 10.0**q
                u, v = u.astype(dtype), (v * np.where(np.arange(len(v)) % 2, 1.0, 1e-4)).astype(dtype)
                assert angle(u, v) == pytest.approx(exact_angle(u, v), abs=room)
                assert angle(u, u) == 0 and angle(u, -u) == 180


def test_angles_of_many_equal_numbers_in_float32():
    """The sum of their squares is beyond float32."""
    u = np.full(3 * 2**16, 1e18, np.float32)
    v = u.copy()
    v[: 2**16] *= -1
    assert angle(u, v) == pytest.approx(math.degrees(math.acos(1 / 3)), abs=1e-4)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.filterwarnings("error")
def test_what_has_no_direction_has_no_angle(bad, dtype):
    u, v = np.ones(3, dtype), np.array([0, bad, 0], dtype)
    assert math.isnan(angle(u, v)) and math.isnan(angle(v, u)) and math.isnan(angle(v, v))


def test_the_mean_of_the_angles_that_could_be_measured():
    assert mean_angle([10.0, math.nan, 40.0]) == 25
    assert math.isnan(mean_angle([math.nan, math.nan])) and math.isnan(mean_angle([]))


# --- networks ----------------------------------------------------------------------------------------------


def compare(network, rule, images, labels):
    return compare_with_backprop(network, rule, SGD(network.arrays(), 0.1), softmax_cross_entropy, images, labels)


def measure(network, rule, images, labels):
    return delta_angles(network, rule, softmax_cross_entropy, images, labels)


@pytest.mark.parametrize("model", ["mlp", "resnet8"])
def test_backprop_has_no_angles(model):
    network, *batch = ready_to_measure("bp", model)
    angles = measure(network, *batch)
    assert set(angles) == {s.name for s in network.synapses[:-1]} and set(angles.values()) == {0}
    assert set(matrix_angles(network)) == {s.name for s in network.with_feedback}
    assert set(matrix_angles(network).values()) == {0}


@pytest.mark.parametrize("depth, fades_out", [(40, False), (100, True)])
def test_backprop_has_no_angle_where_its_errors_are_tiny(depth, fades_out):
    """Through sigmoids they fade by a factor of 4 and more a layer: beyond float32's squares, at last beyond float32."""
    network, rule = models.build("mlp", (1, 2, 2), 3, models.Options(activation="sigmoid", hidden=(8,) * depth)), RULES["bp"]()
    rng = np.random.default_rng(0)
    network.initialise(Device("cpu", np, np.float32), rng)
    for s in network.with_feedback:
        rule.connect(s, 3)
    batch = rng.standard_normal((5, 1, 2, 2)).astype(np.float32), np.arange(5) % 3
    angles = measure(network, rule, *batch)
    silent = [name for name, delta in deltas_of(network, rule, *batch).items() if not delta.any()]
    assert len(angles) == depth and [name for name, found in angles.items() if math.isnan(found)] == silent
    assert sum(found == 0 for found in angles.values()) == depth - len(silent) and bool(silent) == fades_out


def test_a_batch_without_images_has_no_angles_and_no_ratios():
    network, rule, images, labels = ready_to_measure("fa")
    found = compare(network, rule, images[:0], labels[:0])
    hidden = {s.name for s in network.synapses[:-1]}
    for kind, layers in (("delta_angles", hidden), ("delta_ratios", hidden), ("local_delta_angles", matrix_angles(network).keys())):
        assert found[kind].keys() == layers and all(map(math.isnan, found[kind].values()))
    assert math.isnan(found["update_angle"])


def test_a_matrix_angle_lies_between_B_and_the_transpose_of_W():
    network, *_ = ready_to_measure("fa")
    for s in network.with_feedback:
        dot = sum(s.B[i, o] * s.W[o, i] for i in range(s.n_in) for o in range(s.n_out))
        cosine = dot / math.sqrt((s.B**2).sum() * (s.W**2).sum())
        assert matrix_angles(network)[s.name] == pytest.approx(math.degrees(math.acos(cosine)), rel=1e-12)


def test_matrix_angles_leave_out_direct_feedback_before_the_first_step_too():
    """Hidden layers of as many cells as classes, whose B has the shape of W^T and stands for something else."""
    network, rule = models.build("mlp", (3, 3, 1), 5, models.Options(hidden=(5, 5))), RULES["dfa"]()
    network.initialise(CPU, np.random.default_rng(0))
    for s in network.with_feedback:
        rule.connect(s, 5)
    assert list(matrix_angles(network)) == ["output"]


def test_matrix_angles_leave_out_direct_feedback():
    """Its B's are (n_in, classes); only the output layer's has the shape of its W's transpose."""
    network, rule, *batch = ready_to_measure("dfa", "mlp", hidden=(7, 6))
    train_step(network, rule, SGD(network.arrays(), 0.1), softmax_cross_entropy, *batch, 0)
    assert [s.name for s in network.with_feedback] == ["hidden2", "output"]
    assert list(matrix_angles(network)) == ["output"]


def test_feedback_ratios_by_hand():
    """|B| / |W|, one number at a time, for the layers that have a matrix angle."""
    network, *_ = ready_to_measure("fa")
    network.synapses[1].B *= 3
    network.synapses[2].B[...] = 0
    network.synapses[3].W[...] = 0
    found = feedback_ratios(network)
    assert found.keys() == matrix_angles(network).keys()
    for s in network.with_feedback:
        b2, w2 = sum(x * x for x in s.B.ravel().tolist()), sum(x * x for x in s.W.ravel().tolist())
        if w2:
            assert found[s.name] == pytest.approx(math.sqrt(b2 / w2), rel=1e-12)
        else:
            assert math.isnan(found[s.name])
    assert found[network.synapses[2].name] == 0
    assert list(feedback_ratios(ready_to_measure("dfa", "mlp", hidden=(7, 6))[0])) == ["output"]


@pytest.mark.parametrize("size", [1e-170, 1e170])
def test_feedback_ratios_of_numbers_whose_squares_no_float_holds(size):
    network, *_ = ready_to_measure("fa", "mlp", hidden=(7, 6))
    wanted = feedback_ratios(network)
    for s in network.with_feedback:
        s.W *= size
        s.B *= size
    assert feedback_ratios(network) == pytest.approx(wanted, rel=1e-12)


def test_backprop_differs_from_backprop_in_nothing():
    network, *batch = ready_to_measure("bp")
    found = compare(network, *batch)
    assert set(found["delta_angles"].values()) == {0} and found["update_angle"] == 0
    assert set(found["delta_ratios"].values()) == {1} and found["delta_ratios"].keys() == found["delta_angles"].keys()


@pytest.mark.parametrize("rule_name", ["fa", "kp", "ss", "brsf", "dfa"])
def test_local_delta_angles_by_hand(rule_name):
    """Of B delta and W^T delta, patch by patch, for the delta that arrives through the B's."""
    network, rule, images, labels = ready_to_measure(rule_name)
    found = compare(network, rule, images, labels)["local_delta_angles"]
    assert found.keys() == matrix_angles(network).keys()
    deltas = deltas_of(network, rule, images, labels)
    for s in network.with_feedback:
        if s.name in found:
            u, v = (np.concatenate([M @ delta for delta in deltas[s.name].reshape(-1, s.n_out)]) for M in (s.B, s.W.T))
            cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
            assert 1 < found[s.name] < 179
            assert found[s.name] == pytest.approx(math.degrees(math.acos(cosine)), rel=1e-9)


def test_the_local_delta_angle_knows_one_layer_alone():
    """A B that is turned round turns every delta below it, and no local one but its own."""
    network, rule, *batch = ready_to_measure("bp", "mlp", hidden=(7, 6, 5))
    hidden4 = network.synapses[-2]
    hidden4.B = -hidden4.W.T
    found = compare(network, rule, *batch)
    assert found["delta_angles"] == degrees({"hidden1": 180, "hidden2": 180, "hidden3": 0})
    assert found["local_delta_angles"] == degrees({"hidden2": 0, "hidden3": 180, "output": 0})


def test_the_update_of_a_frozen_network_counts_its_hidden_layers_as_zeros():
    """cos = |G_output| / |G| of backprop's gradients G, whatever the momentum or decay of training."""
    network, rule, images, labels = ready_to_measure("frozen", "mlp", hidden=(7, 6))
    found = compare(network, rule, images, labels)
    _, error = softmax_cross_entropy(network.forward(images), labels)
    network.backward(error)
    squares = [(s.W_gradient**2).sum() for s in network.synapses]
    cosine = math.sqrt(squares[-1] / sum(squares))
    assert 10 < found["update_angle"] < 89
    assert found["update_angle"] == pytest.approx(math.degrees(math.acos(cosine)), rel=1e-10)
    assert set(found["delta_angles"].values()) == {0}  # its errors are backprop's own


def test_a_delta_that_is_all_zero_has_neither_angle_nor_ratio():
    """Where backprop's is zero; a ratio of 0 where the rule's alone is."""
    network, rule, *batch = ready_to_measure("fa", "mlp", hidden=(7, 6))
    hidden1, hidden2, _ = network.synapses
    hidden2.B[...] = 0
    found = compare(network, rule, *batch)
    assert math.isnan(found["delta_angles"]["hidden1"]) and found["delta_ratios"]["hidden1"] == 0
    assert math.isnan(found["local_delta_angles"]["hidden2"]), "B delta is zero"
    hidden2.B[...], hidden2.W[...] = 1, 0
    hidden2.b[...] = 1
    found = compare(network, rule, *batch)
    assert math.isnan(found["delta_angles"]["hidden1"]) and math.isnan(found["delta_ratios"]["hidden1"])
    assert found["delta_ratios"]["hidden2"] > 0 and 0 < found["update_angle"] < 180


# --- PyTorch -----------------------------------------------------------------------------------------------


def torch_deltas(network, images):
    """{layer: the true delta at its output}, from autograd through the same small convolutional network.

    conv1, tanh, pool, conv2, tanh, pool, hidden1, tanh, hidden2, tanh, output: LeNet.
    """
    torch = pytest.importorskip("torch")
    weights = {s.name: (torch.tensor(s.W), torch.tensor(s.b)) for s in network.synapses}
    y, outputs = torch.tensor(images.transpose(0, 3, 1, 2)), {}
    for name, (W, b) in weights.items():
        if name == "hidden1":  # our features are channels-last
            y = y.permute(0, 2, 3, 1).flatten(1)
        if name.startswith("conv"):
            W = W.reshape(len(W), 5, 5, -1).permute(0, 3, 1, 2)
            a = torch.nn.functional.conv2d(y, W, b, padding=2 if name == "conv1" else 0)
        else:
            a = torch.nn.functional.linear(y, W, b)
        outputs[name] = a.requires_grad_() if not a.requires_grad else a
        outputs[name].retain_grad()
        y = torch.tanh(a)
        if name.startswith("conv"):
            y = torch.nn.functional.max_pool2d(y, 2)
    torch.nn.functional.cross_entropy(a, torch.arange(len(images)) % CLASSES).backward()
    grads = {name: a.grad.numpy() for name, a in outputs.items()}
    return {name: g.transpose(0, 2, 3, 1) if g.ndim == 4 else g for name, g in grads.items()}


@pytest.mark.parametrize("rule_name", ["fa", "ss", "kp", "dfa"])
def test_delta_angles_against_autograd(rule_name):
    rng, rule = np.random.default_rng(0), RULES[rule_name]()
    network = models.build("lenet", (12, 12, 2), CLASSES, models.Options(activation="tanh"))
    network.initialise(CPU, rng)
    for s in network.with_feedback:
        rule.connect(s, CLASSES)
    images, labels = rng.standard_normal((6, 12, 12, 2)), np.arange(6) % CLASSES
    compared, true = compare(network, rule, images, labels), torch_deltas(network, images)
    found = compared["delta_angles"]

    deltas = deltas_of(network, rule, images, labels)
    assert np.allclose(deltas["output"], true["output"], rtol=0, atol=1e-14)
    for s in network.synapses[:-1]:
        u, v = deltas[s.name].ravel(), true[s.name].ravel()
        cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
        assert 1 < found[s.name] < 179
        assert found[s.name] == pytest.approx(math.degrees(math.acos(cosine)), rel=1e-9)
        ratio = np.linalg.norm(u) / np.linalg.norm(v)
        assert compared["delta_ratios"][s.name] == pytest.approx(ratio, rel=1e-10)


def torch_gradients(network, images, labels, feedback):
    """The gradients of an mlp's W as one vector, from autograd in float64; feedback: whether errors return through B.

    Then each layer's product is W y for y itself held fixed, and B^T (y - y) = 0, whose gradient with respect to y is B delta.
    """
    torch = pytest.importorskip("torch")
    y, weights = torch.tensor(images).flatten(1), []
    for s in network.synapses:
        W, b = torch.tensor(s.W, requires_grad=True), torch.tensor(s.b)
        weights.append(W)
        if feedback and s.B is not None:
            B = torch.tensor(s.B)
            a = torch.nn.functional.linear(y.detach(), W, b) + (y - y.detach()) @ B
        else:
            a = torch.nn.functional.linear(y, W, b)
        y = torch.tanh(a)
    torch.nn.functional.cross_entropy(a, torch.tensor(labels)).backward()
    return np.concatenate([W.grad.numpy().ravel() for W in weights])


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("rule_name", ["fa", "kp", "ss", "wm", "pfa", "bp"])
def test_update_angles_against_autograd(rule_name, fast):
    network, rule, images, labels = ready_to_measure(rule_name, "mlp", hidden=(9, 8), activation="tanh")
    used = accelerate(network, equip(CPU)) if fast else network
    found = compare(used, rule, images, labels)["update_angle"]
    for s in network.with_feedback:
        rule.before_backward(s, None)
    u, v = (torch_gradients(network, images, labels, feedback) for feedback in (True, False))
    wanted = math.degrees(math.acos(min(u @ v / np.linalg.norm(u) / np.linalg.norm(v), 1)))
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-5) and (found < 1e-12 if rule_name == "bp" else found > 1)
