"""What each function of a device's `ops` computes, in array expressions: what every faster version must equal.

Kernel, stride and padding are pairs (vertical, horizontal); patches are those of layers.py.
"""

import math

from wtref import layers
from wtref.device import array_module
from wtref.layers import image, patches, rows
from wtref.noise import hadamard_product  # noqa: F401  (one of the ops)


def product(a, b):
    """a (M, K) times b (K, N)."""
    return a @ b


def convolve(y, W, kernel, stride, padding):
    """W (C_out, k_h k_w C_in) acting on the patches of y (N, H, W, C_in): (N, H', W', C_out)."""
    return layers.product(patches(y, kernel, stride, padding), W.T)


def convolve_with_moments(y, W, kernel, stride, padding):
    """The same, and what norm_statistics takes as `known` about it; None where that is not found on the way."""
    return convolve(y, W, kernel, stride, padding), None


def convolve_outer(delta, y, kernel, stride, padding):
    """The sum over batch and positions of delta y^T, delta (N, H', W', C_out) and y's patches: as W, (C_out, n_in)."""
    return rows(delta).T @ rows(patches(y, kernel, stride, padding))


def convolve_back(delta, B, kernel, stride, padding, size):
    """delta (N, H', W', C_out) through B (k_h k_w C_in, C_out), patch by patch: (N, H, W, C_in), size = (H, W)."""
    shape = len(delta), *size, len(B) // math.prod(kernel)
    return image(layers.product(delta, B.T), shape, kernel, stride, padding)


def max_pool(y, kernel, stride, padding):
    """The largest value of each window of y (N, H, W, C) and which of its places first held it, both (N, H', W', C)."""
    pool = layers.MaxPool("max_pool", kernel, stride, padding)
    return pool.forward(y), pool.winner


def max_pool_back(delta, winner, kernel, stride, padding, size):
    """delta (N, H', W', C) to the places that won: (N, H, W, C), size = (H, W)."""
    pool = layers.MaxPool("max_pool", kernel, stride, padding)
    pool.winner, pool.shape = winner, (len(delta), *size, delta.shape[3])
    return pool.backward(delta)


def biased(a, b):
    """a + b, a (..., C) and b (C); a itself may become it."""
    a += b
    return a


def total(x):
    """The sum (C) of x (..., C) over all but the last axis."""
    return rows(x).sum(axis=0)


def average(y):
    """The mean of y (N, H, W, C) over all positions: (N, C)."""
    return y.mean(axis=(1, 2))


def moments(x):
    """Mean and variance (C) of x (..., C) over all but the last axis."""
    mean = rows(x).mean(axis=0)
    return mean, ((rows(x) - mean) ** 2).mean(axis=0)


def joint_moments(counts, means, variances):
    """Mean and variance (C) of all rows, from how many rows each part of them has and that part's own, all (parts, C).

    No difference of squares, in which a small variance beside a large mean would be lost, or come out below zero.
    (Chan, Golub and LeVeque, 1979.)
    """
    total, base = counts.sum(axis=0), means[-1]
    mean = base + (counts * (means - base)).sum(axis=0) / total  # of equal means, exactly that
    return mean, (counts * (variances + (means - mean) ** 2)).sum(axis=0) / total


def norm_statistics(y, gamma, running_mean, running_var, momentum, epsilon, known=None, moments=moments, count=None):
    """Of the batch y (..., C): its mean, 1 / sqrt(variance + epsilon), and gamma times that.

    The running ones move towards the batch's by `momentum`, in place; the variance without bias.  known: from
    convolve_with_moments, where y is its result; count: the rows
    of y, or of all that it is a share of.
    """
    (mean, variance), count = moments(y), count or y.size // y.shape[-1]
    running_mean += momentum * (mean - running_mean)
    running_var += momentum * (count / max(count - 1, 1) * variance - running_var)
    return mean, *norm_scale(variance, gamma, epsilon)


def norm_scale(variance, gamma, epsilon):
    """1 / sqrt(variance + epsilon), and gamma times that."""
    inverse_std = 1 / array_module(variance).sqrt(variance + epsilon)
    return inverse_std, gamma * inverse_std


def norm_sums(delta, x, mean, scale, beta=None):
    """The sums of delta and of delta (x - mean) over all but the last axis, (2, C); delta, x (..., C).

    beta: if given, delta counts only where (x - mean) scale + beta > 0, as behind a ReLU.
    """
    counted = _counted(delta, x, mean, scale, beta)
    return array_module(x).stack([total(counted), total(counted * (x - mean))])


def norm_gradients(delta, x, mean, inverse_std, scale, beta=None, norm_sums=norm_sums, count=None):
    """The gradients of beta and gamma; and slope and shift of norm_back.  beta, count: as above, count of delta.

    By slope and shift the batch's variance and its mean, which depend on every row, send delta back.
    """
    (delta_sum, centred_sum), count = norm_sums(delta, x, mean, scale, beta), count or delta.size // len(mean)
    slope, shift = -scale * inverse_std * inverse_std * centred_sum / count, -scale * delta_sum / count
    return delta_sum, centred_sum * inverse_std, slope, shift


def norm_forward(x, mean, scale, beta, rectify=False, plus=None):
    """(x - mean) scale + beta, channel by channel; plus that, in x's shape; rectify: and max(., 0) of all."""
    y = (x - mean) * scale + beta if plus is None else (x - mean) * scale + beta + plus
    return relu(y) if rectify else y


def norm_back(delta, x, mean, scale, slope, shift, beta=None):
    """delta scale + (x - mean) slope + shift, channel by channel; beta: as of norm_sums."""
    return _counted(delta, x, mean, scale, beta) * scale + (x - mean) * slope + shift


def relu(a):
    """max(a, 0)."""
    return array_module(a).maximum(a, 0)


def relu_back(delta, y):
    """delta where y > 0, else 0; there NaN stays NaN, and infinity becomes NaN."""
    return delta * (y > 0)


def add(a, b, rectify=False):
    """a + b, of one shape; rectify: and max(., 0) of that."""
    return relu(a + b) if rectify else a + b


def descend(w, v, gradient, lr, momentum, decay, nesterov):
    """g = gradient + decay w;  v = momentum v + g;  w -= lr v, or lr (g + momentum v): w and v in place."""
    gradient = gradient + decay * w
    v *= momentum
    v += gradient
    w -= lr * (gradient + momentum * v if nesterov else v)


def _counted(delta, x, mean, scale, beta):
    """delta where a ReLU behind batch norm let x through; all of it where there is none."""
    return delta if beta is None else relu_back(delta, norm_forward(x, mean, scale, beta))
