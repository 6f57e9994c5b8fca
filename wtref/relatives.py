"""Published relatives of the paper's rules, and two rules of our own.  rules.py says when each method is called.

Of the relatives' publications only abstracts, reviews and others' code could be read; they confirm which terms DFA, DKP, AA
(copying and predicting), SA (copying and decay) and IA combine, not their constants: the constants of AA, IA and SA, PFA's
width and the length of pretraining are this project's.
"""

import math

from wtref.errors import check_integer
from wtref.noise import orthogonal_signs
from wtref.randomness import ORTHOGONAL_NOISE, generator
from wtref.rules import PAPER, Backprop, Rule, SignSymmetry, WeightMirror


class FixedRandomSignSymmetry(Rule):
    """frSF: the signs of W^T on magnitudes |M| drawn once, like W, and kept in B itself.  (Liao et al., 2016.)"""

    transports_weights = True

    def before_backward(self, s, error):
        s.B[...] = s.device.xp.copysign(s.B, s.W.T)


class BatchRandomSignSymmetry(Rule):
    """brSF: the signs of W^T on magnitudes |M| drawn anew for each batch.  (Liao et al., 2016.)"""

    transports_weights = draws_each_batch = True

    def before_backward(self, s, error):
        s.B = s.device.xp.copysign(s.draw_feedback(self.rng), s.W.T)


class DirectFeedbackAlignment(Rule):
    """DFA: the network's output error e goes straight to every hidden layer.  (Nokland, 2016.)

    Layer l receives B_{l+1} e instead of B_{l+1} delta_{l+1}; B_{l+1} (n_in, classes) is random and fixed.
    The error arrives at the layer's output y_l and passes phi', batch norm and pooling by ordinary
    backprop until it meets the next weights below; there it ends, as those send down their own
    B e.  A convolution sends e / P from each of its P output positions, through one B for all of
    them, as it has one W.  A shortcut without weights passes on whatever comes from above, so the
    layer under a residual block receives its own direct error plus the block's.
    """

    def connect(self, s, classes):
        s.direct, s.B = True, s.draw_feedback(self.rng, width=classes)

    def before_backward(self, s, error):
        s.output_error = error


class DirectKolenPollack(DirectFeedbackAlignment):
    """DKP: direct feedback alignment whose B learns from the two cells it lies between.  (Webster et al., 2021.)

    B thus follows the product of all W above, as far as one matrix can.
    """

    def learn(self, s, sgd):
        super().learn(s, sgd)  # (4)
        if s.B is not None:
            sgd.descend(s.B, s.B_gradient, decay=True)  # Delta B = -eta_W y_l e^T - lambda B


class ProductFeedbackAlignment(Rule):
    """PFA: errors return through a product of two matrices, B = R F, of which F is random and fixed.

    W and R receive the same adjustments, R's through F, and the same decay: R(t) - W(t)^T F^T falls by 1 - lambda a step, so
    B settles at W^T F^T F.  With orthogonal F this is Kolen-Pollack.  With random F the matrix angle does not go to 0, but to
    tan^2(theta) = 1 / width: 27 degrees at width 4.  (Li Ji-An and Benna, 2024.)

    Parameters
    ----------
    width : m / n_out, F being (m, n_out)
    """

    def __init__(self, rng=None, width=4):
        super().__init__(rng)
        self.width = check_integer("width", width, least=1)

    def connect(self, s, classes):
        m = self.width * s.n_out
        s.extra["F"] = s.device.array(self.rng.standard_normal((m, s.n_out)) / m**0.5)
        s.extra["R"] = s.draw_feedback(self.rng, width=m)
        s.B = s.extra["R"] @ s.extra["F"]

    def before_backward(self, s, error):
        s.B = s.extra["R"] @ s.extra["F"]  # delta_l = phi'(y_l) * R F delta_{l+1}

    def learn(self, s, sgd):
        super().learn(s, sgd)  # (16)
        if s.B is not None:
            R, F = s.extra["R"], s.extra["F"]
            sgd.descend(R, (F @ s.W_gradient).T, decay=True)  # Delta R = -eta_W y_l (F delta_{l+1})^T - lambda R


class Alignment(WeightMirror):
    """What AA and IA share: the weight mirror's noise, and a learning rate of their own."""

    def __init__(self, rng=None, rows=None, seed=0):
        super().__init__(rng, rows=rows, seed=seed)

    def between_steps(self, s, sgd, step):
        self.mirror(s)


class ActivationAlignment(Alignment):
    """AA: in mirror mode each feedback cell predicts y_{l+1} = W y_l from B, and learns from the difference.  (Kunin et al., 2020.)

    Delta B = eta y_l (beta y_{l+1} - 2 alpha B^T y_l)^T with beta = 2 alpha = 1: the delta rule.  Its fixed point B = W^T is
    exact, as the difference is zero there for every y_l: no noise is left, and only recent rows count.  Unlike the weight mirror, it
    needs cells that compare the activity they copy with the activity they predict.
    """

    def before_training(self, s):
        """As many steps as bring B to within about a degree of W^T: each multiplies |B - W^T|^2 by n / (M + n), on average."""
        for _ in range(math.ceil(9 / math.log1p(self.rows_of(s) / s.n_in))):
            self.mirror(s)

    def mirror(self, s):
        """One step of mirror mode."""
        y_l, M = self.noise(s), self.rows_of(s)
        y_next = y_l @ s.W.T
        s.B += 1 / (M + s.n_in) * ((y_next - y_l @ s.B).T @ y_l).T  # eta = 1 / (M + n) keeps every direction stable


class InformationAlignment(Alignment):
    """IA: in mirror mode B learns to reconstruct y_l from y_{l+1} = W y_l, under decay.  (Kunin et al., 2020.)

    Delta B = eta (alpha y_l y_{l+1}^T - 2 beta (B y_{l+1}) y_{l+1}^T - 2 gamma B) with alpha = 2, beta = gamma = 1.  Under white
    noise B settles at W^T (W W^T + I)^{-1}, a regularised pseudo-inverse of W: its matrix angle does not go to 0.  Along an
    eigenvector of W W^T with the eigenvalue v, the distance from there shrinks by the fraction (1 + v) / (1 + |W W^T|) a step, |.|
    the Frobenius norm: more slowly in wider layers, where the norm is larger and v about the same.
    """

    def before_training(self, s):
        for _ in range(100):
            self.mirror(s)

    def mirror(self, s):
        """One step of mirror mode."""
        y_l, M = self.noise(s), self.rows_of(s)
        y_next = y_l @ s.W.T
        C = y_next.T @ y_next
        eta = 1 / ((C * C).sum() ** 0.5 + M)  # stable: the Frobenius norm is at least the largest eigenvalue
        s.B += eta * ((y_next.T @ y_l - C @ s.B.T).T - M * s.B)


class SymmetricAlignment(Rule):
    """SA: B follows W^T with a delay, Delta B = eta (beta W^T - 2 alpha B), beta = 2 alpha = 1, eta = 0.1.  (Kunin et al., 2020.)"""

    transports_weights = True

    def before_backward(self, s, error):
        s.B += 0.1 * (s.W.T - s.B)


class OrthogonalMirror(Rule):
    """OM: a weight mirror whose noise comes in mutually orthogonal patterns, so that one step sets B to W^T up to rounding.

    Ours, not the paper's.  The cells of a layer must fire in concert, for which no local circuit is known.

    Parameters
    ----------
    seed : of the noise
    """

    draw = staticmethod(orthogonal_signs)

    def __init__(self, rng=None, seed=0):
        super().__init__(rng)
        self.seed = check_integer("seed", seed, least=0)

    def before_training(self, s):
        self.mirror(s)

    def between_steps(self, s, sgd, step):
        self.mirror(s)

    def mirror(self, s):
        """One step of mirror mode."""
        t = self.state[s.name] = self.state.get(s.name, 0) + 1
        y_l = self.draw(s.device, generator(self.seed, ORTHOGONAL_NOISE, s.layer, t - 1), s.n_in)
        y_next = y_l @ s.W.T
        s.B[...] = (y_l.T @ y_next) / len(y_next)  # (7) and its matched decay, lambda_B = eta_B P = 1


class Frozen(Backprop):
    """The control: hidden weights keep their first values; the output layer and all batch norms learn by backprop.

    What a rule achieves beyond this is what its hidden layers have learned.
    """

    def learn(self, s, sgd):
        if s.is_output:
            super().learn(s, sgd)


class OutputByBackprop(Rule):
    """Any rule, except that errors leave the output layer through its own W^T, as in the studies of sign-symmetry."""

    transports_weights = True

    def __init__(self, rule):
        self.rule, self.backprop = rule, Backprop()
        self.rng, self.state, self.draws_each_batch = rule.rng, rule.state, rule.draws_each_batch

    def of(self, s):
        """The rule of one layer's synapses."""
        return self.backprop if s.is_output else self.rule

    def connect(self, s, classes):
        self.of(s).connect(s, classes)

    def before_training(self, s):
        self.of(s).before_training(s)

    def before_backward(self, s, error):
        self.of(s).before_backward(s, error)

    def learn(self, s, sgd):
        self.of(s).learn(s, sgd)

    def between_steps(self, s, sgd, step):
        self.of(s).between_steps(s, sgd, step)


RULES = {
    **PAPER,
    "om": OrthogonalMirror,
    "usf": SignSymmetry,
    "frsf": FixedRandomSignSymmetry,
    "brsf": BatchRandomSignSymmetry,
    "dfa": DirectFeedbackAlignment,
    "dkp": DirectKolenPollack,
    "pfa": ProductFeedbackAlignment,
    "aa": ActivationAlignment,
    "ia": InformationAlignment,
    "sa": SymmetricAlignment,
    "frozen": Frozen,
}
