"""How fast batches come, beside how fast the training step takes them."""

import time
from itertools import islice
from statistics import median

from wtref.backend import to_host
from wtref.datasets.memory import images_per_second

WARM_UP = 2  # steps before the clock starts


def loader_and_step(training, batches=10):
    """(images/s that the feed hands out alone, images/s of the training step on one batch; median of `batches`)."""
    loader = images_per_second(training.feed, batches)
    images, labels = next(islice(training.feed.train_batches(epoch=0), 1))
    seconds = []
    for _ in range(WARM_UP + batches):
        start = time.perf_counter()
        loss, _ = training.train_step(images, labels)
        to_host(loss)  # wait for the device
        seconds.append(time.perf_counter() - start)
    return loader, len(images) / median(seconds[WARM_UP:])
