"""The connections between two layers of cells: W and b forward, B backward.

This is all that a learning rule ever sees.  A linear layer and a convolution look alike from
here: a convolution is W acting on patches of n_in = k_h k_w C_in values.
"""

import math


class Synapses:
    """The synapses from layer l (n_in cells) to layer l+1 (n_out cells).

    Attributes
    ----------
    name : str                  unique in its network; it names the layer in errors, files, figures
    W : (n_out, n_in)           forward weights; changed in place, so that views of W stay views
    b : (n_out,) or None        biases
    B : (n_in, n_out) or None   feedback weights, given by the rule; None: no feedback path, as in
                                the first layer, which has nobody below to tell
    outer : (n_out, n_in)       sum over the batch of delta_{l+1} y_l^T, left by the backward pass
    delta_sum : (n_out,)        sum over the batch of delta_{l+1}, likewise
    crew : parallel.Crew        the processes that share each batch
    delta : (..., n_out)        delta_{l+1} itself, likewise, where `watched`; None where not, to spare memory
    direct : (N, width) or None the network's output error, where a rule sends that through B
                                instead of delta_{l+1}; B is then (n_in, width)
    """

    def __init__(self, name, n_in, n_out, *, bias, std, sign_scale):
        """std: of W's and B's normal draw; sign_scale: the size of B's entries in sign-symmetry."""
        self.name, self.n_in, self.n_out = name, n_in, n_out
        self.bias, self.std, self.sign_scale = bias, std, sign_scale
        self.W = self.b = self.B = None
        self.outer = self.delta_sum = self.delta = self.direct = None
        self.watched = True

    def initialise(self, device, rng):
        """W ~ N(0, std^2), b = 0."""
        self.device, self.crew = device, device.crew
        self.W = device.array(rng.standard_normal((self.n_out, self.n_in)) * self.std)
        self.b = device.array([0.0] * self.n_out) if self.bias else None

    def draw_feedback(self, rng, width=None):
        """An independent draw from W's distribution, (n_in, n_out) or (n_in, width).

        It lies in memory as its transpose does, so that B.T and W are walked in the same order.
        """
        draw = rng.standard_normal((width or self.n_out, self.n_in)) * self.std
        return self.device.array(draw).T

    def carried(self, delta):
        """What B carries back: delta_{l+1} (N, ..., n_out), or the direct error where that is set.

        A convolution's output has P positions; each gets 1/P of the direct error.
        """
        if self.direct is None:
            return delta
        n, *positions = delta.shape[:-1]
        share = self.direct.reshape(n, *(1 for _ in positions), self.direct.shape[-1]) / math.prod(positions)
        return self.device.xp.broadcast_to(share, (n, *positions, share.shape[-1]))

    def arrays(self):
        """The arrays that learning changes, by name."""
        return {k: v for k, v in (("W", self.W), ("b", self.b), ("B", self.B)) if v is not None}
