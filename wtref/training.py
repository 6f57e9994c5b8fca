"""The training step and the training loop: engaged mode, mirror mode, evaluation.  To be read from top to bottom."""

import contextlib
import time

import numpy as np

from wtref.angles import compare_with_backprop, feedback_ratios, matrix_angles
from wtref.device import array_module, to_host
from wtref.errors import Diverged, InputError

CHECK_EVERY = 20  # steps between looks at the loss: on a GPU each look waits for the device


def train_step(network, rule, sgd, loss, images, labels, step):
    """Train a network on one batch by a learning rule.

    Parameters: network (models.py), rule (rules.py), sgd (optim.py), loss (losses.py); images (N, H, W, C) and
        labels (N,), arrays on the network's device; step, the number of steps before this one.
    Returns: the loss, a NumPy scalar or 0-d array, and the logits (N, classes), both from before the update.
    """
    logits = network.forward(images)  # (1)
    value, error = loss(logits, labels)
    for s in network.with_feedback:
        rule.before_backward(s, error)
    network.backward(error)  # (2), (3)
    for s in network.synapses:
        rule.learn(s, sgd)  # (4), (16), (17)
    for norm in network.norms:
        norm.learn(sgd)
    for s in network.with_feedback:
        rule.between_steps(s, sgd, step)  # (7)
    return value, logits


def evaluate(network, loss, batches, total=lambda *numbers: numbers):
    """A network's mean loss in nats, its error in percent and the number of images over (images, labels) batches.

    total: adds its arguments up over all processes; each process tests a part of the batches.
    """
    loss_sum, wrong, count = 0.0, 0, 0
    for images, labels in batches:
        logits = network.forward(images, train=False)
        loss_sum = loss_sum + loss(logits, labels)[0] * len(logits)
        wrong = wrong + (logits.argmax(axis=1) != labels).sum()
        count += len(logits)
    loss_sum, wrong, count = total(to_host(loss_sum), to_host(wrong), count)
    if not count:
        raise InputError("there are no test images that can be read")
    return float(loss_sum) / count, 100 * float(wrong) / count, int(count)


class Training:
    """One network, learning one data set by one rule.

    Attributes
    ----------
    network, rule, sgd, loss     as train_step takes them
    feed                         where batches come from (datasets/memory.py)
    schedule                     the learning rate of every step (optim.Schedule)
    epochs : int                 how many passes over the training images
    train_step                   train_step, or a function that computes the same
    epoch, position : int        finished epochs; finished steps of the present one
    device : device.Device       the network's
    best : dict or None          the epoch with the lowest test error: its number and that error
    """

    def __init__(self, network, rule, sgd, loss, feed, schedule, epochs, train_step=train_step):
        self.network, self.rule, self.sgd, self.loss = network, rule, sgd, loss
        self.feed, self.schedule, self.epochs, self.train_step = feed, schedule, epochs, train_step
        self.device, self.epoch = network.device, 0
        self.best = None
        self.start_epoch()

    def run(self):
        """Train.  Yields after each step: None, or at the end of an epoch its record, a dict of plain numbers.

        Between two steps the training may be saved and left, and goes on as if nothing had happened (runs/resuming.py).
        """
        if self.epoch == self.position == 0:
            self.before_training()
        while self.epoch < self.epochs:
            with contextlib.closing(self.feed.train_batches(self.epoch, first=self.position)) as batches:
                yield from self._train_epoch(batches)

    def before_training(self):
        """Let the rule do what comes before the first batch."""
        for s in self.network.with_feedback:
            self.rule.before_training(s)

    def _train_epoch(self, batches):
        start = time.perf_counter()
        for images, labels in batches:
            loss, logits = self.step(images, labels)
            self.pending.append((loss, (logits.argmax(axis=1) != labels).sum(), len(labels)))
            self.position += 1
            last = self.position == self.feed.steps
            if last or len(self.pending) == CHECK_EVERY:
                self.flush()
            now = time.perf_counter()
            self.seconds, start = self.seconds + now - start, now
            if not last:
                yield None
                start = time.perf_counter()
        yield self._finish_epoch()

    @np.errstate(over="ignore", invalid="ignore")  # flush reports them
    def step(self, images, labels):
        """One step on a batch; returns its loss, a NumPy scalar or 0-d array, and logits.  A batch without images changes nothing."""
        if self.total(len(labels)) == [0.0]:
            logits = self.network.forward(images, train=False)
            return logits.sum(), logits
        self.sgd.lr = self.schedule(self.steps_done)
        return self.train_step(self.network, self.rule, self.sgd, self.loss, images, labels, self.steps_done)

    @property
    def steps_done(self):
        """The number of steps since the start of the training."""
        return self.epoch * self.feed.steps + self.position

    def evaluate(self, batches):
        """Mean loss in nats, error in percent and number of images over (images, labels) batches on the device."""
        return evaluate(self.network, self.loss, batches, self.total)

    def total(self, *numbers):
        """The sums of plain numbers over all processes that train together: here there is one."""
        return list(map(float, numbers))

    def flush(self):
        """Add up the losses of the latest steps; raise Diverged if one of them is NaN or infinite."""
        if not self.pending:
            return
        losses, errors, counts = zip(*self.pending)
        losses, errors = (to_host(array_module(x[0]).stack(x)) for x in (losses, errors))
        totals = np.reshape(self.total(*losses, *errors, *counts), (3, -1)).T
        for i, (loss, wrong, seen) in enumerate(totals, start=self.position - len(self.pending)):
            if not np.isfinite(loss):
                raise Diverged(f"the loss became {loss} {self._where(i)}")
            self.loss_sum += loss * seen
            self.wrong, self.seen = self.wrong + int(wrong), self.seen + int(seen)
        self.pending = []

    def start_epoch(self):
        """Reset the counters of an epoch."""
        self.position, self.seconds, self.waited = 0, 0.0, 0.0  # waited: seconds, for other processes
        self.loss_sum, self.wrong, self.seen = 0.0, 0, 0  # over all images of the steps looked at
        self.pending = []  # (loss, wrong, seen) of later steps, still on the device

    @np.errstate(over="ignore", invalid="ignore")  # they are reported below
    def _finish_epoch(self):
        if not self.seen:
            raise InputError("there are no training images that can be read")
        test_loss, test_error, tested = self.evaluate(self.feed.test_batches())
        if not np.isfinite(test_loss):
            raise Diverged(f"the test loss became {test_loss} {self._where(self.position - 1)}")
        self.epoch += 1
        record = self.record(test_loss, test_error, tested)
        if self.best is None or test_error < self.best["test_error"]:
            self.best = {"epoch": self.epoch, "test_error": test_error}
        self.start_epoch()
        return record

    def record(self, test_loss, test_error, tested):
        """The record of the epoch that has just ended, a dict of plain numbers."""
        return {
            "epoch": self.epoch,
            "lr": self.schedule(self.epoch * self.feed.steps - 1),
            "train_images": self.seen,
            "train_loss": self.loss_sum / self.seen,
            "train_error": 100 * self.wrong / self.seen,
            "test_images": tested,
            "test_loss": test_loss,
            "test_error": test_error,
            "matrix_angles": matrix_angles(self.network),
            "feedback_ratios": feedback_ratios(self.network),
            **compare_with_backprop(self.network, self.rule, self.sgd, self.loss, *self.feed.fixed_batch()),
            "seconds": self.seconds,
            "images_per_second": self.seen / self.seconds,
        }

    def _where(self, i):
        """Where step i of the present epoch is, in words."""
        lr = self.schedule(self.epoch * self.feed.steps + i)
        return f"in epoch {self.epoch + 1}, step {i + 1} of {self.feed.steps}, at learning rate {lr:g}; a smaller --lr may help"
