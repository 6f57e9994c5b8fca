"""Copies of arrays between pages of memory that can neither be read nor written."""

import ctypes
import mmap

import numpy as np

FORBIDDEN = 1 << 20  # bytes before and behind, whole pages
FREE = 0xFF  # all bytes beside a copy; as floating-point numbers they are NaN


class GuardedCopies:
    """The arrays of one launch, copied to where an access behind them ends the process, as one far before them does.

    The address of a copy has the array's remainder modulo 16, on which kernels rely, so that up to 15 bytes lie between the
    copy and the page behind it.
    """

    def __init__(self):
        self.copies = {}  # by the first address of the array and that behind it

    def address(self, array):
        """The address of the array's first element in its copy, which is made if there is none."""
        first, end = np.lib.array_utils.byte_bounds(array)
        if (first, end) not in self.copies:
            self.copies[first, end] = _Copy(first, end - first)
        return self.copies[first, end].address + array.ctypes.data - first

    def restore(self):
        """Copy everything back; return whether all bytes beside the copies are as they were."""
        return all([copy.restore() for copy in self.copies.values()])


class _Copy:
    def __init__(self, origin, size):
        self.origin, self.size = origin, size
        body = (size // mmap.PAGESIZE + 2) * mmap.PAGESIZE
        self.memory = mmap.mmap(-1, body + 2 * FORBIDDEN)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory)) + FORBIDDEN
        self.end = self.start + body
        self.address = self.end - size - (self.end - size - origin) % 16
        ctypes.memset(self.start, FREE, body)
        ctypes.memmove(self.address, origin, size)
        for pages in (self.start - FORBIDDEN, self.end):
            assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(pages), ctypes.c_size_t(FORBIDDEN), 0) == 0

    def restore(self):
        ctypes.memmove(self.origin, self.address, self.size)
        before, behind = self.address - self.start, self.end - self.address - self.size
        beside = ctypes.string_at(self.start, before) + ctypes.string_at(self.address + self.size, behind)
        return beside == bytes([FREE]) * (before + behind)
