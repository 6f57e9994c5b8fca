"""Gradients are summed over the processes in buckets, which are sent while the backward pass is still running."""

import math

from wtref.device import array_module


class Buckets:
    """Arrays that are added one by one and summed over all processes, in place, one bucket at a time.

    An array of at least a bucket's size is sent from its own memory; smaller ones are packed together in the order in
    which they are added.  That is the order of the backward pass, so all processes fill the same buckets.
    """

    def __init__(self, transport, size, compression=None):
        """transport: MpiTransport or NcclTransport; size: bytes of a bucket; compression: nccl.Bf16Compression, or None."""
        self.transport, self.size, self.compression = transport, size, compression
        self.pending = []  # arrays of the bucket that is not full yet
        self.in_flight = []  # (handle, packed array, arrays to unpack it into)

    def add(self, *arrays):
        """Add arrays of one dtype; None stands for a gradient that does not exist and is skipped."""
        for array in arrays:
            if array is None:
                continue
            if array.nbytes >= self.size and array.flags.c_contiguous and not self.compression:
                self._start(array.reshape(-1), [])
                continue
            self.pending.append(array)
            if sum(each.nbytes for each in self.pending) >= self.size:
                self._start_pending()
        self.transport.progress([handle for handle, _, _ in self.in_flight])

    def finish(self):
        """Send the last bucket, wait for all sums and write them into the arrays."""
        if self.pending:
            self._start_pending()
        for handle, packed, arrays in self.in_flight:
            self.transport.wait(handle)
            if arrays:
                _unpack(self.compression.decompress(packed) if self.compression else packed, arrays)
        self.in_flight = []

    def _start_pending(self):
        arrays, self.pending = self.pending, []
        packed = array_module(arrays[0]).concatenate([array.reshape(-1) for array in arrays])
        self._start(self.compression.compress(packed) if self.compression else packed, arrays)

    def _start(self, packed, arrays):
        self.in_flight.append((self.transport.start(packed), packed, arrays))


def _unpack(packed, arrays):
    start = 0
    for array in arrays:
        array[...] = packed[start : start + math.prod(array.shape)].reshape(array.shape)
        start += math.prod(array.shape)
