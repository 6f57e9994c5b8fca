"""The primitives of plain.py by the CUDA kernels of cu/, on CuPy's arrays."""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wtref.kernels import plain

SOURCES = ("common", "tensor_cores", "cores", "operands", "products", "elementwise", "norms", "pooling")
PRECISIONS = ("float32", "tf32", "bf16")  # of the factors of a product in float32; sums are float32 always
THREADS = 256
TILE_DEPTH = 32  # of k, at most, that one tile of a product takes in


def source():
    """All of cu/, as one text."""
    return "\n".join((Path(__file__).parent / "cu" / f"{name}.cu").read_text() for name in SOURCES)


def options(dtype, precision):
    """What the compiler is told, for arrays of the dtype."""
    if np.dtype(dtype) == np.float64:
        return ("-std=c++17", "-DREAL=double")
    return ("-std=c++17", "-DREAL=float", "-DLARGE_TILES", f"-D{precision.upper()}")


class Geometry(NamedTuple):
    """struct geometry of cu/operands.cu."""

    n: int
    h: int
    w: int
    c_in: int
    out_h: int
    out_w: int
    c_out: int
    k_h: int
    k_w: int
    s_h: int
    s_w: int
    p_h: int
    p_w: int

    @classmethod
    def of(cls, images, c_out, kernel, stride, padding):
        """images: the shape (N, H, W, C_in) of what the kernel slides over."""
        size = plain.output_size(images[1:3], kernel, stride, padding)
        return cls(*images, *size, c_out, *kernel, *stride, *padding)

    def below(self):
        return self.n, self.h, self.w, self.c_in

    def above(self):
        return self.n, self.out_h, self.out_w, self.c_out

    def taps(self):
        return self.k_h * self.k_w

    def numbers(self):
        """What operands.cu calls `number`, one each: (value, magic, shift) as int32."""
        return np.array([_number(value) for value in self], dtype=np.uint32).view(np.int32)


class Cuda:
    """Functions with the names and meanings of plain.py's, on device arrays of float32 or float64."""

    def __init__(self, xp, module, precision="float32", processors=132):
        """xp: the array module; module(code=, options=): cupy.RawModule; processors: the GPU's multiprocessors."""
        self.xp, self.processors = xp, processors
        self.modules = {
            np.dtype(dtype): module(code=source(), options=options(dtype, precision))
            for dtype in (np.float32, np.float64)
        }
        self._kernel = functools.cache(lambda dtype, name: self.modules[dtype].get_function(name))
        self._numbers = functools.cache(lambda g: xp.asarray(g.numbers()))

    def product(self, a, b):
        _check(a.shape[1] == len(b), a, b)
        (a, a_along_k, a_stride), (b, b_along_k, b_stride) = self._walked(a), self._walked(b.T)
        m, n, k = len(a), len(b), a.shape[1]
        kind = "product_" + "mk"[a_along_k] + "mk"[b_along_k]
        return self._multiply(kind, m, n, k, a, a_stride, b, b_stride, *_ints(m, n, k))

    def convolve(self, y, W, kernel, stride, padding):
        g = Geometry.of(y.shape, len(W), kernel, stride, padding)
        _check(W.shape[1] == g.taps() * g.c_in, y, W)
        m, n, k = g.n * g.out_h * g.out_w, g.c_out, g.taps() * g.c_in
        return self._multiply("convolve", m, n, k, self._numbers(g), self._flat(y), self._flat(W)).reshape(g.above())

    def convolve_outer(self, delta, y, kernel, stride, padding):
        g = Geometry.of(y.shape, delta.shape[3], kernel, stride, padding)
        _check(delta.shape == g.above(), delta, y)
        m, n, k = g.c_out, g.taps() * g.c_in, g.n * g.out_h * g.out_w
        return self._multiply("convolve_outer", m, n, k, self._numbers(g), self._flat(delta), self._flat(y))

    def convolve_back(self, delta, B, kernel, stride, padding, size):
        images = (len(delta), *size, len(B) // (kernel[0] * kernel[1]))
        g = Geometry.of(images, delta.shape[3], kernel, stride, padding)
        _check(delta.shape == g.above() and B.shape[1] == g.c_out, delta, B)
        m, n, k = g.n * g.h * g.w, g.c_in, g.taps() * g.c_out
        return self._multiply("convolve_back", m, n, k, self._numbers(g), self._flat(delta), self._flat(B.T)).reshape(images)

    def max_pool(self, y, kernel, stride, padding):
        g = Geometry.of(y.shape, y.shape[3], kernel, stride, padding)
        winner = self.xp.empty(g.above(), np.int32)
        return self._each("max_pool", g.above(), self._numbers(g), self._flat(y), winner), winner

    def max_pool_back(self, delta, winner, kernel, stride, padding, size):
        g = Geometry.of((len(delta), *size, delta.shape[3]), delta.shape[3], kernel, stride, padding)
        _check(delta.shape == winner.shape == g.above(), delta, winner)
        return self._each("max_pool_back", g.below(), self._numbers(g), self._flat(delta), winner)

    def moments(self, x):
        return self._sum_rows("moments", 3, x, self._flat(x))

    def norm_sums(self, delta, x, mean, y=None):
        _check(delta.shape == x.shape, delta, x)
        return self._sum_rows("norm_sums", 2, x, self._flat(delta), self._flat(x), mean, self._flat(y))

    def norm_forward(self, x, mean, scale, shift, rectify=False):
        channels = np.int32(len(mean))
        return self._each("norm_forward", x.shape, self._flat(x), mean, scale, shift, np.int32(rectify), channels)

    def norm_back(self, delta, x, mean, scale, slope, shift, y=None):
        _check(delta.shape == x.shape, delta, x)
        arrays = self._flat(delta), self._flat(x), mean, scale, slope, shift, self._flat(y)
        return self._each("norm_back", x.shape, *arrays, np.int32(len(mean)))

    def norm_scale(self, variance, gamma, epsilon):
        return self._each("norm_scale", (2, gamma.size), variance, gamma, gamma.dtype.type(epsilon), size=gamma.size)

    def norm_slopes(self, delta_sum, centred_sum, inverse_std, scale, count):
        sums = delta_sum, centred_sum, inverse_std, scale
        return self._each("norm_slopes", (2, scale.size), *sums, scale.dtype.type(count), size=scale.size)

    def follow(self, running, batch, momentum, factor=1.0):
        rates = map(running.dtype.type, (momentum, factor))
        self._launch("follow", running.dtype, running.size, running, batch, *rates, running.size)

    def relu(self, a):
        return self._each("relu", a.shape, self._flat(a))

    def relu_back(self, delta, y):
        _check(delta.shape == y.shape, delta, y)
        return self._each("relu_back", y.shape, self._flat(delta), self._flat(y))

    def add(self, a, b, rectify=False):
        _check(a.shape == b.shape, a, b)
        return self._each("add", a.shape, self._flat(a), self._flat(b), np.int32(rectify))

    def signed(self, h, rows, columns):
        shape = len(rows), len(columns)
        return self._each("signed_rows", shape, self._flat(h), rows, columns, *_ints(shape[1], h.shape[1]))

    def descend(self, w, v, gradient, lr, momentum, decay, nesterov):
        _check(w.shape == v.shape == gradient.shape, w, v, gradient)
        if w.ndim == 2 and not w.flags.c_contiguous:  # B lies in memory as its transpose does
            w, v, gradient = w.T, v.T, gradient.T
        _check(w.flags.c_contiguous and v.flags.c_contiguous, w, v)
        lr = lr if hasattr(lr, "shape") else self.xp.full((), lr, w.dtype)
        rates = lr, w.dtype.type(momentum), w.dtype.type(decay)
        self._launch("descend", _dtype((w, v, gradient)), w.size, w, v, self._flat(gradient), *rates, np.int32(nesterov), w.size)

    def _multiply(self, name, m, n, k, *arguments):
        """out (m, n) of a product kernel: in slices of k where its tiles alone would leave processors idle."""
        dtype = _dtype(arguments)
        if 0 in (m, n, k):  # a process's share of a batch may be empty
            return self.xp.zeros((m, n), dtype)
        down, across = self._tile(dtype, m, n)
        blocks = -(-m // down), -(-n // across)
        slices = min(-(-2 * self.processors // math.prod(blocks)), max(k // (4 * TILE_DEPTH), 1))
        parts = self.xp.empty((slices, m, n), dtype)
        self._kernel(dtype, f"{name}_{down}x{across}")((*blocks, slices), (THREADS,), (*arguments, parts))
        if slices == 1:
            return parts[0]
        return self._each("add_slices", (m, n), parts, np.int32(slices))

    def _tile(self, dtype, m, n):
        """Rows and columns of the largest tile that still leaves a block for every processor."""
        for down, across in ((128, 128), (128, 64)) if dtype == np.float32 else ():
            if n > across / 2 and -(-m // down) * -(-n // across) >= self.processors:
                return down, across
        return 64, 64

    def _sum_rows(self, name, width, x, *arguments):
        """(2, channels) of a kernel in two steps; width: the numbers of its Sum."""
        channels = x.shape[-1]
        if not x.size:
            return self.xp.zeros((2, channels), x.dtype)
        rows, across = x.size // channels, -(-channels // 32)
        count = max(min(4 * self.processors // across, rows // 32), 1)
        parts = self.xp.empty((channels, count, width), x.dtype)
        shape = _ints(rows, channels)
        self._kernel(x.dtype, f"{name}_parts")((across, count), (THREADS,), (*arguments, *shape, parts))
        out = self.xp.empty((2, channels), x.dtype)
        arguments = parts, *_ints(count, channels), out
        self._kernel(x.dtype, f"{name}_total")((-(-channels // 8),), (THREADS,), arguments)
        return out

    def _each(self, name, shape, *arguments, size=None):
        """A new array of the shape from a kernel that goes over `size` values, as many as the array's unless given."""
        dtype = _dtype(arguments)
        out = self.xp.empty(shape, dtype)
        size = out.size if size is None else size
        self._launch(name, dtype, size, *arguments, size, out)
        return out

    def _launch(self, name, dtype, size, *arguments):
        blocks = min(-(-size // THREADS), 16 * self.processors)
        self._kernel(dtype, name)((max(blocks, 1),), (THREADS,), arguments)

    def _walked(self, x):
        """x (rows, k), whether it runs along k in memory (else along its rows), and the stride of the other axis."""
        down, along = (stride // x.itemsize for stride in x.strides)
        if along == 1:
            return x, True, np.int32(down)
        if down == 1:
            return x, False, np.int32(along)
        return self.xp.ascontiguousarray(x), True, np.int32(x.shape[1])

    def _flat(self, x):
        return None if x is None else self.xp.ascontiguousarray(x)


def _number(value):
    """value, magic, shift: n / value = (n + (n magic >> 32)) >> shift for 0 <= n < 2^31 (Granlund and Montgomery, 1994)."""
    shift = (value - 1).bit_length() if value > 0 else 0
    return value, (((1 << 32) * ((1 << shift) - value)) // value + 1 if value > 0 else 0), shift


def _dtype(arguments):
    """Of the real numbers among them; ValueError for a mixture, which a kernel would not notice."""
    (dtype,) = {x.dtype for x in arguments if x is not None and x.dtype.kind == "f"}
    return dtype


def _ints(*values):
    return tuple(map(np.int32, values))


def _check(fits, *arrays):
    """A kernel believes what it is told: shapes that do not fit must not get there."""
    if not fits:
        raise ValueError(f"shapes do not fit: {', '.join(str(x.shape) for x in arrays)}")
