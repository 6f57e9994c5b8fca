"""The layers of layers.py computed in fewer passes over memory, with the same results up to rounding.

Each is built from the plain layer that it replaces, whose synapses or batch-norm arrays it shares, and the `ops` of a
device: the functions of fast/plain.py in C or CUDA.  The backward pass frees the activities that the forward pass kept,
so each forward pass allows one backward pass.
"""

from wtref import layers
from wtref.geometry import check_branches, check_fit, check_images
from wtref.layers import patches, rows


class Linear(layers.Linear):
    def __init__(self, plain, ops):
        self.synapses, self.ops = plain.synapses, ops

    def forward(self, y, train=True):
        s, self.y = self.synapses, y if train else None
        self.check(y)
        out = self.ops.product(y, s.W.T) + s.b
        s.y, s.y_next = (y, out) if s.keep_activity and train else (None, None)
        return out

    def backward(self, delta):
        s, product = self.synapses, self.ops.product
        s.delta = delta if s.keep_delta else None
        s.W_gradient = product(delta.T, self.y)
        s.b_gradient = self.ops.total(delta)
        if s.output_error is not None:
            delta = s.direct_error(delta.shape)
            s.B_gradient = product(self.y.T, delta)
        self.y = None
        return None if s.B is None else product(delta, s.B.T)


class Conv2d(layers.Conv2d):
    """A convolution; `moments` holds those of its latest output, for the batch norm that follows, if ops computed them."""

    def __init__(self, plain, ops, normed):
        """normed: whether the next layer is a batch norm."""
        vars(self).update(vars(plain))
        self.ops, self.normed, self.moments = ops, normed, None

    def forward(self, y, train=True):
        s, self.y = self.synapses, y if train else None
        check_fit(s.name, y, *self.geometry, self.c_in)
        if train and self.normed:
            out, self.moments = self.ops.convolve_with_moments(y, s.W, *self.geometry)
        else:
            out = self.ops.convolve(y, s.W, *self.geometry)
        out = out if s.b is None else self.ops.biased(out, s.b)
        s.y, s.y_next = (rows(patches(y, *self.geometry)), rows(out)) if s.keep_activity and train else (None, None)
        return out

    def backward(self, delta):
        s, ops, size = self.synapses, self.ops, self.y.shape[1:3]
        s.delta = delta if s.keep_delta else None
        s.W_gradient = ops.convolve_gradient(delta, self.y, *self.geometry)
        s.b_gradient = None if s.b is None else ops.total(delta)
        if s.output_error is not None:
            delta = s.direct_error(delta.shape)
            s.B_gradient = ops.convolve_gradient(delta, self.y, *self.geometry).T
        self.y = None
        return None if s.B is None else ops.convolve_back(delta, s.B, *self.geometry, size)


class BatchNorm:
    """Batch norm in one pass with the ReLU or the residual sum that follows it: max(norm(y) + plus, 0)."""

    def __init__(self, plain, ops, rectify=False, source=None):
        """rectify: whether a ReLU follows; source: the fast Conv2d that computes y, whose moments are used, or None."""
        self.plain, self.ops, self.rectify, self.source = plain, ops, rectify, source

    def forward(self, y, train=True, plus=None):
        """y, plus (..., C) -> (..., C)."""
        plain, self.y = self.plain, y if train else None
        plain.check(y)
        self.of_batch = train and self.values(y) > 1
        if self.of_batch:
            found = self.statistics(y)
        else:
            found = plain.running_mean, *self.ops.norm_scale(plain.running_var, plain.gamma, plain.epsilon)
        self.mean, self.inverse_std, self.scale = found
        return self.ops.norm_forward(y, self.mean, self.scale, plain.beta, self.rectify, plus)

    def backward(self, delta):
        """delta (..., C), the error at the output (of the ReLU, if there is one) -> the error at y (..., C)."""
        return self.backward_linear(delta, self.plain.beta if self.rectify else None)

    def values(self, y):
        """The number of values of each channel in the batch y."""
        return y.size // y.shape[-1]

    def statistics(self, y):
        """Return the mean of y, 1 / sqrt(variance + epsilon), and gamma times that; update the running statistics."""
        plain, running = self.plain, (self.plain.running_mean, self.plain.running_var)
        return self.ops.norm_statistics(y, plain.gamma, *running, plain.momentum, plain.epsilon, known=self.known())

    def known(self):
        """Take the moments that the convolution left about its output y; None if there are none."""
        moments = self.source and self.source.moments
        if moments is not None:
            self.source.moments = None
        return moments

    def gradients(self, delta, beta):
        """Return the gradients of beta and gamma, and the slope and shift of ops.norm_back."""
        return self.ops.norm_gradients(delta, self.y, self.mean, self.inverse_std, self.scale, beta)

    def backward_linear(self, delta, beta=None):
        """delta (..., C), the error before the ReLU -> the error at y (..., C).

        If beta is given, delta is the error after the ReLU, and is set to 0 where the ReLU's input was not positive.
        """
        plain = self.plain
        plain.beta_gradient, plain.gamma_gradient, slope, shift = self.gradients(delta, beta)
        if not self.of_batch:
            slope = shift = 0 * self.scale
        delta = self.ops.norm_back(delta, self.y, self.mean, self.scale, slope, shift, beta)
        self.y = None
        return delta


class ReLU:
    def __init__(self, plain, ops):
        self.ops = ops

    def forward(self, a, train=True):
        y = self.ops.relu(a)
        self.y = y if train else None
        return y

    def backward(self, delta):
        delta, self.y = self.ops.relu_back(delta, self.y), None
        return delta


class MaxPool(layers.MaxPool):
    def __init__(self, plain, ops):
        self.name, self.geometry, self.ops = plain.name, plain.geometry, ops

    def forward(self, y, train=True):
        check_fit(self.name, y, *self.geometry)
        self.size = y.shape[1:3]
        largest, winner = self.ops.max_pool(y, *self.geometry)
        self.winner = winner if train else None
        return largest

    def backward(self, delta):
        delta, self.winner = self.ops.max_pool_back(delta, self.winner, *self.geometry, self.size), None
        return delta


class GlobalAvgPool(layers.GlobalAvgPool):
    def __init__(self, plain, ops):
        self.ops = ops

    def forward(self, y, train=True):
        check_images("GlobalAvgPool", y)
        self.shape = y.shape
        return self.ops.average(y)


class Residual(layers.Residual):
    """A residual block with its sum and ReLU in one pass, which includes the body's last batch norm if there is one."""

    def __init__(self, body, shortcut, phi, ops):
        """phi: a fast ReLU, another activation, or a rectifying fast BatchNorm, the last layer of the plain body."""
        super().__init__(body, shortcut, phi)
        self.ops = ops

    def forward(self, y, train=True):
        body, shortcut, phi = self.layers
        a, b = body.forward(y, train), shortcut.forward(y, train)
        check_branches(a, b)
        if isinstance(phi, BatchNorm):
            out = phi.forward(a, train, plus=b)
        elif isinstance(phi, ReLU):
            out = self.ops.add(a, b, True)
        else:
            return phi.forward(self.ops.add(a, b), train)
        self.out = out if train else None
        return out

    def backward(self, delta):
        body, shortcut, phi = self.layers
        if isinstance(phi, (BatchNorm, ReLU)):
            delta, self.out = self.ops.relu_back(delta, self.out), None
        else:
            delta = phi.backward(delta)
        to_body = phi.backward_linear(delta) if isinstance(phi, BatchNorm) else delta
        along_body, along_shortcut = body.backward(to_body), shortcut.backward(delta)
        return None if along_body is None or along_shortcut is None else self.ops.add(along_body, along_shortcut)
