"""The connections between two layers of cells: W and b forward, B backward.

This is all that a learning rule ever sees.  A linear layer and a convolution look alike from
here: a convolution is W acting on patches of n_in = k_h k_w C_in values.
"""


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
    direct : bool                  whether a rule sends the error at the network's output through B instead of
                                   delta_{l+1}; B is then (n_in, classes)
    output_error : (N, classes)    that error, set before the backward pass where `direct` is
        or None
    device : device.Device        the device that holds these arrays
    """

    def __init__(self, name, n_in, n_out, *, bias, std, sign_scale):
        """std: of W's and B's normal draw; sign_scale: the size of B's entries in sign-symmetry."""
        self.name, self.n_in, self.n_out = name, n_in, n_out
        self.bias, self.std, self.sign_scale = bias, std, sign_scale
        self.W = self.b = self.B = None
        self.W_gradient = self.b_gradient = self.delta = self.output_error = None
        self.keep_delta = self.direct = False

    def initialise(self, device, rng):
        """W ~ N(0, std^2), b = 0."""
        self.device = device
        self.W = device.array(rng.standard_normal((self.n_out, self.n_in)) * self.std)
        self.b = device.array([0.0] * self.n_out) if self.bias else None

    def draw_feedback(self, rng, width=None):
        """An independent draw from W's distribution, (n_in, n_out) or (n_in, width).

        It lies in memory as its transpose does, so that B.T and W are walked in the same order.
        """
        draw = rng.standard_normal((width or self.n_out, self.n_in)) * self.std
        return self.device.array(draw).T

    def received(self, delta):
        """What the backward pass sends through B: delta_{l+1} (N, ..., n_out), or the output error where that is set.

        A convolution's output has P positions, each of which sends 1/P of the output error.
        """
        if self.output_error is None:
            return delta
        N, *positions = delta.shape[:-1]
        share = self.output_error.reshape(N, *(1 for _ in positions), self.output_error.shape[-1])
        for count in positions:
            share = share / count
        return self.device.xp.broadcast_to(share, (N, *positions, share.shape[-1]))

    def arrays(self):
        """The arrays that learning changes, by name."""
        return {k: v for k, v in (("W", self.W), ("b", self.b), ("B", self.B)) if v is not None}
