"""`accelerate`: a network whose plain layers are replaced by fused ones."""

import copy

from wtref import activations, layers
from wtref.fast import layers as fast


def accelerate(network, device):
    """Return the same network built from fused layers, or the network itself where the device has no ops.

    The two networks share their synapses and batch norms, so either may be used at any time.  A layer that has no
    fused form, such as one of a subclass, is kept as it is.
    """
    if device.ops is None:
        return network
    accelerated = copy.copy(network)
    accelerated.layers = _sequence(layers.Sequential(*network.layers), device.ops)
    return accelerated


def _sequence(layer, ops):
    """The fast layers of a Sequential, or of a single layer, as a list."""
    plain, made = list(_flattened(layer)), []
    for layer, following in zip(plain, [*plain[1:], None]):
        source = made[-1] if made else None
        if type(layer) is activations.ReLU and isinstance(source, fast.BatchNorm):
            source.rectify = True
        else:
            made.append(_layer(layer, following, source, ops))
    return made


def _layer(layer, following, source, ops):
    """The fast form of one layer.

    following: the plain layer that takes its output; source: the fast layer that computes its input.  Either may be None.
    """
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
    """Yield the layers of a Sequential, nested ones included, in order; a layer of another class is yielded itself."""
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
