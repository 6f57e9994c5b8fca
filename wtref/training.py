"""The training loop: engaged mode, mirror mode, evaluation.  To be read from top to bottom."""

import contextlib
import time

import numpy as np

from wtref import models, randomness
from wtref.angles import delta_angles, matrix_angles
from wtref.backend import to_host
from wtref.errors import Diverged, InputError
from wtref.graphs import Captured
from wtref.losses import LOSSES
from wtref.optim import SGD, Schedule, aligning_decay
from wtref.parallel import ALONE
from wtref.rules import RULES

CHECK_EVERY = 20  # steps between looks at the loss: on a GPU each look waits for the device


class Training:
    """One network, learning one data set by one rule.

    The first weights, the feedback weights, the order of the images, their augmentation and the
    mirror's noise each have a random stream of their own, all from config.seed (randomness.py).
    Rules with the same seed share the first weights and the images.
    """

    def __init__(self, config, device, feed):
        """config: Config; device: backend.Device; feed: where batches come from (datasets/memory.py)."""
        self.config, self.device, self.feed, self.crew = config, device, feed, device.crew
        self.network = models.build(config.model, feed.shape, feed.classes, config.model_options)
        self.network.initialise(device, randomness.generator(config.seed, randomness.WEIGHTS))
        if not config.sync_bn:
            for norm in self.network.norms:
                norm.crew = ALONE
        self.rule = RULES[config.rule](**config.rule_options)
        self.feedback_rng = randomness.generator(config.seed, randomness.FEEDBACK)
        for s in self.network.with_feedback:
            self.rule.connect(s, self.feedback_rng, feed.classes)

        self.loss = LOSSES[config.loss]
        steps = config.epochs * feed.steps
        self.schedule = Schedule(config.schedule, config.lr, steps, config.warmup, config.milestones)
        decay = config.weight_decay
        decay = aligning_decay(self.schedule, config.momentum) if decay is None else decay
        self.sgd = SGD(device.array(config.lr), config.momentum, config.nesterov, decay)
        self.network.forward(device.array(np.zeros((1, *feed.shape))), train=False)  # a misfit shows here
        self._check_batch()
        self.engaged_replayed = self._replayed()

        self.epoch = self.position = 0  # finished epochs; finished steps of the present one
        self.best = None  # the record of the epoch with the lowest test error
        self._start_epoch()

    def steps(self):
        """Train.  Yields after each step: None, or at the end of an epoch its record, a dict of plain numbers.

        Between two steps the training may be saved (`state`) and left; `restore` goes on as if
        nothing had happened.
        """
        if self.epoch == self.position == 0:
            for s in self.network.with_feedback:
                self.rule.before_training(s)
        while self.epoch < self.config.epochs:
            with contextlib.closing(self.feed.train_batches(self.epoch, first=self.position)) as batches:
                yield from self._train_epoch(batches)

    def _train_epoch(self, batches):
        self.crew.take_waited()  # outside of steps
        start = time.perf_counter()
        for images, labels in batches:
            last = self.position + 1 == self.feed.steps
            loss, logits = self.train_step(images, labels, measure=last)
            self.pending.append((loss, (logits.argmax(axis=1) != labels).sum(), len(labels)))
            self.position += 1
            if last or len(self.pending) == CHECK_EVERY:
                self.settle()
            now = time.perf_counter()
            self.seconds, start = self.seconds + now - start, now
            if not last:
                yield None
                start = time.perf_counter()
        yield self._finish_epoch()

    @np.errstate(over="ignore", invalid="ignore")  # settle says it better
    def train_step(self, images, labels, measure=False):
        """One step on a batch; returns its loss (0-d array) and logits.  measure: the delta angles too."""
        step = self.epoch * self.feed.steps + self.position
        self.sgd.lr[...] = self.schedule(step)
        loss, logits = self.engaged(images, labels, measure=True) if measure else self.engaged_replayed(images, labels)
        for s in self.network.with_feedback:
            self.rule.between_steps(s, step)  # (7)
        if self.config.check_copies and (step + 1) % self.config.check_copies == 0:
            self.crew.agree(self._copies())
        return loss, logits

    def engaged(self, images, labels, measure=False):
        """Engaged mode: forward, backward, learning.  The batch may be a share of what all processes learn from."""
        network, rule = self.network, self.rule
        total = self.crew.assemble(len(labels))
        if not total:  # all images of the batch are bad; --bad-images skip
            return self._nothing()
        logits = network.forward(images)  # (1)
        loss, error = self.loss(logits, labels, total)
        for s in network.with_feedback:
            rule.before_backward(s, self.feedback_rng, error)
        for s in network.synapses:
            s.watched = measure
        if measure:
            self.delta_angles = delta_angles(network, error)
        with self.crew.gathering():
            network.backward(error, keep=False)  # (2), (3)
            for norm in network.norms if not self.config.sync_bn else ():
                self.crew.give(norm.gamma_gradient, norm.beta_gradient)

        for s in network.synapses:
            rule.learn(s, self.sgd)  # (4), (16), (17)
        for norm in network.norms:
            norm.learn(self.sgd)
        return loss, logits

    def _nothing(self):
        """The loss and the logits of a batch without images, from which nothing is learned or measured."""
        self.delta_angles = {s.name: np.nan for s in self.network.synapses[:-1]}
        return self.device.array(0.0), self.device.array(np.zeros((0, self.feed.classes)))

    def _check_batch(self):
        """Raise InputError where batch norm would have a single value of a channel in every step."""
        config, processes = self.config, 1 if self.config.sync_bn else self.crew.size
        single = [norm.name for norm in self.network.norms if norm.y.size == norm.channels]  # of one image
        if single and config.batch_size < 2 * processes:
            own = f" in one of {processes} processes" if processes > 1 else ""
            wrong = f"--batch-size {config.batch_size} is too small for batch norm: {single[0]} would see one value of a channel{own}"
            raise InputError(f"{wrong}; take at least {2 * processes}, or --norm none")

    def _replayed(self):
        """`engaged`; on a GPU, where every step does the same, as a CUDA graph."""
        same = not self.rule.draws_each_batch and self.crew.size == 1
        if not self.config.graph or not same or not self.device.name.startswith("cuda"):
            return self.engaged
        return Captured(self.device.xp, self.engaged)

    def evaluate(self, batches):
        """Mean loss in nats, error in percent and number of images over (images, labels) batches on the device."""
        return evaluate(self.network, self.loss, batches, self.crew)

    def state(self):
        """All it takes to go on, the same in every process of a crew that has settled: arrays by name, plain values for JSON."""
        if self.pending:
            self.settle()
        velocity = {f"velocity.{name}": v for name, v in self.sgd.velocity.items()}
        plain = {
            "epoch": self.epoch,
            "position": self.position,
            "loss_sum": self.loss_sum,
            "wrong": self.wrong,
            "seen": self.seen,
            "seconds": self.seconds,
            "waited": self.waited,
            "best": self.best,
            "generator": self.feedback_rng.bit_generator.state,
            "rule": self.rule.state,
        }
        return {**self.network.arrays(), **velocity}, plain

    def state_on_host(self):
        """The same with all arrays on the host."""
        arrays, plain = self.state()
        return {name: to_host(array) for name, array in arrays.items()}, plain

    def restore(self, arrays, plain):
        """Take over what `state` gave; arrays are the host's."""
        learned = self.network.arrays()
        for name, array in learned.items():
            array[...] = self.device.array(arrays[name])
        for name, array in arrays.items():
            if name.startswith("velocity."):
                key = name.removeprefix("velocity.")
                self.sgd.velocity[key] = self.device.xp.empty_like(learned[key])  # laid out as that array is
                self.sgd.velocity[key][...] = self.device.array(array)
        for name in ("epoch", "position", "loss_sum", "wrong", "seen", "seconds", "waited", "best"):
            setattr(self, name, plain[name])
        self.feedback_rng.bit_generator.state = plain["generator"]
        self.rule.state.update(plain["rule"])

    def _start_epoch(self):
        self.position, self.seconds, self.waited = 0, 0.0, 0.0  # waited: for other processes
        self.loss_sum, self.wrong, self.seen = 0.0, 0, 0  # over all images of the steps looked at
        self.pending = []  # (loss, wrong, seen) of later steps, still on the device and of this process alone

    @np.errstate(over="ignore", invalid="ignore")
    def _finish_epoch(self):
        if not self.seen:
            raise InputError("not one of the training images can be read")
        test_loss, test_error, tested = self.evaluate(self.feed.test_batches())
        if not np.isfinite(test_loss):
            raise Diverged(f"the test loss became {test_loss} {self._where(self.position - 1)}")
        self.epoch += 1
        record = {
            "epoch": self.epoch,
            "lr": self.schedule(self.epoch * self.feed.steps - 1),
            "train_images": self.seen,
            "train_loss": self.loss_sum / self.seen,
            "train_error": 100 * self.wrong / self.seen,
            "test_images": tested,
            "test_loss": test_loss,
            "test_error": test_error,
            "matrix_angles": matrix_angles(self.network),
            "delta_angles": self.delta_angles,
            "seconds": self.seconds,
            "images_per_second": self.seen / self.seconds,
        }
        if self.crew.size > 1:
            record |= {"processes": self.crew.size, "waiting_ms_per_step": 1000 * self.waited / self.feed.steps}
        if self.best is None or test_error < self.best["test_error"]:
            self.best = {"epoch": self.epoch, "test_error": test_error}
        self._start_epoch()
        return record

    def settle(self):
        """Make common what each process has of its own; raise Diverged if one of the latest losses is NaN or infinite."""
        losses, wrong, seen = zip(*self.pending) if self.pending else ((), (), ())
        latest = [number for column in (losses, wrong) if column for number in to_host(self.device.xp.stack(column))]
        latest = np.reshape(self.crew.total(*latest, *seen), (3, -1)).T
        for i, (loss, wrong, seen) in enumerate(latest, start=self.position - len(self.pending)):
            if not np.isfinite(loss):
                raise Diverged(f"the loss became {loss} {self._where(i)}")
            self.loss_sum += loss * seen
            self.wrong, self.seen = self.wrong + int(wrong), self.seen + int(seen)
        self.pending, self.waited = [], self.waited + self.crew.take_waited()
        for norm in self.network.norms if not self.config.sync_bn else ():
            norm.average(self.crew)

    def _copies(self):
        """Every W, b and B, as host arrays by name: the same in all processes."""
        return {f"{s.name}.{name}": to_host(array) for s in self.network.synapses for name, array in s.arrays().items()}

    def _where(self, i):
        """In words: step i of the present epoch."""
        lr = self.schedule(self.epoch * self.feed.steps + i)
        return f"in epoch {self.epoch + 1}, step {i + 1} of {self.feed.steps}, at learning rate {lr:g}; a smaller --lr may help"


def evaluate(network, loss_of, batches, crew=ALONE):
    """A network's mean loss in nats, its error in percent and the number of images over (images, labels) batches.

    The batches of all processes of the crew count together.
    """
    loss, wrong, count = 0.0, 0, 0
    for images, labels in batches:
        logits = network.forward(images, train=False, keep=False)
        loss = loss + loss_of(logits, labels)[0] * len(logits)
        wrong = wrong + (logits.argmax(axis=1) != labels).sum()
        count += len(logits)
    loss, wrong, count = crew.total(to_host(loss), to_host(wrong), count)
    if not count:
        raise InputError("not one of the test images can be read")
    return loss / count, 100 * wrong / count, int(count)
