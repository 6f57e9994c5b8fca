"""Every rule on every kind of network agrees with PyTorch, and a fault in wtref is found."""

import copy
import importlib
import inspect
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import device_double  # noqa: E402
from helpers import CPU

from wtref import fast, layers, optim, oracle, relatives, rules
from wtref.device import Device
from wtref.errors import InputError
from wtref.fast.ops import equip
from wtref.models import Options
from wtref.oracle import check
from wtref.oracle.check import CHECKED, Row
from wtref.oracle.rules import RULES
from wtref.training import Training, train_step

STEPS = 3


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """A mirror step is then part of a block in narrow layers too."""
    monkeypatch.setitem(check.MIRROR, "rows", 32)
    monkeypatch.setitem(check.ALIGNMENT, "rows", 32)
    monkeypatch.setitem(check.MIRROR, "window", 8)


def checked(model, rule, steps=STEPS, dtype="float64", kernels="auto", **options):
    options = Options(**({"hidden": (20, 12)} | options))
    (row,) = check.check([model], [rule], dtype=dtype, steps=steps, options=options, kernels=kernels)
    return row


@pytest.mark.parametrize("rule", CHECKED)
@pytest.mark.parametrize("norm", ["none", "before", "after"])
@pytest.mark.parametrize(
    "model", ["mlp", "lenet", "resnet8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "resnet50"))]
)
def test_every_rule_agrees_with_pytorch(model, norm, rule):
    row = checked(model, rule, norm=norm, width=4)
    assert row.passed, row


@pytest.mark.parametrize(
    "rule", [pytest.param(rule, marks=pytest.mark.slow) if rule == "ia" else rule for rule in relatives.RULES if rule not in CHECKED]
)
@pytest.mark.parametrize("model, norm", [("mlp", "none"), ("lenet", "after"), ("resnet8", "before")])
def test_every_other_rule_agrees_with_pytorch(model, norm, rule):
    row = checked(model, rule, norm=norm, width=4)
    assert row.passed and (row.delta_B is None) is (rule == "frozen"), row


def test_every_rule_there_is_is_compared_in_all_it_does():
    assert oracle.rules.RULES.keys() == relatives.RULES.keys() >= {*CHECKED}


@pytest.mark.parametrize("rule", CHECKED)
@pytest.mark.parametrize("model", ["mlp", "lenet", "resnet8"])
def test_the_plain_layers_agree_with_pytorch(model, rule):
    row = checked(model, rule, kernels="plain", norm="before", width=4)
    assert row.passed, row


@pytest.mark.slow
@pytest.mark.parametrize("rule", CHECKED)
@pytest.mark.parametrize("model, norm", [("resnet18", "after"), ("resnet50", "before")])
def test_the_imagenet_stem_agrees_with_pytorch(model, norm, rule):
    row = checked(model, rule, norm=norm, stem="imagenet", width=4)
    assert row.passed, row


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
@pytest.mark.parametrize("model", ["mlp", "lenet", "resnet8"])
def test_the_other_activations_agree_with_pytorch(model, activation):
    row = checked(model, "kp", activation=activation, width=4)
    assert row.passed, row


@pytest.mark.slow
@pytest.mark.parametrize("rule", CHECKED)
def test_ten_steps_agree_with_pytorch(rule):
    row = checked("resnet8", rule, steps=10, width=8)
    assert row.passed, row


def test_float32_is_close_where_the_network_is_shallow():
    row = checked("mlp", "kp", dtype="float32")
    assert row.dtype == "float32" and 1e-9 < row.worst < 1e-5


def test_a_row_says_what_there_was_to_compare():
    plain, mirrored = checked("mlp", "bp"), checked("resnet8", "wm", width=4)
    assert plain.delta_B is plain.norm_gradients is plain.running is None
    assert None not in (mirrored.delta_B, mirrored.norm_gradients, mirrored.running)


def test_a_model_goes_by_its_short_name_too():
    (row,) = check.check(["res18"], ["bp"], steps=1, options=Options(width=4))
    assert row.model == "resnet18" and row.passed


def test_progress_hears_of_every_comparison():
    lines = []
    check.check(["mlp"], ["bp", "dfa"], steps=1, options=Options(hidden=(3,)), report=lines.append)
    assert [line.split(":")[0] for line in lines] == ["mlp bp", "mlp dfa"]


def test_the_table_has_a_line_for_each_row_and_a_dash_where_there_is_nothing():
    row = Row("mlp", "fa", "float64", 10, 1e-15, 2e-15, 3e-15, None, None, None, 4e-15)
    head, line = check.table([row]).splitlines()
    assert head.endswith("  10 steps")
    assert line.split() == ["mlp", "fa", "1.0e-15", "2.0e-15", "3.0e-15", "-", "-", "-", "4.0e-15"]


@pytest.mark.parametrize("error", [2e-9, float("inf"), float("nan")])
def test_a_row_with_one_large_error_does_not_pass(error):
    assert not Row("mlp", "fa", "float64", 10, 0.0, 0.0, error, None, None, None, 0.0).passed


def test_unknown_rules_and_models_are_named():
    with pytest.raises(InputError, match="unknown rule 'bqsf', did you mean 'brsf'"):
        check.check(["mlp"], ["bqsf"])
    with pytest.raises(InputError, match="unknown model 'vgg'"):
        check.check(["vgg"], ["bp"])


def test_without_pytorch_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "wtref.oracle.check")
    with pytest.raises(InputError, match=r"^check needs PyTorch.*: pip install 'wtref\[test\]'$"):
        importlib.import_module("wtref.oracle.check")


# Faults to be put into our side on purpose: each takes the real method and gives a faulty one.


def feedback_without_decay(real):
    def learn(self, s, sgd):
        sgd.descend(s.W, s.W_gradient, decay=True)
        if s.B is not None:
            sgd.descend(s.B, s.W_gradient.T, decay=False)
        self.learn_bias(s, sgd)

    return learn


def decay_on_everything(real):
    return lambda self, w, gradient, decay: real(self, w, gradient, decay=True)


def nesterov(real):
    def descend(self, *args, **kwargs):
        self.nesterov = True
        real(self, *args, **kwargs)

    return descend


def patches_transposed(real):
    def forward(self, y, train=True):
        return np.ascontiguousarray(real(self, np.ascontiguousarray(y.swapaxes(1, 2)), train).swapaxes(1, 2))

    return forward


def signs_of_size_one(real):
    def before_backward(self, s, error):
        s.B = np.sign(s.W).T

    return before_backward


def weights_transported(real):
    def before_backward(self, s, error):
        s.B = s.W.T

    return before_backward


def direct_error_doubled(real):
    return lambda self, s, error: real(self, s, 2 * error)


def variance_biased(real):
    def forward(self, y, train=True, **more):
        norm = getattr(self, "plain", self)
        before, count = norm.running_var.copy(), y.size // norm.channels
        out = real(self, y, train, **more)
        if train:
            kept = (1 - norm.momentum) * before
            norm.running_var[...] = kept + (norm.running_var - kept) * (count - 1) / count
        return out

    return forward


class Silent:
    """A layer whose backward pass returns zeros."""

    def __init__(self, layer):
        self.layer = layer

    def backward(self, delta):
        return 0 * self.layer.backward(delta)


def errors_stop_at_shortcuts(real):
    def backward(self, delta):
        body, shortcut, phi = layers = self.layers
        self.layers = body, Silent(shortcut), phi
        delta = real(self, delta)
        self.layers = layers
        return delta

    return backward


def bias_forgotten(real):
    def forward(self, y, train=True):
        return real(self, y, train) - self.synapses.b

    return forward


def largest_in_the_wrong_place(real):
    def backward(self, delta):
        return np.ascontiguousarray(real(self, delta)[:, ::-1])

    return backward


def half_the_noise(real):
    return lambda self, s: real(self, s) // 2


def left_out(real):
    return lambda *args: None


def twice(real):
    def method(*args):
        real(*args)
        real(*args)

    return method


def b_without_decay(real):
    def learn(self, s, sgd):
        relatives.DirectFeedbackAlignment.learn(self, s, sgd)
        if s.B is not None:
            sgd.descend(s.B, s.B_gradient, decay=False)

    return learn


def hidden_weights_too(real):
    return rules.Backprop.learn


FAULTS = [
    (rules.KolenPollack, "learn", feedback_without_decay, "mlp", "kp"),
    (rules.SignSymmetry, "before_backward", signs_of_size_one, "lenet", "ss"),
    (rules.FeedbackAlignment, "before_backward", weights_transported, "mlp", "fa"),
    (relatives.DirectFeedbackAlignment, "before_backward", direct_error_doubled, "lenet", "dfa"),
    (rules.WeightMirror, "rows_of", half_the_noise, "mlp", "wm"),
    (relatives.FixedRandomSignSymmetry, "before_backward", left_out, "mlp", "frsf"),
    (relatives.BatchRandomSignSymmetry, "before_backward", twice, "lenet", "brsf"),
    (relatives.DirectKolenPollack, "learn", b_without_decay, "lenet", "dkp"),
    (relatives.ProductFeedbackAlignment, "before_backward", left_out, "mlp", "pfa"),
    (relatives.ActivationAlignment, "before_training", left_out, "mlp", "aa"),
    (relatives.InformationAlignment, "mirror", twice, "mlp", "ia"),
    (relatives.SymmetricAlignment, "before_backward", twice, "mlp", "sa"),
    (relatives.OrthogonalMirror, "between_steps", left_out, "lenet", "om"),
    (relatives.Frozen, "learn", hidden_weights_too, "mlp", "frozen"),
]
FAULTS_OF_PARTS = [
    (optim.SGD, fast.SGD, "descend", decay_on_everything, "mlp", "bp"),
    (optim.SGD, fast.SGD, "descend", nesterov, "mlp", "fa"),
    (layers.Conv2d, fast.layers.Conv2d, "forward", patches_transposed, "lenet", "bp"),
    (layers.BatchNorm, fast.layers.BatchNorm, "forward", variance_biased, "resnet8", "bp"),
    (layers.Residual, fast.layers.Residual, "backward", errors_stop_at_shortcuts, "resnet8", "dfa"),
    (layers.Linear, fast.layers.Linear, "forward", bias_forgotten, "mlp", "wm"),
    (layers.MaxPool, fast.layers.MaxPool, "backward", largest_in_the_wrong_place, "lenet", "kp"),
]


def assert_seen(model, rule, kernels="auto"):
    row = checked(model, rule, kernels=kernels, width=4)
    assert row.worst > 1e-6, row  # a thousand times the limit


@pytest.mark.parametrize("place, name, fault, model, rule", FAULTS, ids=lambda x: getattr(x, "__name__", x))
def test_a_fault_on_our_side_is_seen(monkeypatch, place, name, fault, model, rule):
    monkeypatch.setattr(place, name, fault(getattr(place, name)))
    assert_seen(model, rule)


@pytest.mark.parametrize("kernels", ["plain", "compiled"])
@pytest.mark.parametrize("plain, faster, name, fault, model, rule", FAULTS_OF_PARTS, ids=lambda x: getattr(x, "__name__", x))
def test_a_fault_in_a_part_is_seen(monkeypatch, plain, faster, name, fault, model, rule, kernels):
    """In the plain part, and in the accelerated one that replaces it."""
    if kernels == "compiled" and equip(CPU).ops is None:
        pytest.skip("no C compiler")
    place = plain if kernels == "plain" else faster
    monkeypatch.setattr(place, name, fault(getattr(place, name)))
    assert_seen(model, rule, kernels)


# Faults of the training step.  `check` takes the steps that Training takes, so that what one leaves out the other does.


def planted(monkeypatch, **left_out):
    """Let train_step use a network without some parts; left_out: {list of the network: the index left out, or None for all}."""

    def faulty(network, *rest):
        network = copy.copy(network)
        for name, index in left_out.items():
            whole = getattr(network, name)
            setattr(network, name, [] if index is None else [part for i, part in enumerate(whole) if i != index])
        return train_step(network, *rest)

    monkeypatch.setattr(check, "train_step", faulty)


def test_check_takes_the_step_of_training():
    assert check.train_step is train_step is inspect.signature(Training).parameters["train_step"].default


@pytest.mark.parametrize("rule", CHECKED)
def test_a_step_that_skips_a_layer_is_seen(monkeypatch, rule):
    assert checked("lenet", rule, steps=1).passed
    for index in range(5):
        planted(monkeypatch, synapses=index)
        assert not checked("lenet", rule, steps=1).passed, index


@pytest.mark.parametrize("rule", ["wm", "ss"])
@pytest.mark.parametrize("index", range(4))
def test_a_step_that_skips_the_feedback_of_a_layer_is_seen(monkeypatch, rule, index):
    planted(monkeypatch, with_feedback=index)
    assert_seen("lenet", rule)


@pytest.mark.parametrize("index", [None, 0, 3])
@pytest.mark.parametrize("rule", CHECKED)
def test_a_step_that_skips_batch_norms_is_seen(monkeypatch, rule, index):
    planted(monkeypatch, norms=index)
    assert not checked("resnet8", rule, steps=1, width=4).passed


@pytest.mark.parametrize("name, method", [("wm", "after_step"), ("brsf", "before_step")])
def test_the_second_version_s_random_numbers_never_lie_in_cupy_s_arrays(name, method):
    """PyTorch does not wait until CuPy has computed them; it takes no array of the device double."""
    layer = torch.nn.Linear(8, 5, dtype=torch.float64)
    layer.number, layer.B, layer.theirs = 1, torch.zeros(8, 5, dtype=torch.float64), lambda x: x
    rule = RULES[name](Device("double", device_double.xp, np.float64), 0.1, np.random.default_rng(0))
    getattr(rule, method)(layer)
    assert 0 < layer.B.abs().max() < 10
