"""`run.py bench kernels`: the compiled functions beside their plain versions in NumPy, on shapes from the models, in float32."""

from functools import partial
from typing import NamedTuple

import numpy as np

from wtref.bench.turns import median_seconds
from wtref.fast import plain
from wtref.geometry import output_size

CONVOLUTIONS = (  # where; the images below; channels above; kernel, stride, padding
    ("resnet8 stem", (128, 32, 32, 3), 16, 3, 1, 1),
    ("resnet8 stage1", (128, 32, 32, 16), 16, 3, 1, 1),
    ("resnet8 stage2 conv1", (128, 32, 32, 16), 32, 3, 2, 1),
    ("resnet8 stage2 shortcut", (128, 32, 32, 16), 32, 1, 2, 0),
    ("resnet8 stage3", (128, 8, 8, 64), 64, 3, 1, 1),
    ("resnet18 stage1", (32, 32, 32, 64), 64, 3, 1, 1),
    ("resnet18 stage2 conv1", (32, 32, 32, 64), 128, 3, 2, 1),
    ("resnet18 stage4", (32, 4, 4, 512), 512, 3, 1, 1),
    ("resnet50 stem", (8, 224, 224, 3), 64, 7, 2, 3),
    ("resnet50 stage1 conv3", (8, 56, 56, 64), 256, 1, 1, 0),
)
ACTIVITIES = (
    ("resnet8 stage3", (8, 8, 8, 64)),
    ("resnet8 stage1", (128, 32, 32, 16)),
    ("resnet18 stage1", (32, 32, 32, 64)),
    ("resnet18 stage4", (32, 4, 4, 512)),
)
LINEAR = (("mlp hidden1", 128, 784, 500), ("mlp output", 128, 500, 10))  # where, batch, n_in, n_out
WEIGHTS = (("resnet8 gamma", (16,)), ("mlp hidden1", (500, 784)), ("resnet18 stage4", (512, 4608)))
NORMS = 6 * (16,) + 6 * (32,) + 6 * (64,)  # the sizes of resnet8's gammas and betas
POOL = ("resnet50 stem", (8, 112, 112, 64), (3, 3), (2, 2), (1, 1))
TITLE = f"  {'kernel':<18}{'shapes':<27}{'ms':>9}{'NumPy ms':>9}{'ratio':>7} {'rate':>7}"


class Case(NamedTuple):
    """A call of one of the ops; flop: the floating-point operations of a product, 0 for a pass over arrays."""

    op: str
    where: str
    arguments: tuple
    flop: int = 0


def cases():
    """Yield every Case, each drawn when it is needed."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape, np.float32)

    for each in CONVOLUTIONS:
        yield from _convolutions(draw, *each)
    for each in LINEAR:
        yield from _products(draw, *each)
    for each in ACTIVITIES:
        yield from _passes(draw, *each)
    yield from _pooling(draw, *POOL)
    yield Case("joined_descent", "resnet8 norms", (*([draw(n) for n in NORMS] for _ in range(3)), 1e-3, 0.9, False))
    for where, shape in WEIGHTS:
        yield Case("descend", where, (draw(*shape), draw(*shape), draw(*shape), 1e-3, 0.9, 1e-4, False))
    yield _correlations(rng, "resnet8 stage3", 3456, 576)
    yield Case("hadamard_product", "mlp hidden1", (draw(500, 784), draw(784), draw(1024), 1024))


def _convolutions(draw, where, shape, c_out, kernel, stride, padding):
    geometry, size = ((kernel, kernel), (stride, stride), (padding, padding)), shape[1:3]
    y, W = draw(*shape), draw(c_out, kernel * kernel * shape[3])
    delta = draw(len(y), *output_size(size, *geometry), c_out)
    flop = 2 * delta.size * W.shape[1]
    yield Case("convolve", where, (y, W, *geometry), flop)
    yield Case("convolve_gradient", where, (delta, y, *geometry), flop)
    if not where.endswith("stem"):
        yield Case("convolve_back", where, (delta, W.T, *geometry, size), flop)


def _products(draw, where, batch, n_in, n_out):
    y, W, delta = draw(batch, n_in), draw(n_out, n_in), draw(batch, n_out)
    for a, b in ((y, W.T), (delta.T, y), (delta, W)):
        yield Case("product", where, (a, b), 2 * batch * n_in * n_out)


def _passes(draw, where, shape):
    x, delta = draw(*shape), draw(*shape)
    mean, scale, beta, slope, shift = (draw(shape[-1]) for _ in range(5))
    for op, arguments in (
        ("moments", (x,)),
        ("norm_statistics", (x, scale, draw(shape[-1]), draw(shape[-1]), 0.1, 1e-5)),
        ("norm_forward", (x, mean, scale, beta, True)),
        ("norm_sums", (delta, x, mean, scale, beta)),
        ("norm_gradients", (delta, x, mean, scale, scale, beta)),
        ("norm_back", (delta, x, mean, scale, slope, shift, beta)),
        ("relu", (x,)),
        ("relu_back", (delta, x)),
        ("add", (x, delta, True)),
    ):
        yield Case(op, where, arguments)
    yield Case("norm_forward", f"{where}, residual", (x, mean, scale, beta, True, delta))


def _pooling(draw, where, shape, *window):
    y = draw(*shape)
    largest, winner = plain.max_pool(y, *window)
    yield Case("max_pool", where, (y, *window))
    yield Case("max_pool_back", where, (largest, winner.astype(np.int32), *window, shape[1:3]))


def _correlations(rng, where, rows, n):
    bits = rng.integers(256, size=rows * n // 8, dtype=np.uint8)
    return Case("sign_correlations", where, (bits, rows, n, np.dtype(np.float32)), 2 * rows * n * n)


def measure(ops, case, repeats):
    """Measure a Case: a row of results as a dict.

    Its rates are in GFLOP/s for products.  For passes over arrays they are in GB/s of what has to be read and written,
    also for NumPy, whose intermediate arrays are not counted.
    """
    ours, plainly = (_call(functions, case) for functions in (ops, plain))
    amount = case.flop or _bytes(case.arguments, ours())
    seconds, plain_seconds = median_seconds([ours, plainly], repeats)
    shapes = dict.fromkeys("x".join(map(str, x.shape)) for x in _arrays(case.arguments))
    return {
        "kernel": case.op,
        "where": case.where,
        "shapes": ", ".join(shapes),
        "ms": 1000 * seconds,
        "plain_ms": 1000 * plain_seconds,
        "rate": amount / seconds / 1e9,
        "plain_rate": amount / plain_seconds / 1e9,
        "unit": "GFLOP/s" if case.flop else "GB/s",
        "ratio": plain_seconds / seconds,
    }


def _call(functions, case):
    """The call of a Case, without arguments; a joined descent has found the addresses of its first two before."""
    if case.op == "joined_descent":
        ws, vs, *others = case.arguments
        return partial(functions.joined_descent(ws, vs), *others)
    return partial(getattr(functions, case.op), *case.arguments)


def _bytes(arguments, found):
    """The bytes of all arrays read and written; descents, which return None, write their first two arguments."""
    written = arguments[:2] if found is None else found if isinstance(found, tuple) else (found,)
    return sum(x.nbytes for x in _arrays((*arguments, *written)))


def _arrays(values):
    """The arrays among the values and in the lists among them."""
    return [x for each in values for x in (each if isinstance(each, list) else [each]) if isinstance(x, np.ndarray)]


def heading(row):
    """The line above the lines of one place."""
    return f"{row['where']}, rates in {row['unit']}"


def line(row):
    """A row as a line under the TITLE; an asterisk marks a kernel that is slower than NumPy."""
    slower = "*" if row["ratio"] < 1 else " "
    numbers = f"{row['ms']:>9,.3f}{row['plain_ms']:>9,.3f}{row['ratio']:>7.2f}{slower}{row['rate']:>7,.1f}"
    return f"  {row['kernel']:<18}{row['shapes']:<27}{numbers}"


def verdict(rows):
    """How many kernels are slower than NumPy, in words."""
    return f"{sum(row['ratio'] < 1 for row in rows)} of {len(rows)} are slower than NumPy (*)"
