"""What an epoch reports, and evaluation."""

import json
import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from small_trainings import DIGITS, MLP, RESNET, SMALL, arrays, cpu, epochs, records, same, training, watch
from wtref.angles import delta_angles
from wtref.datasets import Dataset
from wtref.datasets.memory import MemoryFeed, training_order
from wtref.datasets.synthetic import load_synthetic
from wtref.distributed.group import ProcessGroup
from wtref.errors import InputError
from wtref.relatives import RULES
from wtref.runs import resuming
from wtref.runs.prepare import prepare

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
