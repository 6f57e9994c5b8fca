"""The primitives of plain.py by the C functions of the same names in c/."""

import ctypes
import functools
import math
import weakref

import numpy as np

from wtref.kernels import plain
from wtref.kernels.building import library, same_cores

REALS = {np.dtype(np.float32): ("float", ctypes.c_float), np.dtype(np.float64): ("double", ctypes.c_double)}


class Geometry(ctypes.Structure):
    """struct geometry of c/convolution.c."""

    _fields_ = [
        (name, ctypes.c_long)
        for name in ("n", "h", "w", "c_in", "out_h", "out_w", "c_out", "k_h", "k_w", "s_h", "s_w", "p_h", "p_w")
    ]

    @classmethod
    @functools.cache
    def of(cls, images, c_out, kernel, stride, padding):
        """images: the shape (N, H, W, C_in) of what the kernel slides over."""
        size = plain.output_size(images[1:3], kernel, stride, padding)
        return cls(*images, *size, c_out, *kernel, *stride, *padding)


class Compiled:
    """Functions with the names and meanings of plain.py's, on NumPy arrays of float32 or float64."""

    def __init__(self, threads):
        """threads: how many to ask OpenMP for; the attribute of that name is how many it gives.  Raises NoCompiler."""
        with same_cores():
            self.libraries = {dtype: library(real) for dtype, (real, _) in REALS.items()}
            for functions in self.libraries.values():
                self.threads = functions.use_threads(threads)
                functions.keep_memory()
        self.shelf = Shelf()

    def product(self, a, b):
        _check(a.shape[1] == len(b), a, b)
        m, n, k = len(a), b.shape[1], len(b)
        return self._new((m, n), "product", a, *_strides(a), b, *_strides(b), m, n, k)

    def convolve(self, y, W, kernel, stride, padding, normed=False):
        g = Geometry.of(y.shape, len(W), kernel, stride, padding)
        _check(W.shape[1] == g.k_h * g.k_w * g.c_in, y, W)
        return self._new((g.n, g.out_h, g.out_w, g.c_out), "convolve", g, _flat(y), W, *_strides(W))

    def convolve_outer(self, delta, y, kernel, stride, padding):
        g = Geometry.of(y.shape, delta.shape[3], kernel, stride, padding)
        _check(delta.shape == (g.n, g.out_h, g.out_w, g.c_out), delta, y)
        return self._new((g.c_out, g.k_h * g.k_w * g.c_in), "convolve_outer", g, _flat(delta), _flat(y))

    def convolve_back(self, delta, B, kernel, stride, padding, size):
        images = (len(delta), *size, len(B) // (kernel[0] * kernel[1]))
        g = Geometry.of(images, delta.shape[3], kernel, stride, padding)
        _check(delta.shape == (g.n, g.out_h, g.out_w, B.shape[1]), delta, B)
        return self._new(images, "convolve_back", g, _flat(delta), B, *_strides(B))

    def max_pool(self, y, kernel, stride, padding):
        g = Geometry.of(y.shape, y.shape[3], kernel, stride, padding)
        winner = np.empty((g.n, g.out_h, g.out_w, g.c_out), np.int32)
        return self._new(winner.shape, "max_pool", g, _flat(y), _place(winner)), winner

    def max_pool_back(self, delta, winner, kernel, stride, padding, size):
        g = Geometry.of((len(delta), *size, delta.shape[3]), delta.shape[3], kernel, stride, padding)
        _check(delta.shape == winner.shape == (g.n, g.out_h, g.out_w, g.c_out), delta, winner)
        return self._new((g.n, *size, g.c_in), "max_pool_back", g, _flat(delta), _place(winner))

    def moments(self, x):
        return self._new((2, x.shape[-1]), "moments", _flat(x), *_rows(x))

    def norm_sums(self, delta, x, mean, scale, beta=None):
        _check(delta.shape == x.shape, delta, x)
        return self._new((2, x.shape[-1]), "norm_sums", _flat(delta), _flat(x), mean, scale, beta, *_rows(x))

    biased, total, average = map(staticmethod, (plain.biased, plain.total, plain.average))
    norm_scale = staticmethod(plain.norm_scale)

    def norm_statistics(self, *arguments):
        return plain.norm_statistics(*arguments, moments=self.moments)

    def norm_gradients(self, *arguments):
        return plain.norm_gradients(*arguments, norm_sums=self.norm_sums)

    def norm_forward(self, x, mean, scale, beta, rectify=False, plus=None):
        _check(plus is None or plus.shape == x.shape, x, plus)
        return self._new(x.shape, "norm_forward", _flat(x), mean, scale, beta, _flat(plus), rectify, *_rows(x))

    def norm_back(self, delta, x, mean, scale, slope, shift, beta=None):
        _check(delta.shape == x.shape, delta, x)
        return self._new(x.shape, "norm_back", _flat(delta), _flat(x), mean, scale, slope, shift, beta, *_rows(x))

    def relu(self, a):
        return self._new(a.shape, "relu", _flat(a), a.size)

    def relu_back(self, delta, y):
        _check(delta.shape == y.shape, delta, y)
        return self._new(y.shape, "relu_back", _flat(delta), _flat(y), y.size)

    def add(self, a, b, rectify=False):
        _check(a.shape == b.shape, a, b)
        return self._new(a.shape, "add", _flat(a), _flat(b), rectify, a.size)

    def hadamard_product(self, v, before, after, order):
        _check(v.shape[1:] == before.shape, v, before)
        return self._new((len(v), len(after)), "hadamard_product", _flat(v), before, after, *v.shape, len(after), order)

    def descend(self, w, v, gradient, lr, momentum, decay, nesterov):
        _check(w.shape == v.shape == gradient.shape, w, v, gradient)
        if w.ndim == 2 and not w.flags.c_contiguous:  # B lies in memory as its transpose does
            w, v, gradient = w.T, v.T, gradient.T
        if not (w.flags.c_contiguous and v.flags.c_contiguous):
            return plain.descend(w, v, gradient, lr, momentum, decay, nesterov)
        self._call("descend", w, v, _flat(gradient), w.size, float(lr), float(momentum), float(decay), nesterov)

    def _new(self, shape, name, *arguments):
        """A new array of the shape, filled by the C function of that name, whose last argument it is.

        Zeros where there is nothing to add up: a process's share of a batch may be empty.
        """
        dtype, words, empty = _words(name, arguments)
        if empty:
            return np.zeros(shape, dtype)
        out = self.shelf.empty(shape, dtype)
        self._function(dtype, name, (*arguments, out))(*words, _place(out))
        return out

    def _call(self, name, *arguments):
        dtype, words, _ = _words(name, arguments)
        self._function(dtype, name, arguments)(*words)

    def _function(self, dtype, name, arguments):
        """The C function for numbers of the dtype, which knows the types of its arguments from the first it is given."""
        function = getattr(self.libraries[dtype], name)
        if function.argtypes is None:
            function.argtypes, function.restype = [_c_type(x, dtype) for x in arguments], None
        return function


class Shelf:
    """Large arrays, kept for the next of their size once nobody holds them: to touch so much fresh memory for the first
    time takes longer than to fill it.  Smaller ones are kept by the C library (keep_memory in products.c)."""

    LARGE = 1 << 25  # bytes
    MEDIUM = 1 << 22  # and more begin with a line of the cache: C writes whole lines of them past it
    LINE = 64
    MOST = 4  # kept at a time: the more, the fewer are touched for the first time, and the more lie idle at the peak

    def __init__(self):
        self.free = {}  # {bytes: blocks of that size}

    def empty(self, shape, dtype):
        """An array of anything."""
        count = math.prod(shape)
        size = count * dtype.itemsize
        if size <= self.MEDIUM:
            return np.empty(shape, dtype)
        if size < self.LARGE:
            block = np.empty(size + self.LINE, np.uint8)
            return np.ndarray(shape, dtype, block, -_place(block) % self.LINE)
        blocks = self.free.setdefault(size, [])
        if not blocks:
            self.free = {size: blocks}  # what other sizes keep goes back to the system first
        block = blocks.pop() if blocks else np.empty(size + self.LINE, np.uint8)
        array = np.frombuffer(block.data, dtype, count, -_place(block) % self.LINE)  # every view of it holds on to it
        weakref.finalize(array, self._take_back, blocks, block).atexit = False
        return array.reshape(shape)

    def _take_back(self, blocks, block):
        if len(blocks) < self.MOST:
            blocks.append(block)


def _check(fits, *arrays):
    """C believes what it is told: shapes that do not fit must not get there."""
    if not fits:
        raise ValueError(f"shapes do not fit: {', '.join(str(x.shape) for x in arrays)}")


def _words(name, arguments):
    """What a C function is called with: (the dtype of all arrays, the arguments with addresses for arrays, is one empty?)"""
    dtype, words, empty = None, [], False
    for x in arguments:
        if isinstance(x, np.ndarray):
            dtype = x.dtype if dtype is None else dtype
            empty = empty or x.size == 0
            if x.dtype != dtype:  # C would not notice
                raise ValueError(f"{name}: {x.dtype} beside {dtype}")
            x = _place(x)
        words.append(x)
    return dtype, words, empty


def _c_type(x, dtype):
    """All but geometries and real numbers is an address, none, or an integer as wide as one."""
    return {float: REALS[dtype][1], Geometry: ctypes.POINTER(Geometry)}.get(type(x), ctypes.c_void_p)


def _place(x):
    """The address of x's first number."""
    try:
        packed = x if x.flags.c_contiguous else x.T
        return ctypes.addressof(ctypes.c_char.from_buffer(packed))  # takes a third of the time, but not every array
    except (TypeError, ValueError, BufferError):
        return x.__array_interface__["data"][0]


def _flat(x):
    return None if x is None else np.ascontiguousarray(x)


def _rows(x):
    """How many rows of channels, and how many channels."""
    return x.size // x.shape[-1], x.shape[-1]


def _strides(matrix):
    """In elements."""
    return [stride // matrix.itemsize for stride in matrix.strides]
