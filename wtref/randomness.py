"""The random streams of a run: independent generators, all derived from the run's seed.

A generator is identified by its stream and by the indices listed beside the stream here.  Both form the spawn key of a
`numpy.random.SeedSequence`.  The first number of a key determines its length, so no two generators have the same key, and no
key is empty like that of `numpy.random.default_rng(seed)`.
"""

import numpy as np

WEIGHTS = 0  # no index: the initial weights
FEEDBACK = 1  # no index: the feedback weights, layer by layer
ORDER = 2  # epoch: the order of the images
VARIATION = 3  # epoch, and batch or image: the augmentation
NOISE = 4  # layer, step of mirror mode: independent noise
ORTHOGONAL_NOISE = 5  # layer, step of mirror mode
PRETRAINING = 6  # no index: the images and labels of pretraining with noise


def generator(seed, stream, *indices):
    """A new NumPy generator at the beginning of a stream; indices: integers from 0 to 2^32 - 1."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, *indices)))
