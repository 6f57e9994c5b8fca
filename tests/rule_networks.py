"""What the tests of learning rules share: a small network, its training steps, and synapses in no network."""

import itertools
import math

import numpy as np

from helpers import CPU, inside, places
from wtref.activations import ReLU, Tanh
from wtref.angles import angle
from wtref.layers import BatchNorm, Conv2d, Flatten, Linear, Sequential, walk
from wtref.losses import softmax_cross_entropy
from wtref.models import Network
from wtref.synapses import Synapses
from wtref.training import train_step

CLASSES = 4


def small_network(rule, seed=0):
    """conv, ReLU, strided conv, ReLU, linear, batch norm, tanh, linear; connected and ready to train."""
    rng = np.random.default_rng(seed)
    network = Network(
        Conv2d("conv1", 2, 3, 3, padding=1), ReLU(), Conv2d("conv2", 3, 4, (3, 2), 2), ReLU(), Flatten(),
        Linear("hidden", 4 * 2 * 2, 6), BatchNorm("hidden.norm", 6), Tanh(), Linear("output", 6, CLASSES),
    )  # fmt: skip
    return connected(network, rule, rng)


def connected(network, rule, rng):
    network.initialise(CPU, rng)
    for s in network.with_feedback:
        rule.connect(s, CLASSES)
        rule.before_training(s)
    return network


def train(network, rule, sgd, steps, seed=1, loss=softmax_cross_entropy):
    """Real training steps on 12 random images; yields the loss after each step."""
    rng = np.random.default_rng(seed)
    images, labels = rng.standard_normal((12, 5, 5, 2)), rng.integers(CLASSES, size=12)
    for step in range(steps):
        yield train_step(network, rule, sgd, loss, images, labels, step)[0]


def bare_synapses(n_in, n_out=20, layer=1):
    """One layer's synapses, with an independent random B, in no network."""
    s = Synapses(f"layer{layer}", n_in, n_out, bias=False, std=1 / math.sqrt(n_in), sign_scale=0.5)
    rng = np.random.default_rng(layer)
    s.initialise(CPU, rng)
    s.layer, s.B = layer, s.draw_feedback(rng)
    return s


def snapshot(network, name):
    return [getattr(s, name).copy() for s in network.with_feedback]


def tan2(s):
    return math.tan(math.radians(angle(s.B, s.W.T))) ** 2


def recording_inputs(network):
    """{name: the latest input y} of the network's layers with synapses, filled in by each forward pass."""
    inputs = {}
    for layer in walk(Sequential(*network.layers)):
        if hasattr(layer, "synapses"):
            layer.forward = _recorded(layer.forward, layer.synapses.name, inputs)
    return inputs


def _recorded(forward, name, inputs):
    def recorded(y, train=True):
        inputs[name] = y.copy()
        return forward(y, train)

    return recorded


def linear_products(y, signal):
    """Sum over examples of y signal^T, one connection and one example at a time: y (N, n_in), signal (N, k) -> (n_in, k)."""
    total = np.zeros((y.shape[1], signal.shape[1]))
    for n, i, k in itertools.product(range(len(y)), *map(range, total.shape)):
        total[i, k] += y[n, i] * signal[n, k]
    return total


def patch_products(y, signal, kernel, stride, padding):
    """The same in a convolution, summed over positions too: y (N, H, W, C), signal (N, H', W', k) -> (k_h k_w C, k)."""
    (N, *size, channels), width = y.shape, signal.shape[-1]
    total = np.zeros((math.prod(kernel) * channels, width))
    for row, column, i, j, down, across in places(size, kernel, stride, padding):
        if inside(size, down, across):
            for n, c, k in itertools.product(range(N), range(channels), range(width)):
                total[(i * kernel[1] + j) * channels + c, k] += y[n, down, across, c] * signal[n, row, column, k]
    return total
