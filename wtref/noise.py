"""The zero-mean noise that a layer fires in mirror mode: rows x (M, n) with E[x^T x] = M I.

Both kinds are functions of (seed, layer, step) alone: they carry no state from step to step and
come out the same on every device.  `rows` is the default M.
"""

import math

import numpy as np

from wtref import randomness
from wtref.device import array_module


class IndependentNoise:
    """Every value an independent standard normal.

    Averaged over S rows it shows W^T at the matrix angle tan^2(theta) = n / S.
    """

    rows = 512
    window = 100  # S / n; theta = 5.7 degrees
    exact = False

    def block(self, n):
        """The unit in which `window` counts, in rows: n of them."""
        return n

    def batch(self, rows, n):
        """M where that many rows are asked for."""
        return rows

    def draw(self, device, moment, rows, n):
        """x (rows, n); moment is (seed, layer, step)."""
        seed, layer, step = moment
        return device.array(randomness.generator(seed, randomness.NOISE, layer, step).standard_normal((rows, n)))


class Patterns:
    """x[i, j] = left[i] H[i, j] right[j], H the Hadamard matrix of that order, repeated as often as it takes.

    Never laid out in memory: as H is a product of sparse factors, x @ v takes log2(order) additions an element where
    a product with any other matrix takes as many multiplications as x has columns.
    """

    def __init__(self, left, right, order):
        """left, right: the signs of x's rows and columns."""
        self.left, self.right, self.order = left, right, order

    def product(self, v, before, after, order):
        """(v before) H after, as hadamard_product has it."""
        return hadamard_product(v, before, after, order)

    def __matmul__(self, v):
        if not isinstance(v, type(self.left)):
            return NotImplemented
        return self.product(v.T, self.right, self.left, self.order).T

    @property
    def T(self):
        return type(self)(self.right, self.left, self.order)

    def laid_out(self):
        """x as an ordinary array."""
        xp, shape = array_module(self.left), (len(self.left), len(self.right))
        h = xp.asarray(np.tile(hadamard(self.order), [-(-n // self.order) for n in shape]), self.left.dtype)
        return self.left[:, None] * h[: shape[0], : shape[1]] * self.right


class DecorrelatedNoise:
    """Every value +1 or -1 with equal chance, and the n columns of one block mutually orthogonal.

    A block is a Hadamard matrix of P rows (the power of two from n up), rows and columns under
    random signs: it has x^T x = P I exactly and shows W^T to rounding.  Fewer rows a step are a
    slice of a block.  In a moving average that remembers S = window * P rows the errors of a
    block's slices nearly cancel: tan^2(theta) = 2 / (3 window^2) on average, from 1 / (3 window^3)
    at the end of a block to 1 / window^2 in the middle of one.
    """

    rows = math.inf  # a whole block
    window = 6  # of slices; theta = 8 degrees on average
    exact = True  # a whole block needs no average
    patterns = Patterns

    def block(self, n):
        """P: the rows after which every input has been told apart from every other."""
        return power_of_two(n)

    def batch(self, rows, n):
        """M where that many rows are asked for: a block at most."""
        return min(rows, self.block(n))

    def draw(self, device, moment, rows, n):
        """x (rows, n), slice `step` of layer `layer`, as Patterns; rows a power of two; moment is (seed, layer, step)."""
        seed, layer, step = moment
        slices = max(self.block(n) // rows, 1)
        block, index = divmod(step, slices)
        column_signs = _signs(n, seed, randomness.COLUMN_SIGNS, layer, block) * _slice_signs(slices, index, rows, n)
        row_signs = _signs(rows, seed, randomness.ROW_SIGNS, layer, step)
        return self.patterns(device.array(row_signs), device.array(column_signs), rows)


def hadamard_product(v, before, after, order):
    """(v before) H after: v (m, n) under the signs before (n), times H, under the signs after (k): (m, k).

    H is the Hadamard matrix of that order, repeated down and across until it is (n, k).  It acts axis by axis, being
    the Kronecker product of smaller ones.
    """
    xp, (m, n), tiles = array_module(v), v.shape, -(-len(after) // order)
    x = xp.zeros((m, -(-n // order) * order), v.dtype)
    x[:, :n] = v * before
    x, done = x.reshape(m, x.shape[1] // order, order).sum(axis=1), 1
    while done < order:
        h = xp.asarray(hadamard(min(order // done, 64)), v.dtype)
        x = x.reshape(m * order // len(h), len(h)) @ h if done == 1 else h @ x.reshape(m * order // len(h) // done, len(h), done)
        done *= len(h)
    return xp.tile(x.reshape(m, order), (1, tiles))[:, : len(after)] * after


def hadamard(order):
    """Sylvester's matrix of +1 and -1 with H H^T = order * I, on the host; order is a power of two."""
    h = np.ones((1, 1))
    while len(h) < order:
        h = np.block([[h, h], [h, -h]])
    return h


def power_of_two(n):
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def _signs(n, *name):
    return 1.0 - 2.0 * randomness.generator(*name).integers(2, size=n)


def _slice_signs(slices, index, rows, n):
    """H_P = H_slices (x) H_rows: slice `index` is H_rows side by side under the signs of row `index`."""
    row = [1 - 2 * ((index & tile).bit_count() % 2) for tile in range(slices)]
    return np.repeat(row, rows)[:n]


NOISES = {"decorrelated": DecorrelatedNoise, "independent": IndependentNoise}
