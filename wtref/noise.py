"""The zero-mean noise that a layer fires in mirror mode: rows y (M, n) of values +1 and -1, with E[y^T y] = M I.

Both kinds are drawn from a NumPy generator and come out the same on every device.
"""

import numpy as np

from wtref.device import array_module


def independent_signs(device, rng, rows, n):
    """y (rows, n), every value +1 or -1 with equal chance and independent of all others: one random bit each.

    The expectation of y^T (y W^T) / rows is W^T.  The average over S rows lies at an angle theta from it, with
    tan^2(theta) = (n - 1) / S.
    """
    return signs(device.raw(random_bits(rng, rows * n)), rows, n, device.dtype)


def random_bits(rng, count):
    """At least `count` random bits on the host, eight in a uint8."""
    return np.frombuffer(rng.bytes(-(-count // 8)), np.uint8)


def signs(bits, rows, n, dtype):
    """y (rows, n) from the first rows * n bits: -1 where a bit is 1, +1 where it is 0."""
    return 1 - 2 * array_module(bits).unpackbits(bits)[: rows * n].reshape(rows, n).astype(dtype)


def orthogonal_signs(device, rng, n):
    """OrthogonalSigns of n columns under random signs."""
    left, right = (1.0 - 2.0 * rng.integers(2, size=size) for size in (power_of_two(n), n))
    return OrthogonalSigns(device.array(left), device.array(right))


class OrthogonalSigns:
    """y (P, n) of +1 and -1 whose n columns are mutually orthogonal: y^T y = P I exactly, P = power_of_two(n).

    y[i, j] = left[i] H[i, j] right[j], H Sylvester's Hadamard matrix of order P, left and right random signs.  y is never laid
    out in memory.
    """

    def __init__(self, left, right, product=None):
        """left (P,), right (n,): the signs of y's rows and columns; product: hadamard_product, or a faster form of it."""
        self.left, self.right, self.product = left, right, product or hadamard_product

    def __matmul__(self, v):
        """y @ v (P, m), v (n, m)."""
        if not isinstance(v, type(self.left)):
            return NotImplemented
        return self.product(v.T, self.right, self.left).T

    @property
    def T(self):
        return type(self)(self.right, self.left, self.product)


def hadamard_product(v, before, after):
    """(v * before) @ H * after, (m, k): v (m, n); the signs of its columns, before (n,), and of the result's, after (k,).

    H is the first n rows and k columns of Sylvester's Hadamard matrix of order power_of_two(max(n, k)).  It acts axis by axis,
    being the Kronecker product of smaller ones, of order 64 at most here.
    """
    xp, (m, n), k = array_module(v), v.shape, len(after)
    order, done = power_of_two(max(n, k)), 1
    x = xp.zeros((m, order), v.dtype)
    x[:, :n] = v * before
    while done < order:
        h = xp.asarray(hadamard(min(order // done, 64)), v.dtype)
        x = x.reshape(m * order // len(h), len(h)) @ h if done == 1 else h @ x.reshape(m * order // len(h) // done, len(h), done)
        done *= len(h)
    return x.reshape(m, order)[:, :k] * after


def hadamard(order):
    """Sylvester's matrix of +1 and -1 with H H^T = order * I, on the host; order is a power of two."""
    h = np.ones((1, 1))
    while len(h) < order:
        h = np.block([[h, h], [h, -h]])
    return h


def power_of_two(n):
    """The smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()
