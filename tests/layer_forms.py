"""Both forms of a layer, plain and fast, and sizes to draw, for the tests of layers."""

import pytest
from hypothesis import strategies as st

from helpers import equipped
from wtref.fast import accelerate
from wtref.layers import Sequential

FAST = equipped()


def plain(layer):
    return layer


def fast(layer):
    """The layer as accelerate replaces it, on the same arrays."""
    return accelerate(Sequential(layer), FAST)


both = pytest.mark.parametrize("form", [plain, fast])
batches, channels, seeds = st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1)
