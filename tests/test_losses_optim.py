"""Losses, SGD and schedules against PyTorch, finite differences and values worked out by hand."""

import math

import numpy as np
import pytest

from helpers import assert_gradient, close
from wtref.errors import InputError
from wtref.losses import LOSSES, one_hot, sigmoid_cross_entropy, softmax_cross_entropy
from wtref.optim import SGD, Schedule, aligning_decay

LABELS = np.array([2, 0, 3, 3, 1])


# --- losses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES.values())
@pytest.mark.parametrize("scale", [0.1, 1, 10])
def test_delta_is_the_slope_of_the_loss(loss, scale):
    rng = np.random.default_rng(0)
    logits = scale * rng.standard_normal((5, 4))
    assert_gradient(lambda: loss(logits, LABELS)[0], logits, loss(logits, LABELS)[1], rng)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [0.1, 1, 10, 1000])
def test_losses_against_torch(name, scale):
    torch = pytest.importorskip("torch")
    logits = scale * np.random.default_rng(0).standard_normal((5, 4))
    theirs, labels = torch.tensor(logits, requires_grad=True), torch.tensor(LABELS)
    if name == "softmax":
        wanted = torch.nn.functional.cross_entropy(theirs, labels)
    else:
        target = torch.nn.functional.one_hot(labels, 4).double()
        wanted = torch.nn.functional.binary_cross_entropy_with_logits(theirs, target, reduction="sum") / 5
    wanted.backward()
    loss, delta = LOSSES[name](logits, LABELS)
    assert close(loss, wanted.item()) and close(delta, theirs.grad.numpy())


def test_losses_by_hand():
    """Equal logits: log 4 nats of surprise; four coins: 4 log 2."""
    logits, label = np.zeros((1, 4)), np.array([1])
    loss, delta = softmax_cross_entropy(logits, label)
    assert math.isclose(loss, math.log(4), rel_tol=1e-15) and delta.tolist() == [[0.25, -0.75, 0.25, 0.25]]
    loss, delta = sigmoid_cross_entropy(logits, label)
    assert math.isclose(loss, 4 * math.log(2), rel_tol=1e-15) and delta.tolist() == [[0.5, -0.5, 0.5, 0.5]]


def test_extreme_logits_in_single_precision():
    """One certain and right, one certain and wrong: the second costs the whole difference."""
    logits, labels = np.array([[1e4, -1e4], [1e4, -1e4]], np.float32), np.array([0, 1])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        softmax, softmax_delta = softmax_cross_entropy(logits, labels)
        sigmoid, sigmoid_delta = sigmoid_cross_entropy(logits, labels)
    assert softmax == 1e4 and softmax_delta.tolist() == [[0, 0], [0.5, -0.5]]
    assert sigmoid == 1e4 and sigmoid_delta.tolist() == [[0, 0], [0.5, -0.5]]


@pytest.mark.parametrize("loss", LOSSES.values())
def test_losses_keep_single_precision(loss):
    value, delta = loss(np.ones((5, 4), np.float32), LABELS)
    assert value.dtype == delta.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_one_hot(dtype):
    target = one_hot(np.array([2, 0], dtype), np.zeros((2, 3), np.float32))
    assert target.tolist() == [[0, 0, 1], [1, 0, 0]] and target.dtype == np.float32


# --- SGD ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_decay", [0, 0.03])
@pytest.mark.parametrize("momentum, nesterov", [(0, False), (0.9, False), (0.9, True)])
def test_sgd_against_torch(momentum, nesterov, weight_decay):
    """20 steps under a changing learning rate; the second array does not decay."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    arrays = {"W": rng.standard_normal((3, 4)), "b": rng.standard_normal(3)}
    W, b = torch.tensor(arrays["W"]), torch.tensor(arrays["b"])
    groups = [{"params": [W]}, {"params": [b], "weight_decay": 0}]
    theirs = torch.optim.SGD(groups, lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    ours = SGD(arrays, 0.1, momentum, nesterov, weight_decay)
    for step in range(20):
        ours.lr = 0.1 / (1 + step)
        for group in theirs.param_groups:
            group["lr"] = ours.lr
        gradients = rng.standard_normal((3, 4)), rng.standard_normal(3)
        W.grad, b.grad = map(torch.tensor, gradients)
        ours.descend(arrays["W"], gradients[0], decay=True)
        ours.descend(arrays["b"], gradients[1], decay=False)
        theirs.step()
        assert close(arrays["W"], W.numpy()) and close(arrays["b"], b.numpy())


def test_sgd_by_hand():
    """The paper's step with lr 0.5 and lambda = 0.5 * 0.1: w -= 0.5 (2 + 0.1 w)."""
    W = np.array([10.0])
    SGD({"W": W}, 0.5, weight_decay=0.1).descend(W, np.array([2.0]), decay=True)
    assert W.tolist() == [8.5]


@pytest.mark.parametrize("decay", [True, False])
def test_sgd_works_in_place_and_spares_the_gradient(decay):
    W, gradient = np.ones(3), np.ones(3)
    sgd = SGD({"W": W}, 0.1, 0.9, weight_decay=0.1)
    for _ in range(2):
        sgd.descend(W, gradient, decay)
    assert sgd.arrays["W"] is W and (W < 1).all()
    assert gradient.tolist() == [1, 1, 1] and not np.shares_memory(sgd.velocity["W"], gradient)


def test_arrays_of_one_name_have_velocities_of_their_own():
    """Two layers' W, and one layer's W and B, all of one shape and equal to begin with."""
    arrays = {name: np.zeros(1) for name in ("a.W", "a.B", "b.W")}
    sgd = SGD(arrays, 1, momentum=0.5)
    for name, gradient in [("a.W", 1), ("a.B", 10), ("b.W", 100)] * 2:
        sgd.descend(arrays[name], np.array([float(gradient)]), decay=True)
    assert [float(x[0]) for x in arrays.values()] == [-2.5, -25, -250]  # 1 + (0.5 + 1)
    assert sgd.velocity.keys() == arrays.keys()


def test_what_has_not_moved_has_no_velocity():
    """A restored run has those of the arrays that had moved, by their names."""
    arrays = {"a.W": np.zeros(1), "a.b": np.zeros(1)}
    sgd = SGD(arrays, 0.1, 0.9, weight_decay=0.1)
    assert sgd.velocity == {}
    sgd.descend(arrays["a.b"], np.ones(1), decay=False)
    assert list(sgd.velocity) == ["a.b"] and sgd.velocity["a.b"].tolist() == [1]


def test_only_the_arrays_it_was_given_are_descended():
    """Not a copy, nor a view: neither has a velocity."""
    W = np.ones((2, 2))
    sgd = SGD({"W": W}, 0.1)
    for other in (W.copy(), W.T, W[:]):
        with pytest.raises(InputError, match="array that the SGD was not made with; make the SGD once every layer has its B"):
            sgd.descend(other, np.ones((2, 2)), decay=True)
    assert (W == 1).all()


# --- schedules ---------------------------------------------------------------------------------------------


def rates(*arguments, **options):
    schedule = Schedule(*arguments, **options)
    return [schedule(step) for step in range(schedule.steps)]


def assert_rates(found, wanted):
    assert found == pytest.approx(wanted, rel=1e-14, abs=1e-16)


def test_a_constant_rate_after_its_warm_up():
    assert_rates(rates("constant", 0.8, 8, warmup=0.5), [0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8])


def test_without_warm_up_the_first_step_has_the_whole_rate():
    for kind in ("constant", "step", "cosine"):
        assert Schedule(kind, 0.3, 10)(0) == 0.3


def test_step_divides_by_ten_at_each_milestone():
    assert_rates(rates("step", 1, 8), [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert_rates(rates("step", 2, 5, milestones=(0.2, 0.4, 0.8)), [2, 0.2, 0.02, 0.02, 0.002])


def test_the_seed_repository_s_milestones():
    """Epochs 90 and 150 of 180, 196 steps each."""
    schedule = Schedule("step", 0.1, 180 * 196, milestones=(90 / 180, 150 / 180))
    found = [schedule(epoch * 196 + step) for epoch, step in ((90, -1), (90, 0), (150, -1), (150, 0))]
    assert_rates(found, [0.1, 0.01, 0.01, 0.001])


@pytest.mark.parametrize("milestone, steps", [(0.55, 100), (0.07, 100), (0.14, 50), (0.57, 100)])
def test_a_milestone_falls_on_its_own_step(milestone, steps):
    """0.55 * 100 is 55.00000000000001 in floating point; the rate falls at step 55 all the same."""
    schedule, at = Schedule("step", 1, steps, milestones=(milestone,)), round(milestone * steps)
    assert_rates([schedule(at - 1), schedule(at)], [1, 0.1])


def test_cosine_goes_from_the_whole_rate_towards_nothing():
    """With root = sqrt(1/2): cos 0, 45, 90 and 135 degrees."""
    root = math.sqrt(0.5)
    assert_rates(rates("cosine", 2, 4), [2, 1 + root, 1, 1 - root])
    schedule = Schedule("cosine", 2, 4)
    assert schedule(4) == 0


def test_cosine_starts_after_the_warm_up():
    root = math.sqrt(0.5)
    assert_rates(rates("cosine", 2, 8, warmup=0.5), [0.5, 1, 1.5, 2, 2, 1 + root, 1, 1 - root])


def test_warm_up_and_milestones_are_both_fractions_of_all_steps():
    assert_rates(rates("step", 4, 8, warmup=0.25), [2, 4, 4, 4, 0.4, 0.4, 0.04, 0.04])


def test_an_unknown_schedule():
    with pytest.raises(InputError, match="'stairs'; choose from: constant, step, cosine"):
        Schedule("stairs", 0.1, 10)


# --- Kolen-Pollack's decay --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["constant", "step", "cosine"])
@pytest.mark.parametrize("steps, lr, momentum", [(4000, 0.1, 0.9), (9000, 0.05, 0.9), (8000, 0.2, 0.0), (2000, 0.1, 0.9)])
def test_b_aligns_within_the_run(kind, steps, lr, momentum):
    """The recursion that W - B^T obeys, step by step, ends at the 5 % that the formula aims at; with momentum, a little below."""
    schedule = Schedule(kind, lr, steps, warmup=0.05)
    decay = aligning_decay(schedule, momentum)
    assert 5e-4 <= decay <= 0.03
    distance, velocity = 1.0, 0.0
    for step in range(steps):
        velocity = momentum * velocity + decay * distance
        distance -= schedule(step) * velocity
    assert (0.92 if momentum else 0.998) * 0.05 < distance < 0.05


def test_a_long_run_decays_as_usual_and_a_very_short_one_not_without_bounds():
    assert aligning_decay(Schedule("cosine", 0.1, 100_000), 0.9) == 5e-4
    assert aligning_decay(Schedule("cosine", 0.1, 20), 0.9) == 0.03
    assert aligning_decay(Schedule("constant", 0.1, 10**15), 0.9) == 5e-4, "without a look at all steps"


@pytest.mark.parametrize(
    "labels, found",
    [(np.array([[0], [1]]), r"\(2, 1\)"), (np.eye(3, dtype=int)[:2], r"\(2, 3\)"), (np.array([0]), r"\(1,\)"), ([0, 1], "list")],
)
@pytest.mark.parametrize("loss", LOSSES.values())
def test_labels_of_another_shape_are_one_line(loss, labels, found):
    with pytest.raises(InputError, match=rf"^labels must be an array of shape \(2,\), one label for each row of the logits, found {found}$"):
        loss(np.zeros((2, 3)), labels)


@pytest.mark.parametrize(
    "labels, found", [([1, 2, 3], "1 to 3"), ([-1, 0, 2], "-1 to 2"), ([0.0, 1.5, 1.0], "float64"), ([True, False, True], "bool")]
)
@pytest.mark.parametrize("loss", LOSSES.values())
def test_labels_of_other_values_are_one_line(loss, labels, found):
    with pytest.raises(InputError, match=f"^labels must be integers from 0 to 2, found {found}$"):
        loss(np.zeros((3, 3)), np.array(labels))
