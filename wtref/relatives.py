"""Published relatives of the paper's rules.  rules.py says when each method is called."""

from wtref.rules import PAPER, Rule, SignSymmetry


class FixedRandomSignSymmetry(Rule):
    """frSF: the signs of W^T on magnitudes |M| drawn once, like W; B itself remembers them.  (Liao et al., 2016.)"""

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


RULES = {
    **PAPER,
    "usf": SignSymmetry,
    "frsf": FixedRandomSignSymmetry,
    "brsf": BatchRandomSignSymmetry,
    "dfa": DirectFeedbackAlignment,
}
