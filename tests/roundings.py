"""Random arrays, the roundings of tensor cores, and which arguments of the ops they concern.  Needs nothing but NumPy."""

import numpy as np


def normal(seed, dtype):
    """Return a function that draws standard normal arrays."""
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape).astype(dtype)


def tf32(x):
    """Nearest with 10 bits of fraction, ties away from zero."""
    bits = np.float32(x).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float64)


def bf16(x):
    """Nearest with 7 bits of fraction, ties to even."""
    bits = np.float32(x).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + even) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


PRODUCTS = {"product", "convolve", "convolve_gradient", "convolve_back"}
ACTIVITIES = {  # which arguments of the others are activities or errors
    "norm_statistics": [0], "norm_forward": [0, 5], "norm_gradients": [0, 1], "norm_back": [0, 1],
    "moments": [0], "norm_sums": [0, 1], "total": [0], "average": [0], "biased": [0],
    "relu": [0], "relu_back": [0, 1], "add": [0, 1], "max_pool_back": [0],
}  # fmt: skip
GIVE_ACTIVITIES = {
    "convolve", "convolve_back", "biased", "norm_forward", "norm_back", "relu", "relu_back", "add", "max_pool_back"
}  # fmt: skip


def as_stored(name, arguments, factors, stored):
    """The arguments rounded as the fast function reads them: by `factors` for products, else activities by `stored`."""
    see = factors if name in PRODUCTS else stored
    seen = range(len(arguments)) if name in PRODUCTS else ACTIVITIES.get(name, ())
    return [see(x) if i in seen and isinstance(x, np.ndarray) else x for i, x in enumerate(arguments)]
