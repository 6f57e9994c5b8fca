"""The zero-mean noise that a layer fires in mirror mode: rows x (M, n) with E[x^T x] = M I.

Both kinds are functions of (seed, layer, step) alone: they carry no state from step to step and
come out the same on every device.
"""

import numpy as np

from wtref.kernels import primitives


class IndependentNoise:
    """Every value an independent standard normal.

    Averaged over S rows it shows W^T at the matrix angle tan^2(theta) = n / S.
    """

    window = 100  # S / n; theta = 5.7 degrees
    exact = False

    def block(self, n):
        """The unit in which `window` counts, in rows: n of them."""
        return n

    def draw(self, device, seed, rows, n, share=slice(None)):
        """x (rows, n) of step `step` in layer `layer`, or a share of its rows, a slice; seed is (seed, layer, step)."""
        return device.array(np.random.default_rng(seed).standard_normal((rows, n))[share])


class DecorrelatedNoise:
    """Every value +1 or -1 with equal chance, and the n columns of one block mutually orthogonal.

    A block is a Hadamard matrix of P rows (the power of two from n up), rows and columns under
    random signs, dealt out in slices of M rows a step.  The whole block has x^T x = P I exactly and
    shows W^T to rounding.  In a moving average that remembers S = window * P rows the errors of a
    block's slices nearly cancel: tan^2(theta) = 2 / (3 window^2) on average, from 1 / (3 window^3)
    at the end of a block to 1 / window^2 in the middle of one.
    """

    window = 6  # where a moving average is asked for; theta = 8 degrees on average
    exact = True  # one block, by itself, shows W^T to rounding

    def __init__(self):
        self._hadamard = {}

    def block(self, n):
        """P: the rows after which every input has been told apart from every other."""
        return power_of_two(n)

    def draw(self, device, seed, rows, n, share=slice(None)):
        """x (rows, n), slice `step` of layer `layer`, or a share of its rows; rows a power of two; seed as above."""
        *layer, step = seed
        slices = max(self.block(n) // rows, 1)
        block, index = divmod(step, slices)
        column_signs = _signs((*layer, 0, block), n) * _slice_signs(slices, index, rows, n)
        row_signs = _signs((*layer, 1, step), rows)
        h = self._hadamard_on(device, rows)
        return primitives(h).signed(h[share], device.array(row_signs[share]), device.array(column_signs))

    def _hadamard_on(self, device, order):
        if order not in self._hadamard:
            self._hadamard[order] = device.array(hadamard(order))
        return self._hadamard[order]


def hadamard(order):
    """Sylvester's matrix of +1 and -1 with H H^T = order * I; order is a power of two."""
    h = np.ones((1, 1))
    while len(h) < order:
        h = np.block([[h, h], [h, -h]])
    return h


def power_of_two(n):
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def _signs(seed, n):
    return 1.0 - 2.0 * np.random.default_rng(seed).integers(2, size=n)


def _slice_signs(slices, index, rows, n):
    """H_P = H_slices (x) H_rows: slice `index` is H_rows side by side under the signs of row `index`."""
    row = [1 - 2 * ((index & tile).bit_count() % 2) for tile in range(slices)]
    return np.repeat(row, rows)[:n]


NOISES = {"decorrelated": DecorrelatedNoise, "independent": IndependentNoise}
