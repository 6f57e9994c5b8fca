"""Pretraining with random noise: feedback alignment's own steps, before the first image, once."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from wtref.datasets.memory import MemoryFeed
from wtref.datasets.synthetic import load_synthetic
from wtref.distributed.group import ProcessGroup
from wtref.randomness import PRETRAINING, generator
from wtref.runs import resuming
from wtref.runs.config import Config
from wtref.runs.prepare import prepare
from wtref.runs.pretraining import add_noise_steps

DATA = load_synthetic(None, shape=(4, 4, 1), train=40, test=12)
MLP = Config(model="mlp", hidden=(7, 6), rule="fa", epochs=2, batch_size=16, dtype="float64", device="cpu",
             kernels="plain", weight_decay=0.05, lr=0.2, warmup=0.5, noise_steps=5, seed=3)  # fmt: skip
RESNET = replace(MLP, model="resnet8", kernels="auto", dtype="float32")


def training(config=MLP):
    device = config.open_device()
    return prepare(config, device, feed=MemoryFeed(DATA, device, config.batch_size, config.seed))


def arrays(run):
    return {name: array.copy() for name, array in run.network.arrays().items()}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def end(run):
    """All that a run leaves."""
    for _ in run.run():
        pass
    return resuming.state(run)[0]


def steps_by_hand(config, learned, steps):
    """The W and b of an mlp after feedback alignment's steps on noise, each example on its own."""
    rng, classes = generator(config.seed, PRETRAINING), 10
    x = {name: array.copy() for name, array in learned.items()}
    velocity = {name: 0 * array for name, array in x.items()}
    names = ("hidden1", "hidden2", "output")
    for _ in range(steps):
        images, labels = rng.standard_normal((config.batch_size, 4, 4, 1)), rng.integers(classes, size=config.batch_size)
        gradient = {name: 0 * array for name, array in x.items()}
        for image, label in zip(images, labels):
            y = [image.ravel()]
            for name in names:
                a = x[f"{name}.W"] @ y[-1] + x[f"{name}.b"]
                y.append(a if name == "output" else np.maximum(a, 0))
            p = np.exp(y[3]) / np.exp(y[3]).sum()
            delta = (p - np.eye(classes)[label]) / config.batch_size
            for layer in (2, 1, 0):
                gradient[f"{names[layer]}.W"] += np.outer(delta, y[layer])  # (4)
                gradient[f"{names[layer]}.b"] += delta
                if layer:
                    delta = (y[layer] > 0) * (x[f"{names[layer]}.B"] @ delta)  # (3)
        for name in x:
            if not name.endswith(".B"):
                decay = config.weight_decay if name.endswith(".W") else 0
                velocity[name] = config.momentum * velocity[name] + gradient[name] + decay * x[name]
                x[name] = x[name] - config.lr * velocity[name]
    return x


def test_noise_steps_are_feedback_alignment_s_own():
    run = training()
    wanted = steps_by_hand(MLP, arrays(run), MLP.noise_steps)
    run.before_training()
    for name, array in run.network.arrays().items():
        assert np.abs(array - wanted[name]).max() < 1e-12
    assert np.abs(wanted["hidden1.W"] - training().network.arrays()["hidden1.W"]).max() > 1e-3


@pytest.mark.parametrize("config", [MLP, RESNET], ids=["mlp", "resnet8"])
def test_no_velocity_is_left_and_training_begins_at_its_own_rate(config):
    run = training(config)
    run.before_training()
    assert run.sgd.velocity and not any(v.any() for v in run.sgd.velocity.values())
    assert run.steps_done == run.seen == 0 and not run.pending
    next(iter(training_steps := run.run()))
    assert run.sgd.lr == run.schedule(0)
    training_steps.close()


def test_a_pretrained_run_is_reproducible():
    first = end(training())
    assert same(first, end(training()))
    for change in ({"seed": 4}, {"noise_steps": 4}, {"noise_steps": 0}):
        assert not same(first, end(training(replace(MLP, **change))))


@pytest.mark.parametrize("config, stop", [(MLP, 1), (MLP, 2), (MLP, 4), (RESNET, 2)])
def test_a_resumed_run_is_not_pretrained_again(config, stop):
    whole = end(training(config))
    stopped = training(config)
    for _ in islice(stopped.run(), stop):
        pass
    kept = resuming.state(stopped)
    resumed = training(config)
    resuming.check_training(*kept, resumed)
    resuming.restore(resumed, *kept)
    assert same(whole, end(resumed))


def test_only_feedback_alignment_is_pretrained():
    for rule in ("bp", "kp", "wm"):
        run, plain = (training(replace(MLP, rule=rule, noise_steps=steps)) for steps in (5, 0))
        assert same(end(run), end(plain))


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_batches_of_noise(size):
    """Together they see the images and labels that one process sees."""

    def seen(rank, size):
        group = ProcessGroup()
        group.rank, group.size = rank, size
        run, batches = training(replace(MLP, noise_steps=0)), []
        run.train_step = lambda network, rule, sgd, loss, images, labels, step: batches.append((images, labels))
        add_noise_steps(run, 3, 16, group, MLP.seed)
        run.before_training()
        return batches

    shards = [seen(rank, size) for rank in range(size)]
    for step, (images, labels) in enumerate(seen(0, 1)):
        assert np.array_equal(np.concatenate([shard[step][0] for shard in shards]), images)
        assert np.array_equal(np.concatenate([shard[step][1] for shard in shards]), labels)
