"""The learning rules of the paper, line by line beside its equations.

A rule sees one layer's synapses s (W, B, b and what the two cells did) and nothing else: never an
image, a convolution or an optimizer's insides.  The training step (training.py) calls, layer by layer,

    connect            once: gives the layer its feedback weights B
    before_training    once, before the first example
    before_backward    each step, between the forward and the backward pass
    learn              each step, after the backward pass: Delta W, Delta b and perhaps Delta B
    between_steps      each step, last, with no input and no label

The first layer has no feedback path: it is given to `learn` alone, with None as its s.B, s.delta, s.y and s.y_next.  A rule
keeps arrays of its own in s.extra, by name, and counts in self.state: checkpoints have these, and no other attributes.

Numbers in brackets are the paper's equations.  The backward pass itself, (3), is the same for every rule
and stands in layers.py: it multiplies by s.B and leaves delta_{l+1} y_l^T in s.W_gradient.  A rule that needs y_l or
delta_{l+1} themselves, and not only this product, asks for them in `connect` (synapses.py).
`sgd.descend(x, gradient, decay)` is Delta x = -eta_W gradient, and - lambda x where decay is True (optim.py).
"""

import math
from numbers import Real

from wtref.errors import InputError, check_integer
from wtref.noise import independent_signs
from wtref.randomness import FEEDBACK, NOISE, generator


class Rule:
    """What all rules share: an independent random B, and forward learning by (4).

    Attributes
    ----------
    transports_weights : bool    whether the rule reads W for the backward pass; `run.py audit` checks it
    draws_each_batch : bool      whether before_backward draws random numbers
    rng : numpy.random.Generator, from which feedback weights are drawn
    state : dict                 integers from 0 up, by name, that a checkpoint must keep
    """

    transports_weights = draws_each_batch = False

    def __init__(self, rng=None):
        """rng: None for that of the feedback weights in a run with seed 0."""
        self.rng = generator(0, FEEDBACK) if rng is None else rng
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

    def between_steps(self, s, sgd, step):
        """step: the number of training steps before this one."""


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
    """KP: B converges to W^T because both receive the same adjustments and the same decay.

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

    In mirror mode layer l fires noise y_l, independent from cell to cell, with mean 0 and variance 1, which passes
    through W to y_{l+1}; the feedback cells copy both, and their product moves B towards W^T, (5).  Decay keeps B
    bounded: with the matched lambda_B = eta_B M, for M rows of noise a step, E[B] settles at W^T.

    B then averages over the last S = 2 / eta_B - M rows.  Its matrix angle consists of the noise that this average
    leaves, tan^2(theta) = (n_in - 1) / S, and of its lag behind W, S / (2 M) steps.  As the one angle falls as S^(-1/2) and the
    other grows as eta_W S, S ~ eta_W^(-2/3) keeps them in balance.

    Parameters
    ----------
    rows : M; None: 6 n_in, or fewer where that would be more than two million values
    window : S / n_in at eta_W = 0.1; S is at least M
    seed : of the noise
    """

    draw = staticmethod(independent_signs)

    def __init__(self, rng=None, rows=None, window=40, seed=0):
        super().__init__(rng)
        if rows is not None:
            check_integer("rows", rows, least=1)
        if not isinstance(window, Real) or not 0 < window < math.inf:
            raise InputError(f"window must be a number above 0, found {window!r}")
        self.rows, self.window, self.seed = rows, window, check_integer("seed", seed, least=0)

    def before_training(self, s):
        """Mirror mode before the first example: B becomes the plain average over window n_in / 2 rows, S / 2 at eta_W = 0.1."""
        M = self.rows_of(s)
        for t in range(1, 1 + math.ceil(self.window * s.n_in / M / 2)):
            self.mirror(s, eta_B=1 / (t * M))

    def between_steps(self, s, sgd, step):
        slowness = (0.1 / sgd.lr) ** (2 / 3) if sgd.lr else math.inf
        S, M = self.window * s.n_in * slowness, self.rows_of(s)
        self.mirror(s, eta_B=2 / (max(S, M) + M))

    def mirror(self, s, eta_B):
        """One step of mirror mode."""
        y_l, M = self.noise(s), self.rows_of(s)
        y_next = y_l @ s.W.T
        outer = (y_next.T @ y_l).T  # y_l y_{l+1}^T, summed over the rows; it lies in memory as B does
        s.B += eta_B * outer - eta_B * M * s.B  # (7)  Delta B_{l+1} = eta_B y_l y_{l+1}^T - lambda_B B_{l+1}

    def noise(self, s):
        """y_l (M, n_in) of this layer's next step of mirror mode."""
        return self.draw(s.device, self.next_generator(s), self.rows_of(s), s.n_in)

    def next_generator(self, s):
        """The generator of that noise."""
        t = self.state[s.name] = self.state.get(s.name, 0) + 1
        return generator(self.seed, NOISE, s.layer, t - 1)

    def rows_of(self, s):
        """M for this layer."""
        return self.rows or max(1, min(6 * s.n_in, 2**21 // s.n_in))


PAPER = {"bp": Backprop, "fa": FeedbackAlignment, "ss": SignSymmetry, "wm": WeightMirror, "kp": KolenPollack}
