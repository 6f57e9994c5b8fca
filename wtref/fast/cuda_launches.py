"""How a CUDA kernel of cu/ is compiled, given its arguments and launched.

In bf16, what is large lies in memory as bfloat16: activities and errors, and copies of W and B for the time of a
product.  W and B themselves, their gradients, sums over rows and all small vectors stay float32.
"""

import functools
from pathlib import Path

import numpy as np

from wtref.errors import InputError

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


class Launches:
    """What the functions of cuda.py have in common."""

    def __init__(self, xp, module, precision="float32", processors=132):
        """xp: the array module; module(code=, options=): cupy.RawModule; processors: the GPU's multiprocessors."""
        self.xp, self.processors, self.bf16 = xp, processors, precision == "bf16"
        self.modules = {
            np.dtype(dtype): module(code=source(), options=options(dtype, precision))
            for dtype in (np.float32, np.float64)
        }
        self._kernel, self._cut = functools.cache(self._loaded), functools.cache(self._cut)
        self._numbers = functools.cache(lambda g: xp.asarray(g.numbers()))

    def _multiply(self, name, type_for, m, n, k, *arguments):
        """out (m, n) of a product kernel; type_for(its arguments' dtype): the result's, same or self._store."""
        dtype = real_dtype(arguments)
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
            self._launch(name, out.size, parts, *ints(slices, out.size), out)
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

    def _sum_rows(self, name, width, x, *arguments):
        """Sums over parts of the rows: (channels, parts, width); width: the numbers of one."""
        dtype, channels = real_dtype(arguments), x.shape[-1]
        if not x.size:
            return self.xp.zeros((channels, 1, width), dtype)
        rows, across = _counted(x.size) // channels, -(-channels // WIDTH)
        count = max(min(8 * self.processors // across, rows // 64), 1)
        parts = self.xp.empty((channels, count, width), dtype)
        self._kernel(dtype, name)((across, count), (THREADS,), (*arguments, *ints(rows, channels), parts))
        return parts

    def _finish(self, name, results, parts, *arguments):
        """(results, channels) of a kernel that joins the parts."""
        channels, count, _ = parts.shape
        out = self.xp.empty((results, channels), parts.dtype)
        arguments = parts, *ints(count, channels), *arguments, out
        self._kernel(real_dtype(arguments), name)((channels,), (THREADS,), arguments)
        return out

    def _each(self, name, type_for, shape, *arguments, size=None):
        """A new array of the shape from a kernel that goes over `size` values, as many as the array's unless given."""
        out = self.xp.empty(shape, type_for(real_dtype(arguments)))
        size = out.size if size is None else size
        self._launch(name, size, *arguments, np.int32(size), out)
        return out

    def _launch(self, name, size, *arguments):
        blocks = min(-(-_counted(size) // THREADS), 16 * self.processors)
        self._kernel(real_dtype(arguments), name)((max(blocks, 1),), (THREADS,), arguments)

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
        check(all(v is None or v.shape == x.shape[-1:] for v in vectors), x, *(v for v in vectors if v is not None))
        return [NULL if v is None else self._flat(v) for v in vectors]

    def _flat(self, x):
        return self.xp.ascontiguousarray(x)


def real_dtype(arguments):
    """Of the real numbers among them, float32's for bfloat16; ValueError for a mixture, which a kernel would not notice."""
    reals = (x.dtype for x in arguments if x is not NULL and x.dtype.kind in "fV")
    (dtype,) = {np.dtype(np.float32) if dtype == BFLOAT16 else dtype for dtype in reals}
    return dtype


def same(dtype):
    return dtype


def _counted(size):
    if size > MOST:
        raise InputError(f"an array of {size:,} numbers is too large for the CUDA kernels; lower --batch-size")
    return size


def ints(*values):
    return tuple(map(np.int32, values))


def check(fits, *arrays):
    """A kernel believes what it is told: shapes that do not fit must not get there."""
    if not fits:
        raise ValueError(f"shapes do not fit: {', '.join(str(x.shape) for x in arrays)}")
