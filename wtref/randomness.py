"""The random streams of a run, all from the run's seed and none of them another.

A generator is named by its stream and by as many indices as stand beside that stream here.  The names go to
`numpy.random.SeedSequence` as a spawn key; a key tells its own length by its first number, so that no two names
make the same key, and no key is empty as that of `numpy.random.default_rng(seed)` is.
"""

import numpy as np

WEIGHTS = 0  # the first weights
FEEDBACK = 1  # the feedback weights, in their order
ORDER = 2  # epoch: the order of the images
VARIATION = 3  # epoch, and batch or image: the augmentation
NOISE = 4  # layer, mirror step: independent noise
ROW_SIGNS = 5  # layer, mirror step: of decorrelated noise
COLUMN_SIGNS = 6  # layer, block


def generator(seed, stream, *indices):
    """A NumPy generator at the beginning of that stream of the run; indices: integers from 0 up to 2^32 - 1."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, *indices)))
