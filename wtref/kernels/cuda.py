"""The primitives of plain.py by the CUDA kernels of cu/, on CuPy's arrays.

In bf16, what is large lies in memory as bfloat16: activities and errors, and copies of W and B for the time of a
product.  W and B themselves, their gradients, sums over rows and all small vectors stay float32.
"""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wtref.errors import InputError
from wtref.kernels import plain
from wtref.kernels.operands import check_order, output_size

try:
    from ml_dtypes import bfloat16

    BFLOAT16 = np.dtype(bfloat16)
except ImportError:
    BFLOAT16 = None

SOURCES = ("tensor_cores", "common", "moments", "cores", "operands", "products", "elementwise", "norms", "pooling")
PRECISIONS = ("float32", "tf32", "bf16")  # of the factors of a product in float32; sums are float32 always
THREADS = 256  # of a block
PRODUCT_THREADS, PRODUCT_DEPTH = 128, 32  # of a block that multiplies; of k, at most, that one of its tiles takes in
STAGES, ROW_BYTES = 3, 80  # tiles of a factor in shared memory, and what a row of one takes there at most
TILE_GAP = 8  # values between rows of a product's tile there, of which moments are taken
TILES = {(128, 128): 1.0, (128, 64): 1.25, (64, 64): 1.7}  # time for a number of their sums: an estimate, by traffic
SLICE_COST = 500  # of writing and reading a sum, in multiplications: an estimate as well
WIDTH = 64  # channels that a block sums up
HELD = 32768  # bytes of a row that one block keeps to itself
MOST = 2**31 - 2**24  # values of an array that kernels count in 32 bits
NULL = 0  # the address; CuPy makes another of None (its issue 9046)


def source():
    """All of cu/, as one text."""
    return "\n".join((Path(__file__).parent / "cu" / f"{name}.cu").read_text(encoding="utf-8") for name in SOURCES)


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
    def of(cls, function, images, c_out, kernel, stride, padding):
        """function: which asks;  images: the shape (N, H, W, C_in) of what the kernel slides over."""
        size = output_size(function, images, kernel, stride, padding)
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
        self.xp, self.processors, self.bf16 = xp, processors, precision == "bf16"
        self.modules = {
            np.dtype(dtype): module(code=source(), options=options(dtype, precision))
            for dtype in (np.float32, np.float64)
        }
        self._kernel, self._cut = functools.cache(self._loaded), functools.cache(self._cut)
        self._numbers = functools.cache(lambda g: xp.asarray(g.numbers()))

    def product(self, a, b):
        _check(a.shape[1] == len(b), a, b)
        (a, a_along_k, a_stride), (b, b_along_k, b_stride) = self._walked(a), self._walked(b.T)
        m, n, k = len(a), len(b), a.shape[1]
        kind = "product_" + "mk"[a_along_k] + "mk"[b_along_k]
        return self._multiply(kind, _same, m, n, k, a, a_stride, b, b_stride, *_ints(m, n, k))

    def convolve(self, y, W, kernel, stride, padding):
        out, _ = self._convolve(y, W, kernel, stride, padding, measured=False)
        return out

    def convolve_with_moments(self, y, W, kernel, stride, padding):
        return self._convolve(y, W, kernel, stride, padding, measured=True)

    def _convolve(self, y, W, kernel, stride, padding, measured):
        g = Geometry.of("convolve", y.shape, len(W), kernel, stride, padding)
        _check(W.shape[1] == g.taps() * g.c_in, y, W)
        m, n, k = g.n * g.out_h * g.out_w, g.c_out, g.taps() * g.c_in
        arrays = self._numbers(g), self._stored(y), self._stored(W)
        moments = self._room_for_moments(_real(arrays), m, n, k) if measured else NULL
        out = self._multiply("convolve", self._store, m, n, k, *arrays, moments).reshape(g.above())
        return out, None if moments is NULL else moments

    def convolve_outer(self, delta, y, kernel, stride, padding):
        g = Geometry.of("convolve_outer", y.shape, delta.shape[3], kernel, stride, padding)
        _check(delta.shape == g.above(), delta, y)
        m, n, k = g.c_out, g.taps() * g.c_in, g.n * g.out_h * g.out_w
        return self._multiply("convolve_outer", _same, m, n, k, self._numbers(g), self._stored(delta), self._stored(y))

    def convolve_back(self, delta, B, kernel, stride, padding, size):
        images = (len(delta), *size, len(B) // (kernel[0] * kernel[1]))
        g = Geometry.of("convolve_back", images, delta.shape[3], kernel, stride, padding)
        _check(delta.shape == g.above() and B.shape[1] == g.c_out, delta, B)
        m, n, k = g.n * g.h * g.w, g.c_in, g.taps() * g.c_out
        arrays = self._numbers(g), self._stored(delta), self._stored(B.T)
        return self._multiply("convolve_back", self._store, m, n, k, *arrays).reshape(images)

    def max_pool(self, y, kernel, stride, padding):
        g = Geometry.of("max_pool", y.shape, y.shape[3], kernel, stride, padding)
        winner = self.xp.empty(g.above(), np.int32)
        return self._each("max_pool", self._store, g.above(), self._numbers(g), self._stored(y), winner), winner

    def max_pool_back(self, delta, winner, kernel, stride, padding, size):
        g = Geometry.of("max_pool_back", (len(delta), *size, delta.shape[3]), delta.shape[3], kernel, stride, padding)
        _check(delta.shape == winner.shape == g.above(), delta, winner)
        places = self._flat(winner.astype(np.int32, copy=False))  # plain.py's are wider
        return self._each("max_pool_back", self._store, g.below(), self._numbers(g), self._stored(delta), places)

    def biased(self, a, b):
        return self._each("biased", self._store, a.shape, self._stored(a), *self._vectors(a, b), np.int32(len(b)))

    def total(self, x):
        mean, _ = self.moments(x)
        return mean * mean.dtype.type(x.size // len(mean))

    def average(self, y):
        positions, channels = math.prod(y.shape[1:3]), y.shape[3]
        return self._each("average", _same, (len(y), channels), self._stored(y), *_ints(positions, channels))

    def moments(self, x):
        return self._finish("moments_total", 2, self._moments(x))

    def norm_statistics(self, y, gamma, running_mean, running_var, momentum, epsilon, known=None):
        _check(all(x.shape == y.shape[-1:] and x.flags.c_contiguous for x in (gamma, running_mean, running_var)), y, gamma)
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
        _check(plus is None or plus.shape == x.shape, x, plus)
        plus = NULL if plus is None else self._stored(plus)
        vectors, numbers = self._vectors(x, mean, scale, beta), _ints(rectify, len(mean))
        return self._each("norm_forward", self._store, x.shape, self._stored(x), *vectors, plus, *numbers)

    def norm_back(self, delta, x, mean, scale, slope, shift, beta=None):
        _check(delta.shape == x.shape, delta, x)
        arrays = self._stored(delta), self._stored(x), *self._vectors(x, mean, scale, slope, shift, beta)
        return self._each("norm_back", self._store, x.shape, *arrays, np.int32(len(mean)))

    def norm_scale(self, variance, gamma, epsilon):
        epsilon = gamma.dtype.type(epsilon)
        return self._each("norm_scale", _same, (2, gamma.size), variance, gamma, epsilon, size=gamma.size)

    def relu(self, a):
        return self._each("relu", self._store, a.shape, self._stored(a))

    def relu_back(self, delta, y):
        _check(delta.shape == y.shape, delta, y)
        return self._each("relu_back", self._store, y.shape, self._stored(delta), self._stored(y))

    def add(self, a, b, rectify=False):
        _check(a.shape == b.shape, a, b)
        return self._each("add", self._store, a.shape, self._stored(a), self._stored(b), np.int32(rectify))

    def hadamard_product(self, v, before, after, order):
        check_order(order)
        _check(v.shape[1:] == before.shape and after.ndim == 1, v, before, after)
        dtype, n, k = _real((v, before, after)), len(before), len(after)
        if order * dtype.itemsize > HELD:
            return plain.hadamard_product(v, before, after, order)
        out = self.xp.empty((len(v), k), dtype)
        arguments = *map(self._flat, (v, before, after)), *_ints(n, k, order), out
        self._kernel(dtype, "hadamard_product")((len(v),), (THREADS,), arguments)
        return out

    def descend(self, w, v, gradient, lr, momentum, decay, nesterov):
        _check(w.shape == v.shape == gradient.shape, w, v, gradient)
        if w.ndim == 2 and not w.flags.c_contiguous:  # B lies in memory as its transpose does
            w, v, gradient = w.T, v.T, gradient.T
        _check(w.flags.c_contiguous and v.flags.c_contiguous and w.dtype == gradient.dtype, w, v, gradient)
        lr = lr if hasattr(lr, "shape") else self.xp.full((), lr, w.dtype)
        rates = lr, w.dtype.type(momentum), w.dtype.type(decay)
        self._launch("descend", w.size, w, v, self._flat(gradient), *rates, *_ints(nesterov, w.size))

    def _multiply(self, name, type_for, m, n, k, *arguments):
        """out (m, n) of a product kernel; type_for(its arguments' dtype): the result's, _same or self._store."""
        dtype = _real(arguments)
        if 0 in (m, n, k):  # a process's share of a batch may be empty
            return self.xp.zeros((m, n), type_for(dtype))
        down, across, slices = self._cut(dtype, m, n, k)
        parts = self.xp.empty((slices, m, n), dtype) if slices > 1 else NULL
        out = self.xp.empty((m, n), type_for(dtype))
        grid = -(-m // down), -(-n // across), slices
        factors, product = STAGES * ROW_BYTES * (down + across), down * (across + TILE_GAP) * self._store(dtype).itemsize
        shared = max(factors, product)  # the latter lies where the former were
        kernel = self._kernel(dtype, f"{name}_{down}x{across}", shared)
        kernel(grid, (PRODUCT_THREADS,), (*arguments, parts, out), shared_mem=shared)
        if slices > 1:
            name = "add_slices_stored" if out.dtype != dtype else "add_slices"
            self._launch(name, out.size, parts, *_ints(slices, out.size), out)
        return out

    def _cut(self, dtype, m, n, k):
        """(rows, columns of a tile, slices of k) of a product that should take the least time.

        Two blocks at a time run on a processor, and a round takes as long for one block as for all.
        """
        at_once = 2 * self.processors

        def cost(cut):
            down, across, slices = cut
            rounds = -(-(-(-m // down) * -(-n // across) * slices) // at_once)
            adding = SLICE_COST * slices * m * n / at_once if slices > 1 else 0
            return rounds * down * across * TILES[down, across] * k / slices + adding

        tiles = TILES if dtype == np.float32 else [(64, 64)]
        most = min(max(k // (4 * PRODUCT_DEPTH), 1), at_once)
        return min(((*tile, slices) for slices in range(1, most + 1) for tile in tiles), key=cost)

    def _moments(self, x):
        """Of parts of the rows, as _sum_rows gives them."""
        return self._sum_rows("moments_parts", 3, x, self._stored(x))

    def _room_for_moments(self, dtype, m, n, k):
        """For those of a product (m, n), tile by tile; none where each block has but a slice of every sum."""
        down, _, slices = self._cut(dtype, m, n, k)
        return self.xp.empty((n, -(-m // down), 3), dtype) if m and slices == 1 else NULL

    def _norm_sums(self, delta, x, mean, scale, beta):
        _check(delta.shape == x.shape, delta, x)
        arrays = self._stored(delta), self._stored(x), *self._vectors(x, mean, scale, beta)
        return self._sum_rows("norm_sums_parts", 2, x, *arrays)

    def _sum_rows(self, name, width, x, *arguments):
        """Sums over parts of the rows: (channels, parts, width); width: the numbers of one."""
        dtype, channels = _real(arguments), x.shape[-1]
        if not x.size:
            return self.xp.zeros((channels, 1, width), dtype)
        rows, across = _counted(x.size) // channels, -(-channels // WIDTH)
        count = max(min(8 * self.processors // across, rows // 64), 1)
        parts = self.xp.empty((channels, count, width), dtype)
        self._kernel(dtype, name)((across, count), (THREADS,), (*arguments, *_ints(rows, channels), parts))
        return parts

    def _finish(self, name, results, parts, *arguments):
        """(results, channels) of a kernel that joins the parts."""
        channels, count, _ = parts.shape
        out = self.xp.empty((results, channels), parts.dtype)
        arguments = parts, *_ints(count, channels), *arguments, out
        self._kernel(_real(arguments), name)((channels,), (THREADS,), arguments)
        return out

    def _each(self, name, type_for, shape, *arguments, size=None):
        """A new array of the shape from a kernel that goes over `size` values, as many as the array's unless given."""
        out = self.xp.empty(shape, type_for(_real(arguments)))
        size = out.size if size is None else size
        self._launch(name, size, *arguments, np.int32(size), out)
        return out

    def _launch(self, name, size, *arguments):
        blocks = min(-(-_counted(size) // THREADS), 16 * self.processors)
        self._kernel(_real(arguments), name)((max(blocks, 1),), (THREADS,), arguments)

    def _loaded(self, dtype, name, shared=0):
        """The kernel of that name, which may have so many bytes of shared memory where it asks for them at its launch."""
        kernel = self.modules[dtype].get_function(name)
        if shared:
            kernel.max_dynamic_shared_size_bytes = shared
        return kernel

    def _walked(self, x):
        """x (rows, k) as it is stored, whether it runs along k in memory or else along its rows, and the other's stride."""
        if not x.flags.c_contiguous and x.T.flags.c_contiguous:
            return self._stored(x.T).T, False, np.int32(len(x))
        return self._stored(x), True, np.int32(x.shape[1])

    def _stored(self, x):
        """x in one piece; from float32 in the type of activities and errors."""
        if self._store(x.dtype) == x.dtype:
            return self._flat(x)
        out = self.xp.empty(x.shape, BFLOAT16)
        self._launch("stored", x.size, self._flat(x), np.int32(x.size), out)
        return out

    def _store(self, dtype):
        """The type in which activities and errors lie in memory."""
        return BFLOAT16 if self.bf16 and dtype == np.float32 else dtype

    def _vectors(self, x, *vectors):
        """With a number for each channel of x, each in one piece; none for None, which beta may be."""
        _check(all(v is None or v.shape == x.shape[-1:] for v in vectors), x, *(v for v in vectors if v is not None))
        return [NULL if v is None else self._flat(v) for v in vectors]

    def _flat(self, x):
        return self.xp.ascontiguousarray(x)


def _number(value):
    """value, magic, shift: n / value = (n + (n magic >> 32)) >> shift for 0 <= n < 2^31 (Granlund and Montgomery, 1994)."""
    shift = (value - 1).bit_length() if value > 0 else 0
    return value, (((1 << 32) * ((1 << shift) - value)) // value + 1 if value > 0 else 0), shift


def _real(arguments):
    """Of the real numbers among them, float32's for bfloat16; ValueError for a mixture, which a kernel would not notice."""
    reals = (x.dtype for x in arguments if x is not NULL and x.dtype.kind in "fV")
    (dtype,) = {np.dtype(np.float32) if dtype == BFLOAT16 else dtype for dtype in reals}
    return dtype


def _same(dtype):
    return dtype


def _counted(size):
    if size > MOST:
        raise InputError(f"an array of {size:,} numbers is too large for the CUDA kernels; lower --batch-size")
    return size


def _ints(*values):
    return tuple(map(np.int32, values))


def _check(fits, *arrays):
    """A kernel believes what it is told: shapes that do not fit must not get there."""
    if not fits:
        raise ValueError(f"shapes do not fit: {', '.join(str(x.shape) for x in arrays)}")
