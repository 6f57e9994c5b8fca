"""Operands of the compiled functions: all memory layouts give the plain result; wrong operands raise before C is called."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_suite import assert_equal, compiled, in_double, modest, normal
from wtref.fast import plain

fast = compiled()

SAME = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1)}
POOL = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0)}
X, C = (2, 5, 5, 16), (16,)
OPERANDS = {  # {function: ({operand: its shape}, the other arguments)}
    "product": ({"a": (5, 7), "b": (7, 6)}, {}),
    "convolve": ({"y": X, "W": (32, 144)}, SAME),
    "convolve_gradient": ({"delta": (2, 5, 5, 32), "y": X}, SAME),
    "convolve_back": ({"delta": (2, 5, 5, 32), "B": (144, 32)}, SAME | {"size": (5, 5)}),
    "max_pool": ({"y": X}, POOL),
    "max_pool_back": ({"delta": (2, 2, 2, 16), "winner": (2, 2, 2, 16)}, POOL | {"size": (5, 5)}),
    "moments": ({"x": X}, {}),
    "norm_sums": ({"delta": X, "x": X, "mean": C, "scale": C, "beta": C}, {}),
    "norm_forward": ({"x": X, "mean": C, "scale": C, "beta": C, "plus": X}, {"rectify": True}),
    "norm_back": ({"delta": X, "x": X, "mean": C, "scale": C, "slope": C, "shift": C, "beta": C}, {}),
    "relu": ({"a": X}, {}),
    "relu_back": ({"delta": X, "y": X}, {}),
    "add": ({"a": X, "b": X}, {"rectify": True}),
    "hadamard_product": ({"v": (3, 6), "before": (6,), "after": (5,)}, {}),
    "descend": (dict.fromkeys(["w", "v", "gradient"], (5, 6)), {"lr": 0.1, "momentum": 0.9, "decay": 0.1, "nesterov": True}),
}  # fmt: skip


def drawn(function, seed, dtype):
    """({operand: array}, the other arguments)."""
    draw, (shapes, others) = normal(seed, dtype), OPERANDS[function]
    arrays = {name: draw(*shape) for name, shape in shapes.items()}
    if "winner" in arrays:
        arrays["winner"] = np.random.default_rng(seed).integers(0, 4, arrays["winner"].shape)
    return arrays, others


def between_bytes(x):
    """x with a byte before every number."""
    spread = np.zeros(x.shape, [("byte", "u1"), ("number", x.dtype)])
    spread["number"] = x
    return spread["number"]


LAYOUTS = {
    "as it is": lambda x: x,
    "backwards": lambda x: x[::-1].copy()[::-1],
    "every second": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "columns first": np.asfortranarray,
    "misaligned": lambda x: np.frombuffer(bytearray(b"." + x.tobytes()), x.dtype, offset=1).reshape(x.shape),
    "between bytes": between_bytes,
    "read only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}
FAULTS = {
    "short": lambda x: x[..., :-1],
    "shorter": lambda x: x[:1],
    "long": lambda x: np.concatenate([x, x], axis=-1),
    "deep": lambda x: x[None],
    "flat": lambda x: x.ravel(),
    "double": lambda x: x.astype(np.float64),
    "half": lambda x: x.astype(np.float16),
    "integers": lambda x: x.astype(np.int64),
    "bytes turned": lambda x: x.astype(x.dtype.newbyteorder()),
    "complex": lambda x: x.astype(np.complex64),
    "none": lambda x: None,
    "a list": lambda x: x.tolist(),
}
seeds = st.integers(0, 2**32 - 1)


def result_of(kernels, function, arrays, others):
    """The results as a list of arrays; for descend, the arrays that it updates."""
    found = getattr(kernels, function)(**arrays, **others)
    if found is None:
        return [arrays["w"], arrays["v"]]
    return list(found) if function in ("moments", "max_pool") else [found]


def assert_same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert_equal(one, other, 1e-4 if np.float32 in (one.dtype, other.dtype) else 1e-10)


@pytest.mark.parametrize("function", OPERANDS)
@given(st.sampled_from([np.float32, np.float64]), st.data(), seeds)
@modest
def test_operands_of_any_layout(function, dtype, data, seed):
    arrays, others = drawn(function, seed, dtype)
    exact = dict(zip(arrays, in_double(*arrays.values())))
    layouts = sorted(LAYOUTS.keys() - ({"read only"} if function == "descend" else set()))
    for name in arrays:
        arrays[name] = LAYOUTS[data.draw(st.sampled_from(layouts), label=name)](arrays[name])
    assert_same(result_of(fast, function, arrays, others), result_of(plain, function, exact, others))


@pytest.mark.parametrize("function", OPERANDS)
@given(st.sampled_from(sorted(FAULTS)), st.data(), seeds)
@modest
def test_a_faulty_operand_is_refused_or_means_what_it_means_to_the_plain_function(function, fault, data, seed):
    arrays, others = drawn(function, seed, np.float32)
    faulty = data.draw(st.sampled_from(sorted(arrays)))
    arrays[faulty] = FAULTS[fault](arrays[faulty])
    before = {name: x.copy() if isinstance(x, np.ndarray) else x for name, x in arrays.items()}  # descend changes them
    try:
        found = result_of(fast, function, arrays, others)
    except ValueError as error:
        assert str(error).startswith(f"{function}: ")
    except (AttributeError, TypeError):
        assert fault in ("none", "a list")
    else:
        assert_same(found, result_of(plain, function, before, others))


@pytest.mark.parametrize("function, operand, change, found", [
    ("norm_forward", "mean", lambda x: x[:-1], r"float32 \(15,\)"), ("norm_sums", "beta", lambda x: x[:3], r"float32 \(3,\)"),
    ("norm_back", "shift", np.float64, r"float64 \(16,\)"), ("norm_forward", "beta", lambda x: None, "NoneType"),
    ("max_pool_back", "winner", np.float64, r"float64 \(2, 2, 2, 16\)"), ("descend", "v", lambda x: x[1:], r"float32 \(4, 6\)"),
    ("hadamard_product", "before", lambda x: x[:-1], None), ("add", "b", list, "list"),
    ("convolve", "W", lambda x: x[:, 1:], r"float32 \(32, 143\)"), ("product", "b", np.float64, r"float64 \(7, 6\)"),
])  # fmt: skip
def test_the_message_names_function_and_operand(function, operand, change, found):
    arrays, others = drawn(function, 0, np.float32)
    shape = arrays[operand].shape
    arrays[operand] = change(arrays[operand])
    if function == "hadamard_product":  # the length of `before` determines the shape of v
        operand, shape, found = "v", (3, 5), r"float32 \(3, 6\)"
    dtype, shape = "int32" if operand == "winner" else "float32", str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=f"^{function}: {operand} must be an array {dtype} {shape}, found {found}$"):
        getattr(fast, function)(**arrays, **others)


@pytest.mark.parametrize("function", ["convolve", "convolve_gradient", "convolve_back", "max_pool", "max_pool_back"])
@pytest.mark.parametrize("change", [
    {"padding": (-1, -1)}, {"padding": (0, -1)}, {"stride": (0, 1)}, {"stride": (1, -2)}, {"kernel": (0, 3)},
    {"kernel": (9, 9)}, {"kernel": (3,)}, {"stride": (2**64, 1)}, {"padding": (2**40, 2**40), "stride": (2**40, 2**40)},
], ids=str)  # fmt: skip
def test_geometries_that_cannot_be(function, change):
    arrays, others = drawn(function, 0, np.float32)
    with pytest.raises(ValueError, match=f"^{function}: "):
        getattr(fast, function)(**arrays, **others | change)


@pytest.mark.parametrize("dtype", [np.float16, np.int32, ">f4", np.complex64])
def test_numbers_that_c_does_not_know(dtype):
    x = np.ones((4, 4), dtype)
    for call in (fast.relu, fast.moments, lambda x: fast.product(x, x), lambda x: fast.max_pool(x[None, :, :, None], **POOL)):
        with pytest.raises(ValueError, match=r"^\w+: arrays must be of float32 or float64, found "):
            call(x)


def test_places_of_maxima_may_be_of_any_integers():
    arrays, others = drawn("max_pool_back", 0, np.float64)
    wanted = plain.max_pool_back(**arrays, **others)
    for dtype in (np.int8, np.int32, np.int64, np.uint16):
        arrays["winner"] = np.asfortranarray(arrays["winner"].astype(dtype))
        assert np.array_equal(fast.max_pool_back(**arrays, **others), wanted)
