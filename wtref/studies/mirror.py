"""`run.py mirror`: what makes B find W^T, alone and beside its theory.

`still_lesson` lets a layer with random W mirror itself, with no network, image or label; in `moving_lesson` W moves meanwhile,
as training moves it.  `decay_lesson` follows W - B^T of a network that learns digits under Kolen-Pollack.
"""

import math
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from wtref import progress
from wtref.angles import angle
from wtref.device import open_device, to_host
from wtref.relatives import ActivationAlignment
from wtref.rules import WeightMirror
from wtref.runs.config import Config
from wtref.runs.prepare import prepare
from wtref.synapses import Synapses

DECAYS = ((0.03, 0.0), (0.1, 0.0), (0.03, 0.9))  # weight decay and momentum of the lessons shown
ROWS = 512  # of noise in each step of the lessons
WINDOWS = (3, 6, 12, 25, 50, 100, 200)  # S / n_in of the lessons under a moving W
STEPS = 2000  # in which a moving W forgets all but 1 / e of itself


class Point(NamedTuple):
    """What was measured at `at` (rows of noise, S / n_in or a step), and what theory says."""

    at: float
    measured: float
    theory: float


class Lessons(NamedTuple):
    """still: {rule: [Point]}; moving: {rule: [Point]}; parts: [(S / n_in, noise, lag)]; decays: {(lambda, momentum): [Point]}."""

    still: dict
    moving: dict
    parts: list
    decays: dict


def lessons(n_in, seed):
    """All Lessons that the command shows, angles in degrees."""
    progress.show("W at rest")
    still = {"wm": still_lesson(WeightMirror, n_in, seed=seed), "aa": still_lesson(ActivationAlignment, n_in, seed=seed)}
    windows = progress.each(WINDOWS, "W moving, {} rows an input".format)
    moving = {"wm": [moving_mirror(n_in, window, seed=seed) for window in windows], "aa": [moving_alignment(n_in, seed=seed)]}
    parts = [(window, *map(_degrees, noise_and_lag(n_in, window))) for window in np.geomspace(WINDOWS[0], WINDOWS[-1], 60)]
    decays = progress.each(DECAYS, "weight decay {0[0]:g}, momentum {0[1]:g}".format)
    falling = {(0.1 * decay, momentum): decay_lesson(decay, momentum=momentum, seed=seed) for decay, momentum in decays}
    return Lessons(still, moving, parts, falling)


# --- a W that does not move ----------------------------------------------------------------------------------


def still_lesson(rule, n_in, n_out=64, rows=32, seed=0):
    """[Point] of the angle between B and a random W^T, W (n_out, n_in), over rows of noise.

    rule: WeightMirror, as a plain average, or ActivationAlignment.
    """
    s, mirror, points = _layer(n_in, n_out, seed), rule(rows=rows, seed=seed).mirror, []
    theory = delta_rule_angle if rule is ActivationAlignment else average_angle
    for step in range(1, 20 * n_in // rows + 1):
        mirror(s) if rule is ActivationAlignment else mirror(s, eta_B=1 / (step * rows))
        if step.bit_count() == 1:
            points.append(Point(step * rows, angle(s.B, s.W.T), _degrees(theory(n_in, rows, step))))
    return points


def average_angle(n, M, step):
    """Of a plain average over S = M step rows of independent signs: tan^2(theta) = (n - 1) / S."""
    return math.atan(math.sqrt((n - 1) / (M * step)))


def delta_rule_angle(n, M, step):
    """Of the delta rule: B - W^T shrinks by `left` in the mean and its square by `square`, from a B as large as W."""
    left, square = _delta_rule(n, M)
    overlap, distance = 1 - left**step, 2 * square**step
    return math.acos(overlap / math.sqrt(distance + 2 * overlap - 1))


def _delta_rule(n, M):
    """By what one step multiplies the mean of B - W^T and its mean square, eta being 1 / (M + n)."""
    eta = 1 / (M + n)
    return 1 - eta * M, 1 - 2 * eta * M + eta**2 * M * (M + n - 1)


# --- a W that moves ------------------------------------------------------------------------------------------


def moving_mirror(n_in, window, seed=0):
    """Point of the angle under a weight mirror that averages over S = window n_in rows, as W moves."""
    rule = WeightMirror(rows=ROWS, window=window, seed=seed)
    return Point(window, _moving(rule, n_in, seed), _degrees(moving_angle(n_in, window)))


def moving_alignment(n_in, seed=0):
    """Point of the angle under the delta rule, at as many rows a step."""
    kept = 1 - 1 / STEPS
    left, square = _delta_rule(n_in, ROWS)
    overlap = (1 - left) / (1 - left * kept)
    size = (square * (1 - 2 * kept * overlap) + 2 * overlap - 1) / (1 - square)
    return Point(math.nan, _moving(ActivationAlignment(rows=ROWS, seed=seed), n_in, seed), _degrees(math.acos(overlap / math.sqrt(size))))


def _moving(rule, n_in, seed, n_out=64, looks=20):
    """The mean angle over some moments in which B follows W, an Ornstein-Uhlenbeck process."""
    s, rng, found = _layer(n_in, n_out, seed), np.random.default_rng(seed), []
    memory = math.ceil(getattr(rule, "window", 10) * n_in / ROWS)  # twice the mean age, in steps, of what B shows
    kept = 1 - 1 / STEPS
    rule.before_training(s)
    for step in range(3 * memory + looks):
        s.W *= kept
        s.W += math.sqrt(1 - kept**2) * s.std * rng.standard_normal(s.W.shape)
        rule.between_steps(s, SimpleNamespace(lr=0.1), step)
        if step >= 3 * memory:
            found.append(angle(s.B, s.W.T))
    return sum(found) / len(found)


def moving_angle(n, window):
    """cos(theta) of a moving average whose rate is a = 2 M / (S + M) a step, beside a W that keeps all but 1 / STEPS of itself."""
    a, kept = 2 * ROWS / (_memory(n, window) + ROWS), 1 - 1 / STEPS
    overlap = a / (1 - (1 - a) * kept)
    size = a / (2 - a) * ((1 + (1 - a) * kept) / (1 - (1 - a) * kept) + (n - 1) / ROWS)
    return math.acos(overlap / math.sqrt(size))


def noise_and_lag(n, window):
    """The two parts of that angle: of the noise alone, tan^2(theta) = (n - 1) / S, and of the lag alone."""
    S = _memory(n, window)
    a, kept = 2 * ROWS / (S + ROWS), 1 - 1 / STEPS
    overlap = a / (1 - (1 - a) * kept)
    size = a / (2 - a) * (1 + (1 - a) * kept) / (1 - (1 - a) * kept)
    return math.atan(math.sqrt((n - 1) / S)), math.acos(overlap / math.sqrt(size))


def _memory(n, window):
    """S: a window's rows of noise, and those of one step at least."""
    return max(window * n, ROWS)


def _layer(n_in, n_out, seed):
    """Synapses with random W and B."""
    rng = np.random.default_rng(seed)
    s = Synapses("lone", n_in, n_out, bias=False, std=1 / math.sqrt(n_in), sign_scale=1)
    s.layer = 1
    s.initialise(open_device("cpu", "float64"), rng)
    s.B = s.draw_feedback(rng)
    return s


def _degrees(theta):
    return math.degrees(theta)


# --- Kolen-Pollack -------------------------------------------------------------------------------------------


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


NAMES = {"wm": "weight mirror", "aa": "activation alignment"}


def table(found):
    """The Lessons as text."""
    rows = []
    for rule, points in found.still.items():
        rows += [f"{NAMES[rule]}, W at rest", "  rows of noise   matrix angle °   theory °"]
        rows += [f"  {p.at:13,} {p.measured:16.2f} {p.theory:10.2f}" for p in points]
    for rule, points in found.moving.items():
        rows += [f"{NAMES[rule]}, W moving", "   rows an input   matrix angle °   theory °"]
        rows += [f"  {'-' if math.isnan(p.at) else p.at:>13} {p.measured:16.2f} {p.theory:10.2f}" for p in points]
    for (decay, momentum), points in found.decays.items():
        rows += [f"Kolen-Pollack, lambda {decay:g}, momentum {momentum:g}", "           step   |W - B^T|, relative   theory"]
        rows += [f"  {p.at:13,} {p.measured:21.6f} {p.theory:8.6f}" for p in points[:: max(len(points) // 8, 1)]]
    return "\n".join(rows)
