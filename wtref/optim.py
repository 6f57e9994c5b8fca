"""Stochastic gradient descent with momentum, and the schedules of its learning rate."""

import math
from itertools import accumulate

from wtref.device import array_module
from wtref.errors import InputError, choose


class SGD:
    """w <- w - lr (gradient + weight_decay w), with momentum as PyTorch has it:

        g = gradient + weight_decay w;   v = momentum v + g;   w = w - lr v

    or, with Nesterov's momentum, w = w - lr (g + momentum v).  The paper's eta is lr and its lambda is
    lr * weight_decay: without momentum the step is exactly eq (16), -eta gradient - lambda w.  Every array has
    a velocity of its own, so W and B obey the same linear recursion.

    Attributes: lr, a number that the training loop changes; velocity, {name: array}, of arrays descended at least once.
    """

    def __init__(self, arrays, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
        """arrays: {name: array} of all that may be descended; each is changed in place and never replaced."""
        self.lr, self.momentum, self.nesterov, self.weight_decay = lr, momentum, nesterov, weight_decay
        self.arrays, self.velocity = arrays, {}
        self._names = {id(array): name for name, array in arrays.items()}  # valid as long as `arrays` keeps the arrays

    def descend(self, w, gradient, decay):
        """One step of the array w, in place, against `gradient` of the same shape; decay: True or False."""
        g = gradient + self.weight_decay * w if decay else gradient
        v = self.velocity_of(w)
        v[...] = self.momentum * v + g  # without momentum v = g, and the next line is eq (16): -eta gradient - lambda w
        w -= self.lr * (g + self.momentum * v if self.nesterov else v)

    def name_of(self, w):
        """The name of the array w in `arrays`.  Raises InputError if it is none of them."""
        if id(w) not in self._names:
            raise InputError("descend was given an array that the SGD was not made with; make the SGD once every layer has its B")
        return self._names[id(w)]

    def velocity_of(self, w):
        """The velocity of the array w: zeros before its first step."""
        name = self.name_of(w)
        if name not in self.velocity:
            self.velocity[name] = array_module(w).zeros_like(w)
        return self.velocity[name]


class Schedule:
    """The learning rate at each step: a linear warm-up, then constant, step or cosine.

    Parameters
    ----------
    kind : "constant", "step" (divided by 10 at each milestone) or "cosine" (down to 0)
    lr : the rate after warm-up
    steps : of the whole training
    warmup : fraction of the steps over which the rate climbs from near 0 to lr
    milestones : for "step", as fractions of the steps
    """

    def __init__(self, kind, lr, steps, warmup=0.0, milestones=(0.5, 0.75)):
        self.shape = choose("schedule", kind, SCHEDULES)
        self.lr, self.steps, self.milestones = lr, steps, milestones
        self.warmup = round(warmup * steps)

    def __call__(self, step):
        """The learning rate of step 0, 1, ..., steps - 1."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        return self.lr * self.shape(self, step)


def aligning_decay(schedule, momentum, left=0.05, least=5e-4, most=0.03):
    """The least weight decay from `least` to `most` with which Kolen-Pollack's W - B^T falls to `left` by the end of the run.

    W - B^T shrinks by (1 - lambda)^t; with momentum, by exp(-weight_decay sum(lr) / (1 - momentum)) to first order.
    In a run too short for that, it is `most`.
    """
    enough = math.log(1 / left) / least * (1 - momentum)  # the sum of rates from which on the usual decay does
    total = 0.0
    for total in accumulate(map(schedule, range(schedule.steps))):
        if total >= enough:
            return least
    return min(math.log(1 / left) * (1 - momentum) / total, most)


def _constant(schedule, step):
    return 1.0


def _step(schedule, step):
    return 0.1 ** sum(step >= round(m * schedule.steps) for m in schedule.milestones)


def _cosine(schedule, step):
    done = (step - schedule.warmup) / max(schedule.steps - schedule.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * done))


SCHEDULES = {"constant": _constant, "step": _step, "cosine": _cosine}
