"""The functions of a device's `ops` as array expressions: the specification that every faster version must match.

Kernel, stride and padding are pairs (vertical, horizontal).  Patches are ordered as in layers.py.
"""

import math
from functools import partial

from wtref import layers
from wtref.device import array_module
from wtref.layers import image, patches, rows
from wtref.noise import hadamard_product, independent_signs, signs  # noqa: F401  (the first two are ops)


def product(a, b):
    """a (M, K) times b (K, N): (M, N)."""
    return a @ b


def convolve(y, W, kernel, stride, padding):
    """W (C_out, k_h k_w C_in) applied to the patches of y (N, H, W, C_in): (N, H', W', C_out)."""
    return layers.product(patches(y, kernel, stride, padding), W.T)


def convolve_with_moments(y, W, kernel, stride, padding):
    """The same, and its moments in the form that norm_statistics takes as `known`; None where they are not computed."""
    return convolve(y, W, kernel, stride, padding), None


def convolve_gradient(delta, y, kernel, stride, padding):
    """The gradient of W (C_out, k_h k_w C_in): delta y^T summed over batch and positions.

    delta (N, H', W', C_out); y (N, H, W, C_in), of which the patches are taken.
    """
    return rows(delta).T @ rows(patches(y, kernel, stride, padding))


def convolve_back(delta, B, kernel, stride, padding, size):
    """B (k_h k_w C_in, C_out) applied to delta (N, H', W', C_out) and summed over patches: (N, H, W, C_in), size = (H, W)."""
    shape = len(delta), *size, len(B) // math.prod(kernel)
    return image(layers.product(delta, B.T), shape, kernel, stride, padding)


def max_pool(y, kernel, stride, padding):
    """The maximum of each window of y (N, H, W, C), and its first position in the window, both (N, H', W', C)."""
    pool = layers.MaxPool("max_pool", kernel, stride, padding)
    return pool.forward(y), pool.winner


def max_pool_back(delta, winner, kernel, stride, padding, size):
    """delta (N, H', W', C) added at the positions of the maxima: (N, H, W, C), size = (H, W)."""
    pool = layers.MaxPool("max_pool", kernel, stride, padding)
    pool.winner, pool.shape = winner, (len(delta), *size, delta.shape[3])
    return pool.backward(delta)


def biased(a, b):
    """a (..., C) + b (C); a may be overwritten."""
    a += b
    return a


def total(x):
    """The sum (C) of x (..., C) over all but the last axis."""
    return rows(x).sum(axis=0)


def average(y):
    """The mean of y (N, H, W, C) over all positions: (N, C)."""
    return y.mean(axis=(1, 2))


def moments(x, known=None):
    """Mean and variance (C) of x (..., C) over all but the last axis; known: as in norm_statistics."""
    mean = rows(x).mean(axis=0)
    return mean, ((rows(x) - mean) ** 2).mean(axis=0)


def sums_about(base, count, mean, variance):
    """The count of some rows and their sums of x - base and (x - base)^2, from their mean and variance, (3, C) in float64.

    base (C), in float64: the same for all parts of the rows.  The nearer it is to their mean, the less precision is lost.
    """
    xp, shift = array_module(base), mean - base
    return count * xp.stack([xp.ones_like(base), shift, variance + shift * shift])


def moments_about(base, count, first, second):
    """Mean and variance (C) of all rows, from the sums of sums_about over all parts.

    A variance that rounding alone may have left is 0; it is below what float32 resolves beside the mean.
    """
    shift, squares = first / count, second / count
    variance = squares - shift * shift
    return base + shift, variance * (variance > 1e-14 * squares)  # NaN stays NaN


def norm_statistics(y, gamma, running_mean, running_var, momentum, epsilon, known=None, moments=moments, count=None):
    """The mean of the batch y (..., C), 1 / sqrt(variance + epsilon), and gamma times that, each (C).

    The running mean and variance (C) are updated in place: running += momentum (batch - running), with the unbiased
    variance.  known: the moments of y that convolve_with_moments returned with it; moments: a function that computes
    them; count: the number of rows, if y is a shard of a larger batch.
    """
    (mean, variance), count = moments(y), count or y.size // y.shape[-1]
    running_mean += momentum * (mean - running_mean)
    running_var += momentum * (count / max(count - 1, 1) * variance - running_var)
    return mean, *norm_scale(variance, gamma, epsilon)


def norm_scale(variance, gamma, epsilon):
    """1 / sqrt(variance + epsilon), and gamma times that, each (C)."""
    inverse_std = 1 / array_module(variance).sqrt(variance + epsilon)
    return inverse_std, gamma * inverse_std


def norm_sums(delta, x, mean, scale, beta=None):
    """The sums of delta and of delta (x - mean) over all but the last axis, (2, C); delta, x (..., C).

    beta: if given, a ReLU follows, and delta is set to 0 where (x - mean) scale + beta <= 0.
    """
    delta = _through_relu(delta, x, mean, scale, beta)
    return array_module(x).stack([total(delta), total(delta * (x - mean))])


def norm_gradients(delta, x, mean, inverse_std, scale, beta=None, norm_sums=norm_sums, count=None):
    """The gradients of beta and gamma, and the slope and shift of norm_back, each (C).

    Slope and shift carry delta through the batch's variance and mean, which depend on every row.
    beta: as in norm_sums; count: as in norm_statistics.
    """
    (delta_sum, centred_sum), count = norm_sums(delta, x, mean, scale, beta), count or delta.size // len(mean)
    slope, shift = -scale * inverse_std * inverse_std * centred_sum / count, -scale * delta_sum / count
    return delta_sum, centred_sum * inverse_std, slope, shift


def norm_forward(x, mean, scale, beta, rectify=False, plus=None):
    """(x - mean) scale + beta for each channel, plus `plus` of x's shape if given; max(., 0) of that if rectify."""
    y = (x - mean) * scale + beta if plus is None else (x - mean) * scale + beta + plus
    return relu(y) if rectify else y


def norm_back(delta, x, mean, scale, slope, shift, beta=None):
    """delta scale + (x - mean) slope + shift for each channel; beta: as in norm_sums."""
    return _through_relu(delta, x, mean, scale, beta) * scale + (x - mean) * slope + shift


def relu(a):
    """max(a, 0)."""
    return array_module(a).maximum(a, 0)


def relu_back(delta, y):
    """delta where y > 0, else 0 delta, which is NaN for NaN and infinity."""
    return delta * (y > 0)


def add(a, b, rectify=False):
    """a + b, of the same shape; max(., 0) of that if rectify."""
    return relu(a + b) if rectify else a + b


def sign_correlations(bits, rows, n, dtype):
    """y^T y (n, n) for y (rows, n) of the signs that noise.signs makes of the bits."""
    y = signs(bits, rows, n, dtype)
    return y.T @ y


def descend(w, v, gradient, lr, momentum, decay, nesterov):
    """g = gradient + decay w;  v = momentum v + g;  w -= lr v, or lr (g + momentum v) if nesterov; w and v in place."""
    gradient = gradient + decay * w
    v *= momentum
    v += gradient
    w -= lr * (gradient + momentum * v if nesterov else v)


def descend_all(ws, vs, gradients, lr, momentum, nesterov):
    """descend, without decay, for every w of a list."""
    for w, v, gradient in zip(ws, vs, gradients, strict=True):
        descend(w, v, gradient, lr, momentum, 0.0, nesterov)


def joined_descent(ws, vs):
    """descend_all of these ws and vs: a function of its other arguments."""
    return partial(descend_all, ws, vs)


def _through_relu(delta, x, mean, scale, beta):
    """delta before the ReLU that follows batch norm; delta itself if beta is None, when there is no ReLU."""
    return delta if beta is None else relu_back(delta, norm_forward(x, mean, scale, beta))
