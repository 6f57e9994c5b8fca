"""Two angles that tell how well feedback weights do backprop's work.

matrix angle   between B and W^T, both flattened to one vector
delta angle    between the delta_l that arrive through the B's, all the way down from the output,
               and those that backprop would send through the W^T's on the same batch
"""

import math

import numpy as np

from wtref.device import to_host


def angle(u, v):
    """The angle between two arrays of one shape, in degrees: 0 aligned, 90 unrelated, 180 opposed.

    NaN where there is no angle: an array of zeros has no direction, nor has one with NaN or infinity in it.

    2 atan2(|u' - v'|, |u' + v'|) on unit vectors: exact for small angles too, where acos is not.
    """
    u, v = _unit(u), _unit(v)
    if u is None or v is None:
        return math.nan
    return math.degrees(2 * math.atan2(_norm(u - v), _norm(u + v)))


def matrix_angles(network):
    """{layer: degrees between B and W^T}, for every layer whose B stands for its W^T.

    Under direct feedback alignment that is the output layer alone: the others skip all layers between.
    """
    synapses = [s for s in network.with_feedback if not s.direct or s is network.synapses[-1]]
    return {s.name: angle(s.B, s.W.T) for s in synapses}


def delta_angles(network, rule, loss, images, labels):
    """{layer: degrees between delta_l through the B's and through the W^T's}, output layer left out.

    Parameters: as of training.step.  Nothing is learned: the running statistics, what the rule does before a
    backward pass and its generator are put back.  NaN where a delta is all zero.
    """
    if not len(labels):
        return {s.name: math.nan for s in network.synapses[:-1]}
    running = [(x, x.copy()) for norm in network.norms for x in (norm.running_mean, norm.running_var)]
    feedback = [(s, s.B, s.B.copy(), s.output_error) for s in network.with_feedback]
    drawn = rule.rng.bit_generator.state
    _, error = loss(network.forward(images), labels)
    for s in network.with_feedback:
        rule.before_backward(s, error)
    found = _deltas(network, error)
    for s in network.with_feedback:
        s.B, s.output_error = s.W.T, None
    network.forward(images)
    wanted = _deltas(network, error)
    rule.rng.bit_generator.state = drawn
    for x, before in running:
        x[...] = before
    for s, B, before, output_error in feedback:
        s.B, s.output_error = B, output_error
        B[...] = before
    return {s.name: angle(u, v) for s, u, v in zip(network.synapses, found, wanted)}


def _deltas(network, error):
    """delta_l of every layer but the last, from a backward pass."""
    for s in network.synapses:
        s.keep_delta = True
    network.backward(error)
    deltas = [s.delta for s in network.synapses[:-1]]
    for s in network.synapses:
        s.keep_delta, s.delta = False, None
    return deltas


def _unit(x):
    """x / |x|, or None where x has no direction; scaled by its largest value first, so that no square over- or underflows."""
    x = x.astype("float32") if x.dtype.kind == "V" else x  # sums of bfloat16 would be no more
    largest = float(to_host(abs(x).max())) if x.size else 0.0
    if not 0 < largest < math.inf:
        return None
    x = x / largest
    return x / _norm(x)


def _norm(x):
    return math.sqrt(to_host((x * x).sum(dtype=np.float64)))


def measured(angles):
    """Those of the angles that could be measured."""
    return [angle for angle in angles if not math.isnan(angle)]


def mean_angle(angles):
    """The mean of those that could be measured; NaN where none could."""
    known = measured(angles)
    return sum(known) / len(known) if known else math.nan
