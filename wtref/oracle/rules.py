"""The learning rules in PyTorch, each written a second time from its equations: Theirs (training.py) calls them, layer by layer.

W learns by torch.optim.SGD, from the gradient that autograd finds; so do B and R where they learn in the training step.  The
errors that B descends in mirror mode are written down, and their gradients are autograd's.
"""

import math

import numpy as np
import torch

from wtref.device import Device
from wtref.noise import independent_signs
from wtref.randomness import NOISE, generator

MIRROR = {"rows": 128, "window": 16, "seed": 0}  # at eta_W = 0.1; under a smaller window, errors grow from layer to layer


class FeedbackAlignment:
    """FA: B stays as it was drawn.  The other rules start from this one."""

    direct = False  # whether the error at the network's output goes through B

    def __init__(self, device, lr, draws):
        """lr: that of W; draws: a NumPy generator in the state of that of wtref's rule."""
        self.lr, self.draws = lr, draws
        self.host = Device("cpu", np, device.dtype)  # on which it draws: PyTorch would not wait for arrays that CuPy is computing
        self.mirrored = {}  # steps of mirror mode, by layer

    def learns(self, layer, is_output):
        """Whether W and b learn."""
        return True

    def descends(self, layer):
        """What SGD descends besides W and b, with decay."""
        return []

    def arrays(self, layer, pick):
        """{name: pick(tensor)} of what the rule keeps besides B, in wtref's order, as layer.arrays gives W, b and B."""
        return {}

    def before_training(self, layer):
        pass

    def before_step(self, layer):
        pass

    def after_step(self, layer):
        pass


class Backprop(FeedbackAlignment):
    """BP: layers have no B, and autograd sends errors through W."""


class Frozen(Backprop):
    """BP in the output layer and the batch norms alone."""

    def learns(self, layer, is_output):
        return is_output


class SignSymmetry(FeedbackAlignment):
    """SS, uSF: the signs of W^T, of one magnitude."""

    def before_step(self, layer):
        layer.B = layer.sign_scale * _transpose(layer).sign()


class FixedRandomSignSymmetry(FeedbackAlignment):
    """frSF: the signs of W^T on magnitudes that were drawn once."""

    def before_step(self, layer):
        layer.B = layer.B.abs() * _transpose(layer).sign()


class BatchRandomSignSymmetry(FeedbackAlignment):
    """brSF: the signs of W^T on magnitudes drawn anew, from W's first distribution."""

    def before_step(self, layer):
        n_in, n_out = layer.B.shape
        std = math.sqrt((2 if layer.weight.ndim == 4 else 1) / n_in)
        magnitudes = self.host.array(std * abs(self.draws.standard_normal((n_out, n_in))))
        layer.B = layer.theirs(torch.as_tensor(magnitudes)).T.to(layer.B) * _transpose(layer).sign()


class KolenPollack(FeedbackAlignment):
    """KP: B descends as W does, (17); networks.Feedback gives it the transpose of W's gradient."""

    def descends(self, layer):
        return [layer.B.requires_grad_()]


class DirectFeedbackAlignment(FeedbackAlignment):
    """DFA: the output's error goes through a B that stays as it was drawn."""

    direct = True


class DirectKolenPollack(KolenPollack):
    """DKP: DFA, whose B descends along y e^T."""

    direct = True


class ProductFeedbackAlignment(FeedbackAlignment):
    """PFA: B = R F; R descends along what autograd makes of B's gradient, F stays as it was drawn."""

    def start(self, layer, R, F):
        """R (n_in, m) and F (m, n_out), in wtref's order."""
        layer.R, layer.F = layer.theirs(R.T).T.contiguous(), F

    def descends(self, layer):
        return [layer.R.requires_grad_()]

    def arrays(self, layer, pick):
        if layer.number == 0:
            return {}
        R = pick(layer.R)
        return {"R": None if R is None else layer.ours(R.T).T, "F": pick(layer.F)}

    def before_step(self, layer):
        layer.B = layer.R @ layer.F


class WeightMirror(FeedbackAlignment):
    """WM: B averages y z^T over rows of noise, z = W y: over all S / 2 of them before training, over the latest S afterwards."""

    def before_training(self, layer):
        for t in range(1, 1 + math.ceil(MIRROR["window"] * len(layer.B) / (2 * MIRROR["rows"]))):
            self._mirror(layer, 1 / t)

    def after_step(self, layer):
        M, S = MIRROR["rows"], MIRROR["window"] * len(layer.B) * (0.1 / self.lr) ** (2 / 3)
        self._mirror(layer, 2 * M / (S + M))  # S = M (2 - a) / a

    def _mirror(self, layer, a):
        """(7) with matched decay: B <- (1 - a) B + a y z^T / M."""
        y, z = self._noise(layer)
        layer.B = torch.addmm(layer.B, y.T, z, beta=1 - a, alpha=a / len(y))

    def _noise(self, layer):
        """y (M, n_in) of the layer's next step of mirror mode, and W y (M, n_out)."""
        step = self.mirrored[layer] = self.mirrored.get(layer, 0) + 1
        rng = generator(MIRROR["seed"], NOISE, layer.number, step - 1)
        signs = independent_signs(self.host, rng, MIRROR["rows"], len(layer.B))
        y = layer.theirs(torch.as_tensor(signs, device=layer.B.device))
        return y, y @ _transpose(layer)


class ActivationAlignment(WeightMirror):
    """AA: B descends |B^T y - z|^2 / 2, the error of predicting z."""

    def before_training(self, layer):
        for _ in range(math.ceil(9 / math.log(1 + MIRROR["rows"] / len(layer.B)))):
            self.after_step(layer)

    def after_step(self, layer):
        y, z = self._noise(layer)
        _descend(layer, 1 / (MIRROR["rows"] + len(layer.B)), lambda B: (y @ B - z).square().sum() / 2)


class InformationAlignment(WeightMirror):
    """IA: B descends (|B z - y|^2 + |B|^2) / 2, the error of reconstructing y, under decay."""

    def before_training(self, layer):
        for _ in range(100):
            self.after_step(layer)

    def after_step(self, layer):
        y, z = self._noise(layer)
        eta = 1 / (torch.linalg.matrix_norm(z.T @ z) + len(y))
        _descend(layer, eta, lambda B: (z @ B.T - y).square().sum() / 2 + len(y) * B.square().sum() / 2)


class OrthogonalMirror(FeedbackAlignment):
    """OM: whatever its orthogonal noise is, one step makes B equal to W^T."""

    def before_training(self, layer):
        layer.B = _transpose(layer).clone()

    after_step = before_training


class SymmetricAlignment(FeedbackAlignment):
    """SA: B goes a tenth of the way to W^T."""

    def before_step(self, layer):
        layer.B = layer.B.lerp(_transpose(layer), 0.1)


def _transpose(layer):
    """W^T (n_in, n_out), apart from autograd."""
    return layer.weight.detach().flatten(1).T


def _descend(layer, eta, error):
    """One step of gradient descent of error(B)."""
    B = layer.B.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(error(B), B)
    layer.B = B.detach() - eta * gradient


RULES = {
    "bp": Backprop,
    "fa": FeedbackAlignment,
    "ss": SignSymmetry,
    "wm": WeightMirror,
    "kp": KolenPollack,
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
