"""The learning rules of the paper, line by line beside its equations.

A rule sees one layer's synapses s (W, B, b and what the two cells did) and nothing else: never an
image, a convolution or an optimizer's insides.  The training step (training.py) calls, layer by layer,

    connect            once: gives the layer its feedback weights B (never to the first layer)
    before_training    once: whatever has to happen before the first example
    before_backward    each step, between the forward and the backward pass
    learn              each step, after the backward pass: Delta W, Delta b and perhaps Delta B
    between_steps      each step, last, with no input and no label

Numbers in brackets are the paper's equations.  The backward pass itself, (3), is the same for every rule
and stands in layers.py: it multiplies by s.B and leaves delta_{l+1} y_l^T in s.W_gradient.
`sgd.descend(x, gradient, decay)` is Delta x = -eta_W gradient, and - lambda x where decay is True (optim.py).
"""

import math

import numpy as np

from wtref.activations import ACTIVATIONS
from wtref.errors import InputError, choose
from wtref.noise import NOISES, power_of_two


class Rule:
    """What all rules share: an independent random B, and forward learning by (4).

    Attributes
    ----------
    transports_weights : bool    whether the rule reads W for the backward pass; `run.py audit` checks it
    draws_each_batch : bool      whether before_backward draws random numbers
    rng : numpy.random.Generator, from which feedback weights are drawn
    state : dict                 plain values that a checkpoint must keep
    """

    transports_weights = draws_each_batch = False

    def __init__(self, rng=None):
        """rng: None for a generator with seed 0."""
        self.rng = np.random.default_rng(0) if rng is None else rng
        self.state = {}

    def connect(self, s, classes):
        """classes: the number of the network's outputs."""
        s.B = s.draw_feedback(self.rng)

    def before_training(self, s):
        pass

    def before_backward(self, s, error):
        """error (N, classes): delta at the network's output."""

    def learn(self, s, sgd):
        sgd.descend(s.W, s.W_gradient, decay=True)  # (4)  Delta W_{l+1} = -eta_W delta_{l+1} y_l^T; the decay is ours
        self.learn_bias(s, sgd)

    def learn_bias(self, s, sgd):
        if s.b is not None:
            sgd.descend(s.b, s.b_gradient, decay=False)

    def between_steps(self, s, step):
        pass


class Backprop(Rule):
    """BP: errors return through the forward weights themselves.

    The one place in the program where weights are transported: B is a view of W's own memory.
    """

    transports_weights = True

    def connect(self, s, classes):
        s.B = s.W.T  # (2)  delta_l = phi'(y_l) * W_{l+1}^T delta_{l+1}


class FeedbackAlignment(Rule):
    """FA: B is random and stays as it was drawn, (3).  (Lillicrap et al., 2016.)"""


class SignSymmetry(Rule):
    """SS (uSF): B carries the signs of W^T, all of one size.  (Liao et al., 2016; Xiao et al., 2018.)

    The size is sqrt(2 / (k_h k_w C_out)) in a convolution and 1 / sqrt(n_in) in a linear layer;
    without it errors explode on their way down.
    """

    transports_weights = True  # one bit of each weight

    def before_backward(self, s, error):
        s.B = s.sign_scale * s.device.xp.sign(s.W).T


class KolenPollack(Rule):
    """KP: W and B meet because both feel the same adjustments and the same decay.

    Each synapse, forward or feedback, sees the two cells it lies between, y_l and delta_{l+1}, so
    W(t) - B(t)^T = (1 - lambda)^t [W(0) - B(0)^T].  With momentum B has a velocity of its own and
    obeys the same recursion as W.  The product in (17) is the transpose of that in (16): computed
    once, used by both.
    """

    def learn(self, s, sgd):
        sgd.descend(s.W, s.W_gradient, decay=True)  # (16)  Delta W_{l+1} = -eta_W delta_{l+1} y_l^T - lambda W_{l+1}
        if s.B is not None:
            sgd.descend(s.B, s.W_gradient.T, decay=True)  # (17)  Delta B_{l+1} = -eta_W y_l delta_{l+1}^T - lambda B_{l+1}
        self.learn_bias(s, sgd)


class WeightMirror(Rule):
    """WM: between training steps B learns to mirror W from noise.

    In mirror mode layer l fires zero-mean noise y_l, which passes through W to y_{l+1}; the feedback
    cells copy both, and their product moves B towards W^T, (5).  Decay keeps B bounded: with the
    matched lambda_B = eta_B M sigma^2, B settles at exactly W^T, and one constant is left, the length
    of B's memory, S rows of noise.

    By default there is no constant at all: one block of decorrelated noise shows W^T to rounding and replaces B.

    Parameters
    ----------
    noise : "decorrelated" or "independent" (noise.py)
    window : S in rows per input cell; None: one step where that shows W^T exactly, else the noise's own default
    rows : M, rows of noise per step, a power of two, of decorrelated noise a block at most; None: the noise's own default
    every : one step of mirror mode after every so many training steps
    bound : "decay" (matched), or "scaling": each B is scaled back to the norm expected of its first draw
    activation : None, or the phi ("relu", "sigmoid", "tanh") that noise also passes on its way up;
        E[x phi(w x)] = E[phi'] w (Stein), so each cell divides by its own mean phi'
    seed : of the noise
    """

    def __init__(
        self, rng=None, noise="decorrelated", window=None, rows=None, every=1, bound="decay", activation=None, seed=0
    ):
        super().__init__(rng)
        self.noise = choose("mirror noise", noise, NOISES)()
        self.rows = self.noise.rows if rows is None else rows
        if rows is not None and rows != power_of_two(rows):
            raise InputError(f"mirror rows must be a power of two, found {rows}; try 512")
        self.add_bounded = choose("mirror bound", bound, BOUNDS)
        self.phi = choose("activation", activation, ACTIVATIONS)() if activation else None
        self.exact = self.noise.exact and bound == "decay" and activation is None
        self.window, self.every, self.seed = window, every, seed

    def before_training(self, s):
        """An initial stretch of mirroring: S / 2 rows, whose plain average is as good as a memory of S."""
        for _ in range(math.ceil(self.memory(s) / self.batch(s) / 2)):
            self.mirror(s)

    def between_steps(self, s, step):
        if (step + 1) % self.every == 0:
            self.mirror(s)

    def mirror(self, s):
        """One step of mirror mode."""
        t = self.state[s.name] = self.state.get(s.name, 0) + 1  # mirror steps of this layer so far
        a, M = self.rate(s, t), self.batch(s)
        y_l = self.noise.draw(s.device, (self.seed, s.layer, t - 1), M, s.n_in)  # sigma = 1
        y_next = self._fire(y_l @ s.W.T)
        eta_B = a / M
        delta_B = eta_B * (y_l.T @ y_next)  # (7)  Delta B_{l+1} = eta_B y_l y_{l+1}^T
        self.add_bounded(s, delta_B, lambda_B=a)  # lambda_B = eta_B M sigma^2

    def batch(self, s):
        """M for this layer."""
        return self.noise.batch(self.rows, s.n_in)

    def memory(self, s):
        """S for this layer, in rows."""
        block, M = self.noise.block(s.n_in), self.batch(s)
        if self.window is None and self.exact and M == block:
            return M
        return (self.window or self.noise.window) * block

    def rate(self, s, t):
        """a of step t = 1, 2, ...: a plain average over all steps at first, until S rows are remembered.

        A moving average at rate a, M rows at a time, remembers S = M (2 - a) / a rows.
        """
        M, S = self.batch(s), self.memory(s)
        return max(min(2 * M / (S + M), 1), 1 / t)

    def _fire(self, a):
        if self.phi is None:
            return a
        y, ones = self.phi.forward(a), a * 0 + 1
        slope = self.phi.backward(ones).mean(axis=0)
        return y / slope.clip(1 / len(a))  # a cell that was silent throughout tells nothing


def _decay(s, delta_B, lambda_B):
    s.B *= 1 - lambda_B
    s.B += delta_B


def _scale(s, delta_B, lambda_B):
    s.B += delta_B
    s.B /= abs(s.B).max()  # no square overflows or vanishes
    s.B *= s.std * math.sqrt(s.B.size) / s.device.xp.linalg.norm(s.B)


BOUNDS = {"decay": _decay, "scaling": _scale}


PAPER = {"bp": Backprop, "fa": FeedbackAlignment, "ss": SignSymmetry, "wm": WeightMirror, "kp": KolenPollack}
