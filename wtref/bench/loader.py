"""`run.py bench loader`: does the data set keep up with the training step?"""

import time
from itertools import islice
from statistics import median

from wtref.bench.turns import WARM_UP
from wtref.datasets.memory import images_per_second
from wtref.device import to_host
from wtref.runs.prepare import prepare
from wtref.text import wrapped


def measure(config, batches):
    """Time the loader of a Config's data set and its training step, over so many batches each; returns a row."""
    training = prepare(config)
    loader, step = images_per_second(training.feed, batches), _step_images_per_second(training, batches)
    about = {name: getattr(config, name) for name in ("dataset", "model", "rule", "batch_size")}
    return about | {"device": training.device.name, "loader_images_per_second": loader, "step_images_per_second": step}


def _step_images_per_second(training, batches):
    images, labels = next(islice(training.feed.train_batches(epoch=0), 1))
    seconds = []
    for _ in range(WARM_UP + batches):
        start = time.perf_counter()
        loss, _ = training.step(images, labels)
        to_host(loss)  # wait for the device
        seconds.append(time.perf_counter() - start)
    return len(images) / median(seconds[WARM_UP:])


def line(row):
    """A row as text."""
    loader, step = (f"{row[f'{name}_images_per_second']:,.0f} images/s" for name in ("loader", "step"))
    return "\n".join((
        wrapped(f"{row['dataset']} at batch {row['batch_size']}: the loader alone gives {loader}"),
        wrapped(f"{row['model']} under {row['rule']} on {row['device']}: the training step takes {step}"),
    ))  # fmt: skip
