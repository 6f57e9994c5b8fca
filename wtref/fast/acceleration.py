"""`accelerate`: a network with fused layers in place of the plain ones."""

import copy

from wtref import activations, layers
from wtref.fast import layers as fast


def accelerate(network, device):
    """The same network from fused layers, which share its synapses and batch norms; itself where the device has no ops.

    Both may be used in turn: they read and change the same arrays.  Layers of other classes, subclasses too, stay as they are.
    """
    if device.ops is None:
        return network
    accelerated = copy.copy(network)
    accelerated.layers = _sequence(layers.Sequential(*network.layers), device.ops)
    return accelerated


def _sequence(layer, ops):
    """The fast layers of a Sequential or of one layer, in a row."""
    plain, made = list(_flattened(layer)), []
    for layer, following in zip(plain, [*plain[1:], None]):
        source = made[-1] if made else None
        if type(layer) is activations.ReLU and isinstance(source, fast.BatchNorm):
            source.rectify = True
        else:
            made.append(_layer(layer, following, source, ops))
    return made


def _layer(layer, following, source, ops):
    """One layer's fast form; source: the fast layer that gives its input."""
    if type(layer) is layers.Conv2d:
        return fast.Conv2d(layer, ops, normed=type(following) is layers.BatchNorm and not layer.synapses.bias)
    if type(layer) is layers.BatchNorm:
        return fast.BatchNorm(layer, ops, source=source if isinstance(source, fast.Conv2d) else None)
    if type(layer) is layers.Residual:
        return _residual(layer, ops)
    return FORMS[type(layer)](layer, ops) if type(layer) in FORMS else layer


def _residual(block, ops):
    *branches, phi = block.layers
    body, shortcut = (layers.Sequential(*_sequence(branch, ops)) for branch in branches)
    phi = _layer(phi, None, None, ops)
    *inner, last = body.layers or [None]
    if isinstance(phi, fast.ReLU) and isinstance(last, fast.BatchNorm) and not last.rectify:
        phi = last
        phi.rectify, body = True, layers.Sequential(*inner)
    return fast.Residual(body, shortcut, phi, ops)


def _flattened(layer):
    """The layers of a Sequential, and of those inside it, in a row; any other layer alone."""
    if type(layer) is layers.Sequential:
        for inner in layer.layers:
            yield from _flattened(inner)
    else:
        yield layer


FORMS = {
    layers.Linear: fast.Linear,
    layers.MaxPool: fast.MaxPool,
    layers.GlobalAvgPool: fast.GlobalAvgPool,
    activations.ReLU: fast.ReLU,
}
