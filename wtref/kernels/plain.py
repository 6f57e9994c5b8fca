"""The array primitives, written plainly, on NumPy's arrays or CuPy's: what every faster version must equal.

A convolution is a matrix acting on patches.  `gather` lays the patches of an image out as rows,
values in the order (k_h, k_w, C); `scatter` is its transpose and adds rows back into the image they
came from.  Kernel, stride and padding are pairs (vertical, horizontal).
"""

import math

import numpy as np

from wtref.backend import array_module
from wtref.noise import hadamard_product  # noqa: F401  (one of the primitives)


def product(a, b):
    """a (M, K) times b (K, N)."""
    return a @ b


def convolve(y, W, kernel, stride, padding):
    """W (C_out, k_h k_w C_in) acting on the patches of y (N, H, W, C_in): (N, H', W', C_out)."""
    patches = gather(y, kernel, stride, padding)
    return (_rows(patches, W.shape[1]) @ W.T).reshape(*patches.shape[:3], len(W))


def convolve_with_moments(y, W, kernel, stride, padding):
    """The same, and what norm_statistics takes as `known` about it; None where that is not found on the way."""
    return convolve(y, W, kernel, stride, padding), None


def convolve_outer(delta, y, kernel, stride, padding):
    """The sum over batch and positions of delta y^T, delta (N, H', W', C_out) and y's patches: as W, (C_out, n_in)."""
    patches = gather(y, kernel, stride, padding)
    return _rows(delta, delta.shape[3]).T @ patches.reshape(-1, kernel[0] * kernel[1] * y.shape[3])


def convolve_back(delta, B, kernel, stride, padding, size):
    """delta (N, H', W', C_out) through B (k_h k_w C_in, C_out), patch by patch: (N, H, W, C_in), size = (H, W)."""
    patches = _rows(delta, delta.shape[3]) @ B.T
    channels = len(B) // math.prod(kernel)
    return scatter(patches.reshape(*delta.shape[:3], *kernel, channels), size, stride, padding)


def max_pool(y, kernel, stride, padding):
    """The largest value of each window of y (N, H, W, C) and which of its places first held it, both (N, H', W', C)."""
    patches = gather(y, kernel, stride, padding, fill=-math.inf)
    windows = patches.reshape(*patches.shape[:3], math.prod(kernel), y.shape[3])
    return windows.max(axis=3), windows.argmax(axis=3)


def max_pool_back(delta, winner, kernel, stride, padding, size):
    """delta (N, H', W', C) to the places that won: (N, H, W, C), size = (H, W)."""
    xp = array_module(delta)
    won = xp.where(winner[:, :, :, None] == xp.arange(math.prod(kernel))[:, None], delta[:, :, :, None], 0)
    return scatter(won.reshape(*delta.shape[:3], *kernel, delta.shape[3]), size, stride, padding)


def biased(a, b):
    """a + b, a (..., C) and b (C); a itself may become it."""
    a += b
    return a


def total(x):
    """The sum (C) of x (..., C) over all but the last axis."""
    return _rows(x, x.shape[-1]).sum(axis=0)


def average(y):
    """The mean of y (N, H, W, C) over all positions: (N, C)."""
    return y.mean(axis=(1, 2))


def moments(x):
    """Mean and variance (C) of x (..., C) over all but the last axis."""
    rows = _rows(x, x.shape[-1])
    mean = rows.mean(axis=0)
    centred = rows - mean
    return mean, (centred * centred).mean(axis=0)


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
    rows = _rows(_counted(delta, x, mean, scale, beta), len(mean))
    return array_module(rows).stack([rows.sum(axis=0), (rows * _rows(x - mean, len(mean))).sum(axis=0)])


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


def output_size(size, kernel, stride, padding):
    """(H', W'): how many patches fit down and across an image of size (H, W)."""
    return tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding))


def gather(image, kernel, stride, padding, fill=0):
    """All patches of an image batch.

    Parameters: image (N, H, W, C); fill, the value outside the image.
    Returns: patches (N, H', W', k_h, k_w, C), contiguous.
    """
    xp = array_module(image)
    windows = xp.lib.stride_tricks.sliding_window_view(_pad(image, padding, fill), kernel, axis=(1, 2))
    here = windows[:, :: stride[0], :: stride[1]]  # (N, H', W', C, k_h, k_w), a view
    return xp.ascontiguousarray(here.transpose(0, 1, 2, 4, 5, 3))


def scatter(patches, size, stride, padding):
    """Add patches (N, H', W', k_h, k_w, C) into an image (N, H, W, C) of zeros, size = (H, W)."""
    xp = array_module(patches)
    n, rows, columns, k_h, k_w, channels = patches.shape
    (height, width), (p_h, p_w) = size, padding
    image = xp.zeros((n, height + 2 * p_h, width + 2 * p_w, channels), dtype=patches.dtype)
    for i in range(k_h):
        for j in range(k_w):  # place (i, j) of every patch at once
            down = slice(i, i + stride[0] * (rows - 1) + 1, stride[0])
            across = slice(j, j + stride[1] * (columns - 1) + 1, stride[1])
            image[:, down, across] += patches[:, :, :, i, j]
    return image[:, p_h : p_h + height, p_w : p_w + width]


def _counted(delta, x, mean, scale, beta):
    """delta where a ReLU behind batch norm let x through; all of it where there is none."""
    return delta if beta is None else relu_back(delta, norm_forward(x, mean, scale, beta))


def _rows(x, width):
    return x.reshape(-1, width)


def _pad(image, padding, fill):
    (p_h, p_w) = padding
    if p_h == p_w == 0:
        return image
    xp = array_module(image)
    n, height, width, channels = image.shape
    padded = xp.full((n, height + 2 * p_h, width + 2 * p_w, channels), fill, dtype=image.dtype)
    padded[:, p_h : p_h + height, p_w : p_w + width] = image
    return padded
