"""Two angles that tell how well feedback weights do backprop's work.

matrix angle   between B and W^T, both flattened to one vector
delta angle    between the delta_l that arrive through the B's, all the way down from the output,
               and those that backprop would send through the W^T's on the same batch
"""

import math

import numpy as np

from wtref.backend import to_host
from wtref.parallel import ALONE


def angle(u, v, crew=ALONE):
    """The angle between two arrays of one shape, in degrees: 0 aligned, 90 unrelated, 180 opposed.

    crew: the processes of whose arrays, laid end to end, the angle is wanted.

    NaN where there is no angle: an array of zeros has no direction, nor has one with NaN or infinity in it.

    2 atan2(|u' - v'|, |u' + v'|) on unit vectors: exact for small angles too, where acos is not.
    """
    u, v = (x.astype("float32") if x.dtype.kind == "V" else x for x in (u, v))  # sums of bfloat16 would be no more

    def largest(x):
        found = float(to_host(abs(x).max())) if x.size else 0.0
        return crew.largest(math.inf if math.isnan(found) else found)

    def norm(x):  # squares neither overflow nor, where they count, vanish
        scale = largest(x)
        squares = (x / scale) ** 2 if scale else x
        return scale * math.sqrt(crew.total(to_host(squares.sum(dtype=np.float64)))[0])

    scales = largest(u), largest(v)
    if not all(0 < scale < math.inf for scale in scales):
        return math.nan
    u, v = u / scales[0], v / scales[1]
    u, v = u / norm(u), v / norm(v)
    return math.degrees(2 * math.atan2(norm(u - v), norm(u + v)))


def matrix_angles(network):
    """{layer: degrees between B and W^T}, for every layer whose B stands for its W^T.

    Under direct feedback alignment that is the output layer alone: the others skip all layers between.
    """
    synapses = [s for s in network.with_feedback if s.direct is None or s is network.synapses[-1]]
    return {s.name: angle(s.B, s.W.T) for s in synapses}


def delta_angles(network, error):
    """{layer: degrees between delta_l through the B's and through the W^T's}, output layer left out.

    Call it after the forward pass and `rule.before_backward`: error (N, classes) is the delta at
    the output.  It runs the backward pass twice, last with the rule's own B.  NaN where a delta is all zero.
    """
    own = [(s.B, s.direct) for s in network.with_feedback]
    for s in network.with_feedback:
        s.B, s.direct = s.W.T, None
    network.backward(error)
    wanted = [s.delta for s in network.synapses[:-1]]
    for s, (B, direct) in zip(network.with_feedback, own):
        s.B, s.direct = B, direct
    network.backward(error)
    return {s.name: angle(s.delta, w, s.crew) for s, w in zip(network.synapses, wanted)}


def measured(angles):
    """Those of the angles that could be measured."""
    return [angle for angle in angles if not math.isnan(angle)]


def mean_angle(angles):
    """The mean of those that could be measured; NaN where none could."""
    known = measured(angles)
    return sum(known) / len(known) if known else math.nan
