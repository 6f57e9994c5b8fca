"""`run.py mirror`: what makes B find W^T, alone and beside its theory.

`noise_lesson` lets a layer with random W mirror itself, with no network, image or label; `decay_lesson`
follows W - B^T of a network that learns digits under Kolen-Pollack.
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

DECAYS = ((0.03, 0.0), (0.1, 0.0), (0.03, 0.9))  # weight decay and momentum of the lessons shown
MEMORY = 64  # the lesson's window, in rows per input: a plain average up to half of it


class Point(NamedTuple):
    """What was measured after `count` rows of noise, or steps, and what theory says."""

    count: int
    measured: float
    theory: float


def noise_lesson(noise, n_in, n_out=64, rows=32, seed=0):
    """[Point] of the angle in degrees between B and W^T, W (n_out, n_in) random, over rows of noise."""
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
    """tan^2(theta) = n / S after S rows of independent noise."""
    return math.degrees(math.atan(math.sqrt(n / S)))


def decorrelated_angle(n, S):
    """After S rows of a Hadamard block, S a power of two: only inputs i = j (mod S) are not yet told apart.

    tan^2(theta) is the mean number of others that an input is taken for; from n rows on it is 0.
    """
    q, r = divmod(n, S)
    pairs = r * (q + 1) * q + (S - r) * q * (q - 1)
    return math.degrees(math.atan(math.sqrt(pairs / n)))


THEORY = {"independent": independent_angle, "decorrelated": decorrelated_angle}


def decay_lesson(weight_decay, steps=400, momentum=0.0, lr=0.1, seed=0):
    """[Point] of |W - B^T| relative to its start, of an mlp's last layer, over training steps on the digits."""
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
    """W - B^T after 1, 2, ... steps, relative to its start: (1 - lambda)^t, lambda = lr weight_decay.

    With momentum, the linear recursion that W and B both follow, their common gradient taken out.
    """
    distance, velocity = 1.0, 0.0
    while True:
        velocity = momentum * velocity + weight_decay * distance
        distance -= lr * velocity
        yield abs(distance)


def _distance(s):
    return float(np.linalg.norm(to_host(s.W - s.B.T)))


def lessons(n_in, seed):
    """({noise: [Point]}, {(lambda, momentum): [Point]}) of all that the command shows."""
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
