"""What every data set offers."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Dataset:
    """Images (N, H, W, C) of bytes, 0 to `levels`, and labels (N,) in 0 .. classes - 1."""

    name: str
    classes: int
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...] = ()  # none: the classes have only numbers
    levels: int = 255

    @property
    def shape(self):
        """(H, W, C) of one image."""
        return self.train_images.shape[1:]

    @cached_property
    def mean(self):
        """Of the training images, per channel, in pixel values."""
        return np.array([np.average(np.arange(256), weights=counts) for counts in self._counts])

    @cached_property
    def std(self):
        """Of the training images, per channel, in pixel values; never 0."""
        squares = (np.arange(256) - self.mean[:, None]) ** 2
        return np.sqrt(np.average(squares, axis=1, weights=self._counts)) + 1e-8

    @cached_property
    def _counts(self):
        """How often each byte occurs in each channel of the training images, (C, 256)."""
        channels = np.moveaxis(self.train_images, -1, 0)
        return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in channels])

    def validation(self):
        """The same without its test images: a fifth of the training images stands in for them."""
        images, labels = self.train_images, self.train_labels
        train, held_out = split_fifth(labels)
        return replace(
            self, train_images=images[train], train_labels=labels[train],
            test_images=images[held_out], test_labels=labels[held_out],
        )  # fmt: skip


def split_fifth(labels):
    """Two index arrays: four fifths of every class, and every fifth example of each class."""
    by_class = np.argsort(labels, kind="stable")
    held_out = np.sort(by_class[::5])
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out
