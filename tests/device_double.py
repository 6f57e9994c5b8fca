"""A stand-in for CuPy on a machine without a GPU, whose arrays raise TypeError where they are mixed with NumPy arrays.

A `DoubleArray` wraps a NumPy array.  `xp.array(host)` and `xp.asarray(host)` are the only ways to make one, and `.get()` is
the only way to read it.  Everything else that would mix host and device raises TypeError: operators, indexing, assignment,
`np` functions on a DoubleArray, and `xp` functions on a host array.  A zero-dimensional result is a DoubleArray, as with
CuPy.  `float(x)`, `bool(x)` and the like, for which CuPy waits for the GPU, raise TypeError, so every wait is a `.get()`.

Python numbers and NumPy scalars may be combined with a DoubleArray, as with CuPy.  What waits for the GPU inside CuPy, such as
sliding_window_view, which copies the window's shape to it and reads it there, is left out.
"""

import operator
import sys
from types import ModuleType, SimpleNamespace

import numpy as np

PLAIN = (bool, int, float, str, slice, type, type(None), type(Ellipsis), np.generic, np.dtype)


class DoubleArray:
    """An array of the device double."""

    __array_ufunc__ = None  # so that an operator with an ndarray on the left raises TypeError

    def __init__(self, hidden):
        self._hidden = hidden

    def get(self):
        """Return a copy as a NumPy array, which may be zero-dimensional."""
        return np.array(self._hidden)

    shape = property(lambda self: self._hidden.shape)
    dtype = property(lambda self: self._hidden.dtype)
    ndim = property(lambda self: self._hidden.ndim)
    size = property(lambda self: self._hidden.size)
    nbytes = property(lambda self: self._hidden.nbytes)
    itemsize = property(lambda self: self._hidden.itemsize)
    strides = property(lambda self: self._hidden.strides)
    flags = property(lambda self: self._hidden.flags)
    T = property(lambda self: DoubleArray(self._hidden.T))

    def __len__(self):
        return len(self._hidden)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index):
        return _wrapped(self._hidden[_unwrapped(index)])

    def __setitem__(self, index, value):
        self._hidden[_unwrapped(index)] = _unwrapped(value)

    def __repr__(self):
        return f"DoubleArray(shape={self.shape}, dtype={self.dtype})"

    def _refuse(self, *arguments, **options):
        raise TypeError("an array of the device double cannot be used as host data; use to_host")

    __array__ = __array_function__ = __bool__ = __int__ = __float__ = __complex__ = __index__ = _refuse
    item = tolist = _refuse
    __hash__ = None


def _unwrapped(x):
    """Return the NumPy array in x, also inside tuples and lists.  Raises TypeError for host arrays."""
    if isinstance(x, DoubleArray):
        return x._hidden
    if isinstance(x, (tuple, list)):
        return type(x)(_unwrapped(part) for part in x)
    if isinstance(x, PLAIN):
        return x
    raise TypeError(f"an argument of the device double must be on the device, found a {type(x).__name__}; use xp.array")


def _wrapped(x):
    return DoubleArray(np.asarray(x)) if isinstance(x, (np.ndarray, np.generic)) else x


def _lifted(function):
    """Return the same function for arrays of the device double."""

    def on_device(*arguments, out=None, **options):
        arguments = [_unwrapped(argument) for argument in arguments]
        options = {name: _unwrapped(value) for name, value in options.items()}
        if out is None:
            return _wrapped(function(*arguments, **options))
        function(*arguments, out=_unwrapped(out), **options)
        return out

    return on_device


def _operator(function):
    """The same operator for arrays of the device double; one with a foreign object that takes no ufuncs is left to that, as by CuPy."""
    lifted = _lifted(function)

    def on_device(self, other):
        foreign = not isinstance(other, DoubleArray) and getattr(other, "__array_ufunc__", True) is None
        return NotImplemented if foreign else lifted(self, other)

    return on_device


def _in_place(function):
    def on_device(self, other):
        self._hidden = function(self._hidden, _unwrapped(other))
        return self

    return on_device


BINARY = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split()
COMPARISONS = "eq ne lt le gt ge".split()
METHODS = (
    "all any argmax argmin argsort astype clip copy cumsum diagonal dot max mean min nonzero prod ravel "
    "repeat reshape round sort squeeze std sum swapaxes take trace transpose var view"
).split()
FUNCTIONS = (
    "abs absolute add all any arange argmax argmin argsort ascontiguousarray bitwise_and bitwise_xor "
    "broadcast_to clip concatenate copysign copyto cumsum divide dot einsum empty empty_like equal exp "
    "expand_dims expm1 eye flip floor full full_like greater greater_equal isfinite isnan less "
    "less_equal log log1p logical_and logical_not logical_or matmul max maximum mean min minimum "
    "moveaxis multiply negative ones ones_like outer pad power prod ravel repeat reshape roll rint "
    "rot90 sign sqrt square squeeze stack std subtract sum swapaxes take take_along_axis tanh tensordot "
    "tile transpose true_divide unpackbits var vdot where zeros zeros_like"
).split()

for _name in BINARY:
    _plain = getattr(operator, f"__{_name}__")
    setattr(DoubleArray, f"__{_name}__", _operator(_plain))
    setattr(DoubleArray, f"__r{_name}__", _operator(lambda a, b, plain=_plain: plain(b, a)))
    setattr(DoubleArray, f"__i{_name}__", _in_place(getattr(operator, f"__i{_name}__")))
for _name in COMPARISONS:
    setattr(DoubleArray, f"__{_name}__", _lifted(getattr(operator, f"__{_name}__")))
for _name in ("neg", "pos", "abs", "invert"):
    setattr(DoubleArray, f"__{_name}__", _lifted(getattr(operator, f"__{_name}__")))
for _name in METHODS:
    setattr(DoubleArray, _name, _lifted(getattr(np.ndarray, _name)))


def _array(host, dtype=None):
    """Return a copy of a host array or a DoubleArray as a DoubleArray."""
    return DoubleArray(np.array(host._hidden if isinstance(host, DoubleArray) else host, dtype=dtype))


xp = ModuleType("device_double_xp")
xp.__dict__.update(
    ndarray=DoubleArray,
    array=_array,
    asarray=_array,
    linalg=SimpleNamespace(norm=_lifted(np.linalg.norm)),
    **{name: _lifted(getattr(np, name)) for name in FUNCTIONS},
    **{name: getattr(np, name) for name in "float32 float64 int32 int64 uint8 inf nan pi newaxis".split()},
)
DoubleArray.__module__ = xp.__name__  # array_module looks the module up by this name
sys.modules[xp.__name__] = xp
