"""The training loop: the same run for the same seed, learning under every rule, honest numbers."""

import json
import math
import re
from dataclasses import replace
from functools import cache, partial
from itertools import islice

import numpy as np
import pytest

from wtref import datasets
from wtref.angles import delta_angles
from wtref.datasets import Dataset
from wtref.datasets.memory import MemoryFeed, training_order
from wtref.datasets.synthetic import load_synthetic
from wtref.distributed.group import ProcessGroup
from wtref.errors import Diverged, InputError
from wtref.losses import softmax_cross_entropy
from wtref.relatives import RULES
from wtref.runs import resuming
from wtref.runs.config import Config
from wtref.runs.prepare import prepare

SMALL = load_synthetic(None, shape=(8, 8, 1), train=70, test=30)
TINY = load_synthetic(None, shape=(4, 4, 1), train=40, test=12)
DIGITS = datasets.load("digits")
MLP = Config(model="mlp", hidden=(12, 9), norm="before", epochs=2, device="cpu")
RESNET = Config(model="resnet8", epochs=2, batch_size=16, device="cpu", mirror_window=0.5, mirror_rows=16)
TIMES = ("seconds", "images_per_second")


def training(config=MLP, data=None, **changes):
    config = replace(config, **changes)
    data = data or (TINY if config.model == "resnet8" else SMALL)
    device = cpu(config.dtype)
    return prepare(config, device, feed=MemoryFeed(data, device, config.batch_size, config.seed))


@cache
def cpu(dtype):
    return Config(device="cpu", dtype=dtype).open_device()


def arrays(run):
    return {name: array.copy() for name, array in resuming.state(run)[0].items()}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def epochs(run):
    """Train; yields each epoch's record."""
    return (record for record in run.run() if record)


def records(run):
    return [{k: v for k, v in record.items() if k not in TIMES} for record in epochs(run)]


def watch(run, after):
    """Call after(run, images, labels, loss, logits) behind each step; returns its answers."""
    step, seen = run.step, []

    def watched(images, labels):
        loss, logits = step(images, labels)
        seen.append(after(run, images, labels, loss, logits))
        return loss, logits

    run.step = watched
    return seen


# --- randomness -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config, rule", [*((MLP, rule) for rule in RULES), (RESNET, "brsf"), (RESNET, "wm")])
def test_one_seed_is_one_run(config, rule):
    first, again = (training(config, rule=rule) for _ in range(2))
    assert records(first) == records(again)
    assert same(arrays(first), arrays(again))


def test_the_global_generator_has_no_say():
    np.random.seed(1)
    first = training(rule="brsf")
    a = records(first)
    np.random.seed(2)
    again = training(rule="brsf")
    assert records(again) == a and same(arrays(first), arrays(again))


@pytest.mark.parametrize("rule", RULES)
def test_another_seed_is_another_run(rule):
    first, other = (training(rule=rule, seed=seed) for seed in (0, 1))
    for a, b in zip(first.network.synapses, other.network.synapses):
        assert not np.array_equal(a.W, b.W)
        assert a.B is None or not np.array_equal(a.B, b.B)
    assert records(first) != records(other)


def indexed(n):
    """A data set of n images that show their own number."""
    images = np.tile(np.arange(n, dtype=np.uint8)[:, None, None, None], (1, 2, 2, 1))
    labels = np.arange(n) % 10
    return replace(SMALL, train_images=images, train_labels=labels, test_images=images, test_labels=labels)


def numbers(run, images, *_):
    data = run.feed.dataset
    return np.rint(images[:, 0, 0, 0] * data.std + data.mean).astype(int).tolist()


def test_each_epoch_shows_each_image_once_in_a_new_order():
    run = training(data=indexed(70), batch_size=32)
    seen = watch(run, numbers)
    records(run)
    assert [len(batch) for batch in seen] == [32, 32, 6, 32, 32, 6]
    first, second = sum(seen[:3], []), sum(seen[3:], [])
    assert sorted(first) == sorted(second) == list(range(70))
    assert len({tuple(first), tuple(second), tuple(range(70))}) == 3


def test_images_keep_their_labels():
    run = training(data=indexed(70))
    seen = watch(run, lambda run, images, labels, *_: (numbers(run, images), labels.tolist()))
    records(run)
    assert len(seen) == 6 and all(labels == [n % 10 for n in shown] for shown, labels in seen)


@pytest.mark.parametrize("rule", RULES)
def test_rules_share_first_weights_and_data_order(rule):
    bp, other = training(data=indexed(70)), training(data=indexed(70), rule=rule)
    for a, b in zip(bp.network.synapses, other.network.synapses):
        assert np.array_equal(a.W, b.W)
    orders = [watch(run, numbers) for run in (bp, other)]
    assert len(records(bp)) == len(records(other)) == 2
    assert orders[0] == orders[1]


def test_precision_does_not_change_the_draw():
    single, double = (training(dtype=dtype) for dtype in ("float32", "float64"))
    for a, b in zip(single.network.synapses, double.network.synapses):
        assert np.array_equal(a.W, b.W.astype(np.float32)) and b.W.dtype == np.float64


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_array_keeps_its_precision(dtype, rule):
    run = training(RESNET, rule=rule, dtype=dtype, epochs=1)
    records(run)
    assert {array.dtype.name for array in arrays(run).values()} == {dtype}


# --- learning ---------------------------------------------------------------------------------------------

MATRIX_ANGLE = {  # of the second hidden layer after four epochs, degrees
    "bp": (0, 0.1), "fa": (70, 95), "ss": (25, 45), "usf": (25, 45), "frsf": (40, 60), "brsf": (40, 60),
    "wm": (1, 8), "kp": (1, 12), "om": (0, 0.001), "pfa": (15, 40), "aa": (0, 0.01), "ia": (6, 25), "sa": (0.01, 2),
}  # fmt: skip


@pytest.mark.parametrize("rule", [name for name in RULES if name != "frozen"])
def test_every_rule_learns_the_digits(rule):
    run = training(data=DIGITS, rule=rule, hidden=(64, 32), epochs=4)
    first_loss, first_error, _ = run.evaluate(run.feed.test_batches())
    last = records(run)[-1]
    assert first_loss > 2 and first_error > 75
    assert last["train_loss"] < 0.3 and last["test_loss"] < 0.4
    assert last["train_error"] < 10 and last["test_error"] < 8
    assert last["delta_angles"]["hidden1"] < 85  # what arrives has learned to point downhill
    if rule not in ("dfa", "dkp"):
        low, high = MATRIX_ANGLE[rule]
        assert low <= last["matrix_angles"]["hidden2"] <= high


def test_frozen_hidden_layers_fall_behind():
    """The control learns, but ends where no rule does."""
    last = records(training(data=DIGITS, rule="frozen", hidden=(64, 32), epochs=4))[-1]
    assert 8 < last["test_error"] < 20 and last["update_angle"] > 45


@pytest.mark.parametrize("option", ["activation tanh", "activation sigmoid", "loss sigmoid"])
def test_every_activation_and_loss_learns(option):
    run = training(data=DIGITS, hidden=(64,), epochs=4, **dict([option.split()]))
    assert records(run)[-1]["test_error"] < 8


def test_a_residual_network_learns():
    data = load_synthetic(None, shape=(4, 4, 2), train=400, test=100)
    run = training(RESNET, data, rule="kp", epochs=3, batch_size=32)
    start, *_ = run.evaluate(run.feed.test_batches())
    last = records(run)[-1]
    assert last["train_loss"] < start / 4 and last["test_error"] < 25


def test_shuffled_labels_cannot_be_learned():
    """Nothing of the labels leaks into the forward pass."""
    rng = np.random.default_rng(0)
    run = training(data=replace(DIGITS, test_labels=rng.permutation(DIGITS.test_labels)), epochs=2)
    last = records(run)[-1]
    assert last["train_error"] < 20 and last["test_error"] > 80


# --- what an epoch reports --------------------------------------------------------------------------------


def test_a_record_says_what_happened():
    run = training(rule="kp")
    losses = watch(run, lambda run, images, labels, loss, logits: float(loss))
    wrong = watch(run, lambda run, images, labels, loss, out: (out.argmax(axis=1) != labels).sum())
    sizes = watch(run, lambda run, images, labels, loss, out: len(labels))
    rates = watch(run, lambda run, *_: float(run.sgd.lr))
    for number, record in enumerate(epochs(run), start=1):
        assert record["epoch"] == number
        assert record["train_images"] == 70
        assert record["train_loss"] == pytest.approx(np.average(losses[-3:], weights=sizes[-3:]), rel=1e-12)
        assert record["train_error"] == pytest.approx(100 * sum(wrong[-3:]) / 70)
        assert np.float32(record["lr"]) == rates[-1]
        tested = run.evaluate(run.feed.test_batches())
        assert (record["test_loss"], record["test_error"], record["test_images"]) == tested
        assert list(record["matrix_angles"]) == ["hidden2", "output"]
        assert list(record["delta_angles"]) == ["hidden1", "hidden2"]
    assert number == 2 and len(losses) == 6


@pytest.mark.parametrize("norm", ["before", "after"])
@pytest.mark.parametrize("count, batch_size", [(9, 8), (9, 4), (33, 16)])
def test_backprop_has_no_delta_angle_where_a_single_image_is_left_over(norm, count, batch_size):
    """Batch norm over one image sends nothing down, which was once called 90 degrees."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(count, 4, 4, 1), dtype=np.uint8), np.arange(count) % 3
    run = training(data=Dataset("odd", 3, images, labels, images, labels), norm=norm, batch_size=batch_size, hidden=(8, 6), epochs=2)
    for record in records(run):
        assert record["delta_angles"] == {"hidden1": 0, "hidden2": 0}


@pytest.mark.parametrize("model, refused", [
    ({"norm": "before"}, "hidden1.norm"), ({"norm": "after"}, "hidden1.norm"),
    ({"norm": "none"}, None), ({"model": "resnet8"}, None),
], ids=str)  # fmt: skip
def test_batches_of_one_image_are_refused_where_batch_norm_sees_one_value(model, refused):
    """Images of 8x8 are 2x2 where a ResNet-8 sees them last: four values."""
    training(data=DIGITS, batch_size=2, **model)
    if refused is None:
        training(data=DIGITS, batch_size=1, **model)
        return
    with pytest.raises(InputError) as caught:
        training(data=DIGITS, batch_size=1, **model)
    wrong = f"--batch-size 1 is too small for batch norm: {refused} would see one value of a channel"
    assert str(caught.value) == f"{wrong}; take at least 2, or --norm none"


def test_shares_of_one_image_are_refused_where_each_has_statistics_of_its_own():
    group = ProcessGroup()
    group.size = 4

    def begin(batch_size, sync_bn):
        device = cpu("float32")
        feed = MemoryFeed(SMALL, device, batch_size, 0, group=group)
        prepare(replace(MLP, batch_size=batch_size, sync_bn=sync_bn), device, group, feed)

    begin(8, sync_bn=False)
    begin(2, sync_bn=True)
    with pytest.raises(InputError, match="would see one value of a channel in one of 4 processes; take at least 8, or --norm none"):
        begin(7, sync_bn=False)


def degrees(u, v):
    return math.degrees(math.acos(np.clip((u * v).sum() / math.sqrt((u * u).sum() * (v * v).sum()), -1, 1)))


def feedback(run):
    """The B of every layer but the first, as the rule sets it for the next batch."""
    generator = np.random.default_rng()
    generator.bit_generator.state = run.rule.rng.bit_generator.state
    for s in run.network.with_feedback:
        signs = np.sign(s.W.T)
        if run.config.rule in ("ss", "usf"):
            yield signs / math.sqrt(s.n_in)
        elif run.config.rule == "frsf":
            yield signs * abs(s.B)
        elif run.config.rule == "brsf":
            yield signs * abs(generator.standard_normal(s.W.shape) * s.std).T
        elif run.config.rule == "pfa":
            yield s.extra["R"] @ s.extra["F"]
        elif run.config.rule == "sa":
            yield 0.9 * s.B + 0.1 * s.W.T
        else:
            yield s.B


@pytest.mark.parametrize("rule", RULES)
def test_delta_angles_are_those_of_a_fixed_batch_by_hand(rule):
    """Of the images that come first in the first epoch, however they are varied there, after the epoch's last step."""
    run = prepare(replace(MLP, rule=rule, norm="none", dtype="float64", batch_size=50, rotate=20.0, crop=1, seed=3))
    _, first = next(training_order(3, 0, 1437, 50))
    x = ((DIGITS.train_images[first] - DIGITS.mean) / DIGITS.std).reshape(50, -1)
    for record in epochs(run):
        y, slopes = x, []
        *hidden, output = run.network.synapses
        for s in hidden:
            slopes.append(y @ s.W.T + s.b > 0)
            y = (y @ s.W.T + s.b) * slopes[-1]
        p = np.exp(y @ output.W.T + output.b)
        error = own = wanted = (p / p.sum(axis=1)[:, None] - np.eye(10)[DIGITS.train_labels[first]]) / 50
        layers = zip(hidden, run.network.with_feedback, feedback(run), slopes)
        for below, s, B, slope in reversed(list(layers)):
            own = slope * ((error if rule in ("dfa", "dkp") else own) @ B.T)
            wanted = slope * (wanted @ s.W)
            assert record["delta_angles"][below.name] == pytest.approx(degrees(own, wanted), abs=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_measuring_angles_leaves_no_trace(rule):
    """Neither in the running statistics of batch norm nor anywhere else."""
    plain, measured = (training(RESNET, rule=rule) for _ in range(2))
    for run in (plain, measured):
        for s in run.network.with_feedback:
            run.rule.before_training(s)
    x, labels = next(plain.feed.train_batches(0))
    for _ in range(3):
        loss, logits = plain.step(x, labels)
        loss_m, logits_m = measured.step(x, labels)
        delta_angles(measured.network, measured.rule, measured.loss, *measured.feed.fixed_batch())
        assert loss == loss_m and np.array_equal(logits, logits_m)
        plain.position, measured.position = plain.position + 1, measured.position + 1
    assert same(arrays(plain), arrays(measured))
    assert resuming.state(plain)[1] == resuming.state(measured)[1]


def test_the_last_step_of_an_epoch_yields_its_record():
    run = training(epochs=2)
    assert [record and record["epoch"] for record in run.run()] == [None, None, 1, None, None, 2]


@pytest.mark.parametrize(
    "config, stops", [(MLP, range(1, 7)), pytest.param(RESNET, (1, 3, 5), marks=pytest.mark.slow)], ids=["mlp", "resnet8"]
)
@pytest.mark.parametrize("rule", RULES)
def test_training_goes_on_from_any_step(config, stops, rule):
    whole = training(config, rule=rule)
    wanted = records(whole)
    for done in stops:
        left, fresh = training(config, rule=rule), training(config, rule=rule)
        assert len(list(islice(left.run(), done))) == done
        assert (left.epoch, left.position) == divmod(done, 3)
        saved, plain = resuming.state(left)
        resuming.check_training(saved, plain, fresh)
        resuming.restore(fresh, saved, json.loads(json.dumps(plain)))
        assert records(fresh) == wanted[left.epoch :]
        assert same(arrays(fresh), arrays(whole)) and fresh.best == whole.best


# --- evaluation -------------------------------------------------------------------------------------------


def test_prepared_images_have_mean_0_and_variance_1():
    run = training(dtype="float64", data=load_synthetic(None, shape=(8, 8, 3), train=60, test=10))
    x = np.concatenate([images for images, _ in run.feed.train_batches(0)])
    assert len(x) == 60
    np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(x.std(axis=(0, 1, 2)), 1, rtol=1e-9)


@pytest.mark.parametrize("batch_size", [7, 30, 256])
@pytest.mark.parametrize("norm", ["none", "before"])
def test_evaluation_by_hand(norm, batch_size):
    run = training(dtype="float64", norm=norm)
    records(run)
    train, x = SMALL.train_images.astype(float), SMALL.test_images.astype(float)
    y = ((x - train.mean()) / (train.std() + 1e-8)).reshape(len(x), -1)
    *hidden, output = run.network.synapses
    for i, s in enumerate(hidden):
        y = y @ s.W.T + s.b
        if norm == "before":
            n = run.network.norms[i]
            y = n.gamma * (y - n.running_mean) / np.sqrt(n.running_var + 1e-5) + n.beta
        y = np.where(y > 0, y, 0)
    logits = y @ output.W.T + output.b
    p = np.exp(logits) / np.exp(logits).sum(axis=1)[:, None]
    loss = -np.log(p[np.arange(len(x)), SMALL.test_labels]).mean()
    right = sum(int(p[i].argmax() == SMALL.test_labels[i]) for i in range(len(x)))
    found_loss, found_error, count = run.evaluate(run.feed.test_batches(batch_size))
    assert found_loss == pytest.approx(loss, rel=1e-11)
    assert found_error == pytest.approx(100 * (1 - right / len(x)))


@pytest.mark.parametrize("rule", RULES)
def test_evaluation_changes_nothing(rule):
    run = training(RESNET, rule=rule)
    records(run)
    before, plain = arrays(run), str(resuming.state(run)[1])
    run.evaluate(run.feed.train_batches(0))
    assert same(before, arrays(run))
    assert str(resuming.state(run)[1]) == plain


def test_evaluation_does_not_disturb_training():
    plain, disturbed = training(RESNET, rule="brsf"), training(RESNET, rule="brsf")
    watch(disturbed, lambda run, *_: run.evaluate(run.feed.test_batches()))
    assert records(plain) == records(disturbed)
    assert same(arrays(plain), arrays(disturbed))


# --- the learning rate ------------------------------------------------------------------------------------


def cosine(step, steps, warm):
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def staircase(step, steps, warm):
    return 1.0 if step < 10 else 0.1 if step < 15 else 0.01


SHAPES = {"cosine": cosine, "step": staircase, "constant": lambda step, steps, warm: 1.0}


@pytest.mark.parametrize("schedule", SHAPES)
@pytest.mark.parametrize("warmup, warm", [(0.0, 0), (0.2, 4)])
def test_each_step_uses_its_learning_rate(schedule, warmup, warm):
    """W moves by exactly -lr delta y^T, with the lr of the schedule: 20 steps, of which 4 warm up."""
    run = training(dtype="float64", schedule=schedule, warmup=warmup, lr=0.4, momentum=0.0, weight_decay=0.0,
                   epochs=5, batch_size=20)  # fmt: skip
    s = run.network.synapses[1]
    weights = [s.W.copy()]

    def rate(run, *_):
        moved, (i, j) = weights[-1] - s.W, np.unravel_index(abs(s.W_gradient).argmax(), s.W_gradient.shape)
        weights.append(s.W.copy())
        return moved[i, j] / s.W_gradient[i, j]

    rates = watch(run, rate)
    records(run)
    shape = partial(SHAPES[schedule], steps=20, warm=warm)
    wanted = [0.4 * (step + 1) / warm if step < warm else 0.4 * shape(step) for step in range(20)]
    assert rates == pytest.approx(wanted, rel=1e-9, abs=1e-12)


# --- divergence -------------------------------------------------------------------------------------------


def spoil(run, at, value):
    """The loss of training step `at`, counted from 0, becomes value; returns every step's learning rate."""
    step, rates = run.step, []

    def spoilt(images, labels):
        loss, logits = step(images, labels)
        rates.append(float(run.sgd.lr))
        return (value if len(rates) == at + 1 else loss), logits

    run.step = spoilt
    return rates


@pytest.mark.parametrize("epoch, step", [(1, 1), (1, 20), (1, 21), (1, 40), (1, 45), (2, 1), (2, 7), (3, 41)])
@pytest.mark.parametrize("value", [np.float32("nan"), np.float32("inf")])
def test_divergence_names_the_first_bad_step(epoch, step, value):
    run = training(data=DIGITS, epochs=3, hidden=(4,))
    at = 45 * (epoch - 1) + step - 1
    rates = spoil(run, at, value)
    done = []
    with pytest.raises(Diverged) as caught:
        for record in epochs(run):
            done.append(record["epoch"])
    named = f"the loss became {value} in epoch {epoch}, step {step} of 45, at learning rate {rates[at]:g};"
    assert str(caught.value).startswith(named)
    assert "\n" not in str(caught.value)
    assert done == list(range(1, epoch))
    assert len(rates) < at + 1 + 20  # noticed soon


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("changes", [
    {"lr": 1e9}, {"lr": 1e9, "rule": "wm"}, {"lr": 1e20, "loss": "sigmoid"},
    {"lr": 1e9, "activation": "tanh"}, {"lr": 1e30, "norm": "before"}, {"lr": 1e300, "dtype": "float64"},
], ids=str)  # fmt: skip
def test_real_divergence_names_the_first_bad_step_without_warnings(changes):
    run = training(data=DIGITS, **{"norm": "none", **changes})
    seen = watch(run, lambda run, images, labels, loss, logits: (float(loss), run.schedule(run.position)))
    with pytest.raises(Diverged) as caught:
        records(run)
    first = next(i for i, (loss, _) in enumerate(seen) if not math.isfinite(loss))
    loss, lr = seen[first]
    assert str(caught.value).startswith(f"the loss became {loss} in epoch 1, step {first + 1} of 45, ")
    assert re.search(r"at learning rate (\S+);", str(caught.value))[1] == f"{lr:g}"


def test_divergence_in_an_epoch_s_last_step_is_found_too():
    """That step's loss was finite; what it did to the weights shows in the test loss alone."""
    run = training(data=SMALL, norm="none", batch_size=70, epochs=1, lr=1e30, warmup=0.0)
    with pytest.raises(Diverged, match="epoch 1"):
        records(run)


# --- misfits ----------------------------------------------------------------------------------------------


def test_a_network_that_does_not_fit_is_refused_at_once():
    with pytest.raises(InputError, match="conv2.*5x5.*4x4x6"):
        training(model="lenet")


def test_the_first_loss_is_that_of_the_first_weights():
    run = training(dtype="float64", batch_size=70, momentum=0.0, norm="none")
    seen = watch(run, lambda run, images, labels, loss, logits: float(loss))
    fresh = training(dtype="float64", norm="none")
    records(run)
    logits = fresh.network.forward(fresh.feed.normalise(SMALL.train_images))
    assert seen[0] == pytest.approx(float(softmax_cross_entropy(logits, SMALL.train_labels)[0]), rel=1e-12)
