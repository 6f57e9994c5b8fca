"""The ops of a CPU: the functions of plain.py, computed by the C functions of the same names in c/."""

import ctypes
import math
import weakref

import numpy as np

from wtref.fast import plain
from wtref.fast.building import library, same_cores
from wtref.fast.operands import Shapes
from wtref.noise import power_of_two

REALS = {np.dtype(np.float32): ("float", ctypes.c_float), np.dtype(np.float64): ("double", ctypes.c_double)}

ADDRESS, FROM_BUFFER, ARRAY = ctypes.addressof, ctypes.c_char.from_buffer, np.ndarray  # bound once, for the 400 arrays of a step

WINNER = np.dtype(np.int32)  # of the positions that max_pool returns
OPTIONAL = {("norm_sums", "beta"), ("norm_gradients", "beta"), ("norm_back", "beta"), ("norm_forward", "plus")}  # operands that may be None


class Geometry(Shapes, ctypes.Structure):
    """struct geometry of c/convolution.c."""

    _fields_ = [(name, ctypes.c_long) for name in Shapes.NAMES]


class Compiled:
    """The functions of plain.py, on NumPy arrays of float32 or float64."""

    def __init__(self, threads):
        """Load the C functions, compiling them if necessary.

        threads: the number requested of OpenMP.  The attribute `threads` is the number granted, 1 unless `has_openmp`, or where
        the process `is_forked` from one that has loaded them, and `instruction_set` the name of the processor's vector instructions that the functions were compiled for.  Raises
        NoCompiler.
        """
        with same_cores():
            self.libraries = {dtype: library(real) for dtype, (real, _) in REALS.items()}
            for functions in self.libraries.values():
                self.threads = functions.threads = functions.use_threads(threads)
                functions.keep_memory()
                functions.failures = ctypes.c_int.in_dll(functions, "failures")
        self.instruction_set = ctypes.c_char_p.in_dll(functions, "instruction_set").value.decode()
        self.has_openmp, self.is_forked = bool(ctypes.c_int.in_dll(functions, "has_openmp")), bool(functions.is_forked())
        self.buffers = BufferPool()

    def product(self, a, b):
        m, n, k = len(a), b.shape[-1], len(b)
        left, right = _matrix("product", "a", a, (m, k), a.dtype), _matrix("product", "b", b, (k, n), a.dtype)
        return self._new((m, n), a.dtype, "product", *left, *right, m, n, k)

    def convolve(self, y, W, kernel, stride, padding):
        g = Geometry.of("convolve", y.shape, len(W), kernel, stride, padding)
        matrix = _matrix("convolve", "W", W, (g.c_out, g.taps() * g.c_in), y.dtype)
        return self._new(g.above(), y.dtype, "convolve", g, _packed(y), *matrix)

    def convolve_with_moments(self, y, W, kernel, stride, padding):
        return self.convolve(y, W, kernel, stride, padding), None

    def convolve_gradient(self, delta, y, kernel, stride, padding):
        g = Geometry.of("convolve_gradient", y.shape, delta.shape[-1], kernel, stride, padding)
        (error,) = _arrays("convolve_gradient", g.above(), y.dtype, delta=delta)
        return self._new((g.c_out, g.taps() * g.c_in), y.dtype, "convolve_gradient", g, error, _packed(y))

    def convolve_back(self, delta, B, kernel, stride, padding, size):
        images = (len(delta), *size, len(B) // max(math.prod(kernel), 1))
        g = Geometry.of("convolve_back", images, delta.shape[-1], kernel, stride, padding)
        (error,) = _arrays("convolve_back", g.above(), delta.dtype, delta=delta)
        matrix = _matrix("convolve_back", "B", B, (g.taps() * g.c_in, g.c_out), delta.dtype)
        return self._new(images, delta.dtype, "convolve_back", g, error, *matrix)

    def max_pool(self, y, kernel, stride, padding):
        g = Geometry.of("max_pool", y.shape, y.shape[-1], kernel, stride, padding)
        winner = np.empty(g.above(), WINNER)
        return self._new(g.above(), y.dtype, "max_pool", g, _packed(y), winner), winner

    def max_pool_back(self, delta, winner, kernel, stride, padding, size):
        g = Geometry.of("max_pool_back", (len(delta), *size, delta.shape[-1]), delta.shape[-1], kernel, stride, padding)
        winner = winner if winner.dtype.kind not in "iu" else winner.astype(WINNER, copy=False)  # those of plain.py are int64
        (error,) = _arrays("max_pool_back", g.above(), delta.dtype, delta=delta)
        (places,) = _arrays("max_pool_back", g.above(), WINNER, winner=winner)
        return self._new(g.below(), delta.dtype, "max_pool_back", g, error, places)

    def moments(self, x, known=None):
        return self._new((2, x.shape[-1]), x.dtype, "moments", _packed(x), *_rows(x))

    def norm_sums(self, delta, x, mean, scale, beta=None):
        large = _arrays("norm_sums", x.shape, x.dtype, delta=delta, x=x)
        small = _arrays("norm_sums", x.shape[-1:], x.dtype, mean=mean, scale=scale, beta=beta)
        return self._new((2, x.shape[-1]), x.dtype, "norm_sums", *large, *small, *_rows(x))

    biased, total, average = map(staticmethod, (plain.biased, plain.total, plain.average))
    norm_scale = staticmethod(plain.norm_scale)

    def norm_statistics(self, y, gamma, running_mean, running_var, momentum, epsilon, known=None):
        if not (running_mean.flags.carray and running_var.flags.carray):
            return plain.norm_statistics(y, gamma, running_mean, running_var, momentum, epsilon, moments=self.moments)
        small = _arrays("norm_statistics", y.shape[-1:], y.dtype, gamma=gamma, running_mean=running_mean, running_var=running_var)
        rates = float(momentum), float(epsilon)
        return self._new((3, y.shape[-1]), y.dtype, "norm_statistics", _packed(y), *small, *rates, *_rows(y))

    def norm_gradients(self, delta, x, mean, inverse_std, scale, beta=None):
        large = _arrays("norm_gradients", x.shape, x.dtype, delta=delta, x=x)
        small = _arrays("norm_gradients", x.shape[-1:], x.dtype, mean=mean, inverse_std=inverse_std, scale=scale, beta=beta)
        return self._new((4, x.shape[-1]), x.dtype, "norm_gradients", *large, *small, *_rows(x))

    def norm_forward(self, x, mean, scale, beta, rectify=False, plus=None):
        x, plus = _arrays("norm_forward", x.shape, x.dtype, x=x, plus=plus)
        small = _arrays("norm_forward", x.shape[-1:], x.dtype, mean=mean, scale=scale, beta=beta)
        return self._new(x.shape, x.dtype, "norm_forward", x, *small, plus, rectify, *_rows(x))

    def norm_back(self, delta, x, mean, scale, slope, shift, beta=None):
        large = _arrays("norm_back", x.shape, x.dtype, delta=delta, x=x)
        small = _arrays("norm_back", x.shape[-1:], x.dtype, mean=mean, scale=scale, slope=slope, shift=shift, beta=beta)
        return self._new(x.shape, x.dtype, "norm_back", *large, *small, *_rows(x))

    def relu(self, a):
        return self._new(a.shape, a.dtype, "relu", _packed(a), a.size)

    def relu_back(self, delta, y):
        return self._new(y.shape, y.dtype, "relu_back", *_arrays("relu_back", y.shape, y.dtype, delta=delta, y=y), y.size)

    def add(self, a, b, rectify=False):
        return self._new(a.shape, a.dtype, "add", *_arrays("add", a.shape, a.dtype, a=a, b=b), rectify, a.size)

    def hadamard_product(self, v, before, after):
        (m, n), k = (len(v), len(before)), len(after)
        (v,) = _arrays("hadamard_product", (m, n), v.dtype, v=v)
        (before,) = _arrays("hadamard_product", (n,), v.dtype, before=before)
        (after,) = _arrays("hadamard_product", (k,), v.dtype, after=after)
        return self._new((m, k), v.dtype, "hadamard_product", v, before, after, m, n, k, power_of_two(max(n, k)))

    def sign_correlations(self, bits, rows, n, dtype):
        (bits,) = _arrays("sign_correlations", (-(-rows * n // 8),), np.dtype(np.uint8), bits=bits)
        return self._new((n, n), dtype, "sign_correlations", bits, rows, n)

    def descend(self, w, v, gradient, lr, momentum, decay, nesterov):
        if w.ndim == 2 and not w.flags.c_contiguous:  # B lies in memory as its transpose does
            w, v, gradient = w.T, v.T, gradient.T
        _, packed = _arrays("descend", w.shape, w.dtype, v=v, gradient=gradient)
        if not (w.flags.carray and v.flags.carray):
            return plain.descend(w, v, gradient, lr, momentum, decay, nesterov)
        self._call(w.dtype, "descend", w, v, packed, w.size, float(lr), float(momentum), float(decay), nesterov)

    def joined_descent(self, ws, vs):
        """Return descend_all of plain.py for these ws and vs, whose addresses are found once: a function of the other arguments."""
        if not all(x.flags.carray for x in (*ws, *vs)):
            return plain.joined_descent(ws, vs)
        for w, v in zip(ws, vs, strict=True):
            _arrays("descend_all", w.shape, ws[0].dtype, w=w, v=v)
        table = np.array([(_address(w), _address(v), 0, w.size) for w, v in zip(ws, vs)], ctypes.c_long)

        def descend_all(gradients, lr, momentum, nesterov):
            pairs = zip(ws, gradients, strict=True)
            packed = [x for w, gradient in pairs for x in _arrays("descend_all", w.shape, w.dtype, gradient=gradient)]
            table[:, 2] = [_address(x) for x in packed]
            self._call(ws[0].dtype, "descend_all", table, len(table), float(lr), float(momentum), nesterov)

        return descend_all

    def _new(self, shape, dtype, name, *arguments):
        """Return a new array of the shape and dtype, computed by the C function of that name, whose last argument is its result.

        If an operand is empty, as with an empty shard of a batch, all sums are zero.
        """
        out = self.buffers.empty(shape, dtype)
        c_arguments, empty = _c_arguments((*arguments, out))
        if empty:
            return np.zeros(shape, dtype)
        self._run(dtype, name, c_arguments)
        return out

    def _call(self, dtype, name, *arguments):
        c_arguments, _ = _c_arguments(arguments)
        self._run(dtype, name, c_arguments)

    def _run(self, dtype, name, c_arguments):
        """Call the C function for numbers of the dtype, whose argument types are set at its first call.  Raises MemoryError."""
        if dtype not in self.libraries:
            raise ValueError(f"{name}: arrays must be of float32 or float64, found {dtype}")
        functions = self.libraries[dtype]
        if functions.threads != self.threads:  # a library has one number of threads for all its users
            functions.use_threads(self.threads)
            functions.threads = self.threads
        function = getattr(functions, name)
        if function.argtypes is None:
            function.argtypes, function.restype = [_c_type(argument, dtype) for argument in c_arguments], None
        before = functions.failures.value
        function(*c_arguments)
        if functions.failures.value != before:
            raise MemoryError(f"{name}: no memory for its work buffers")


class BufferPool:
    """The memory of large arrays, reused for later arrays of the same size.

    The page faults of fresh memory take longer than filling it.  The C library keeps the memory of smaller arrays
    (keep_memory in products.c).
    """

    LARGE = 1 << 25  # bytes from which arrays are pooled
    MEDIUM = 1 << 22  # bytes above which arrays are aligned to cache lines, because C writes them past the caches
    LINE = 64  # bytes of a cache line
    MOST = 4  # free blocks kept: more of them save page faults but raise the peak memory

    def __init__(self):
        self.free = {}  # {size in bytes: the free blocks of that size}

    def empty(self, shape, dtype):
        """Return an uninitialised array."""
        count = math.prod(shape)
        size = count * dtype.itemsize
        if size <= self.MEDIUM:
            return np.empty(shape, dtype)
        if size < self.LARGE:
            block = np.empty(size + self.LINE, np.uint8)
            return np.ndarray(shape, dtype, block, -_address(block) % self.LINE)
        if not self.free.get(size):
            self.free = {size: []}  # free the blocks of other sizes first
        block = self.free[size].pop() if self.free[size] else np.empty(size + self.LINE, np.uint8)
        array = np.frombuffer(block.data, dtype, count, -_address(block) % self.LINE)  # every view keeps a reference to it
        weakref.finalize(array, self._take_back, size, block).atexit = False
        return array.reshape(shape)

    def _take_back(self, size, block):
        if size in self.free and len(self.free[size]) < self.MOST:
            self.free[size].append(block)


def _arrays(function, shape, dtype, **operands):
    """Return the operands as contiguous arrays.

    Raises ValueError unless they have the shape and dtype: C does not check them.
    """
    for name, x in operands.items():
        if not isinstance(x, ARRAY) or x.shape != shape or x.dtype != dtype:
            if x is not None or (function, name) not in OPTIONAL:
                raise _misfit(function, name, x, shape, dtype)
        elif not x.flags.carray:
            operands[name] = _packed(x)
    return operands.values()


def _matrix(function, name, x, shape, dtype):
    """Return a matrix, copied only if C cannot read it in place, and its strides in elements."""
    if not isinstance(x, np.ndarray) or x.shape != shape or x.dtype != dtype:
        raise _misfit(function, name, x, shape, dtype)
    size, (row, column) = x.itemsize, x.strides
    if row % size or column % size or not x.flags.aligned:
        x, row, column = x.copy("C"), shape[1] * size, size
    return x if column <= row else x.T, row // size, column // size  # x.T has the same address, which _address finds faster where rows are contiguous


def _packed(x):
    """Return x as a contiguous array, copied only if necessary."""
    return x if x.flags.carray else np.require(x, requirements="CA")


def _misfit(function, name, x, shape, dtype):
    found = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
    return ValueError(f"{function}: {name} must be an array {dtype} {shape}, found {found}")


def _c_arguments(arguments):
    """Return (the arguments with arrays replaced by addresses, whether an array is empty)."""
    try:
        return [ADDRESS(FROM_BUFFER(x)) if isinstance(x, ARRAY) else x for x in arguments], False
    except (TypeError, ValueError, BufferError):  # one of the arrays is read-only, not contiguous or empty
        arrays = [x for x in arguments if isinstance(x, np.ndarray)]
        return [_address(x) if isinstance(x, np.ndarray) else x for x in arguments], not all(x.size for x in arrays)


def _c_type(argument, dtype):
    """The ctypes type of an argument; addresses, None and integers are passed as pointers."""
    return {float: REALS[dtype][1], Geometry: ctypes.POINTER(Geometry)}.get(type(argument), ctypes.c_void_p)


def _address(x):
    """The address of the first element of x."""
    try:
        return ADDRESS(FROM_BUFFER(x))  # three times as fast, but not for every array
    except (TypeError, ValueError, BufferError):
        return x.__array_interface__["data"][0]


def _rows(x):
    """The number of rows of x (..., C) and the number C of channels."""
    channels = x.shape[-1]
    return x.size // (channels or 1), channels
