"""How signals travel: activities forward, errors back.

Every layer has `forward(y, train)` and `backward(delta)`, to be read against each other.  Forward
keeps what backward needs; backward takes the error at the layer's output and returns the error at
its input.  No layer knows which learning rule it serves: it multiplies by W on the way up and by
B on the way down, and leaves in its synapses the products that the rules learn from.

Activities are (N, features) or channels-last images (N, H, W, C).
"""

import math

from wtref.activations import Identity, ReLU, Sigmoid, Tanh  # noqa: F401  (part of this module's vocabulary)
from wtref.backend import array_module
from wtref.errors import InputError
from wtref.kernels import primitives
from wtref.kernels.plain import gather, output_size, scatter
from wtref.synapses import Synapses


class Linear:
    """y_{l+1} = W y_l + b: the matrix part of eq (1), on rows."""

    def __init__(self, name, n_in, n_out):
        std = sign_scale = 1 / math.sqrt(n_in)
        self.synapses = Synapses(name, n_in, n_out, bias=True, std=std, sign_scale=sign_scale)

    def forward(self, y, train=True):
        """y (N, n_in) -> (N, n_out)."""
        s, self.y = self.synapses, y
        if y.shape[1:] != (s.n_in,):
            raise InputError(f"{s.name}: takes {s.n_in} values, was given {_shape(y)}")
        return primitives(y).product(y, s.W.T) + s.b  # (1)

    def backward(self, delta):
        """delta_{l+1} (N, n_out) -> the error at y_l, (N, n_in), or None where there is no B."""
        s = self.synapses
        s.delta = delta if s.watched else None
        product = primitives(delta).product
        s.outer = product(delta.T, self.y)  # delta_{l+1} y_l^T, what (4), (16) and (17) learn from
        s.delta_sum = primitives(delta).total(delta)
        s.crew.give(s.outer, s.delta_sum)
        if s.B is None:
            return None
        return product(s.carried(delta), s.B.T)  # (2), (3): B_{l+1} delta_{l+1}; phi' follows below


class Conv2d:
    """y_{l+1} = W y_l + b with y_l the patches of an image: eq (1) at every position.

    W is (C_out, k_h k_w C_in), drawn with He's standard deviation sqrt(2 / (k_h k_w C_in)).
    """

    def __init__(self, name, c_in, c_out, kernel, stride=1, padding=0, bias=True):
        """kernel, stride, padding: an int or a pair (vertical, horizontal)."""
        self.geometry = self.kernel, self.stride, self.padding = _pair(kernel), _pair(stride), _pair(padding)
        self.c_in, area = c_in, math.prod(self.kernel)
        self.synapses = Synapses(
            name, area * c_in, c_out, bias=bias,
            std=math.sqrt(2 / (area * c_in)), sign_scale=math.sqrt(2 / (area * c_out)),
        )  # fmt: skip

    def forward(self, y, train=True):
        """y (N, H, W, C_in) -> (N, H', W', C_out)."""
        s, self.y = self.synapses, y
        _check_fit(s.name, y, *self.geometry, self.c_in)
        normed = train and s.b is None  # no bias: batch norm follows
        out = primitives(y).convolve(y, s.W, *self.geometry, normed)  # (1)
        return out if s.b is None else primitives(y).biased(out, s.b)

    def backward(self, delta):
        """delta_{l+1} (N, H', W', C_out) -> the error at y_l, (N, H, W, C_in), or None."""
        s, kernels = self.synapses, primitives(delta)
        s.delta = delta if s.watched else None
        s.outer = kernels.convolve_outer(delta, self.y, *self.geometry)  # delta_{l+1} y_l^T, over all positions
        s.delta_sum = kernels.total(delta) if s.bias else None
        s.crew.give(s.outer, s.delta_sum)
        if s.B is None:
            return None
        size = self.y.shape[1:3]
        return kernels.convolve_back(s.carried(delta), s.B, *self.geometry, size)  # (2), (3), patch by patch


class BatchNorm:
    """gamma (y - mean) / sqrt(variance + epsilon) + beta, each channel over batch and positions.

    One class for (N, C) and (N, H, W, C).  Training normalises with the mean and variance of the
    batch, all shares of it together, and moves the running statistics towards them by `momentum`
    (variance unbiased, as in PyTorch); evaluation normalises with the running statistics, and so does
    training where a channel has a single value, and no variance.  Errors return by ordinary backprop
    under every rule: there is no weight matrix here.  (Ioffe and Szegedy, 2015.)
    """

    rectify = False

    def __init__(self, name, channels, momentum=0.1, epsilon=1e-5):
        self.name, self.channels = name, channels
        self.momentum, self.epsilon = momentum, epsilon

    def initialise(self, device, rng):
        """gamma = 1, beta = 0, running mean 0 and variance 1."""
        self.crew = device.crew
        zeros = [0.0] * self.channels
        ones = [1.0] * self.channels
        self.gamma, self.beta = device.array(ones), device.array(zeros)
        self.running_mean, self.running_var = device.array(zeros), device.array(ones)

    def forward(self, y, train=True):
        """y (..., C) -> (..., C)."""
        self.measure(y, train)
        return primitives(y).norm_forward(y, self.mean, self.scale, self.beta, self.rectify)

    def measure(self, y, train):
        """Keep y and its statistics, or the running ones."""
        if y.shape[-1] != self.channels:
            raise InputError(f"{self.name}: takes {self.channels} channels, was given {_shape(y)}")
        kernels, self.y = primitives(y), y
        self.train = train and self.crew.rows(y) > 1
        if self.train:
            running = self.running_mean, self.running_var
            found = self.crew.norm_statistics(kernels, y, self.gamma, *running, self.momentum, self.epsilon)
        else:
            found = self.running_mean, *kernels.norm_scale(self.running_var, self.gamma, self.epsilon)
        self.mean, self.inverse_std, self.scale = found

    def backward(self, delta):
        """delta (..., C) -> (..., C); leaves the gradients of gamma and beta."""
        kernels, statistics = primitives(delta), (self.mean, self.inverse_std, self.scale)
        beta = self.beta if self.rectify else None  # tells where the ReLU let y through
        gradients = self.crew.norm_gradients(kernels, delta, self.y, *statistics, beta)
        self.beta_gradient, self.gamma_gradient, slope, shift = gradients
        if not self.train:  # the running ones do not depend on the batch
            slope = shift = 0 * self.scale
        return kernels.norm_back(delta, self.y, self.mean, self.scale, slope, shift, beta)

    def average(self, crew):
        """Let the running statistics become their average over all processes, where each follows its own batches."""
        for running in (self.running_mean, self.running_var):
            running /= crew.size
            crew.sum(running)

    def learn(self, sgd):
        """Plain gradient descent on gamma and beta; no weight decay."""
        sgd.descend(self, "gamma", self.gamma_gradient, decay=False)
        sgd.descend(self, "beta", self.beta_gradient, decay=False)

    def arrays(self):
        """The arrays that learning changes, by name."""
        names = ("gamma", "beta", "running_mean", "running_var")
        return {name: getattr(self, name) for name in names}


class NormReLU(BatchNorm):
    """Batch norm and the ReLU behind it, one pass over memory for both."""

    rectify = True


class NormSumReLU(BatchNorm):
    """The end of a residual block, max(norm(a) + b, 0), in one pass."""

    def forward_sum(self, a, b, train=True):
        """a, b (..., C) -> (..., C)."""
        self.measure(a, train)
        self.out = primitives(a).norm_forward(a, self.mean, self.scale, self.beta, True, b)
        return self.out

    def backward_sum(self, delta):
        """delta (..., C) -> the errors at a and at b."""
        delta = primitives(delta).relu_back(delta, self.out)
        return self.backward(delta), delta


class MaxPool:
    """The largest value of each window; its error goes back to the first place that held it."""

    def __init__(self, name, kernel, stride=None, padding=0):
        self.name, self.kernel, self.padding = name, _pair(kernel), _pair(padding)
        self.stride = _pair(stride or kernel)

    def forward(self, y, train=True):
        """y (N, H, W, C) -> (N, H', W', C)."""
        _check_fit(self.name, y, self.kernel, self.stride, self.padding)
        self.size = y.shape[1:3]
        largest, self.winner = primitives(y).max_pool(y, self.kernel, self.stride, self.padding)
        return largest

    def backward(self, delta):
        """delta (N, H', W', C) -> (N, H, W, C)."""
        geometry = self.kernel, self.stride, self.padding
        return primitives(delta).max_pool_back(delta, self.winner, *geometry, self.size)


class AvgPool:
    """The mean of each window, padding counted in; each place gets an equal share of the error."""

    def __init__(self, name, kernel, stride=None, padding=0):
        self.name, self.kernel, self.padding = name, _pair(kernel), _pair(padding)
        self.stride = _pair(stride or kernel)

    def forward(self, y, train=True):
        """y (N, H, W, C) -> (N, H', W', C)."""
        _check_fit(self.name, y, self.kernel, self.stride, self.padding)
        self.size = y.shape[1:3]
        return gather(y, self.kernel, self.stride, self.padding).mean(axis=(3, 4))

    def backward(self, delta):
        """delta (N, H', W', C) -> (N, H, W, C)."""
        share = (delta / math.prod(self.kernel))[:, :, :, None, None]
        n, rows, columns, channels = delta.shape
        shape = (n, rows, columns, *self.kernel, channels)
        return scatter(array_module(delta).broadcast_to(share, shape), self.size, self.stride, self.padding)


class GlobalAvgPool:
    """The mean over all positions: (N, H, W, C) -> (N, C)."""

    def forward(self, y, train=True):
        self.shape = y.shape
        return primitives(y).average(y)

    def backward(self, delta):
        _, height, width, _ = self.shape
        share = delta[:, None, None, :] / (height * width)
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

    def forward(self, y, train=True, keep=True):
        """keep=False: each layer, once passed, lets go of its activities; there can be no backward pass."""
        for layer in self.layers:
            y = layer.forward(y, train)
            if not keep:
                forget(layer)
        return y

    def backward(self, delta, keep=True):
        """keep=False: the same on the way down; there can be no second pass."""
        for layer in reversed(self.layers):
            if delta is not None:  # below the first weights there is nobody to tell
                delta = layer.backward(delta)
            if not keep:
                forget(layer)
        return delta


class Residual:
    """phi(body(y) + shortcut(y)); the error returns along both branches and adds up."""

    def __init__(self, body, shortcut, phi):
        """phi: an activation or NormSumReLU."""
        self.layers = body, shortcut, phi

    def forward(self, y, train=True):
        body, shortcut, phi = self.layers
        return phi.forward_sum(body.forward(y, train), shortcut.forward(y, train), train)

    def backward(self, delta):
        body, shortcut, phi = self.layers
        to_body, to_shortcut = phi.backward_sum(delta)
        return primitives(delta).add(body.backward(to_body), shortcut.backward(to_shortcut))


def walk(layer):
    """A layer and all layers inside it, in the order of the forward pass."""
    yield layer
    for inner in getattr(layer, "layers", ()):
        yield from walk(inner)


def forget(layer):
    """Let go of the arrays of activities that a layer, and all layers inside it, kept for the backward pass."""
    for part in walk(layer):
        for name in {"y", "out", "winner"} & vars(part).keys():
            setattr(part, name, None)


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _shape(y):
    """The shape of one example, for messages: 28x28x1."""
    return "x".join(str(n) for n in y.shape[1:])


def _check_fit(name, y, kernel, stride, padding, channels=None):
    if y.ndim != 4 or channels not in (None, y.shape[-1]):
        raise InputError(f"{name}: takes images of {channels or 'any number of'} channels, was given {_shape(y)}")
    if min(output_size(y.shape[1:3], kernel, stride, padding)) < 1:
        size = "x".join(str(n) for n in kernel)
        pad = "x".join(str(p) for p in padding)
        raise InputError(
            f"{name}: a {size} kernel does not fit its {_shape(y)} input (padding {pad}); use larger images"
        )
