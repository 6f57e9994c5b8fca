"""What `run.py bench` times: a Work is a training step, or an evaluation, of one network at one batch size."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from wtref.cores import default_threads
from wtref.runs.config import Config

DEFAULTS = {"lr": 0.01, "schedule": "constant", "warmup": 0.0, "weight_decay": 5e-4, "device": "cpu"}


@dataclass(frozen=True)
class Work:
    """The training step, or the evaluation, of config's network on random images of one shape (H, W, C)."""

    config: Config
    shape: tuple
    evaluation: bool = False

    @classmethod
    def of(cls, model, rule, batch, shape=None, evaluation=False, **options):
        """A Work by names; shape None is MNIST's for an mlp or a lenet and CIFAR's for the others; options: fields of Config."""
        config = Config(**{**DEFAULTS, **options, "model": model, "rule": rule, "batch_size": batch})
        usual = (28, 28, 1) if model in ("mlp", "lenet") else (32, 32, 3)
        return cls(config, tuple(shape or usual), evaluation)

    def __str__(self):
        size = "x".join(map(str, self.shape))
        what = "evaluation" if self.evaluation else self.config.rule
        return f"{self.config.model} {size} {what} batch {self.config.batch_size}"

    @property
    def classes(self):
        """1,000, as in ImageNet, for images of at least 64 by 64 pixels; else 10."""
        return 1000 if min(self.shape[:2]) >= 64 else 10

    @property
    def on_gpu(self):
        return self.config.device.startswith("cuda")

    @property
    def threads(self):
        return self.config.threads or default_threads()

    def data(self):
        """Random images (N, H, W, C) and labels (N,), the same in every call."""
        rng, n = np.random.default_rng(0), self.config.batch_size
        return rng.standard_normal((n, *self.shape), self.config.dtype), rng.integers(self.classes, size=n)

    def description(self):
        """The Work as plain values, for a row of results."""
        config = self.config
        return {"work": str(self), "model": config.model, "rule": config.rule, "batch": config.batch_size,
                "shape": self.shape, "evaluation": self.evaluation, "threads": self.threads}  # fmt: skip

    def task(self, side):
        """The method to be timed of wtref's side or PyTorch's."""
        return side.evaluate if self.evaluation else side.step


def grid(models, rules, batches, shape=None, **options):
    """[Work] of every combination."""
    return [Work.of(model, rule, batch, shape, **options) for model, rule, batch in product(models, rules, batches)]
