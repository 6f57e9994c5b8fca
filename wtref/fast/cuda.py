"""The functions of plain.py by the CUDA kernels of cu/, on CuPy's arrays."""

import math
from collections import namedtuple

import numpy as np

from wtref.fast import plain
from wtref.fast.cuda_launches import NULL, THREADS, Launches, check, ints, real_dtype, same
from wtref.fast.operands import Shapes, check_order

HELD = 32768  # bytes of a row that one block keeps to itself


class Geometry(Shapes, namedtuple("Geometry", Shapes.NAMES)):
    """struct geometry of cu/operands.cu."""

    def numbers(self):
        """What operands.cu calls `number`, one each: (value, magic, shift) as int32."""
        return np.array([_number(value) for value in self], dtype=np.uint32).view(np.int32)


class Cuda(Launches):
    """Functions with the names and meanings of plain.py's, on device arrays of float32 or float64."""

    def product(self, a, b):
        check(a.shape[1] == len(b), a, b)
        (a, a_along_k, a_stride), (b, b_along_k, b_stride) = self._walked(a), self._walked(b.T)
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
        arrays = self._numbers(g), self._stored(y), self._stored(W)
        moments = self._room_for_moments(real_dtype(arrays), m, n, k) if measured else NULL
        out = self._multiply("convolve", self._store, m, n, k, *arrays, moments).reshape(g.above())
        return out, None if moments is NULL else moments

    def convolve_outer(self, delta, y, kernel, stride, padding):
        g = Geometry.of("convolve_outer", y.shape, delta.shape[3], kernel, stride, padding)
        check(delta.shape == g.above(), delta, y)
        m, n, k = g.c_out, g.taps() * g.c_in, g.n * g.out_h * g.out_w
        return self._multiply("convolve_outer", same, m, n, k, self._numbers(g), self._stored(delta), self._stored(y))

    def convolve_back(self, delta, B, kernel, stride, padding, size):
        images = (len(delta), *size, len(B) // (kernel[0] * kernel[1]))
        g = Geometry.of("convolve_back", images, delta.shape[3], kernel, stride, padding)
        check(delta.shape == g.above() and B.shape[1] == g.c_out, delta, B)
        m, n, k = g.n * g.h * g.w, g.c_in, g.taps() * g.c_out
        arrays = self._numbers(g), self._stored(delta), self._stored(B.T)
        return self._multiply("convolve_back", self._store, m, n, k, *arrays).reshape(images)

    def max_pool(self, y, kernel, stride, padding):
        g = Geometry.of("max_pool", y.shape, y.shape[3], kernel, stride, padding)
        winner = self.xp.empty(g.above(), np.int32)
        return self._each("max_pool", self._store, g.above(), self._numbers(g), self._stored(y), winner), winner

    def max_pool_back(self, delta, winner, kernel, stride, padding, size):
        g = Geometry.of("max_pool_back", (len(delta), *size, delta.shape[3]), delta.shape[3], kernel, stride, padding)
        check(delta.shape == winner.shape == g.above(), delta, winner)
        places = self._flat(winner.astype(np.int32, copy=False))  # plain.py's are wider
        return self._each("max_pool_back", self._store, g.below(), self._numbers(g), self._stored(delta), places)

    def biased(self, a, b):
        return self._each("biased", self._store, a.shape, self._stored(a), *self._vectors(a, b), np.int32(len(b)))

    def total(self, x):
        mean, _ = self.moments(x)
        return mean * mean.dtype.type(x.size // len(mean))

    def average(self, y):
        positions, channels = math.prod(y.shape[1:3]), y.shape[3]
        return self._each("average", same, (len(y), channels), self._stored(y), *ints(positions, channels))

    def moments(self, x):
        return self._finish("moments_total", 2, self._moments(x))

    def norm_statistics(self, y, gamma, running_mean, running_var, momentum, epsilon, known=None):
        check(all(x.shape == y.shape[-1:] and x.flags.c_contiguous for x in (gamma, running_mean, running_var)), y, gamma)
        parts = self._moments(y) if known is None else known
        rows = y.size // len(gamma)
        rates = map(gamma.dtype.type, (momentum, epsilon, rows / max(rows - 1, 1)))
        return self._finish("norm_statistics", 3, parts, gamma, running_mean, running_var, *rates)

    def norm_sums(self, delta, x, mean, scale, beta=None):
        return self._finish("norm_sums_total", 2, self._norm_sums(delta, x, mean, scale, beta))

    def norm_gradients(self, delta, x, mean, inverse_std, scale, beta=None):
        count = scale.dtype.type(delta.size // len(mean))
        return self._finish("norm_gradients", 4, self._norm_sums(delta, x, mean, scale, beta), inverse_std, scale, count)

    def norm_forward(self, x, mean, scale, beta, rectify=False, plus=None):
        check(plus is None or plus.shape == x.shape, x, plus)
        plus = NULL if plus is None else self._stored(plus)
        vectors, numbers = self._vectors(x, mean, scale, beta), ints(rectify, len(mean))
        return self._each("norm_forward", self._store, x.shape, self._stored(x), *vectors, plus, *numbers)

    def norm_back(self, delta, x, mean, scale, slope, shift, beta=None):
        check(delta.shape == x.shape, delta, x)
        arrays = self._stored(delta), self._stored(x), *self._vectors(x, mean, scale, slope, shift, beta)
        return self._each("norm_back", self._store, x.shape, *arrays, np.int32(len(mean)))

    def norm_scale(self, variance, gamma, epsilon):
        epsilon = gamma.dtype.type(epsilon)
        return self._each("norm_scale", same, (2, gamma.size), variance, gamma, epsilon, size=gamma.size)

    def relu(self, a):
        return self._each("relu", self._store, a.shape, self._stored(a))

    def relu_back(self, delta, y):
        check(delta.shape == y.shape, delta, y)
        return self._each("relu_back", self._store, y.shape, self._stored(delta), self._stored(y))

    def add(self, a, b, rectify=False):
        check(a.shape == b.shape, a, b)
        return self._each("add", self._store, a.shape, self._stored(a), self._stored(b), np.int32(rectify))

    def hadamard_product(self, v, before, after, order):
        check_order(order)
        check(v.shape[1:] == before.shape and after.ndim == 1, v, before, after)
        dtype, n, k = real_dtype((v, before, after)), len(before), len(after)
        if order * dtype.itemsize > HELD:
            return plain.hadamard_product(v, before, after, order)
        out = self.xp.empty((len(v), k), dtype)
        arguments = *map(self._flat, (v, before, after)), *ints(n, k, order), out
        self._kernel(dtype, "hadamard_product")((len(v),), (THREADS,), arguments)
        return out

    def descend(self, w, v, gradient, lr, momentum, decay, nesterov):
        check(w.shape == v.shape == gradient.shape, w, v, gradient)
        if w.ndim == 2 and not w.flags.c_contiguous:  # B lies in memory as its transpose does
            w, v, gradient = w.T, v.T, gradient.T
        check(w.flags.c_contiguous and v.flags.c_contiguous and w.dtype == gradient.dtype, w, v, gradient)
        lr = lr if hasattr(lr, "shape") else self.xp.full((), lr, w.dtype)
        rates = lr, w.dtype.type(momentum), w.dtype.type(decay)
        self._launch("descend", w.size, w, v, self._flat(gradient), *rates, *ints(nesterov, w.size))

    def _moments(self, x):
        """Of parts of the rows, as _sum_rows gives them."""
        return self._sum_rows("moments_parts", 3, x, self._stored(x))

    def _room_for_moments(self, dtype, m, n, k):
        """For those of a product (m, n), tile by tile; none where each block has but a slice of every sum."""
        down, _, slices = self._cut(dtype, m, n, k)
        return self.xp.empty((n, -(-m // down), 3), dtype) if m and slices == 1 else NULL

    def _norm_sums(self, delta, x, mean, scale, beta):
        check(delta.shape == x.shape, delta, x)
        arrays = self._stored(delta), self._stored(x), *self._vectors(x, mean, scale, beta)
        return self._sum_rows("norm_sums_parts", 2, x, *arrays)


def _number(value):
    """value, magic, shift: n / value = (n + (n magic >> 32)) >> shift for 0 <= n < 2^31 (Granlund and Montgomery, 1994)."""
    shift = (value - 1).bit_length() if value > 0 else 0
    return value, (((1 << 32) * ((1 << shift) - value)) // value + 1 if value > 0 else 0), shift
