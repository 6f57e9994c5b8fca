"""Gradients on their way to their sums: in buckets, which leave while the backward pass is still running."""

import math

from wtref.device import array_module


class Buckets:
    """Arrays given one by one, summed over all processes bucket by bucket, each in its own place.

    An array as large as a bucket travels where it lies; smaller ones are packed together, in the order in which
    they come.  That order is the backward pass's, so all processes fill the same buckets.
    """

    def __init__(self, transport, size, narrow=None):
        """transport: MpiSums or NcclSums; size: of a bucket, in bytes; narrow: None, or how numbers are shortened for the way."""
        self.transport, self.size, self.narrow = transport, size, narrow
        self.waiting, self.sent = [], []

    def add(self, *arrays):
        """Arrays, or None, which has nothing to sum."""
        for array in arrays:
            if array is None:
                continue
            if array.nbytes >= self.size and array.flags.c_contiguous and not self.narrow:
                self._send(array.reshape(-1), [])
                continue
            self.waiting.append(array)
            if sum(each.nbytes for each in self.waiting) >= self.size:
                self._send_waiting()
        self.transport.progress([handle for handle, _, _ in self.sent])

    def finish(self):
        """Send what is left; wait for all sums and put them where they belong."""
        if self.waiting:
            self._send_waiting()
        for handle, packed, arrays in self.sent:
            self.transport.wait(handle)
            if arrays:
                _unpack(self.narrow.back(packed) if self.narrow else packed, arrays)
        self.sent = []

    def _send_waiting(self):
        arrays, self.waiting = self.waiting, []
        packed = array_module(arrays[0]).concatenate([array.reshape(-1) for array in arrays])
        self._send(self.narrow(packed) if self.narrow else packed, arrays)

    def _send(self, packed, arrays):
        self.sent.append((self.transport.start(packed), packed, arrays))


def _unpack(packed, arrays):
    start = 0
    for array in arrays:
        array[...] = packed[start : start + math.prod(array.shape)].reshape(array.shape)
        start += math.prod(array.shape)
