"""The training loop: engaged mode, mirror mode, evaluation.  To be read from top to bottom."""

import time

import numpy as np

from wtref import models
from wtref.angles import delta_angles, matrix_angles
from wtref.backend import to_host
from wtref.errors import Diverged
from wtref.losses import LOSSES
from wtref.optim import SGD, Schedule
from wtref.rules import RULES

CHECK_EVERY = 20  # steps between looks at the loss: on a GPU each look waits for the device


class Training:
    """One network, learning one data set by one rule.

    All randomness comes from three generators that the run owns: of the first weights, of the
    feedback weights, and of the order of the images.  Rules with the same seed share the first
    weights and the order.
    """

    def __init__(self, config, device, data):
        """config: Config; device: backend.Device; data: datasets.Dataset."""
        self.config, self.device, self.data = config, device, data
        seeds = np.random.SeedSequence(config.seed).spawn(3)
        weights_rng, self.feedback_rng, self.order_rng = map(np.random.default_rng, seeds)

        self.network = models.build(config.model, data.shape, data.classes, config.model_options)
        self.network.initialise(device, weights_rng)
        self.rule = RULES[config.rule](**config.rule_options)
        for s in self.network.with_feedback:
            self.rule.connect(s, self.feedback_rng, data.classes)

        self.loss = LOSSES[config.loss]
        self.sgd = SGD(config.lr, config.momentum, config.nesterov, config.weight_decay)
        self.steps_per_epoch = -(-len(data.train_labels) // config.batch_size)
        steps = config.epochs * self.steps_per_epoch
        self.schedule = Schedule(config.schedule, config.lr, steps, config.warmup, config.milestones)

        self.images, self.labels = device.raw(data.train_images), device.raw(data.train_labels)
        self.mean, self.std = device.array(data.mean), device.array(data.std)
        self.network.forward(self.prepare(self.images[:1]), train=False)  # a misfit shows here
        self.epoch = self.step = 0

    def epochs(self):
        """Train; after each epoch yield its record, a dict of plain numbers."""
        if self.step == 0:
            for s in self.network.with_feedback:
                self.rule.before_training(s)
        while self.epoch < self.config.epochs:
            yield self.train_epoch()

    @np.errstate(over="ignore", invalid="ignore")  # check_finite says it better
    def train_epoch(self):
        start = time.perf_counter()
        order = self.device.raw(self.order_rng.permutation(len(self.labels)))
        losses, wrong = [], 0
        for first in range(0, len(order), self.config.batch_size):
            batch = order[first : first + self.config.batch_size]
            last = first + len(batch) == len(order)
            loss, logits = self.train_step(self.prepare(self.images[batch]), self.labels[batch], measure=last)
            losses.append(loss)
            wrong = wrong + (logits.argmax(axis=1) != self.labels[batch]).sum()
            if len(losses) % CHECK_EVERY == 0 or last:
                self.check_finite(losses)
        seconds = time.perf_counter() - start
        test_loss, test_error = self.evaluate(self.data.test_images, self.data.test_labels)
        if not np.isfinite(test_loss):
            raise Diverged(f"the test loss became {test_loss} {self.where(len(losses) - 1)}")
        self.epoch += 1
        return {
            "epoch": self.epoch,
            "lr": self.sgd.lr,
            "train_loss": sum(float(to_host(loss)) for loss in losses) / len(losses),
            "train_error": 100 * int(to_host(wrong)) / len(order),
            "test_loss": test_loss,
            "test_error": test_error,
            "matrix_angles": matrix_angles(self.network),
            "delta_angles": self.delta_angles,
            "seconds": seconds,
            "images_per_second": len(order) / seconds,
        }

    def train_step(self, images, labels, measure=False):
        """One step on a batch; returns its loss (0-d array) and logits.  measure: the delta angles too."""
        network, rule, sgd = self.network, self.rule, self.sgd
        sgd.lr = self.schedule(self.step)

        logits = network.forward(images)  # (1)
        loss, error = self.loss(logits, labels)
        for s in network.with_feedback:
            rule.before_backward(s, self.feedback_rng, error)
        if measure:
            self.delta_angles = delta_angles(network, error)
        network.backward(error)  # (2), (3)

        for s in network.synapses:
            rule.learn(s, sgd)  # (4), (16), (17)
        for norm in network.norms:
            norm.learn(sgd)
        for s in network.with_feedback:
            rule.between_steps(s, self.step)  # (7)
        self.step += 1
        return loss, logits

    def evaluate(self, images, labels, batch_size=256):
        """Mean loss in nats and error in percent on host images (N, H, W, C) and labels (N,)."""
        loss, wrong = 0.0, 0
        for first in range(0, len(labels), batch_size):
            batch = slice(first, first + batch_size)
            logits = self.network.forward(self.prepare(self.device.raw(images[batch])), train=False)
            answers = self.device.raw(labels[batch])
            loss = loss + self.loss(logits, answers)[0] * len(logits)
            wrong = wrong + (logits.argmax(axis=1) != answers).sum()
        return float(to_host(loss)) / len(labels), 100 * int(to_host(wrong)) / len(labels)

    def prepare(self, images):
        """Stored images (N, H, W, C), to the network's input: mean 0 and variance 1 per channel."""
        return (images.astype(self.device.dtype) - self.mean) / self.std

    def check_finite(self, losses):
        """Raise Diverged if one of the latest losses of this epoch is NaN or infinite."""
        for i in range(max(len(losses) - CHECK_EVERY, 0), len(losses)):
            loss = float(to_host(losses[i]))
            if not np.isfinite(loss):
                raise Diverged(f"the loss became {loss} {self.where(i)}")

    def where(self, i):
        """In words: step i of the present epoch."""
        lr = self.schedule(self.epoch * self.steps_per_epoch + i)
        step = f"step {i + 1} of {self.steps_per_epoch}"
        return f"in epoch {self.epoch + 1}, {step}, at learning rate {lr:g}; a smaller --lr may help"

    def state(self):
        """All it takes to go on: arrays by name, and plain values for JSON."""
        velocity = {f"velocity.{name}": v for name, v in self.sgd.velocity.items()}
        generators = (self.feedback_rng, self.order_rng)
        plain = {
            "epoch": self.epoch,
            "step": self.step,
            "generators": [rng.bit_generator.state for rng in generators],
            "rule": self.rule.state,
        }
        return {**self.network.arrays(), **velocity}, plain

    def restore(self, arrays, plain):
        """Take over what `state` gave; arrays are the host's."""
        for name, array in self.network.arrays().items():
            array[...] = self.device.array(arrays[name])
        for name in arrays:
            if name.startswith("velocity."):
                self.sgd.velocity[name.removeprefix("velocity.")] = self.device.array(arrays[name])
        self.epoch, self.step = plain["epoch"], plain["step"]
        for rng, state in zip((self.feedback_rng, self.order_rng), plain["generators"]):
            rng.bit_generator.state = state
        self.rule.state.update(plain["rule"])
