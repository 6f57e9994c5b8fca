"""What is printed of a training while it goes on: a row of a table for each epoch, and on a terminal a line about the present step."""

import time

from wtref import progress
from wtref.angles import mean_angle, measured
from wtref.runs.run_files import ANGLES


class StepLine:
    """The text of the line about a training's present step, such as "epoch 3/20  step 12/45  410 images/s  1:10 left".

    before: what stands before it.
    """

    def __init__(self, training, before=""):
        self.training, self.before = training, before
        self.first, self.start = training.steps_done, time.monotonic()

    def __call__(self):
        training, steps = self.training, self.training.feed.steps
        total = training.epochs * steps
        text = f"{self.before}epoch {min(training.epoch + 1, training.epochs)}/{training.epochs}  step {training.position}/{steps}"
        if training.seconds:
            text += f"  {training.position * training.config.batch_size / training.seconds:,.0f} images/s"
        return text + progress.left(training.steps_done - self.first, total - self.first, time.monotonic() - self.start)


def head(epochs):
    """The titles above the rows of a training of so many epochs."""
    return f"{'':{len(_count(epochs, epochs))}}    loss  train error  test error  matrix   delta   local  images/s"


def row(record, epochs):
    """An epoch's record (Training.record) as a row, and a second line where some layers have no angle."""
    angles = {kind: record[entry].values() for kind, entry in ANGLES.items()}
    means = "  ".join(f"{f'{mean_angle(found):.1f}°' if measured(found) else '–':>6}" for found in angles.values())
    count = f"{_count(record['epoch'], epochs):{len(_count(epochs, epochs))}}"
    errors = f"{record['train_error']:9.2f} %  {record['test_error']:8.2f} %"
    line = f"{count}  {record['train_loss']:6.4f}  {errors}  {means}  {record['images_per_second']:8,.0f}"
    without = ", ".join(filter(None, (_without(kind, found) for kind, found in angles.items())))
    return f"{line}\n    {without}" if without else line


def _count(epoch, epochs):
    return f"epoch {epoch}/{epochs}"


def _without(kind, angles):
    """In words: how many layers have no angle of this kind; "" if all have one."""
    missing = len(angles) - len(measured(angles))
    return f"no {kind} angle in {missing} of {len(angles)} layers" if missing else ""
