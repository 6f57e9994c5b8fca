"""The connections between two layers of cells: W and b forward, B backward.

This is all that a learning rule ever sees.  A linear layer and a convolution look alike from
here: a convolution is W acting on patches of n_in = k_h k_w C_in values.
"""

import math


class Synapses:
    """The synapses from layer l (n_in cells) to layer l+1 (n_out cells).

    Attributes
    ----------
    name : str                     unique in its network; it names the layer in errors, files and figures
    layer : int                    l, counted from 0 in the order of the forward pass
    W : (n_out, n_in)              forward weights; changed in place, so that views of W stay views
    b : (n_out,) or None           biases
    B : (n_in, n_out) or None      feedback weights, given by the rule; None in the first layer, which
                                   has no feedback path
    W_gradient : (n_out, n_in)     sum over the batch of delta_{l+1} y_l^T, set by the backward pass
    b_gradient : (n_out,)          sum over the batch of delta_{l+1}, likewise
    delta : (..., n_out) or None   delta_{l+1} itself, likewise, where keep_delta is set
    y : (rows, n_in) or None       y_l, a row for each example, or for each of its patches in a convolution; set by
                                   the forward pass of training where keep_activity is set
    y_next : (rows, n_out) or None W y_l + b, what arrives at the cells of l+1, likewise
    keep_delta, keep_activity : bool   a rule that needs these sets them in `connect`
    is_output : bool               whether l+1 is the network's output layer
    device : device.Device         the device that holds these arrays
    extra : dict                   arrays of a rule's own, by name, which are saved with the others

    Of direct feedback rules alone:
    direct : bool                  whether the error e at the network's output goes through B instead of delta_{l+1}
    output_error : (N, classes)    e, set before the backward pass
    B_gradient : (n_in, classes)   sum over the batch of y_l e^T, set by the backward pass
    """

    def __init__(self, name, n_in, n_out, *, bias, std, sign_scale):
        """std: of W's and B's normal draw; sign_scale: the size of B's entries in sign-symmetry."""
        self.name, self.n_in, self.n_out = name, n_in, n_out
        self.bias, self.std, self.sign_scale = bias, std, sign_scale
        self.W = self.b = self.B = None
        self.W_gradient = self.b_gradient = self.delta = self.output_error = self.B_gradient = None
        self.y = self.y_next = None
        self.keep_delta = self.keep_activity = self.direct = self.is_output = False
        self.layer = self.device = None  # set by Network, and by initialise
        self.extra = {}

    def initialise(self, device, rng):
        """W ~ N(0, std^2), b = 0."""
        self.device = device
        self.W = device.array(rng.standard_normal((self.n_out, self.n_in)) * self.std)
        self.b = device.array([0.0] * self.n_out) if self.bias else None

    def draw_feedback(self, rng, width=None):
        """An independent draw from W's distribution, (n_in, n_out) or (n_in, width).

        It is the transpose of an array laid out as W is, so that B.T and W are walked in the same order.
        """
        draw = rng.standard_normal((width or self.n_out, self.n_in)) * self.std
        return self.device.array(draw).T

    def direct_error(self, shape):
        """The e that this layer sends through B, (N, ..., classes); shape: that of delta_{l+1}, (N, ..., n_out).

        A convolution's output has P positions, each of which sends e / P.
        """
        N, *positions, _ = shape
        share = self.output_error / math.prod(positions)
        share = share.reshape(N, *(1 for _ in positions), share.shape[-1])
        return self.device.xp.broadcast_to(share, (N, *positions, share.shape[-1]))

    def arrays(self):
        """The arrays that learning changes, by name."""
        named = {"W": self.W, "b": self.b, "B": self.B, **self.extra}
        return {name: array for name, array in named.items() if array is not None}
