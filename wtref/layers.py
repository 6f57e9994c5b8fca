"""How signals travel: activities forward, errors back.

Every layer has `forward(y, train)` and `backward(delta)`, to be read against each other; activities are (N, features)
or channels-last images (N, H, W, C).  The forward pass keeps what the backward pass needs.  The backward pass, called
at most once after each forward pass, takes the error at the layer's output and returns the error at its input.
No layer depends on the learning rule: it multiplies by W on the way up and by B on the way down, and stores in its
synapses the products that the rules learn from.
"""

import math

from wtref.device import array_module
from wtref.errors import InputError
from wtref.geometry import check_branches, check_fit, check_images, in_words, output_size, pairs, sizes
from wtref.synapses import Synapses


class Linear:
    """y_{l+1} = W y_l + b: the matrix part of eq (1), on rows.

    W is (n_out, n_in), drawn with the standard deviation 1 / sqrt(n_in).
    """

    def __init__(self, name, n_in, n_out):
        n_in, n_out = sizes(name, n_in=n_in, n_out=n_out)
        std = sign_scale = 1 / math.sqrt(n_in)
        self.synapses = Synapses(name, n_in, n_out, bias=True, std=std, sign_scale=sign_scale)

    def forward(self, y, train=True):
        """y (N, n_in) -> (N, n_out)."""
        s, self.y = self.synapses, y
        self.check(y)
        out = y @ s.W.T + s.b  # (1)
        s.y, s.y_next = (y, out) if s.keep_activity and train else (None, None)
        return out

    def backward(self, delta):
        """delta_{l+1} (N, n_out) -> the error at y_l, (N, n_in), or None where there is no B."""
        s = self.synapses
        s.delta = delta if s.keep_delta else None
        s.W_gradient = delta.T @ self.y  # delta_{l+1} y_l^T, which (4), (16) and (17) learn from
        s.b_gradient = delta.sum(axis=0)
        if s.B is None:
            return None
        if s.output_error is not None:  # direct feedback: e in the place of delta_{l+1}
            delta = s.direct_error(delta.shape)
            s.B_gradient = self.y.T @ delta
        return delta @ s.B.T  # (2), (3): B_{l+1} delta_{l+1}; phi' is in activations.py

    def check(self, y):
        """Raise InputError unless each row of y has n_in values."""
        if y.shape[1:] != (self.synapses.n_in,):
            raise InputError(f"{self.synapses.name}: takes {self.synapses.n_in} values, was given {in_words(y)}")


class Conv2d:
    """y_{l+1} = W y_l + b with y_l the patches of an image: eq (1) at every position.

    W is (C_out, k_h k_w C_in), drawn with He's standard deviation sqrt(2 / (k_h k_w C_in)).
    """

    def __init__(self, name, c_in, c_out, kernel, stride=1, padding=0, bias=True):
        """kernel, stride, padding: an int or a pair (vertical, horizontal)."""
        self.geometry = self.kernel, self.stride, self.padding = pairs(name, kernel, stride, padding)
        c_in, c_out = sizes(name, c_in=c_in, c_out=c_out)
        self.c_in, area = c_in, math.prod(self.kernel)
        std, sign_scale = math.sqrt(2 / (area * c_in)), math.sqrt(2 / (area * c_out))
        self.synapses = Synapses(name, area * c_in, c_out, bias=bias, std=std, sign_scale=sign_scale)

    def forward(self, y, train=True):
        """y (N, H, W, C_in) -> (N, H', W', C_out)."""
        s, self.y = self.synapses, y
        check_fit(s.name, y, *self.geometry, self.c_in)
        out = product(patches(y, *self.geometry), s.W.T)  # (1)
        out = out if s.b is None else out + s.b
        s.y, s.y_next = (rows(patches(y, *self.geometry)), rows(out)) if s.keep_activity and train else (None, None)
        return out

    def backward(self, delta):
        """delta_{l+1} (N, H', W', C_out) -> the error at y_l, (N, H, W, C_in), or None where there is no B."""
        s = self.synapses
        s.delta = delta if s.keep_delta else None
        s.W_gradient = rows(delta).T @ rows(patches(self.y, *self.geometry))  # delta_{l+1} y_l^T, over all positions
        s.b_gradient = None if s.b is None else rows(delta).sum(axis=0)
        if s.B is None:
            return None
        if s.output_error is not None:  # direct feedback: e in the place of delta_{l+1}
            delta = s.direct_error(delta.shape)
            s.B_gradient = rows(patches(self.y, *self.geometry)).T @ rows(delta)
        return image(product(delta, s.B.T), self.y.shape, *self.geometry)  # (2), (3), patch by patch


class BatchNorm:
    """gamma (y - mean) / sqrt(variance + epsilon) + beta, each channel over batch and positions.

    One class for (N, C) and (N, H, W, C).  Training normalises with the mean and variance of the batch and moves the
    running statistics towards them by `momentum` (the variance unbiased, as in PyTorch); evaluation normalises with
    the running statistics, and so does training where a channel has a single value and thus no variance.  Errors
    return by ordinary backprop under every rule, as there is no weight matrix here.  (Ioffe and Szegedy, 2015.)
    """

    def __init__(self, name, channels, momentum=0.1, epsilon=1e-5):
        (self.channels,) = sizes(name, channels=channels)
        self.name, self.momentum, self.epsilon = name, momentum, epsilon

    def initialise(self, device, rng):
        """gamma = 1, beta = 0, running mean 0 and variance 1."""
        zeros, ones = [0.0] * self.channels, [1.0] * self.channels
        self.gamma, self.beta = device.array(ones), device.array(zeros)
        self.running_mean, self.running_var = device.array(zeros), device.array(ones)

    def forward(self, y, train=True):
        """y (..., C) -> (..., C)."""
        self.check(y)
        self.of_batch = train and self.values(y) > 1
        mean, variance = self.batch_statistics(y) if self.of_batch else (self.running_mean, self.running_var)
        self.inverse_std = 1 / array_module(y).sqrt(variance + self.epsilon)
        self.normalised = (y - mean) * self.inverse_std
        return self.gamma * self.normalised + self.beta

    def backward(self, delta):
        """delta (..., C) -> (..., C); sets the gradients of gamma and beta."""
        self.beta_gradient = self.total(delta)
        self.gamma_gradient = self.total(delta * self.normalised)
        if not self.of_batch:
            return self.gamma * self.inverse_std * delta
        through_statistics = (self.beta_gradient + self.normalised * self.gamma_gradient) / self.n
        return self.gamma * self.inverse_std * (delta - through_statistics)

    def batch_statistics(self, y):
        """The mean and variance (C,) of the batch, towards which the running ones move."""
        n = self.n = self.values(y)
        mean = self.total(y) / n
        variance = self.total((y - mean) ** 2) / n
        self.running_mean += self.momentum * (mean - self.running_mean)
        self.running_var += self.momentum * (variance * n / (n - 1) - self.running_var)
        return mean, variance

    def values(self, y):
        """How many values each channel has in the batch y."""
        return y.size // self.channels

    def total(self, x):
        """The sum (C,) of x (..., C) over batch and positions."""
        return rows(x).sum(axis=0)

    def learn(self, sgd):
        """Plain gradient descent on gamma and beta; no weight decay."""
        sgd.descend(self.gamma, self.gamma_gradient, decay=False)
        sgd.descend(self.beta, self.beta_gradient, decay=False)

    def arrays(self):
        """The arrays that learning changes, by name."""
        return {name: getattr(self, name) for name in ("gamma", "beta", "running_mean", "running_var")}

    def check(self, y):
        """Raise InputError unless y has this layer's channels."""
        if y.shape[-1] != self.channels:
            raise InputError(f"{self.name}: takes {self.channels} channels, was given {in_words(y)}")


class MaxPool:
    """The largest value of each window; its error goes back to the first position that has it."""

    def __init__(self, name, kernel, stride=None, padding=0):
        """As of Conv2d; stride: None for that of the kernel; padding: at most half the kernel."""
        self.name, stride = name, kernel if stride is None else stride
        self.geometry = self.kernel, self.stride, self.padding = pairs(name, kernel, stride, padding)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel)):  # some windows would hold no value
            raise InputError(f"{name}: padding must be at most half the kernel, {kernel}, found {padding}")

    def forward(self, y, train=True):
        """y (N, H, W, C) -> (N, H', W', C)."""
        check_fit(self.name, y, *self.geometry)
        self.shape, windows = y.shape, patches(y, *self.geometry, fill=-math.inf)
        windows = windows.reshape(*windows.shape[:3], math.prod(self.kernel), y.shape[3])
        self.winner = windows.argmax(axis=3)
        return windows.max(axis=3)

    def backward(self, delta):
        """delta (N, H', W', C) -> (N, H, W, C)."""
        xp = array_module(delta)
        chosen = self.winner[:, :, :, None] == xp.arange(math.prod(self.kernel))[:, None]
        won = xp.where(chosen, delta[:, :, :, None], 0)
        return image(won.reshape(*delta.shape[:3], math.prod(won.shape[3:])), self.shape, *self.geometry)


class GlobalAvgPool:
    """The mean over all positions: (N, H, W, C) -> (N, C)."""

    def forward(self, y, train=True):
        check_images("GlobalAvgPool", y)
        self.shape = y.shape
        return y.mean(axis=(1, 2))

    def backward(self, delta):
        share = delta[:, None, None, :] / math.prod(self.shape[1:3])
        return array_module(delta).broadcast_to(share, self.shape)


class Flatten:
    """(N, ...) -> (N, features)."""

    def forward(self, y, train=True):
        self.shape = y.shape
        return y.reshape(len(y), math.prod(y.shape[1:]))

    def backward(self, delta):
        return delta.reshape(self.shape)


class Sequential:
    """One layer after another; with no layers at all, the identity."""

    def __init__(self, *layers):
        self.layers = layers

    def forward(self, y, train=True):
        for layer in self.layers:
            y = layer.forward(y, train)
        return y

    def backward(self, delta):
        """Return the error at the input, or None where the first weights, which have no B, are among the layers."""
        for layer in reversed(self.layers):
            if delta is not None:
                delta = layer.backward(delta)
        return delta


class Residual:
    """phi(body(y) + shortcut(y)); the error returns along both branches and adds up."""

    def __init__(self, body, shortcut, phi):
        self.layers = body, shortcut, phi

    def forward(self, y, train=True):
        body, shortcut, phi = self.layers
        along_body, along_shortcut = body.forward(y, train), shortcut.forward(y, train)
        check_branches(along_body, along_shortcut)
        return phi.forward(along_body + along_shortcut, train)

    def backward(self, delta):
        body, shortcut, phi = self.layers
        delta = phi.backward(delta)
        along_body, along_shortcut = body.backward(delta), shortcut.backward(delta)
        return None if along_body is None or along_shortcut is None else along_body + along_shortcut


def walk(layer):
    """A layer and all layers inside it, in the order of the forward pass."""
    yield layer
    for inner in getattr(layer, "layers", ()):
        yield from walk(inner)


def patches(y, kernel, stride, padding, fill=0):
    """The patches that a kernel sees of an image batch, as the rows of a matrix product.

    Parameters: y (N, H, W, C); kernel, stride, padding, pairs; fill, the value outside the image.
    Returns: (N, H', W', k_h k_w C), each patch's values in the order (k_h, k_w, C).
    """
    xp, (k_h, k_w), (s_h, s_w), (p_h, p_w) = array_module(y), kernel, stride, padding
    N, height, width, channels = y.shape
    padded = xp.full((N, height + 2 * p_h, width + 2 * p_w, channels), fill, y.dtype)
    padded[:, p_h : p_h + height, p_w : p_w + width] = y
    down, across = output_size((height, width), kernel, stride, padding)
    found = [padded[:, i :: s_h, j :: s_w][:, :down, :across] for i in range(k_h) for j in range(k_w)]
    return xp.concatenate(found, axis=3)


def image(patches, shape, kernel, stride, padding):
    """The adjoint of `patches`: patches (N, H', W', k_h k_w C), added up where they lie in images of the shape (N, H, W, C)."""
    xp, (k_h, k_w), (s_h, s_w), (p_h, p_w) = array_module(patches), kernel, stride, padding
    N, height, width, channels = shape
    padded = xp.zeros((N, height + 2 * p_h, width + 2 * p_w, channels), patches.dtype)
    down, across = patches.shape[1:3]
    places = patches.reshape(N, down, across, k_h, k_w, channels)
    for i in range(k_h):
        for j in range(k_w):  # place (i, j) of every patch at once
            padded[:, i :: s_h, j :: s_w][:, :down, :across] += places[:, :, :, i, j]
    return padded[:, p_h : p_h + height, p_w : p_w + width]


def rows(x):
    """x (..., C) as the rows of a matrix, (-1, C)."""
    return x.reshape(-1, x.shape[-1])


def product(x, matrix):
    """x (..., K) times matrix (K, M) -> (..., M)."""
    return (rows(x) @ matrix).reshape(*x.shape[:-1], matrix.shape[1])
