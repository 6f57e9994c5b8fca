"""Data sets in memory: the images stay on the device as bytes, and a training batch takes a few array operations.

A feed supplies the training loop with batches.  The images in batch i of an epoch and their augmentation depend on
(seed, epoch, i) alone.  So a run that is resumed within an epoch sees the same batches as one that was not stopped, and
several processes, each with its shard of every batch (distributed.group.ProcessGroup), see together what one would see.
"""

import contextlib
import hashlib
import time
from itertools import islice

from wtref import randomness
from wtref.datasets.augment import Augmentation, Normalise
from wtref.datasets.base import doubts
from wtref.device import to_host
from wtref.distributed.group import SINGLE


class MemoryFeed:
    """Batches of a Dataset.

    Attributes: shape (H, W, C), classes, class_names, train_count, test_count, steps (per epoch), doubts, skipped and
    left_out (lines of text about the data, about unreadable images, and about other files in an image folder).
    """

    def __init__(self, dataset, device, batch_size, seed, augmentation=Augmentation(), group=SINGLE):
        """dataset: Dataset; device: device.Device; seed: an integer of at least 0; group: the processes that share each batch."""
        self.group = group
        self.device, self.batch_size, self.seed, self.augmentation = device, batch_size, seed, augmentation
        self.dataset, self.shape, self.classes = dataset, dataset.shape, dataset.classes
        self.skipped = getattr(dataset, "skipped", ())
        self.left_out = getattr(dataset, "left_out", ())
        self.class_names = dataset.class_names or tuple(map(str, range(dataset.classes)))
        self.doubts = doubts(self.class_names, dataset.train_labels, dataset.test_labels)
        self.train_count, self.test_count = len(dataset.train_labels), len(dataset.test_labels)
        self.steps = batch_count(self.train_count, batch_size)
        self.train = device.raw(dataset.train_images), device.raw(dataset.train_labels)
        self.test = device.raw(dataset.test_images), device.raw(dataset.test_labels)
        self.normalise = Normalise(device, dataset.shape, dataset.mean, dataset.std)

    def about(self):
        """A description of the data in plain values: all that is needed to recognise them, and to prepare other images alike."""
        data, digest = self.dataset, hashlib.sha256()
        for array in (data.train_images, data.train_labels, data.test_images, data.test_labels):
            digest.update(array.tobytes())
        return {"shape": data.shape, "class_names": self.class_names, "mean": data.mean.tolist(), "std": data.std.tolist(),
                "levels": data.levels, "train": self.train_count, "test": self.test_count,
                "sha256": digest.hexdigest()}  # fmt: skip

    def train_batches(self, epoch, first=0):
        """Yield (images (n, H, W, C), augmented and normalised, labels (n,)), from batch `first` of the epoch on."""
        images, labels = self.train
        for i, batch in training_order(self.seed, epoch, self.train_count, self.batch_size, first):
            shard = self.group.shard(len(batch))
            mine = self.device.raw(batch[shard])
            rng = randomness.generator(self.seed, randomness.VARIATION, epoch, i)
            yield self.normalise(self.augmentation(images[mine], rng, len(batch), shard)), labels[mine]

    def fixed_batch(self):
        """(images, labels) of one batch of training images without augmentation, the same at all times and in all processes."""
        _, batch = next(training_order(self.seed, 0, self.train_count, self.batch_size))
        images, labels = (array[self.device.raw(batch)] for array in self.train)
        return self.normalise(images), labels

    def test_batches(self, batch_size=256):
        """Yield (images (n, H, W, C), normalised, labels (n,)); each test image occurs once, in one process of the group."""
        shard = self.group.shard(self.test_count)
        images, labels = (array[shard] for array in self.test)
        for start in range(0, len(labels), batch_size):
            batch = slice(start, start + batch_size)
            yield self.normalise(images[batch]), labels[batch]


def training_order(seed, epoch, count, batch_size, first=0):
    """Yield (i, indices (n,)) for each batch i of an epoch, from batch `first` on; each index occurs once in an epoch."""
    order = randomness.generator(seed, randomness.ORDER, epoch).permutation(count)
    steps = batch_count(count, batch_size)
    for i in range(first, steps):
        yield i, order[i * batch_size : (i + 1) * batch_size if i + 1 < steps else count]


def batch_count(count, batch_size):
    """The number of batches in an epoch.  A single last image, whose batch would have no variance, joins the batch before."""
    return max(-(-(count - 1) // batch_size), 1) if batch_size > 1 else count


def images_per_second(feed, batches=20):
    """The number of training images per second that a feed supplies, measured over a number of batches."""
    count, start = 0, time.perf_counter()
    with contextlib.closing(feed.train_batches(epoch=0)) as source:
        for images, _ in islice(source, batches):
            to_host(images[-1:, -1, -1, -1])  # waits for the device
            count += len(images)
    return count / (time.perf_counter() - start)
