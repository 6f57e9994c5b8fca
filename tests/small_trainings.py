"""Small trainings, and what the tests of training look at in them."""

from dataclasses import replace
from functools import cache

import numpy as np

from wtref import datasets
from wtref.datasets.memory import MemoryFeed
from wtref.datasets.synthetic import load_synthetic
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
