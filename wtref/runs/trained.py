"""A run's trained network, for eval, predict and export: needs the run's folder, not its data set."""

import numpy as np

from wtref import datasets, models
from wtref.datasets.augment import Normalise
from wtref.errors import InputError
from wtref.fast import accelerate
from wtref.losses import LOSSES
from wtref.runs import recovery
from wtref.runs.run_files import Images
from wtref.text import counted
from wtref.training import evaluate


class Trained:
    """A run's network as a checkpoint has it, and what its images are.

    Attributes: run, config, images (run_files.Images), device, network, checkpoint (which one it is, in words), normalise
    (bytes to the network's input, by the statistics of the run's own training images).
    """

    def __init__(self, run, checkpoint="last", device=None):
        """run: runs.Run; checkpoint: "best" or "last"; device: a name; None: the run's own."""
        run.check_plugin()
        self.run, self.config, self.images = run, run.config(), run.images()
        self.device = self.config.open_device(device)
        classes = len(self.images.class_names)
        self.network = models.build(self.config.model, self.images.shape, classes, self.config.model_options)
        self.network.initialise(self.device, np.random.default_rng(0))
        self.fast = accelerate(self.network, self.device)
        plain = recovery.load(run, self.network, self.device, checkpoint)
        place = f"{counted(plain['epoch'], 'epoch')} and {counted(plain['position'], 'step')}"
        self.checkpoint = f"{run.name}: {checkpoint} checkpoint, after {place}"
        self.normalise = self._normalise(self.images.levels)

    def open_feed(self, config):
        """The feed of a Config's data set, its images normalised as the run's own were.

        Raises InputError if its images or classes are not those that the network was trained on.
        """
        feed = datasets.open_feed(config, self.device)
        found = Images.of(feed.about())
        check_images(found, self.images, f"--dataset {config.dataset}", f"run {self.run.name!r}")
        if found.sha256 != self.images.sha256:
            feed.normalise = self._normalise(found.levels)
        return feed

    def evaluate(self, feed):
        """Mean loss in nats, error in percent and number of a feed's test images."""
        return evaluate(self.fast, LOSSES[self.config.loss], feed.test_batches())

    def _normalise(self, levels):
        """By the run's own statistics, for pixels from 0 to `levels`."""
        scale = levels / self.images.levels if self.images.levels else 1  # 1 for floats
        mean, std = (np.array(statistic) * scale for statistic in (self.images.mean, self.images.std))
        return Normalise(self.device, self.images.shape, mean, std)


def check_images(found, wanted, theirs, ours):
    """Raise InputError unless images of found are what a network for images of `wanted` takes; both run_files.Images.

    theirs, ours: what they are called in messages.
    """
    if found.shape != wanted.shape:
        size, right = ("x".join(map(str, images.shape)) for images in (found, wanted))
        raise InputError(f"{theirs} has images of {size}, which does not fit {ours}: its images are {right}")
    if bool(found.levels) != bool(wanted.levels):
        kinds = "bytes, {} floats" if found.levels else "floats, {} bytes"
        raise InputError(f"{theirs} has images of {kinds.format(f'{ours} has images of')}; they must be of one kind")
    if len(found.class_names) != len(wanted.class_names):
        counts = f"{len(found.class_names)} classes, {ours} has {len(wanted.class_names)}"
        raise InputError(f"{theirs} has {counts}; they must be the same, in the same order")
    for number, (name, right) in enumerate(zip(found.class_names, wanted.class_names)):
        if name != right:
            difference = f"class {number} of {theirs} is {name!r}, of {ours} {right!r}"
            raise InputError(f"{difference}; classes must be the same, in the same order")
