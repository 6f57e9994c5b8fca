"""The training loop: the same run for the same seed, learning under every rule, honest numbers."""

import math
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from small_trainings import DIGITS, MLP, RESNET, SMALL, arrays, epochs, records, same, training, watch
from wtref.datasets.synthetic import load_synthetic
from wtref.errors import Diverged, InputError
from wtref.losses import softmax_cross_entropy
from wtref.relatives import RULES
from wtref.training import evaluate

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


def test_a_test_on_no_images_is_one_line():
    with pytest.raises(InputError, match="^there are no test images that can be read$"):
        evaluate(None, softmax_cross_entropy, [])
