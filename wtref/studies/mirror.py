"""`run.py mirror`: B approaches W^T as theory predicts, under the weight mirror and under Kolen-Pollack.

`noise_lesson` applies the weight mirror to a single layer with random W; `decay_lesson` follows W - B^T in a network that
learns the digits under Kolen-Pollack.
"""

import math
from typing import NamedTuple

import numpy as np

from wtref.angles import angle
from wtref.device import open_device, to_host
from wtref.noise import power_of_two
from wtref.rules import WeightMirror
from wtref.runs.config import Config
from wtref.runs.prepare import prepare
from wtref.synapses import Synapses

DECAYS = ((0.03, 0.0), (0.1, 0.0), (0.03, 0.9))  # the weight decay and momentum of each lesson
MEMORY = 64  # the mirror's window in rows per input; B is a plain average over its first half


class Point(NamedTuple):
    """A measurement after `count` rows of noise, or steps, and the value that theory predicts."""

    count: int
    measured: float
    theory: float


def noise_lesson(noise, n_in, n_out=64, rows=32, seed=0):
    """[Point] of the angle in degrees between B and W^T after more and more rows of noise; W (n_out, n_in) is random."""
    device, rng = open_device("cpu", "float64"), np.random.default_rng(seed)
    s = Synapses("lone", n_in, n_out, bias=False, std=1 / math.sqrt(n_in), sign_scale=1)
    s.layer = 1
    s.initialise(device, rng)
    s.B = s.draw_feedback(rng)
    rule, points = WeightMirror(noise=noise, window=MEMORY, rows=rows, seed=seed), []
    last = rule.memory(s) // 2 if noise == "independent" else power_of_two(n_in)
    for count in range(rows, last + 1, rows):
        rule.mirror(s)
        if count == last or (count // rows).bit_count() == 1:
            points.append(Point(count, angle(s.B, s.W.T), THEORY[noise](n_in, count)))
    return points


def independent_angle(n, S):
    """The angle after S rows of independent noise: tan^2(theta) = n / S."""
    return math.degrees(math.atan(math.sqrt(n / S)))


def decorrelated_angle(n, S):
    """The angle after S rows of a Hadamard block, S a power of two, in which only inputs i = j (mod S) are correlated.

    tan^2(theta) is the mean number of other inputs with which an input is correlated; from n rows on it is 0.
    """
    q, r = divmod(n, S)
    pairs = r * (q + 1) * q + (S - r) * q * (q - 1)
    return math.degrees(math.atan(math.sqrt(pairs / n)))


THEORY = {"independent": independent_angle, "decorrelated": decorrelated_angle}


def decay_lesson(weight_decay, steps=400, momentum=0.0, lr=0.1, seed=0):
    """[Point] of |W - B^T| in an mlp's last layer, relative to its start, over training steps on the digits."""
    config = Config(
        model="mlp", rule="kp", dataset="digits", hidden=(64,), dtype="float64", device="cpu", lr=lr, momentum=momentum,
        weight_decay=weight_decay, schedule="constant", warmup=0.0, epochs=math.ceil(steps / 45), seed=seed,
    )  # fmt: skip
    training = prepare(config)
    s = training.network.with_feedback[-1]
    start = _distance(s)
    theory = decay_theory(lr, weight_decay, momentum)
    points = [Point(0, 1.0, 1.0)]
    for count, (_, distance) in enumerate(zip(training.run(), theory), start=1):
        points.append(Point(count, _distance(s) / start, distance))
        if count == steps:
            return points


def decay_theory(lr, weight_decay, momentum):
    """Yield |W - B^T| after 1, 2, ... steps, relative to its start: (1 - lambda)^t with lambda = lr weight_decay.

    With momentum it follows the linear recursion of W and B, in whose difference the common gradient cancels.
    """
    distance, velocity = 1.0, 0.0
    while True:
        velocity = momentum * velocity + weight_decay * distance
        distance -= lr * velocity
        yield abs(distance)


def _distance(s):
    return float(np.linalg.norm(to_host(s.W - s.B.T)))


def lessons(n_in, seed):
    """All that the command shows: ({noise: [Point]}, {(lambda, momentum): [Point]})."""
    noises = {noise: noise_lesson(noise, n_in, seed=seed) for noise in THEORY}
    decays = {(0.1 * decay, momentum): decay_lesson(decay, momentum=momentum, seed=seed) for decay, momentum in DECAYS}
    return noises, decays


def table(noises, decays):
    """The lessons as text."""
    rows = []
    for noise, points in noises.items():
        rows += [f"weight mirror, {noise} noise", "  rows of noise   matrix angle °   theory °"]
        rows += [f"  {p.count:13,} {p.measured:16.2f} {p.theory:10.2f}" for p in points]
    for (decay, momentum), points in decays.items():
        rows += [f"Kolen-Pollack, lambda {decay:g}, momentum {momentum:g}", "           step   |W - B^T|, relative   theory"]
        rows += [f"  {p.count:13,} {p.measured:21.6f} {p.theory:8.6f}" for p in points[:: max(len(points) // 8, 1)]]
    return "\n".join(rows)
