"""The paper's authors' own small program, as a plug-in: what sets it apart from this one, by their public NumPy code.

    python run.py reproduce mnist-authors --data-dir DIR

It is written as anyone would write a data set, a network and a rule of their own, and nothing else in wtref knows of it.
What flags can say, such as the batch size, stands in runs/experiments.py.
"""

import math

import numpy as np

import wtref
from wtref.datasets.idx import load_mnist
from wtref.synapses import Synapses

BATCH = 128


@wtref.dataset("mnist-pixels")
def mnist_pixels(folder):
    """MNIST with values from 0 to 1, not standardised."""
    data = load_mnist(folder)
    train, test = (images / np.float32(255) for images in (data.train_images, data.test_images))
    return (train, data.train_labels), (test, data.test_labels)


@wtref.model("authors-mlp")
def authors_mlp(shape, classes, options):
    """784-500-10 with sigmoid units, whose b learns slowly."""
    return _network(shape, classes, SlowBias)


@wtref.model("authors-mlp-quick-bias")
def authors_mlp_quick_bias(shape, classes, options):
    """The same, except that b learns as fast as W."""
    return _network(shape, classes, wtref.Linear)


def _network(shape, classes, kind):
    hidden, output = kind("hidden1", math.prod(shape), 500), kind("output", 500, classes)
    for layer in (hidden, output):
        layer.synapses = TheirSynapses(layer.synapses)
    return wtref.Flatten(), hidden, wtref.Sigmoid(), output


class SlowBias(wtref.Linear):
    """b learns 128 times more slowly: its gradient is divided by the batch size a second time."""

    def backward(self, delta):
        error, s = super().backward(delta), self.synapses
        s.b_gradient = s.b_gradient / BATCH
        return error


class TheirSynapses(Synapses):
    """W, B and b are drawn from N(0, 1 / (n_in + n_out))."""

    def __init__(self, usual):
        super().__init__(usual.name, usual.n_in, usual.n_out, bias=True, std=1 / math.sqrt(usual.n_in + usual.n_out), sign_scale=1)

    def initialise(self, device, rng):
        super().initialise(device, rng)
        self.b = device.array(rng.standard_normal(self.n_out) * self.std)


@wtref.rule("authors-wm")
class TheirMirror(wtref.Rule):
    """WM without anything that bounds B: in mirror mode uniform noise passes through W, b and the sigmoid, uncentred."""

    def before_training(self, s):
        for _ in range(468):
            self.mirror(s)

    def between_steps(self, s, sgd, step):
        self.mirror(s)

    def mirror(self, s):
        """One step of mirror mode."""
        y_l = s.device.array(self.rng.uniform(-0.05, 0.05, (BATCH, s.n_in)))
        arriving = y_l @ s.W.T
        y_next = wtref.Sigmoid().forward(arriving if s.b is None else arriving + s.b)
        s.B += 0.01 * (y_l.T @ y_next)  # (7) Delta B_{l+1} = eta_B y_l y_{l+1}^T
