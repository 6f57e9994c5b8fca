"""Data sets in memory: arrays of images and labels, checked when they are made."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wtref.errors import InputError


@dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Images are uint8 arrays (N, H, W, C) with values from 0 to `levels`; labels are integers (N,) from 0 to classes - 1.
    Raises InputError for any other arrays.
    """

    name: str
    classes: int
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...] = ()  # empty: the classes have numbers only
    levels: int = 255

    def __post_init__(self):
        self._check("training", self.train_images, self.train_labels)
        self._check("test", self.test_images, self.test_labels)
        if self.test_images.shape[1:] != self.shape:
            found = f"training images of shape {self.shape} and test images of shape {self.test_images.shape[1:]}"
            raise InputError(f"{self.name}: has {found}, right would be one shape")
        if self.class_names and len(self.class_names) != self.classes:
            raise InputError(f"{self.name}: has {len(self.class_names)} names for {self.classes} classes")

    def _check(self, part, images, labels):
        """Raise InputError unless these arrays are images and labels that fit together."""
        where = f"{self.name}, {part} images"
        self._check_values(where, images)
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            found = f"labels are {labels.dtype} of shape {labels.shape}"
            raise InputError(f"{where}: {found}, right would be integers of shape {images.shape[:1]}")
        check_labels(where, labels, self.classes)

    def _check_values(self, where, images):
        check_not_empty(where, images)
        if images.dtype != np.uint8 or images.ndim != 4:
            right = "uint8 of shape (N, H, W, C)"
            raise InputError(f"{where}: are {images.dtype} of shape {images.shape}, right would be {right}")
        if images.max() > self.levels:
            raise InputError(f"{where}: have pixels up to {images.max()}, right would be 0 to {self.levels}")

    @property
    def shape(self):
        """(H, W, C) of one image."""
        return self.train_images.shape[1:]

    @cached_property
    def mean(self):
        """The mean of the training images in each channel, (C,), in pixel values."""
        return np.array([np.average(np.arange(256), weights=counts) for counts in self._counts])

    @cached_property
    def std(self):
        """The standard deviation of the training images in each channel, (C,), in pixel values; never 0."""
        squares = (np.arange(256) - self.mean[:, None]) ** 2
        return np.sqrt(np.average(squares, axis=1, weights=self._counts)) + 1e-8

    @cached_property
    def _counts(self):
        """The number of occurrences of each byte in each channel of the training images, (C, 256)."""
        channels = np.moveaxis(self.train_images, -1, 0)
        return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in channels])


def check_not_empty(where, images):
    """Raise InputError if an array holds no images, or images without a pixel."""
    if 0 in images.shape:
        raise InputError(f"{where}: there are none in an array of shape {images.shape}")


def check_labels(where, labels, classes):
    """Raise InputError unless all labels (N,) are from 0 to classes - 1."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        first = wrong[0]
        found = f"label {labels[first]} at image {first}"
        raise InputError(f"{where}: {found}, right would be 0 to {classes - 1}")


def check_classes(where, labels, classes):
    """Raise InputError unless every class occurs among the labels (N,)."""
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        raise InputError(f"{where}: none of {len(labels):,} training images is of class {counts.argmin()}")


def doubts(class_names, train_labels, test_labels):
    """Warnings about classes without images, which make test errors misleading; a tuple of lines."""
    if len(class_names) == 1:
        return (f"the data have one class only, {class_names[0]}: any network has an error of 0 % and learns nothing",)
    lines = []
    for part, labels in (("training", train_labels), ("test", test_labels)):
        absent = np.flatnonzero(np.bincount(labels, minlength=len(class_names)) == 0)
        if len(absent):
            found = f"{len(absent)} of {len(class_names)} classes have no {part} images"
            lines.append(f"{found}, such as {class_names[absent[0]]}")
    return tuple(lines)
