"""The embedded 8x8 handwritten digits (UCI optical digits, CC BY 4.0; see data/README.md)."""

import numpy as np

from wtref.datasets.base import Dataset
from wtref.errors import InputError


def load_digits(data_dir):
    """1,437 training and 360 test images (8, 8, 1) with values from 0 to 16, of ten classes.

    Raises InputError for a missing or damaged file.
    """
    path = data_dir / "digits" / "digits.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = file["images"][..., None], file["labels"]
        if images.shape != (1797, 8, 8, 1) or labels.shape != (1797,):
            raise ValueError(f"images {images.shape}, labels {labels.shape}")
        train, test = split_fifth(labels)
        return Dataset("digits", 10, images[train], labels[train], images[test], labels[test], levels=16)
    except FileNotFoundError:
        raise InputError(f"digits: {path} is missing; give no --data-dir, as the digits are part of wtref") from None
    except Exception as error:  # np.load raises errors of many types, according to the damage
        reason = " ".join(str(error).split()) or repr(error)
        raise InputError(f"digits: {path} is damaged ({reason}); install wtref again, or restore the file from the repository") from None


def split_fifth(labels):
    """Two sorted index arrays for labels (N,): four fifths of each class, and every fifth example of each class."""
    by_class = np.argsort(labels, kind="stable")
    held_out = np.sort(by_class[::5])
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out
