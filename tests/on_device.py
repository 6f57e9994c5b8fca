"""A device's ops called with NumPy arrays, and the plain functions with the roundings of tensor cores, for tests."""

import numpy as np

from roundings import GIVE_ACTIVITIES, as_stored
from wtref.fast import plain


class OnDevice:
    """Calls `ops` with copies of NumPy arrays on the device, and copies results and arrays changed in place back."""

    def __init__(self, ops, xp):
        self.ops, self.xp = ops, xp

    def __getattr__(self, name):
        def call(*arguments):
            there = [self.xp.array(x) if isinstance(x, np.ndarray) else x for x in arguments]
            result = getattr(self.ops, name)(*there)
            for here, moved in zip(arguments, there):
                if isinstance(here, np.ndarray) and here.flags.writeable:
                    here[...] = moved.get()
            return _back(result)

        return call


def _back(result):
    if isinstance(result, tuple):
        return tuple(map(_back, result))
    here = None if result is None else result.get()
    return here.astype(np.float32) if here is not None and here.dtype.kind == "V" else here


class Rounded:
    """The plain functions with the roundings of tensor cores.

    factors: the rounding of the factors of products, a function of roundings.py; stored: that of activities and errors, or
    None; dtype: that of all arrays and sums.
    """

    def __init__(self, factors, stored=None, dtype=np.float32):
        self.factors = lambda x: factors(x).astype(dtype)
        self.stored = lambda x: stored(x).astype(dtype) if stored else x

    def convolve_with_moments(self, *arguments):
        return self.convolve(*arguments), None

    def __getattr__(self, name):
        def call(*arguments, **options):
            result = getattr(plain, name)(*as_stored(name, arguments, self.factors, self.stored), **options)
            return self.stored(result) if name in GIVE_ACTIVITIES else result

        return call
