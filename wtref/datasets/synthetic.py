"""A synthetic data set for benchmarks and tests: one smooth random pattern per class, with noise."""

import numpy as np

from wtref.datasets.base import Dataset


def load_synthetic(data_dir, shape=(32, 32, 3), classes=10, train=2000, test=500, seed=0):
    """Make a Dataset of images (N, *shape), uint8, the same for the same seed.

    Each class is a random 4x4 pattern, enlarged to the size of the image.  Each image is the pattern of its class with
    random strength, plus noise in every pixel.  data_dir is not used.
    """
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    down, across = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    patterns = rng.standard_normal((classes, 4, 4, channels))[:, down][:, :, across]
    labels = rng.integers(classes, size=train + test).astype(np.int64)
    strength = rng.uniform(0.5, 1.5, size=(train + test, 1, 1, 1))
    signal = strength * patterns[labels] + rng.standard_normal((train + test, *shape))
    images = np.clip(128 + 40 * signal, 0, 255).astype(np.uint8)
    return Dataset("synthetic", classes, images[:train], labels[:train], images[train:], labels[train:])
