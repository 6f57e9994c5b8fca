"""`run.py decays`: how Kolen-Pollack's weight decay sets the time to alignment, and what it costs in accuracy.

One network learns the digits under Kolen-Pollack and under backprop, with weight decays far apart, the default among them.
"""

import math
from itertools import accumulate
from statistics import mean, pstdev
from typing import NamedTuple

from wtref.angles import matrix_angles
from wtref.runs.config import Config
from wtref.runs.prepare import prepare

DECAYS = (5e-4, 2e-3, 5e-3, 0.03, None)  # None: the default
ALIGNED = 12.0  # degrees, in all layers


class Row(NamedTuple):
    """What one weight decay does."""

    weight_decay: float
    default: bool
    aligned: list  # the first step of each run after which all matrix angles are under ALIGNED; infinity where there is none
    theory: float  # the same, were W to keep its length
    bp: list  # test accuracy of each run in percent
    kp: list


def study(seeds, **given):
    """A Row for each of DECAYS, as they come; seeds: how many, from 0 up; given: Config fields."""
    for decay in DECAYS:
        runs = {
            rule: [follow(Config(**{**given, "rule": rule, "weight_decay": decay, "seed": seed})) for seed in range(seeds)]
            for rule in ("bp", "kp")
        }
        training, _, _ = runs["kp"][0]
        accuracy = {rule: [100 - error for _, error, _ in found] for rule, found in runs.items()}
        aligned = [first for _, _, first in runs["kp"]]
        yield Row(training.sgd.weight_decay, decay is None, aligned, theory(training), **accuracy)


def follow(config):
    """(the Training when it is over, its test error in percent, the first step after which all its layers are aligned)."""
    training, first = prepare(config), math.inf
    for step, record in enumerate(training.run(), start=1):
        if first == math.inf and all(angle < ALIGNED for angle in matrix_angles(training.network).values()):
            first = step
    return training, record["test_error"], first


def theory(training):
    """The first step after which W - B^T has shrunk, by exp(-weight_decay sum(lr) / (1 - momentum)), to ALIGNED.

    Two vectors of one length |W| are 2 |W| sin(theta / 2) apart: sqrt(2) |W| at the start, where they are unrelated.
    """
    schedule, sgd = training.schedule, training.sgd
    needed = -math.log(math.sqrt(2) * math.sin(math.radians(ALIGNED / 2))) * (1 - sgd.momentum) / sgd.weight_decay
    distances = accumulate(map(schedule, range(schedule.steps)))
    return next((step for step, distance in enumerate(distances, start=1) if distance >= needed), math.inf)


HEADER = "weight decay            steps to 12 degrees   theory   BP accuracy %   KP accuracy %"


def line(row):
    """A Row as a line under HEADER."""
    decay = f"{row.weight_decay:12.5g}{' (default)' if row.default else '':<10}"
    accuracies = [f"{mean(found):8.2f} ± {pstdev(found):.2f} " for found in (row.bp, row.kp)]
    return f"{decay}  {_steps(mean(row.aligned)):>19} {_steps(row.theory):>8} {' '.join(accuracies)}".rstrip()


def _steps(count):
    return "never" if math.isinf(count) else f"{count:.0f}"
