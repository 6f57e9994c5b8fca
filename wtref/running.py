"""A run from its Config to its last checkpoint: what `train` and `reproduce` have in common."""

import sys
from dataclasses import fields, replace

from wtref import datasets
from wtref.config import Config
from wtref.errors import Diverged, InputError, Unsaved
from wtref.runs import Run
from wtref.signals import stop_requests
from wtref.tensorboard import event_writer
from wtref.training import Training


def prepared(config, device_name=None):
    """The Training of a Config, on its own device or another."""
    device = config.open_device(device_name)
    return Training(config, device, datasets.open_feed(config, device))


def train(config, run=None, name=None):
    """Train in the folder of `run`, or in a new one called `name`; returns the exit code."""
    training = prepared(config)
    about = training.feed.about()
    if run is None:
        run = Run.create(config, about, training.device.name, name)
    elif run.about()["data"].get("sha256") != about["sha256"]:
        raise InputError(f"--resume {run.name}: {config.dataset} is not the data that the run was started with")
    else:
        run.restore(training)
    weights = sum(s.W.size for s in training.network.synapses)
    where = ", ".join(filter(None, (training.device.name, config.dtype, training.device.kernels)))
    print(f"{config.model}, {weights:,} weights, by {config.rule} on {config.dataset}; {where}")
    print(f"run: {run.folder}", flush=True)
    return _train_and_save(training, run)


def resumed_config(run, given):
    """The run's own Config, with what `given` says of where and how; refuses flags that contradict the rest."""
    config = run.config()
    changeable = {spec.name for spec in fields(Config) if spec.metadata["changeable"]}
    different = [
        f"--{name.replace('_', '-')} is {getattr(config, name)}, not {value}"
        for name, value in given.items()
        if name not in changeable and getattr(config, name) != value
    ]
    if different:
        raise InputError(f"--resume {run.name} contradicts the run: {'; '.join(different)}; leave those flags out")
    return replace(config, **{name: value for name, value in given.items() if name in changeable})


def _train_and_save(training, run):
    """Train to the end, or until a signal asks to stop; returns the exit code."""
    config = training.config
    with stop_requests() as stop, event_writer(run, config.tensorboard) as write_events:
        for record in _explained(training.steps(), run):
            if record:
                print(_epoch_line(record, config.epochs), flush=True)
                write_events(record)
            if record or stop.signal or training.position % config.save_every == 0:
                save(run, training, record)
            if stop.signal and training.epoch < config.epochs:
                at = f"epoch {training.epoch + 1}, after step {training.position} of {training.feed.steps}"
                go_on = f"go on with: python run.py train --resume {run.name}"
                print(f"wtref: stopped in {at}; all of it is saved in {run.folder}; {go_on}", file=sys.stderr)
                return stop.exit_code
    print(f"done: {config.epochs} epochs, checkpoints and metrics in {run.folder}")
    if training.feed.skipped:
        print(f"{len(training.feed.skipped)} damaged images were skipped, such as: {min(training.feed.skipped)}")
    return 0


def save(run, training, record=None):
    """Write a checkpoint, and an epoch's record if there is one; raises Unsaved."""
    try:
        if record:
            run.add(record)
        run.save(training)
    except OSError as error:
        raise Unsaved(f"cannot write to {run.folder}: {error.strerror}; {run.saved()}, unharmed") from None


def _explained(steps, run):
    """The same steps; a divergence also says what is saved, and too little memory what to do."""
    try:
        yield from steps
    except Diverged as error:
        raise Diverged(f"{error}; {run.saved()}") from None
    except MemoryError as error:
        batch = run.config().batch_size
        reason = " ".join(str(error).split()) or "no more to be had"
        raise InputError(f"out of memory at batch size {batch} ({reason}); lower --batch-size; {run.saved()}") from None


def _epoch_line(record, epochs):
    angles = " ".join(
        f"{kind} angle {sum(values.values()) / len(values):.1f}°"
        for kind, values in (("matrix", record["matrix_angles"]), ("delta", record["delta_angles"]))
        if values
    )
    return (
        f"epoch {record['epoch']}/{epochs}  loss {record['train_loss']:.4f}  train error {record['train_error']:.2f} %  "
        f"test error {record['test_error']:.2f} %  {angles}  {record['images_per_second']:,.0f} images/s"
    )
