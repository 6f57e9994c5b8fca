"""The ops of a GPU: the functions of plain.py, computed by the CUDA kernels of cu/ on CuPy arrays."""

import itertools
import math
from collections import namedtuple

import numpy as np

from wtref.fast import plain
from wtref.fast.cuda_launches import BLOCK_SIGNS, NULL, THREADS, Launches, check, checked_size, ints, real_dtype, same
from wtref.fast.operands import Shapes
from wtref.noise import power_of_two

ROW_BYTES = 32768  # of the longest row that a block of hadamard_product holds in shared memory


class Geometry(Shapes, namedtuple("Geometry", Shapes.NAMES)):
    """struct geometry of cu/operands.cu."""

    def divisors(self):
        """struct divisor of operands.cu for each size: (value, magic, shift), as int32 (sizes, 3)."""
        return _divisors(self)

    def back(self):
        """struct back_geometry of operands.cu, as int32 (sizes, 3).  Classes with many taps come first: they take longest."""
        first_pixels = itertools.product(range(min(self.s_h, self.h)), range(min(self.s_w, self.w)))
        parts = sorted((self._pixel_class(*pixel) for pixel in first_pixels), key=lambda part: -part[0].taps())
        return np.concatenate([self.divisors(), *(_divisors((*sizes, *first)) for sizes, *first in parts)])

    def pixel_classes(self):
        """The number of classes of pixels whose errors come through the same taps, and the most pixels of one."""
        return min(self.s_h, self.h) * min(self.s_w, self.w), self.n * _steps(0, self.h, self.s_h) * _steps(0, self.w, self.s_w)

    def _pixel_class(self, y, x):
        """struct pixel_class of operands.cu: the sizes of a convolution of strides 1, the first pixel and the first tap."""
        (p_h, top), (p_w, left) = divmod(y + self.p_h, self.s_h), divmod(x + self.p_w, self.s_w)
        pixels = {"h": _steps(y, self.h, self.s_h), "w": _steps(x, self.w, self.s_w)}
        taps = {"k_h": _steps(top, self.k_h, self.s_h), "k_w": _steps(left, self.k_w, self.s_w)}
        return self._replace(**pixels, **taps, s_h=1, s_w=1, p_h=p_h, p_w=p_w), y, x, top, left


class Cuda(Launches):
    """The functions of plain.py, on device arrays of float32 or float64."""

    def product(self, a, b):
        check(a.shape[1] == len(b), a, b)
        (a, a_along_k, a_stride), (b, b_along_k, b_stride) = self._factor(a), self._factor(b.T)
        m, n, k = len(a), len(b), a.shape[1]
        kind = "product_" + "mk"[a_along_k] + "mk"[b_along_k]
        return self._multiply(kind, same, m, n, k, a, a_stride, b, b_stride, *ints(m, n, k))

    def convolve(self, y, W, kernel, stride, padding):
        out, _ = self._convolve(y, W, kernel, stride, padding, measured=False)
        return out

    def convolve_with_moments(self, y, W, kernel, stride, padding):
        return self._convolve(y, W, kernel, stride, padding, measured=True)

    def _convolve(self, y, W, kernel, stride, padding, measured):
        g = Geometry.of("convolve", y.shape, len(W), kernel, stride, padding)
        check(W.shape[1] == g.taps() * g.c_in, y, W)
        m, n, k = g.n * g.out_h * g.out_w, g.c_out, g.taps() * g.c_in
        arrays = self._geometry(g), self.stored(y), self.stored(W)
        moments = self._moments_buffer(real_dtype(arrays), m, n, k) if measured else NULL
        out = self._multiply("convolve", self._store, m, n, k, *arrays, moments).reshape(g.above())
        return out, None if moments is NULL else moments

    def convolve_gradient(self, delta, y, kernel, stride, padding):
        g = Geometry.of("convolve_gradient", y.shape, delta.shape[3], kernel, stride, padding)
        check(delta.shape == g.above(), delta, y)
        m, n, k = g.c_out, g.taps() * g.c_in, g.n * g.out_h * g.out_w
        return self._multiply("convolve_gradient", same, m, n, k, self._geometry(g), self.stored(delta), self.stored(y))

    def convolve_back(self, delta, B, kernel, stride, padding, size):
        images = (len(delta), *size, len(B) // (kernel[0] * kernel[1]))
        g = Geometry.of("convolve_back", images, delta.shape[3], kernel, stride, padding)
        check(delta.shape == g.above() and B.shape[1] == g.c_out, delta, B)
        m, n, k = g.n * g.h * g.w, g.c_in, g.taps() * g.c_out
        arrays = self._back_geometry(g), self.stored(delta), self.stored(B.T)
        return self._multiply("convolve_back", self._store, m, n, k, *arrays, classes=g.pixel_classes()).reshape(images)

    def max_pool(self, y, kernel, stride, padding):
        g = Geometry.of("max_pool", y.shape, y.shape[3], kernel, stride, padding)
        winner = self.xp.empty(g.above(), np.int32)
        return self._elementwise("max_pool", self._store, g.above(), self._geometry(g), self.stored(y), winner), winner

    def max_pool_back(self, delta, winner, kernel, stride, padding, size):
        g = Geometry.of("max_pool_back", (len(delta), *size, delta.shape[3]), delta.shape[3], kernel, stride, padding)
        check(delta.shape == winner.shape == g.above(), delta, winner)
        places = self._contiguous(winner.astype(np.int32, copy=False))  # those of plain.py are int64
        return self._elementwise("max_pool_back", self._store, g.below(), self._geometry(g), self.stored(delta), places)

    def biased(self, a, b):
        return self._elementwise("biased", self._store, a.shape, self.stored(a), *self._vectors(a, b), np.int32(len(b)))

    def total(self, x):
        mean, _ = self.moments(x)
        return mean * mean.dtype.type(x.size // len(mean))

    def average(self, y):
        positions, channels = math.prod(y.shape[1:3]), y.shape[3]
        return self._elementwise("average", same, (len(y), channels), self.stored(y), *ints(positions, channels))

    def moments(self, x, known=None):
        return self._joined("moments_total", 2, self._moments(x) if known is None else known)

    def norm_statistics(self, y, gamma, running_mean, running_var, momentum, epsilon, known=None):
        check(all(x.shape == y.shape[-1:] and x.flags.c_contiguous for x in (gamma, running_mean, running_var)), y, gamma)
        parts = self._moments(y) if known is None else known
        rows = y.size // len(gamma)
        rates = map(gamma.dtype.type, (momentum, epsilon, rows / max(rows - 1, 1)))
        return self._joined("norm_statistics", 3, parts, gamma, running_mean, running_var, *rates)

    def norm_sums(self, delta, x, mean, scale, beta=None):
        return self._joined("norm_sums_total", 2, self._norm_sums(delta, x, mean, scale, beta))

    def norm_gradients(self, delta, x, mean, inverse_std, scale, beta=None):
        count = scale.dtype.type(delta.size // len(mean))
        return self._joined("norm_gradients", 4, self._norm_sums(delta, x, mean, scale, beta), inverse_std, scale, count)

    def norm_forward(self, x, mean, scale, beta, rectify=False, plus=None):
        check(plus is None or plus.shape == x.shape, x, plus)
        plus = NULL if plus is None else self.stored(plus)
        vectors, numbers = self._vectors(x, mean, scale, beta), ints(rectify, len(mean))
        return self._elementwise("norm_forward", self._store, x.shape, self.stored(x), *vectors, plus, *numbers)

    def norm_back(self, delta, x, mean, scale, slope, shift, beta=None):
        check(delta.shape == x.shape, delta, x)
        arrays = self.stored(delta), self.stored(x), *self._vectors(x, mean, scale, slope, shift, beta)
        return self._elementwise("norm_back", self._store, x.shape, *arrays, np.int32(len(mean)))

    def norm_scale(self, variance, gamma, epsilon):
        epsilon = gamma.dtype.type(epsilon)
        return self._elementwise("norm_scale", same, (2, gamma.size), variance, gamma, epsilon, size=gamma.size)

    def relu(self, a):
        return self._elementwise("relu", self._store, a.shape, self.stored(a))

    def relu_back(self, delta, y):
        check(delta.shape == y.shape, delta, y)
        return self._elementwise("relu_back", self._store, y.shape, self.stored(delta), self.stored(y))

    def add(self, a, b, rectify=False):
        check(a.shape == b.shape, a, b)
        return self._elementwise("add", self._store, a.shape, self.stored(a), self.stored(b), np.int32(rectify))

    def hadamard_product(self, v, before, after):
        check(v.shape[1:] == before.shape and after.ndim == 1, v, before, after)
        dtype, n, k = real_dtype((v, before, after)), len(before), len(after)
        order = power_of_two(max(n, k))
        if order * dtype.itemsize > ROW_BYTES:
            return plain.hadamard_product(v, before, after)
        out = self.xp.empty((len(v), k), dtype)
        arguments = *map(self._contiguous, (v, before, after)), *ints(n, k, order), out
        self._kernel(dtype, "hadamard_product")((len(v),), (THREADS,), arguments)
        return out

    def independent_signs(self, device, rng, rows, n):
        """The kernel knows only NumPy's PCG64, and no half of one of its words."""
        drawn = rng.bit_generator.state
        if drawn["bit_generator"] != "PCG64" or drawn["has_uint32"]:
            return plain.independent_signs(device, rng, rows, n)
        size, out = checked_size(rows * n), self.xp.empty((rows, n), device.dtype)
        stream = drawn["state"]["state"], drawn["state"]["inc"]
        halves = (np.uint64(half) for number in stream for half in divmod(number, 1 << 64))
        self._kernel(out.dtype, "independent_signs")((-(-size // BLOCK_SIGNS),), (THREADS,), (*halves, np.int32(size), out))
        words, half = divmod(-(-size // 32), 2)
        rng.bit_generator.advance(words)
        if half:  # the generator keeps the other half for its next bits
            rng.bytes(4)
        return out

    def descend(self, w, v, gradient, lr, momentum, decay, nesterov):
        check(w.shape == v.shape == gradient.shape, w, v, gradient)
        if w.ndim == 2 and not w.flags.c_contiguous:  # B lies in memory as its transpose does
            w, v, gradient = w.T, v.T, gradient.T
        check(w.flags.c_contiguous and v.flags.c_contiguous and w.dtype == gradient.dtype, w, v, gradient)
        lr = lr if hasattr(lr, "shape") else self.xp.full((), lr, w.dtype)
        rates = lr, w.dtype.type(momentum), w.dtype.type(decay)
        self._launch("descend", w.size, w, v, self._contiguous(gradient), *rates, *ints(nesterov, w.size))

    def _moments(self, x):
        """The moments of parts of the rows, as _partial_sums returns them."""
        return self._partial_sums("moments_parts", 3, x, self.stored(x))

    def _moments_buffer(self, dtype, m, n, k):
        """An array for the moments of each tile of a product (m, n); NULL where k is cut into slices."""
        down, _, slices = self._tiling(dtype, m, n, k)
        return self.xp.empty((n, -(-m // down), 3), dtype) if m and slices == 1 else NULL

    def _norm_sums(self, delta, x, mean, scale, beta):
        check(delta.shape == x.shape, delta, x)
        arrays = self.stored(delta), self.stored(x), *self._vectors(x, mean, scale, beta)
        return self._partial_sums("norm_sums_parts", 2, x, *arrays)


def _steps(start, stop, step):
    return len(range(start, stop, step))


def _divisors(sizes):
    """struct divisor of operands.cu for each size: (value, magic, shift), as int32 (sizes, 3)."""
    return np.array([_divisor(value) for value in sizes], dtype=np.uint32).view(np.int32)


def _divisor(value):
    """value, magic, shift: n / value = (n + (n magic >> 32)) >> shift for 0 <= n < 2^31 (Granlund and Montgomery, 1994)."""
    shift = (value - 1).bit_length() if value > 0 else 0
    return value, (((1 << 32) * ((1 << shift) - value)) // value + 1 if value > 0 else 0), shift
