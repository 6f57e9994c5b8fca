"""Compiling the CUDA kernels of cu/, passing their arguments, and launching them.

With precision bf16 activities and errors are stored as bfloat16, and so are copies of W and B during a product.  W and B
themselves, their gradients, sums over rows and vectors with a number per channel are float32.
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

SOURCES = ("tensor_cores", "common", "moments", "cores", "operands", "products", "elementwise", "norms", "pooling", "noise")
PRECISIONS = ("float32", "tf32", "bf16")  # of the factors of products in float32; their sums are always float32
THREADS = 256  # per block
PRODUCT_THREADS, PRODUCT_DEPTH = 128, 32  # threads per block of a product, and the largest depth (along k) of its tiles
STAGES, TILE_ROW_BYTES = 3, 80  # tiles of each factor in shared memory, and the most bytes that a row of one takes there
TILE_GAP = 8  # values between the rows of a result's tile in shared memory, from which it is written
# {tile: (its relative time per multiplication, estimated by traffic; its ROOM in products.cu, in blocks per processor)}
TILES = {(128, 128): (1.0, 2), (128, 64): (1.25, 3), (64, 64): (1.7, 4)}
SLICE_COST = 500  # time of writing and reading one sum, in multiplications; also an estimate
BLOCK_CHANNELS = 64  # whose sums one block computes
BLOCK_SIGNS = 64 * THREADS  # that one block draws, 64 in a thread
MAX_SIZE = 2**31 - 2**24  # of an array, because kernels index with 32 bits
NULL = 0  # the null pointer; CuPy passes a pointer that is not null for None (its issue 9046)


def source():
    """The sources of cu/, concatenated."""
    return "\n".join((Path(__file__).parent / "cu" / f"{name}.cu").read_text(encoding="utf-8") for name in SOURCES)


def options(dtype, precision):
    """The compiler's options for arrays of the dtype."""
    if np.dtype(dtype) == np.float64:
        return ("-std=c++17", "-DREAL=double")
    return ("-std=c++17", "-DREAL=float", "-DLARGE_TILES", f"-D{precision.upper()}")


def tiles(dtype):
    """The tiles for which there are kernels of products."""
    return list(TILES) if dtype == np.float32 else [(64, 64)]


class Launches:
    """The base class of Cuda: compiles kernels, prepares their arguments and launches them."""

    def __init__(self, xp, module, precision="float32", processors=132):
        """xp: the module cupy; module: cupy.RawModule or a substitute; processors: the number of multiprocessors."""
        self.xp, self.processors, self.bf16 = xp, processors, precision == "bf16"
        self.modules = {np.dtype(dtype): module(code=source(), options=options(dtype, precision)) for dtype in (np.float32, np.float64)}
        self._kernel, self._tiling = functools.cache(self._load), functools.cache(self._tiling)
        self._geometry = functools.cache(lambda g: xp.asarray(g.divisors()))
        self._back_geometry = functools.cache(lambda g: xp.asarray(g.back()))

    def compile(self, dtype):
        """Compile the kernels for a dtype, which otherwise happens when one of them is first used."""
        self._kernel(np.dtype(dtype), "relu")

    def _multiply(self, name, type_for, m, n, k, *arguments, classes=None):
        """Launch a product kernel and return its result (m, n), of dtype type_for(the arguments' dtype).

        classes: (the number of classes of rows, the most rows of one) if each class takes its own part of the sums over k.
        """
        dtype = real_dtype(arguments)
        checked_size(max(x.size for x in arguments if x is not NULL))
        if 0 in (m, n, k):  # a shard of a batch may be empty
            return self.xp.zeros((m, n), type_for(dtype))
        count, rows = classes or (1, m)
        down, across, slices = self._tiling(dtype, count * rows, n, max(k // count, 1))
        parts = self.xp.empty((slices, m, n), dtype) if slices > 1 else NULL
        out = self.xp.empty((m, n), type_for(dtype))
        grid = count * -(-rows // down), -(-n // across), slices
        factors, product = STAGES * TILE_ROW_BYTES * (down + across), down * (across + TILE_GAP) * dtype.itemsize
        shared = max(factors, product)  # the result's tile overwrites those of the factors
        kernel = self._kernel(dtype, f"{name}_{down}x{across}", shared)
        kernel(grid, (PRODUCT_THREADS,), (*arguments, parts, out), shared_mem=shared)
        if slices > 1:
            name = "add_slices_stored" if out.dtype != dtype else "add_slices"
            self._launch(name, out.size, parts, *ints(slices, out.size), out)
        return out

    def _tiling(self, dtype, m, n, k):
        """The (rows, columns) of a tile and number of slices of k for which a product is estimated to take the least time.

        A processor runs as many blocks at a time as it has room for; two are taken to keep it busy, so one alone is no faster.
        """

        def cost(cut):
            down, across, slices = cut
            time, room = TILES[down, across]
            rounds, rest = divmod(-(-m // down) * -(-n // across) * slices, room * self.processors)
            blocks = rounds * room + (max(-(-rest // self.processors), 2) if rest else 0)  # of the processor that has most
            adding = SLICE_COST * slices * m * n / self.processors if slices > 1 else 0
            return blocks * down * across * time * k / slices + adding

        most = min(max(k // (4 * PRODUCT_DEPTH), 1), 2 * self.processors)
        return min(((*tile, slices) for slices in range(1, most + 1) for tile in tiles(dtype)), key=cost)

    def _partial_sums(self, name, width, x, *arguments):
        """Launch a kernel that sums over parts of the rows: (channels, parts, width), width being the numbers in one sum."""
        dtype, channels = real_dtype(arguments), x.shape[-1]
        if not x.size:
            return self.xp.zeros((channels, 1, width), dtype)
        rows, across = checked_size(x.size) // channels, -(-channels // BLOCK_CHANNELS)
        count = max(min(8 * self.processors // across, rows // 64), 1)
        parts = self.xp.empty((channels, count, width), dtype)
        self._kernel(dtype, name)((across, count), (THREADS,), (*arguments, *ints(rows, channels), parts))
        return parts

    def _joined(self, name, results, parts, *arguments):
        """Launch a kernel that joins the parts of _partial_sums and return its result (results, channels)."""
        channels, count, _ = parts.shape
        out = self.xp.empty((results, channels), parts.dtype)
        arguments = parts, *ints(count, channels), *arguments, out
        self._kernel(real_dtype(arguments), name)((channels,), (THREADS,), arguments)
        return out

    def _elementwise(self, name, type_for, shape, *arguments, size=None):
        """Launch an element-wise kernel over `size` values, by default those of its result, and return that, of this shape."""
        checked_size(max(x.size for x in arguments if x is not NULL))
        out = self.xp.empty(shape, type_for(real_dtype(arguments)))
        size = out.size if size is None else size
        self._launch(name, size, *arguments, np.int32(size), out)
        return out

    def _launch(self, name, size, *arguments):
        blocks = min(-(-checked_size(size) // THREADS), 16 * self.processors)
        self._kernel(real_dtype(arguments), name)((max(blocks, 1),), (THREADS,), arguments)

    def _load(self, dtype, name, shared=0):
        """Return the kernel of that name, allowed to use `shared` bytes of dynamic shared memory."""
        kernel = self.modules[dtype].get_function(name)
        if shared:
            kernel.max_dynamic_shared_size_bytes = shared
        return kernel

    def _factor(self, x):
        """Return x (rows, k) as the kernels read it, whether it is contiguous along k or else along its rows, and its stride."""
        if not x.flags.c_contiguous and x.T.flags.c_contiguous:
            return self.stored(x.T).T, False, np.int32(len(x))
        return self.stored(x), True, np.int32(x.shape[1])

    def stored(self, x):
        """Return x contiguous and, if it is float32, in the dtype of activities and errors."""
        if self._store(x.dtype) == x.dtype:
            return self._contiguous(x)
        out = self.xp.empty(x.shape, BFLOAT16)
        self._launch("stored", x.size, self._contiguous(x), np.int32(x.size), out)
        return out

    def _store(self, dtype):
        """The dtype in which activities and errors are stored."""
        return BFLOAT16 if self.bf16 and dtype == np.float32 else dtype

    def _vectors(self, x, *vectors):
        """Return vectors with a number per channel of x as contiguous arrays, NULL for None.  Raises ValueError for others."""
        check(all(v is None or v.shape == x.shape[-1:] for v in vectors), x, *(v for v in vectors if v is not None))
        return [NULL if v is None else self._contiguous(v) for v in vectors]

    def _contiguous(self, x):
        return self.xp.ascontiguousarray(x)


def real_dtype(arguments):
    """Return the dtype of all real arguments, float32 for bfloat16.

    Raises ValueError if they are of several dtypes, which a kernel could not notice.
    """
    reals = (x.dtype for x in arguments if x is not NULL and x.dtype.kind in "fV")
    (dtype,) = {np.dtype(np.float32) if dtype == BFLOAT16 else dtype for dtype in reals}
    return dtype


def same(dtype):
    """For type_for: the result has the dtype of the arguments."""
    return dtype


def checked_size(size):
    """The size of an array.  Raises InputError if the kernels cannot index it."""
    if size > MAX_SIZE:
        right = "lower --batch-size or --mirror-rows"
        raise InputError(f"an array of {size:,} numbers is too large for the CUDA kernels, at most {MAX_SIZE:,}; {right}")
    return size


def ints(*values):
    """The values as the kernels take them, in 32 bits."""
    return tuple(map(np.int32, values))


def check(fits, *arrays):
    """Raise ValueError unless the shapes fit: the kernels do not check them."""
    if not fits:
        raise ValueError(f"shapes do not fit: {', '.join(str(x.shape) for x in arrays)}")
