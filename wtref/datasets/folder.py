"""Image folders (listing.py describes their layout), decoded by Pillow in threads ahead of the training step.

Sizes, modes and formats may be mixed; reading.py and views.py convert them to one.

Threads are as fast as processes here, because Pillow releases the interpreter's lock while it decodes and resizes: on two
cores, two threads and two processes decoded 500x375 JPEGs equally fast within 7 %.  And threads need no copies.
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
from wtref.cores import cores
from wtref.datasets.augment import Normalise
from wtref.datasets.base import Dataset, doubts
from wtref.datasets.listing import list_folder
from wtref.datasets.memory import batch_count, training_order
from wtref.datasets.reading import BadImage, read_image
from wtref.datasets.views import central_view, random_view
from wtref.distributed.group import SINGLE
from wtref.errors import InputError, check_choice

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, in pixel values
AHEAD = 2  # the most decoded batches that wait for the training step
PIECE = 4  # images per task of a thread; smaller tasks cost more overhead
BAD_IMAGES = ("error", "skip")


class FolderFeed:
    """A feed (see memory.py) that reads its batches from the files, for folders that are too large for memory.

    Training images are random views (views.random_view), drawn for each image from (seed, epoch, index) alone; test
    images are central views.

    bad_images: with "error", an image that cannot be read raises InputError; with "skip", it is left out of its batch,
    which becomes smaller or even empty, and is noted in `skipped`.

    Attributes: shape (H, W, C), classes, class_names, train_count, test_count, steps (per epoch), doubts, skipped and
    left_out (lines of text about the data, about unreadable images, and about other files).
    Raises InputError for a folder in another layout, and during iteration for images that cannot be read.
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
        """A description of the data in plain values; see memory.py.  The checksum is over the names and sizes of the files."""
        files = [
            ((files.split, self.class_names[label], os.path.basename(path)), _size(path))
            for files in (self.train, self.test) for path, label in zip(files.paths, files.labels)
        ]  # fmt: skip
        sha256 = hashlib.sha256(repr(files).encode()).hexdigest()
        return {"shape": self.shape, "class_names": self.class_names, "mean": MEAN, "std": STD, "levels": 255,
                "train": self.train_count, "test": self.test_count, "sha256": sha256}  # fmt: skip

    def train_batches(self, epoch, first=0):
        """Yield (images (n, H, W, C), augmented and normalised, labels (n,)), from batch `first` of the epoch on."""
        order = training_order(self.seed, epoch, self.train_count, self.batch_size, first)
        load = functools.partial(self._varied, epoch)
        shard = self.group.shard
        return self._batches(self.train, (batch[shard(len(batch))] for _, batch in order), load)

    def fixed_batch(self):
        """(images, labels) of one batch of training images in central view, the same at all times and in all processes."""
        _, batch = next(training_order(self.seed, 0, self.train_count, self.batch_size))
        with contextlib.closing(self._batches(self.train, [batch], functools.partial(self._central, self.train))) as batches:
            return next(batches)

    def test_batches(self, batch_size=256):
        """Yield (images (n, H, W, C), normalised, labels (n,)); each test image occurs once, in one process of the group."""
        shard = self.group.shard(self.test_count)
        batches = self._batches(self.test, _slices(shard.start, shard.stop, batch_size), functools.partial(self._central, self.test))
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
    """An image folder in memory; skipped and left_out: lines of text about unreadable images and about other files."""

    skipped: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def load_folder_into_memory(root, workers=None, bad_images="error"):
    """Decode a folder whose images share one size into a FolderDataset of RGB images.

    Raises InputError for another layout, for images of different sizes and, unless bad_images is "skip", for damaged
    images.
    """
    check_choice("bad images", bad_images, BAD_IMAGES)
    return _decoded(root, list_folder(root), workers, bad_images)


last_decoded = {}  # {what _state returned: FolderDataset}, one at most


def load_folder_once(root, workers=None, bad_images="error"):
    """load_folder_into_memory, but what was decoded last is not decoded again unless a file has changed.

    The runs of a comparison train one after the other on the same folder.  The arrays must not be changed.
    """
    check_choice("bad images", bad_images, BAD_IMAGES)
    listed = list_folder(root)
    state = (os.path.abspath(root), bad_images, *_state(listed))
    if state not in last_decoded:
        last_decoded.clear()  # before the next one needs memory
        last_decoded[state] = _decoded(root, listed, workers, bad_images)
    return last_decoded[state]


def _state(listed):
    """What changes if a file in a folder is added, removed, written to or labelled otherwise; listed: from list_folder."""
    _, *splits = listed
    for files in splits:
        yield files.labels.tobytes(), files.left_out
        for path in files.paths:
            try:
                status = os.stat(path)
                yield path, status.st_size, status.st_mtime_ns, status.st_ctime_ns
            except OSError as error:
                yield path, error.errno


def _decoded(root, listed, workers, bad_images):
    """The FolderDataset of a folder's files; listed: from list_folder."""
    names, train, test = listed
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
    """The images (N, H, W, 3) and labels (N,) of a split, without skipped images."""
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
        raise InputError(f"{paths[index]} is {found}, the first image {right}; in memory all images must have one size")
    return np.asarray(image)


def _judge(bad, count, bad_images, skipped):
    """Which images of a batch to keep, (count,), bool; raises the first error if none may be skipped.

    bad: {position in the batch: BadImage}; skipped: a set, to which the messages are added.
    """
    if bad and bad_images == "error":
        raise bad[min(bad)]
    skipped.update(map(str, bad.values()))
    kept = np.ones(count, bool)
    kept[list(bad)] = False
    return kept


def decode_ahead(load, batches, shape, workers):
    """Load batches of images in threads, at most AHEAD batches ahead of the caller.

    load(index) returns a uint8 array of the given shape, or raises BadImage; batches: an iterable of index arrays (n,).
    Yields (indices (n,), images (n, *shape), {position in the batch: BadImage}), in order.
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
    """The size of a file in bytes; None if it does not exist."""
    with contextlib.suppress(OSError):
        return os.path.getsize(path)


def _slices(first, end, batch_size):
    return (np.arange(start, min(start + batch_size, end)) for start in range(first, end, batch_size))


def _worker_count(workers, group=SINGLE):
    if workers is not None and workers < 1:
        raise InputError(f"--workers must be at least 1, found {workers}")
    return workers or group.threads or cores()
