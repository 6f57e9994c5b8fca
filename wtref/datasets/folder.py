"""Image folders (listing.py says in what layout), decoded by Pillow in threads ahead of the training step.

Sizes, modes and formats may be mixed; reading.py and augment.py make them alike.

Threads, not processes: Pillow lets go of the interpreter's lock while it decodes and resizes.  Two threads
and two processes decoded 500x375 JPEGs equally fast within 7 % on two cores; threads need no copies between.
"""

import contextlib
import functools
import hashlib
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from wtref import randomness
from wtref.datasets.augment import Normalise
from wtref.datasets.base import Dataset, doubts
from wtref.datasets.listing import list_folder
from wtref.datasets.memory import batch_count, training_order
from wtref.datasets.reading import BadImage, read_image
from wtref.datasets.views import central_view, random_view
from wtref.distributed.group import SINGLE
from wtref.errors import InputError, check_choice
from wtref.fast.ops import cores

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, as everybody uses them
AHEAD = 2  # batches that may wait, decoded, for the training step
PIECE = 4  # images that a thread takes at a time, as handing over is work too
BAD_IMAGES = ("error", "skip")


class FolderFeed:
    """Batches straight from the files, for folders too large for memory; see memory.py for what a feed is.

    Training: RandomResizedCrop, with flip=True mirroring of half of the images, with jitter > 0 colour jitter, drawn
    for each image from (seed, epoch, index) alone.  Evaluation: shorter side to 256/224 of image_size, centre crop.

    bad_images: "error" stops at an image that cannot be read; "skip" leaves it out of its batch, which is that much
    smaller and may be empty, and notes it in `skipped`, a set of lines.

    Attributes: shape (H, W, C), classes, class_names, train_count, test_count, steps (per epoch), left_out
    and doubts (lines).
    Raises InputError for a folder in another layout, and while iterating for images that cannot be read.
    """

    def __init__(
        self, root, device, batch_size, seed, image_size=224, flip=True, jitter=0.0, workers=None,
        bad_images="error", group=SINGLE
    ):  # fmt: skip
        check_choice("bad images", bad_images, BAD_IMAGES)
        self.device, self.batch_size, self.seed, self.flip, self.jitter = device, batch_size, seed, flip, jitter
        self.workers, self.bad_images, self.skipped = _worker_count(workers, group), bad_images, set()
        self.group = group
        self.class_names, self.train, self.test = list_folder(root)
        self.left_out = self.train.left_out + self.test.left_out
        self.doubts = doubts(self.class_names, self.train.labels, self.test.labels)
        self.shape, self.classes = (image_size, image_size, 3), len(self.class_names)
        self.train_count, self.test_count = len(self.train.paths), len(self.test.paths)
        self.steps = batch_count(self.train_count, batch_size)
        self.normalise = Normalise(device, self.shape, MEAN, STD)

    def about(self):
        """What the data are, as plain values; see memory.py.  The files' names and sizes stand for their bytes."""
        files = [
            ((files.split, self.class_names[label], os.path.basename(path)), _size(path))
            for files in (self.train, self.test) for path, label in zip(files.paths, files.labels)
        ]  # fmt: skip
        sha256 = hashlib.sha256(repr(files).encode()).hexdigest()
        return {"shape": self.shape, "class_names": self.class_names, "mean": MEAN, "std": STD, "levels": 255,
                "train": self.train_count, "test": self.test_count, "sha256": sha256}  # fmt: skip

    def train_batches(self, epoch, first=0):
        """Yield (images (n, H, W, C) varied and normalised, labels (n,)) from batch `first` on."""
        order = training_order(self.seed, epoch, self.train_count, self.batch_size, first)
        load = functools.partial(self._varied, epoch)
        share = self.group.shard
        return self._batches(self.train, (batch[share(len(batch))] for _, batch in order), load)

    def fixed_batch(self):
        """(images, labels) of one batch of training images, seen as in evaluation: the same at all times and in all processes."""
        _, batch = next(training_order(self.seed, 0, self.train_count, self.batch_size))
        with contextlib.closing(self._batches(self.train, [batch], functools.partial(self._central, self.train))) as batches:
            return next(batches)

    def test_batches(self, batch_size=256):
        """Yield (images (n, H, W, C) normalised, labels (n,)), each test image once, in one of the group's processes."""
        share = self.group.shard(self.test_count)
        batches = self._batches(self.test, _slices(share.start, share.stop, batch_size), functools.partial(self._central, self.test))
        return ((images, labels) for images, labels in batches if len(labels))

    def _varied(self, epoch, index):
        rng = randomness.generator(self.seed, randomness.VARIATION, epoch, int(index))
        return random_view(self.train.paths[index], self.shape[0], self.flip, self.jitter, rng)

    def _central(self, files, index):
        return central_view(read_image(files.paths[index]), self.shape[0])

    def _batches(self, files, batches, load):
        with contextlib.closing(decode_ahead(load, batches, self.shape, self.workers)) as decoded:
            for indices, images, bad in decoded:
                if bad:
                    kept = _judge(bad, len(indices), self.bad_images, self.skipped)
                    indices, images = indices[kept], images[kept]
                yield self.normalise(self.device.raw(images)), self.device.raw(files.labels[indices])


@dataclass(frozen=True)
class FolderDataset(Dataset):
    """An image folder in memory; skipped, left_out: lines about images that cannot be read, and about other files."""

    skipped: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def load_folder_into_memory(root, workers=None, bad_images="error"):
    """A folder whose images share one size, decoded once: a Dataset of RGB bytes.

    Raises InputError for another layout, for images of several sizes and, unless bad_images is "skip", for
    damaged ones.
    """
    check_choice("bad images", bad_images, BAD_IMAGES)
    names, train, test = list_folder(root)
    size, skipped = _common_size(train.paths, bad_images), set()
    arrays = []
    for files in (train, test):
        arrays += _load_all(files, size, _worker_count(workers), bad_images, skipped)
    counts = np.bincount(arrays[1], minlength=len(names))
    if not counts.all():
        empty = names[counts.argmin()]
        raise InputError(f"{root}: no training image of class {empty} can be read; {min(skipped)}")
    if not len(arrays[3]):
        raise InputError(f"{root}: not one of {len(test.paths)} test images can be read; {min(skipped)}")
    left_out = train.left_out + test.left_out
    return FolderDataset(
        "folder", len(names), *arrays, class_names=names, skipped=tuple(sorted(skipped)), left_out=left_out
    )


def _load_all(files, size, workers, bad_images, skipped):
    """Images (N, H, W, 3) and labels (N,) of a split, without those that are skipped."""
    shape, count = (size[1], size[0], 3), len(files.paths)
    images, kept = np.empty((count, *shape), np.uint8), np.ones(count, bool)
    load = functools.partial(_whole, files.paths, size)
    with contextlib.closing(decode_ahead(load, _slices(0, count, 256), shape, workers)) as decoded:
        for indices, part, bad in decoded:
            images[indices] = part
            kept[indices] = _judge(bad, len(indices), bad_images, skipped)
    return (images, files.labels) if kept.all() else (images[kept], files.labels[kept])


def _common_size(paths, bad_images):
    """The (width, height) of the first image that can be read."""
    for path in paths:
        try:
            return read_image(path).size
        except BadImage as error:
            if bad_images == "error":
                raise
            last = error
    raise InputError(f"not one of {len(paths)} images can be read; {last}")


def _whole(paths, size, index):
    image = read_image(paths[index])
    if image.size != size:
        found, right = (f"{width}x{height}" for width, height in (image.size, size))
        raise InputError(f"{paths[index]} is {found}, the first image {right}; in memory all need one size")
    return np.asarray(image)


def _judge(bad, count, bad_images, skipped):
    """Which of a batch's images to keep, (count,) of bool.  bad: {place in the batch: BadImage}."""
    if bad and bad_images == "error":
        raise bad[min(bad)]
    skipped.update(map(str, bad.values()))
    kept = np.ones(count, bool)
    kept[list(bad)] = False
    return kept


def decode_ahead(load, batches, shape, workers):
    """Load batches of images in threads, at most AHEAD batches ahead of the caller.

    load(index) gives an array of bytes of the given shape, or raises BadImage; batches: index arrays (n,).
    Yields (indices (n,), images (n, *shape), {place in the batch: BadImage}), in order.
    """
    waiting, pool = deque(), ThreadPoolExecutor(workers)
    try:
        for indices in batches:
            waiting.append(_submit(pool, load, indices, shape))
            if len(waiting) > AHEAD:
                yield _collect(*waiting.popleft())
        while waiting:
            yield _collect(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(pool, load, indices, shape):
    images = np.empty((len(indices), *shape), np.uint8)
    starts = range(0, len(indices), PIECE)
    return indices, images, [pool.submit(_load_piece, load, indices, images, start) for start in starts]


def _collect(indices, images, futures):
    bad = {}
    for future in futures:
        bad.update(future.result())
    return indices, images, bad


def _load_piece(load, indices, images, start):
    bad = {}
    for place in range(start, min(start + PIECE, len(indices))):
        try:
            images[place] = load(indices[place])
        except BadImage as error:
            bad[place] = error
    return bad


def _size(path):
    """In bytes; None where there is nothing."""
    with contextlib.suppress(OSError):
        return os.path.getsize(path)


def _slices(first, end, batch_size):
    return (np.arange(start, min(start + batch_size, end)) for start in range(first, end, batch_size))


def _worker_count(workers, group=SINGLE):
    if workers is not None and workers < 1:
        raise InputError(f"--workers must be at least 1, found {workers}")
    return workers or group.threads or cores()
