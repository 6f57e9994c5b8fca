"""How well feedback weights do backprop's work, in angles and ratios of norms.

matrix angle        between B and W^T, both flattened to one vector
delta angle         between the delta_l that arrive through the B's, all the way down from the output,
                    and those that backprop would send through the W^T's on the same batch
local delta angle   between B delta_{l+1} and W^T delta_{l+1}: one layer alone, given the same delta_{l+1}
update angle        between the Delta W of all layers together, by the rule and by backprop

The paper's delta angles of the weight mirror, under 25 degrees and wider upstream, are probably those all the way down: its
local ones hardly exceed its matrix angles, which the paper states as under 12 degrees, and do not grow from layer to layer.
The authors' small program measures local ones, on a single image.
"""

import contextlib
import math

import numpy as np

from wtref.device import array_module, to_host
from wtref.layers import rows
from wtref.optim import SGD
from wtref.rules import Rule


def angle(u, v, norm=None):
    """The angle between two arrays of one shape, in degrees: 0 aligned, 90 unrelated, 180 opposed.

    norm: that of the space in which the angle is taken, a function of an array; None for the Euclidean norm.
    NaN where one of them has no direction: an array of zeros, or one that holds NaN or infinity.

    2 atan2(|u' - v'|, |u' + v'|) on unit vectors: exact for small angles too, where acos is not.
    """
    norm = norm or _norm
    u, v = _unit(u, norm), _unit(v, norm)
    if u is None or v is None:
        return math.nan
    return math.degrees(2 * math.atan2(norm(u - v), norm(u + v)))


def matrix_angles(network):
    """{layer: degrees between B and W^T}, for every layer whose B stands for its W^T.

    Under direct feedback alignment that is the output layer alone: the others skip all layers between.
    """
    return {s.name: angle(s.B, s.W.T) for s in _standing_for_W(network)}


def feedback_ratios(network):
    """{layer: |B| / |W|}, Frobenius norms, for the layers that have a matrix angle."""
    return {s.name: _ratio(s.B, s.W) for s in _standing_for_W(network)}


def _standing_for_W(network):
    return [s for s in network.with_feedback if s.is_output or not s.direct]


def compare_with_backprop(network, rule, sgd, loss, images, labels):
    """A rule's errors and updates on one batch beside those that backprop would give there, nothing being learned.

    Parameters: as of training.train_step.
    Returns: {"delta_angles": {layer: degrees between delta_l through the B's and through the W^T's},
        "delta_ratios": {layer: the ratio of their norms}, both without the output layer,
        "local_delta_angles": {layer: degrees between B delta and W^T delta of the rule's own delta at this layer's output},
        of the layers that have a matrix angle,
        "update_angle": degrees between the rule's Delta W and backprop's, decay left out, all layers as one vector}.
        An angle or ratio is NaN where it does not exist, as the angle of a delta that is all zero.
    """
    names, sending = [s.name for s in network.synapses[:-1]], [s.name for s in _standing_for_W(network)]
    if not len(labels):
        unknown = {"delta_angles": names, "delta_ratios": names, "local_delta_angles": sending}
        return {kind: dict.fromkeys(layers, math.nan) for kind, layers in unknown.items()} | {"update_angle": math.nan}
    with unchanged(network, rule):
        _, error = loss(network.forward(images), labels)
        for s in network.with_feedback:
            rule.before_backward(s, error)
        deltas = _deltas(network, error)
        local = {s.name: _local_angle(s, deltas[s.name]) for s in _standing_for_W(network)}
        updates = _updates(network, rule, sgd)
    with unchanged(network, rule):
        for s in network.with_feedback:
            s.B, s.output_error = s.W.T, None
        network.forward(images)
        wanted = _deltas(network, error)
        update_angle = angle(updates, _flat([s.W_gradient for s in network.synapses]))
    return {
        "delta_angles": {name: angle(deltas[name], wanted[name]) for name in names},
        "delta_ratios": {name: _ratio(deltas[name], wanted[name]) for name in names},
        "local_delta_angles": local,
        "update_angle": update_angle,
    }


def delta_angles(network, rule, loss, images, labels):
    """{layer: degrees between delta_l through the B's and through the W^T's}, as compare_with_backprop finds them."""
    any_sgd = SGD({}, lr=0.1)  # no delta depends on it
    return compare_with_backprop(network, rule, any_sgd, loss, images, labels)["delta_angles"]


@contextlib.contextmanager
def unchanged(network, rule):
    """A context that puts back, at its end, whatever the rule, the synapses and the batch norms of the network hold."""
    held = {}
    for x in (rule, *map(vars, network.synapses), *(norm.arrays() for norm in network.norms)):
        _collect(x, (np.ndarray, network.device.xp.ndarray), held)
    before = [(x, x.bit_generator.state if isinstance(x, np.random.Generator) else x.copy()) for x in held.values()]
    try:
        yield
    finally:
        for x, contents in before:
            _put_back(x, contents)


def _collect(x, arrays, held):
    """Add x, and all inside it that can be changed in place, to `held`, {id: object}; arrays: the types of arrays."""
    x = vars(x) if isinstance(x, Rule) else x
    if id(x) in held:
        return
    if isinstance(x, (dict, list, set, np.random.Generator, *arrays)):
        held[id(x)] = x
    if isinstance(x, (dict, list, tuple)):
        for inner in x.values() if isinstance(x, dict) else x:
            _collect(inner, arrays, held)


def _put_back(x, contents):
    if isinstance(x, np.random.Generator):
        x.bit_generator.state = contents
    elif isinstance(x, (dict, set)):
        x.clear()
        x.update(contents)
    elif isinstance(x, list):
        x[:] = contents
    elif getattr(x.flags, "writeable", True):
        x[...] = contents


def _deltas(network, error):
    """{layer: delta at its output}, from a backward pass; the synapses keep those that the rule has asked for."""
    asked = [s.keep_delta for s in network.synapses]
    for s in network.synapses:
        s.keep_delta = True
    network.backward(error)
    deltas = {s.name: s.delta for s in network.synapses}
    for s, keep_delta in zip(network.synapses, asked):
        s.keep_delta, s.delta = keep_delta, s.delta if keep_delta else None
    return deltas


def _local_angle(s, delta):
    """Degrees between B delta and W^T delta, delta (..., n_out); of a convolution, patch by patch.

    They are delta X for X = B^T and X = W, and |delta X|^2 is the sum over X * (C X) with C = delta^T delta, which is much
    smaller than they are.
    """
    delta = _unit(rows(delta), _norm)
    if delta is None:
        return math.nan
    C = delta.T @ delta
    return angle(s.B.T, s.W, norm=lambda X: math.sqrt(max(to_host((X * (C @ X)).sum(dtype=np.float64)), 0)))


def _updates(network, rule, sgd):
    """The gradients along which the rule descends each W, zeros where it descends none, as one vector."""
    recorder = Recorder(sgd)
    for s in network.synapses:
        rule.learn(s, recorder)
    return _flat([recorder.gradient_of(s.W) for s in network.synapses])


class Recorder:
    """An optimizer with the numbers of another, `sgd`, that descends nothing and keeps each gradient."""

    def __init__(self, sgd):
        self.lr, self.momentum, self.nesterov, self.weight_decay = sgd.lr, sgd.momentum, sgd.nesterov, sgd.weight_decay
        self.descents = []

    def descend(self, w, gradient, decay):
        self.descents.append((w, gradient))

    def gradient_of(self, w):
        return sum((gradient for array, gradient in self.descents if array is w), start=0 * w)


def _flat(arrays):
    return array_module(arrays[0]).concatenate([x.reshape(-1) for x in arrays])


def _ratio(u, v):
    """|u| / |v|; NaN where that is no number."""
    u, v = _length(u), _length(v)
    return u / v if 0 < v < math.inf else math.nan


def _unit(x, norm):
    """x / |x|, or None where x has no direction."""
    x, largest = _largest(x)
    if not 0 < largest < math.inf:
        return None
    x = x / largest  # so that no square over- or underflows
    length = norm(x)
    return x / length if length else None


def _length(x):
    """|x|, for values of any size."""
    x, largest = _largest(x)
    return largest * _norm(x / largest) if 0 < largest < math.inf else largest


def _largest(x):
    """x, as `_real` has it, and its largest absolute value."""
    x = _real(x)
    return x, float(to_host(abs(x).max())) if x.size else 0.0


def _real(x):
    """x; bfloat16 as float32, as its sums would be no more precise than itself."""
    return x.astype("float32") if x.dtype.kind == "V" else x


def _norm(x):
    return math.sqrt(to_host((x * x).sum(dtype=np.float64)))


def measured(angles):
    """The angles that are not NaN, as a list."""
    return [angle for angle in angles if not math.isnan(angle)]


def mean_angle(angles):
    """The mean of the angles that are not NaN; NaN if all are."""
    known = measured(angles)
    return sum(known) / len(known) if known else math.nan
