"""`run.py decays`: how Kolen-Pollack's weight decay determines the time to alignment, and its cost in accuracy.

A network learns the digits under Kolen-Pollack and under backprop, with weight decays far apart and with the default.
"""

import math
from itertools import accumulate, islice, product
from statistics import mean
from typing import NamedTuple

from wtref import progress
from wtref.angles import matrix_angles
from wtref.runs.config import Config
from wtref.runs.prepare import prepare
from wtref.text import spread

DECAYS = (5e-4, 2e-3, 5e-3, 0.03, None)  # None: the default
RULES = ("bp", "kp")
ALIGNED = 12.0  # degrees, in all layers


class Row(NamedTuple):
    """The results of one weight decay."""

    weight_decay: float
    default: bool  # whether it is Config's default
    aligned: list  # of each run the first step after which all matrix angles are under ALIGNED, or infinity
    theory: float  # that step if W kept its length
    bp: list  # test accuracy of each run under backprop, in percent
    kp: list  # and under Kolen-Pollack


def study(seeds, **given):
    """Yield a Row for each of DECAYS; seeds: their number, from 0 up; given: fields of Config."""
    recipes = [{"rule": rule, "weight_decay": decay, "seed": seed} for decay, rule, seed in product(DECAYS, RULES, range(seeds))]
    trainings = progress.each(recipes, _named)
    for decay in DECAYS:
        runs = {rule: [follow(Config(**{**given, **recipe})) for recipe in islice(trainings, seeds)] for rule in RULES}
        training, _, _ = runs["kp"][0]
        accuracy = {rule: [100 - error for _, error, _ in found] for rule, found in runs.items()}
        aligned = [first for _, _, first in runs["kp"]]
        yield Row(training.sgd.weight_decay, decay is None, aligned, theory(training), **accuracy)


def _named(recipe):
    decay = "the default decay" if recipe["weight_decay"] is None else f"weight decay {recipe['weight_decay']:g}"
    return f"{decay}, {recipe['rule']} seed {recipe['seed']}"


def follow(config):
    """Train; returns (the Training, its test error in percent, the first step after which all layers are aligned)."""
    training, first = prepare(config), math.inf
    for step, record in enumerate(training.run(), start=1):
        if first == math.inf and all(angle < ALIGNED for angle in matrix_angles(training.network).values()):
            first = step
    return training, record["test_error"], first


def theory(training):
    """The step after which the factor exp(-weight_decay sum(lr) / (1 - momentum)) has brought W - B^T down to ALIGNED.

    The distance of two vectors of length |W| is 2 |W| sin(theta / 2): sqrt(2) |W| at the start, where they are orthogonal.
    """
    schedule, sgd = training.schedule, training.sgd
    needed = -math.log(math.sqrt(2) * math.sin(math.radians(ALIGNED / 2))) * (1 - sgd.momentum) / sgd.weight_decay
    distances = accumulate(map(schedule, range(schedule.steps)))
    return next((step for step, distance in enumerate(distances, start=1) if distance >= needed), math.inf)


HEADER = "weight decay           steps to 12 degrees  theory  BP accuracy %  KP accuracy %"


def line(row):
    """A Row as a line under HEADER."""
    decay = f"{row.weight_decay:<11.5g}{' (default)' if row.default else '':<10}"
    accuracies = [f"{spread(found):>13}" for found in (row.bp, row.kp)]
    return f"{decay}  {_steps(mean(row.aligned)):>19}  {_steps(row.theory):>6}  {'  '.join(accuracies)}"


def _steps(count):
    return "never" if math.isinf(count) else f"{count:.0f}"
