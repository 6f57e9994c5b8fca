"""Buckets of gradients, and bf16 compression, without any other process."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from helpers import modest
from roundings import bf16
from wtref.distributed.buckets import Buckets
from wtref.distributed.nccl import Bf16Compression


class Doubling:
    """A transport whose sums are twice the arrays, computed in `wait`."""

    def __init__(self):
        self.sizes, self.most_in_flight = [], 0

    def start(self, x):
        assert x.ndim == 1
        self.sizes.append(x.nbytes)
        return x

    def progress(self, handles):
        self.most_in_flight = max(self.most_in_flight, len(handles))

    def wait(self, x):
        x *= 2


@modest
@given(data=st.data(), size=st.integers(1, 300))
def test_every_array_becomes_its_sum_in_a_bucket_of_any_size(data, size):
    shapes = data.draw(st.lists(st.sampled_from([(3,), (2, 5), (4, 9), (0, 3), (1, 1)]), max_size=12))
    given_arrays = [data.draw(arrays(np.float64, shape, elements=st.integers(-9, 9))) for shape in shapes]
    wanted, transport = [2 * array for array in given_arrays], Doubling()
    buckets = Buckets(transport, size)
    for array in given_arrays:
        buckets.add(array, None)
    buckets.finish()
    assert all(np.array_equal(array, right) for array, right in zip(given_arrays, wanted))
    assert sum(transport.sizes) == sum(array.nbytes for array in given_arrays)
    assert not buckets.in_flight and not buckets.pending
    assert all(sent >= size for sent in transport.sizes[:-1])  # only the last may be smaller


def test_a_full_bucket_is_sent_before_the_next_array_is_added():
    transport = Doubling()
    buckets = Buckets(transport, 100)
    buckets.add(np.ones(10))
    assert transport.sizes == []
    buckets.add(np.ones(10))
    assert transport.sizes == [160]
    buckets.add(np.ones((5, 5)))  # sent from its own memory
    assert transport.sizes == [160, 200] and transport.most_in_flight == 2


@modest
@given(x=arrays(np.float32, 20, elements=st.floats(width=32, allow_nan=False, allow_infinity=True)))
def test_bf16_rounds_to_nearest_ties_to_even(x):
    compression = Bf16Compression()
    assert compression.compress(x).dtype == np.uint16
    finite = np.isfinite(x)
    assert np.array_equal(compression.decompress(compression.compress(x))[finite], bf16(x)[finite].astype(np.float32))
    assert np.array_equal(compression.decompress(compression.compress(x))[~finite], x[~finite])


def test_bf16_keeps_every_nan():
    nans = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000], np.uint32).view(np.float32)
    compression = Bf16Compression()
    assert np.isnan(compression.decompress(compression.compress(nans))).all()


def test_compressed_buckets_are_half_the_bytes():
    class Adding(Doubling):
        def wait(self, bits):
            bf16 = Bf16Compression()
            bits[...] = bf16.compress(2 * bf16.decompress(bits))

    transport, array = Adding(), np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
    buckets, wanted = Buckets(transport, 16, Bf16Compression()), 2 * array
    buckets.add(array)
    buckets.finish()
    assert transport.sizes == [128]
    assert np.abs(array - wanted).max() <= 2.0**-8 * 2
