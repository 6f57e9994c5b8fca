"""Data sets made of arrays: those of `wtref.fit`, and of functions registered by `@wtref.dataset`."""

import numpy as np

from wtref.datasets.base import Dataset, check_not_empty
from wtref.errors import InputError

LARGEST = np.finfo(np.float32).max
RIGHT = "uint8 or floats of shape (N, D) or (N, H, W, C)"


class FloatDataset(Dataset):
    """A data set of real numbers in place of bytes.  The network takes them as they are: their mean counts as 0, their std as 1."""

    def _check_values(self, where, images):
        check_not_empty(where, images)
        if images.dtype.kind != "f" or images.ndim != 4:
            raise InputError(f"{where}: are {images.dtype} of shape {images.shape}, right would be {RIGHT}")
        check_finite(where, images)

    @property
    def mean(self):
        return np.zeros(self.shape[2])

    @property
    def std(self):
        return np.ones(self.shape[2])


def check_finite(where, images):
    """Raise InputError, naming the first wrong value, if some are NaN or too large for float32."""
    wrong = np.argwhere(~(abs(images) <= LARGEST))  # NaN too
    if len(wrong):
        first = wrong[0]
        raise InputError(f"{where}: {images[tuple(first)]} at image {first[0]}, right would be finite numbers of at most {LARGEST:.1e}")


def from_arrays(name, train, test):
    """A Dataset of ((X, y), (Xt, yt)).

    Parameters: name, for messages; train and test, pairs of X, bytes (uint8) or floats of shape (N, D) or (N, H, W, C), and y,
        integers (N,) from 0 up, of which the largest in train tells the number of classes.
    Returns: a Dataset, whose images of shape (N, D) have become (N, 1, D, 1).
    Raises: InputError for any other arrays, for NaN and infinity, and for labels that are all the same or name more classes than images.
    """
    (train_images, train_labels), (test_images, test_labels) = _pair(name, "train", train), _pair(name, "test", test)
    if (train_images.dtype == np.uint8) != (test_images.dtype == np.uint8):
        raise InputError(f"{name}: has training images of {train_images.dtype} and test images of {test_images.dtype}; give one type")
    classes = _class_count(name, train_labels) if train_labels.size and train_labels.dtype.kind in "iu" else 1
    kind, levels = (Dataset, 255) if train_images.dtype == np.uint8 else (FloatDataset, 0)
    return kind(name, classes, train_images, train_labels, test_images, test_labels, levels=levels)


def _class_count(name, labels):
    """The number of classes that training labels, any integers, tell of."""
    least, largest = labels.min(), labels.max()
    if least == largest:
        raise InputError(f"{name}: all training labels are {least}, right would be two classes or more")
    if largest >= labels.size:
        raise InputError(f"{name}: a training label is {largest}, but there are {labels.size} training images; number the classes from 0 up")
    return int(largest) + 1


def as_images(X):
    """X as an array, of shape (N, 1, D, 1) where it was (N, D).  Raises InputError for lists of different lengths."""
    try:
        X = np.asarray(X)
    except ValueError:
        raise InputError(f"X is a {type(X).__name__} of rows of different lengths, right would be {RIGHT}") from None
    return X[:, None, :, None] if X.ndim == 2 else X


def _pair(name, part, given):
    """(images, labels) as arrays."""
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        found = f"{len(given)} values" if isinstance(given, (tuple, list)) else type(given).__name__
        raise InputError(f"{name}: {part} must be a pair of inputs and labels, (X, y), found {found}")
    return as_images(given[0]), np.asarray(given[1])
