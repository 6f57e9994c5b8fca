"""The learning rules, line by line beside the paper.

A rule sees one layer's synapses s (W, B, b and what the two cells did) and nothing else: never an
image, a convolution or an optimizer's insides.  The training loop calls, layer by layer,

    connect            once: gives the layer its feedback weights B (never to the first layer)
    before_training    once: whatever has to happen before the first example
    before_backward    each step, between the forward and the backward pass
    learn              each step, after the backward pass: Delta W, Delta b and perhaps Delta B
    between_steps      each step, last, with no input and no label

Numbers in brackets are the paper's equations.  The backward pass itself, (3), is the same for
every rule and stands in layers.py: it multiplies by s.B and leaves delta_{l+1} y_l^T in s.outer.
`sgd.descend(s, "W", g)` is Delta W = -eta_W g - lambda W, and nothing where s has no such array (optim.py).
"""

import math

from wtref.activations import ACTIVATIONS
from wtref.errors import InputError, choose
from wtref.kernels import primitives
from wtref.noise import NOISES, power_of_two


class Rule:
    """What all rules share: an independent random B, and forward learning by (4)."""

    transports_weights = False  # does the backward pass read W?  `run.py audit` finds out
    draws_each_batch = False  # in before_backward

    def __init__(self):
        self.state = {}  # plain values that a checkpoint must keep

    def connect(self, s, rng, classes):
        """rng: the run's generator for feedback weights; classes: the network's outputs."""
        s.B = s.draw_feedback(rng)

    def before_training(self, s):
        pass

    def before_backward(self, s, rng, error):
        """error (N, classes): delta at the network's output."""

    def learn(self, s, sgd):
        sgd.descend(s, "W", s.outer)  # (4)  Delta W_{l+1} = -eta_W delta_{l+1} y_l^T
        sgd.descend(s, "b", s.delta_sum, decay=False)

    def between_steps(self, s, step):
        pass


class Backprop(Rule):
    """BP: errors return through the forward weights themselves.

    The one place in the program where weights are transported: B is a view of W's own memory.
    """

    transports_weights = True

    def connect(self, s, rng, classes):
        s.B = s.W.T  # (2)  delta_l = phi'(y_l) * W_{l+1}^T delta_{l+1}


class FeedbackAlignment(Rule):
    """FA: B is random and stays as it was drawn, (3).  (Lillicrap et al., 2016.)"""


class SignSymmetry(Rule):
    """SS (uSF): B carries the signs of W^T, all of one size.  (Liao et al., 2016; Xiao et al., 2018.)

    The size is sqrt(2 / (k_h k_w C_out)) in a convolution and 1 / sqrt(n_in) in a linear layer;
    without it errors explode on their way down.
    """

    transports_weights = True  # one bit of each weight

    def before_backward(self, s, rng, error):
        s.B = s.sign_scale * s.device.xp.sign(s.W).T


class FixedRandomSignSymmetry(Rule):
    """frSF: the signs of W^T on magnitudes |M| drawn once, like W; B itself remembers them."""

    transports_weights = True

    def before_backward(self, s, rng, error):
        s.B = s.device.xp.copysign(s.B, s.W.T)


class BatchRandomSignSymmetry(Rule):
    """brSF: the signs of W^T on magnitudes |M| drawn anew for each batch."""

    transports_weights = True
    draws_each_batch = True

    def before_backward(self, s, rng, error):
        s.B = s.device.xp.copysign(s.draw_feedback(rng), s.W.T)


class DirectFeedbackAlignment(Rule):
    """DFA: the network's output error e goes straight to every hidden layer.  (Nokland, 2016.)

    Layer l hears B_{l+1} e instead of B_{l+1} delta_{l+1}; B_{l+1} (n_in, classes) is random and fixed.
    The error arrives at the layer's output y_l and passes phi', batch norm and pooling by ordinary
    backprop until it meets the next weights below; there it ends, as those send down their own
    B e.  A convolution sends e / P from each of its P output positions, through one B for all of
    them, as it has one W.  A shortcut without weights passes on whatever comes from above, so the
    layer under a residual block hears its own direct error plus the block's.
    """

    def connect(self, s, rng, classes):
        s.B = s.draw_feedback(rng, width=classes)

    def before_backward(self, s, rng, error):
        s.direct = error


class KolenPollack(Rule):
    """KP: W and B meet because both feel the same adjustments and the same decay.

    Each synapse, forward or feedback, sees the two cells it lies between, y_l and delta_{l+1}, so
    W(t) - B(t)^T = (1 - lambda)^t [W(0) - B(0)^T].  With momentum B has a velocity of its own and
    obeys the same recursion as W.  The product in (17) is the transpose of that in (16): computed
    once, used by both.
    """

    def learn(self, s, sgd):
        sgd.descend(s, "W", s.outer)  # (16)  Delta W_{l+1} = -eta_W delta_{l+1} y_l^T - lambda W_{l+1}
        sgd.descend(s, "B", s.outer.T)  # (17)  Delta B_{l+1} = -eta_W y_l delta_{l+1}^T - lambda B_{l+1}
        sgd.descend(s, "b", s.delta_sum, decay=False)


class WeightMirror(Rule):
    """WM: between training steps B learns to mirror W from noise.

    In mirror mode layer l fires zero-mean noise y_l, which passes through W to y_{l+1}; the feedback
    cells copy both, and their product moves B towards W^T, (5).  Decay keeps B bounded: with the
    matched lambda_B = eta_B M sigma^2, B settles at exactly W^T, and one constant is left, the length
    of B's memory, S rows of noise.

    The default has no constant at all.  A block of decorrelated noise shows W^T exactly, so layers take
    turns: a layer whose block is k steps of mirror mode long has them in a row after every k-th training
    step, and B becomes their plain average, W^T as it is at that moment.

    Several processes that train together fire the same noise as one would, k M rows in a turn, a share
    each, and add up what their synapses saw.

    Parameters
    ----------
    noise : "decorrelated" or "independent" (noise.py)
    window : S in rows per input cell; None: a whole turn where that is exact, else the noise's own default
    rows : M, rows of noise per step, a power of two; a narrow layer makes do with fewer
    every : one step of mirror mode after every so many training steps, on average
    bound : "decay" (matched), or "scaling": each B is scaled back to the norm it was drawn with
    activation : None, or the phi ("relu", "sigmoid", "tanh") that noise also passes on its way up;
        E[x phi(w x)] = E[phi'] w (Stein), so each cell divides by its own mean phi'
    seed : of the noise
    """

    def __init__(self, noise="decorrelated", window=None, rows=512, every=1, bound="decay", activation=None, seed=0):
        super().__init__()
        if rows != power_of_two(rows):
            raise InputError(f"mirror rows must be a power of two, found {rows}; try 512")
        self.noise = choose("mirror noise", noise, NOISES)()
        self.window = window or self.noise.window
        self.add_bounded = choose("mirror bound", bound, BOUNDS)
        self.phi = choose("activation", activation, ACTIVATIONS)() if activation else None
        self.exact = self.noise.exact and window is None and bound == "decay" and activation is None
        self.rows, self.every, self.seed = rows, every, seed

    def before_training(self, s):
        """An initial stretch of mirroring: a turn, or S / 2 rows, whose plain average is as good as a memory of S."""
        for _ in range(1 if self.exact else math.ceil(self.memory(s) / self.batch(s) / 2)):
            self.mirror(s, self.turn(s))

    def between_steps(self, s, step):
        turn = self.turn(s)
        if (step + 1 + (s.layer if turn > 1 else 0)) % (self.every * turn) == 0:
            self.mirror(s, turn)

    def mirror(self, s, steps=1):
        """So many steps of mirror mode; each process fires its share of their noise, and B learns from all of it."""
        done = self.state.get(s.name, 0)  # mirror steps of this layer so far
        t = self.state[s.name] = done + steps
        a, M = self.rate(s, t), self.batch(s)
        eta_B, delta_B = a / M, s.device.xp.zeros_like(s.B)
        for i, rows in s.crew.shares(steps, M):
            y_l = self.noise.draw(s.device, (self.seed, s.layer, done + i), M, s.n_in, rows)  # sigma = 1
            product = primitives(y_l).product
            y_next = self._fire(s, product(y_l, s.W.T))
            delta_B += eta_B * product(y_next.T, y_l).T  # (7)  Delta B_{l+1} = eta_B y_l y_{l+1}^T
        self.add_bounded(s, s.crew.sum(delta_B), lambda_B=steps * a)  # lambda_B = eta_B M sigma^2 a step

    def batch(self, s):
        """M for this layer."""
        return min(self.rows, power_of_two(s.n_in))

    def turn(self, s):
        """k: steps of mirror mode in a row."""
        return self.noise.block(s.n_in) // self.batch(s) if self.exact else 1

    def memory(self, s):
        """S for this layer, in rows."""
        return self.window * self.noise.block(s.n_in)

    def rate(self, s, t):
        """a of step t = 1, 2, ...: a plain average over each turn; or, at first, over all, until S rows are remembered.

        A moving average at rate a, M rows at a time, remembers S = M (2 - a) / a rows.
        """
        if self.exact:
            return 1 / ((t - 1) % self.turn(s) + 1)
        M, S = self.batch(s), self.memory(s)
        return max(min(2 * M / (S + M), 1), 1 / t)

    def _fire(self, s, a):
        if self.phi is None:
            return a
        y, ones = self.phi.forward(a), a * 0 + 1
        slope = s.crew.sum(self.phi.backward(ones).sum(axis=0)) / self.batch(s)
        return y / slope.clip(1 / self.batch(s))  # a cell that was silent throughout tells nothing


def _decay(s, delta_B, lambda_B):
    s.B *= 1 - lambda_B
    s.B += delta_B


def _scale(s, delta_B, lambda_B):
    s.B += delta_B
    s.B *= s.std * math.sqrt(s.B.size) / s.device.xp.linalg.norm(s.B)


BOUNDS = {"decay": _decay, "scaling": _scale}
RULES = {
    "bp": Backprop,
    "fa": FeedbackAlignment,
    "ss": SignSymmetry,
    "wm": WeightMirror,
    "kp": KolenPollack,
    "usf": SignSymmetry,
    "frsf": FixedRandomSignSymmetry,
    "brsf": BatchRandomSignSymmetry,
    "dfa": DirectFeedbackAlignment,
}
