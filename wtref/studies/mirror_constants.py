"""`run.py constants`: do the weight mirror's default constants hold on every network, without tuning?

Each network trains under the weight mirror for some steps, with batch norm before and after the activation, at learning
rates and batch sizes far apart.  The result is the worst angle of all layers, measured LOOKS times; of the matrix angles, as in
the paper, that of all layers but the last, whose W moves faster than any other.
"""

import math
import time
from itertools import chain, count, product
from typing import NamedTuple

from wtref import progress
from wtref.angles import delta_angles, matrix_angles
from wtref.device import to_host
from wtref.runs.config import Config
from wtref.runs.prepare import prepare
from wtref.text import shortened

MODELS = ("mlp", "lenet", "resnet8", "resnet20", "resnet18", "resnet50")
NORMS = ("before", "after")
SETTINGS = ((0.1, 128), (0.01, 128), (0.4, 128), (0.1, 32), (0.1, 512))  # lr and batch size
LOOKS = 6  # the measurements of the angles, evenly over the steps
MATRIX, DELTA = 12.0, 25.0  # degrees, the paper's own


class Finding(NamedTuple):
    """The result of one training.

    Attributes: matrix and delta, the worst angles in degrees, and their layers, "-" where no layer has one; mirroring, the
    fraction of the time that mirror steps take, of the steps without a measurement; loss, at the last measurement.
    """

    config: Config
    matrix: float = 0.0
    matrix_layer: str = "-"
    delta: float = 0.0
    delta_layer: str = "-"
    mirroring: float = math.nan
    loss: float = math.inf

    @property
    def held(self):
        """Whether both goals are met; not so where no layer has a delta angle, as where all errors are zero."""
        return self.matrix < MATRIX and self.delta < DELTA and self.delta_layer != "-" and math.isfinite(self.loss)


def study(models, steps, **given):
    """Yield a Finding for each network and setting; given: fields of Config in place of the defaults."""
    fixed = {"rule": "wm", "dataset": "synthetic", "warmup": 0.0, "schedule": "constant", **given}
    for model, norm, (lr, batch) in progress.each(product(models, NORMS, SETTINGS), _named):
        yield measure(Config(**{**fixed, "model": model, "norm": norm, "lr": lr, "batch_size": batch}), steps)


def _named(trained):
    model, norm, (lr, batch) = trained
    return f"{model}, norm {norm}, lr {lr:g}, batch {batch}"


def measure(config, steps):
    """Train for so many steps and measure the angles LOOKS times; returns a Finding."""
    training = prepare(config)
    for s in training.network.with_feedback:
        training.rule.before_training(s)
    worst = {"matrix": (0.0, "-"), "delta": (0.0, "-")}
    clock, mirroring, whole = _Clock(training.rule), 0.0, 0.0
    batches = chain.from_iterable(map(training.feed.train_batches, count()))
    for step, (images, labels) in zip(range(1, steps + 1), batches):
        look = step % max(steps // LOOKS, 1) == 0
        start = time.perf_counter()
        loss, _ = training.step(images, labels)
        training.position += 1
        seconds = clock.read()
        if not look:
            mirroring, whole = mirroring + seconds, whole + time.perf_counter() - start
            continue
        loss = float(to_host(loss))
        if not math.isfinite(loss):
            return Finding(config, loss=loss)
        matrices = matrix_angles(training.network)
        matrices.pop(training.network.synapses[-1].name)
        deltas = delta_angles(training.network, training.rule, training.loss, images, labels)
        for kind, angles in (("matrix", matrices), ("delta", deltas)):
            worst[kind] = max([worst[kind], *((angle, name) for name, angle in angles.items() if not math.isnan(angle))])
    return Finding(config, *worst["matrix"], *worst["delta"], mirroring / whole if whole else math.nan, loss)


class _Clock:
    """Measures the seconds that a rule's `between_steps` takes."""

    def __init__(self, rule):
        self.between_steps, self.seconds = rule.between_steps, 0.0
        rule.between_steps = self

    def __call__(self, s, sgd, step):
        start = time.perf_counter()
        self.between_steps(s, sgd, step)
        self.seconds += time.perf_counter() - start

    def read(self):
        """The seconds since the last reading."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


HEADER = "model      norm        lr   batch  matrix °  delta °  mirroring     loss"


def line(finding):
    """A Finding as a line under HEADER, and a second one, with the layers of the worst angles, where it did not hold."""
    c = finding.config
    about = f"{shortened(c.model, 9):<9}  {c.norm:<6}  {c.lr:6g}  {c.batch_size:6}"
    if not math.isfinite(finding.loss):
        return f"{about}   the loss became {finding.loss}"
    matrix, delta = (
        "-" if layer == "-" else f"{angle:.3g}"
        for angle, layer in ((finding.matrix, finding.matrix_layer), (finding.delta, finding.delta_layer))
    )  # fmt: skip
    mirroring = "-" if math.isnan(finding.mirroring) else f"{100 * finding.mirroring:.1f}"
    text = f"{about}  {matrix:>8}  {delta:>7}  {mirroring:>7} %  {finding.loss:7.3f}"
    if finding.held:
        return text
    return f"{text}\n    not held; the worst layers: matrix {finding.matrix_layer}, delta {finding.delta_layer}"
