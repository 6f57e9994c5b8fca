"""Whole training steps on the stand-in for CuPy: host and device arrays never mix, and the results are the CPU's."""

import math
import operator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from device_double import DoubleArray, xp
from helpers import CPU, close
from wtref import activations
from wtref.angles import delta_angles, matrix_angles
from wtref.datasets import Dataset
from wtref.datasets.augment import Augmentation
from wtref.datasets.memory import MemoryFeed
from wtref.device import Device, array_module, to_host
from wtref.losses import one_hot
from wtref.models import MODELS
from wtref.relatives import RULES
from wtref.runs.config import Config
from wtref.runs.prepare import prepare
from wtref.runs.resuming import restore, state

CLASSES, BATCH = 4, 6
QUICK = ("mlp", "lenet", "resnet8")
HOST = np.arange(6.0).reshape(2, 3)


@pytest.fixture
def double():
    """A device of double arrays without ops, on which the plain program runs."""
    return Device("double", xp, np.float64)


# --- the program on the double -----------------------------------------------------------------------------


def images(size, train, test=5):
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(train + test, size, size, 2)).astype(np.uint8)
    labels = rng.integers(CLASSES, size=train + test)
    return Dataset("made up", CLASSES, pixels[:train], labels[:train], pixels[train:], labels[train:])


def feed_of(data, config, device):
    augmentation = Augmentation(config.crop, config.flip, config.rotate)
    return MemoryFeed(data, device, config.batch_size, config.seed, augmentation)


def config(rule="wm", model="mlp", **options):
    small = dict(batch_size=BATCH, epochs=1, hidden=(7, 6), lr=0.05, weight_decay=0.02, mirror_rows=4)
    return Config(rule=rule, model=model, **{**small, **options})


def epochs(training):
    """Train; yields each epoch's record."""
    return (record for record in training.run() if record)


def started(config, device, size=12, steps=3, width=None):
    """A new Training of `steps` steps on random images."""
    options = replace(config.model_options, width=width)  # narrower than a run may ask for
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, "model_options", options)
        return prepare(config, device, feed=feed_of(images(size, steps * BATCH), config, device))


def trained(config, device, measured=True, **options):
    """Train to the end; return (training, the losses and angles of all steps)."""
    training, found = started(config, device, **options), []
    for s in training.network.with_feedback:
        training.rule.before_training(s)
    for pixels, labels in training.feed.train_batches(epoch=0):
        loss, _ = training.step(pixels, labels)
        training.position += 1
        found.append(float(to_host(loss)))
        if measured:
            found += matrix_angles(training.network).values()
            found += delta_angles(training.network, training.rule, training.loss, *training.feed.fixed_batch()).values()
    assert training.position == training.feed.steps
    return training, found


def arrays_of(training):
    velocity = {f"velocity.{name}": v for name, v in training.sgd.velocity.items()}
    return {**training.network.arrays(), **velocity}


def assert_same_on_both(config, double, least=6, **options):
    ours, measured = trained(config, CPU, **options)
    theirs, measured_there = trained(config, double, **options)
    arrays, there = arrays_of(ours), arrays_of(theirs)
    assert list(arrays) == list(there) and len(arrays) >= least
    for name, array in there.items():
        assert type(array) is DoubleArray, name
        assert np.isfinite(arrays[name]).all(), name
        assert close(array.get(), arrays[name]), name
    assert close(measured_there, measured)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("model", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS])
def test_every_model_trains_by_every_rule(double, rule, model):
    assert_same_on_both(config(rule, model), double, measured=False, steps=1, width=2, size=12 if model == "lenet" else 4)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("model", ["mlp", "resnet8"])
def test_every_rule(double, rule, model):
    assert_same_on_both(config(rule, model), double, width=3)


@pytest.mark.parametrize("rule", ["wm", "kp"])
@pytest.mark.parametrize(
    "model, options",
    [
        ("lenet", dict(activation="sigmoid")),
        ("mlp", dict(norm="before", activation="tanh")),
        ("resnet8", dict(norm="after", stem="imagenet")),
        ("resnet8", dict(norm="none", stem="cifar")),
        pytest.param("resnet18", dict(norm="before", stem="imagenet"), marks=pytest.mark.slow),
        pytest.param("resnet50", dict(norm="before", stem="cifar"), marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_network(double, rule, model, options):
    assert_same_on_both(config(rule, model, **options), double, steps=2, width=2)


@pytest.mark.parametrize("momentum, nesterov", [(0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_losses_and_ways_of_descent(double, loss, momentum, nesterov):
    descent = dict(momentum=momentum, nesterov=nesterov, schedule="step")
    assert_same_on_both(config("kp", loss=loss, **descent), double)


@pytest.mark.parametrize(
    "options",
    [dict(mirror_window=3), dict(output_backprop=True), dict(rule="om"), dict(rule="aa"), dict(rule="ia"), dict(rule="fa", noise_steps=2)],
)
def test_every_kind_of_mirror_and_every_option_of_a_rule(double, options):
    assert_same_on_both(config(**options), double)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_single_precision_stays_single(double, rule, loss):
    """Scalars of the host in double precision do not change the dtype of an array."""
    single = replace(double, dtype=np.float32)
    training, _ = trained(config(rule, "resnet8", loss=loss, momentum=0.9), single, width=3, steps=2)
    for s in training.network.with_feedback:
        s.keep_delta = True
    training.step(*training.feed.fixed_batch())
    for s in training.network.with_feedback:
        assert all(x.dtype == np.float32 for x in (s.delta, s.W_gradient, s.b_gradient, s.B) if x is not None), s.name
    for name, array in arrays_of(training).items():
        assert array.dtype == np.float32, name


@pytest.mark.parametrize("options", [{}, dict(crop=2, flip=True, rotate=15.0)])
def test_a_whole_epoch_with_its_evaluation(double, options):
    """The loop of training.py: shuffled batches, a smaller last batch, the test images and the record."""
    wanted, records = config("wm", "lenet", **options), []
    for device in (CPU, double):
        training = prepare(wanted, device, feed=feed_of(images(12, 3 * BATCH + 2), wanted, device))
        records.append(next(epochs(training)))
    ours, theirs = records
    assert set(ours) == set(theirs) and ours["train_loss"] > 0
    for key in set(ours) - {"seconds", "images_per_second"}:
        assert theirs[key] == pytest.approx(ours[key], rel=1e-12, abs=1e-12), key


@pytest.mark.parametrize("done", [1, 2, 3])
@pytest.mark.parametrize("start_on_double", [False, True])
def test_a_run_moves_between_devices(double, start_on_double, done):
    """Saved on one device in mid-epoch or between two, it goes on there or on the other with the same results."""
    wanted, data = config("kp", epochs=2), images(12, 2 * BATCH)
    start = double if start_on_double else CPU
    saved = prepare(wanted, start, feed=feed_of(data, wanted, start))
    assert len(list(islice(saved.run(), done))) == done
    arrays, plain = state(saved)
    arrays = {name: array.copy() for name, array in arrays.items()}
    ends, records = [], []
    for device in (CPU, double):
        training = prepare(wanted, device, feed=feed_of(data, wanted, device))
        restore(training, arrays, plain)
        *_, record = training.run()
        records.append(record)
        ends.append(state(training)[0])
    assert all(close(ends[0][name], ends[1][name]) for name in arrays)
    assert not all(close(ends[0][name], arrays[name]) for name in arrays)
    assert records[0]["epoch"] == records[1]["epoch"] == 2
    for key in ("train_loss", "train_error", "test_loss", "test_error"):
        assert records[0][key] == pytest.approx(records[1][key], rel=1e-12, abs=1e-12), key


# --- mistakes that the double must detect ------------------------------------------------------------------


class HostReLU(activations.ReLU):
    """Calls a NumPy function on an array of the device."""

    def forward(self, a, train=True):
        self.y = np.maximum(a, 0)
        return self.y


class HostMask(activations.ReLU):
    """Multiplies by a mask made on the host."""

    def backward(self, delta):
        return delta * np.ones(delta.shape)


class HostBranch(activations.ReLU):
    """Branches on a number of the device, which waits for the device without .get()."""

    def forward(self, a, train=True):
        return super().forward(a, train) if a.sum() > 0 else super().forward(a, train)


class HostBuffer(activations.ReLU):
    """Writes an array of the device into one of the host."""

    def backward(self, delta):
        buffer = np.empty(delta.shape)
        buffer[...] = delta
        return buffer


@pytest.mark.parametrize("mistake", [HostReLU, HostMask, HostBranch, HostBuffer])
def test_a_layer_that_mixes_host_and_device_is_caught(double, monkeypatch, mistake):
    monkeypatch.setitem(activations.ACTIVATIONS, "relu", mistake)
    trained(config(), CPU)
    with pytest.raises(TypeError):
        trained(config(), double)


def test_a_rule_that_adds_a_host_array_is_caught(double, monkeypatch):
    def learn(rule, s, sgd):
        sgd.descend(s.W, s.W_gradient, decay=True)
        s.W += 1e-9 * np.ones(s.W.shape)

    monkeypatch.setattr(RULES["fa"], "learn", learn)
    trained(config("fa"), CPU)
    with pytest.raises(TypeError):
        trained(config("fa"), double)


def test_labels_left_on_the_host_are_caught(double):
    logits, labels = double.array(np.zeros((2, 3))), np.array([0, 2])
    with pytest.raises(TypeError):
        one_hot(labels, logits)
    assert one_hot(double.raw(labels), logits).get().tolist() == [[1, 0, 0], [0, 0, 1]]


# --- the double itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", "add sub mul truediv pow eq ne lt ge iadd isub imul".split())
def test_operators_refuse_host_arrays_on_either_side(name):
    function = getattr(operator, name)
    host = HOST + 1
    for a, b in ((xp.array(host), host.copy()), (host.copy(), xp.array(host))):
        with pytest.raises(TypeError):
            function(a, b)
    assert np.array_equal(function(xp.array(host), xp.array(host)).get(), function(host.copy(), host))


def test_matrix_products_refuse_host_arrays_on_either_side():
    for a, b in ((xp.array(HOST), HOST.T), (HOST, xp.array(HOST.T))):
        with pytest.raises(TypeError):
            a @ b
    assert np.array_equal((xp.array(HOST) @ xp.array(HOST.T)).get(), HOST @ HOST.T)


HOST_USES = {
    "ufunc": lambda x: np.maximum(x, 0),
    "ufunc out": lambda x: np.exp(HOST, out=x),
    "function": lambda x: np.sum(x),
    "where": lambda x: np.where(HOST > 2, x, 0),
    "concatenate": lambda x: np.concatenate([HOST, x]),
    "stack of rows": lambda x: np.array([x, x]),
    "asarray": lambda x: np.asarray(x),
    "norm": lambda x: np.linalg.norm(x),
    "index": lambda x: HOST[x],
    "assignment": lambda x: operator.setitem(HOST.copy(), ..., x),
    "method": lambda x: HOST.dot(x),
    "float": lambda x: float(x[0, 0]),
    "int": lambda x: int(x[0, 0]),
    "bool": lambda x: bool(x[0, 0] < 1),
    "range": lambda x: range(x[0, 0].astype(np.int64)),
    "item": lambda x: x[0, 0].item(),
    "tolist": lambda x: x.tolist(),
    "math": lambda x: math.sqrt(x[0, 0]),
    "largest": lambda x: max(x[0]),
}

DEVICE_USES = {
    "maximum": lambda x: xp.maximum(x, HOST),
    "concatenate": lambda x: xp.concatenate([x, HOST]),
    "where": lambda x: xp.where(HOST > 2, x, x),
    "exp": lambda x: xp.exp(HOST),
    "norm": lambda x: xp.linalg.norm(HOST),
    "out": lambda x: xp.exp(x, out=HOST.copy()),
    "keyword": lambda x: x.clip(min=HOST),
    "method": lambda x: x.dot(HOST.T),
    "mask": lambda x: x[HOST > 2],
    "indices": lambda x: x[np.array([0, 1])],
    "inner index": lambda x: x[:, np.array([0, 1])],
    "assigned": lambda x: operator.setitem(x, ..., HOST),
    "assigned at": lambda x: operator.setitem(x, HOST > 2, 0),
    "zero-dimensional": lambda x: x * np.array(2.0),
}


@pytest.mark.parametrize("use", HOST_USES.values(), ids=HOST_USES)
def test_numpy_and_python_refuse_device_arrays(use):
    with pytest.raises(TypeError):
        use(xp.array(HOST))


@pytest.mark.parametrize("use", DEVICE_USES.values(), ids=DEVICE_USES)
def test_device_functions_refuse_host_arrays(use):
    with pytest.raises(TypeError):
        use(xp.array(HOST))


def test_results_stay_on_the_device():
    x = xp.array(HOST)
    for result in (x.sum(), x[0, 0], xp.linalg.norm(x), x.mean(axis=0), x > 2, -x, abs(x), 2 - x, x.T):
        assert type(result) is DoubleArray
    assert x.sum().shape == () and type(x.sum().get()) is np.ndarray and x.sum().get() == 15


def test_numbers_may_meet_arrays():
    x = xp.array(HOST)
    for two in (2, 2.0, np.float64(2), np.int64(2)):
        for result in (x * two, two * x, xp.maximum(x, two), x[: int(two)] + two):
            assert type(result) is DoubleArray
        assert np.array_equal((two * x).get(), 2 * HOST)


def test_the_ways_in_and_out_copy():
    host = HOST.copy()
    x = xp.array(host)
    host[0, 0] = 99
    out = x.get()
    out[0, 1] = 99
    assert np.array_equal(x.get(), HOST)


def test_views_and_changes_in_place_work_as_on_the_host():
    x = xp.array(HOST)
    row, same = x[1], x
    row += 10
    same *= 2
    x.T[0, 0] = -1
    assert same is x and np.array_equal(x.get(), [[-1, 2, 4], [26, 28, 30]])
    assert xp.exp(x, out=x) is x and x.get()[0, 0] == np.exp(-1)


def test_an_array_leads_to_its_module():
    assert array_module(xp.array(HOST)) is xp and array_module(HOST) is np
