"""A run from its Config to its last checkpoint: what `train`, `compare` and `reproduce` have in common."""

import contextlib
import shlex
import sys
from dataclasses import fields, replace

from wtref import datasets, plugins, progress
from wtref.distributed.group import SINGLE
from wtref.errors import Diverged, InputError, memory_reason
from wtref.installation import program
from wtref.interrupts import stop_requests
from wtref.runs import printed, recovery, resuming
from wtref.runs.config import Config
from wtref.runs.prepare import prepare
from wtref.runs.provenance import checksum, versions
from wtref.runs.run import Run
from wtref.runs.tensorboard import event_writer
from wtref.text import counted, wrapped

CHANGEABLE = {spec.name for spec in fields(Config) if spec.metadata["changeable"]}
VARIED = {"rule", "rule_option", "seed"}  # the fields in which runs that are compared differ


def train(config, run=None, name=None, group=SINGLE):
    """Train in the folder of `run`, or in a new one called `name`, all processes of the group; returns the exit code."""
    with opened(config, run, name, group) as (training, opened_run):
        weights = sum(s.W.size for s in training.network.synapses)
        about = f"{config.model}, {weights:,} weights, by {config.rule} on {config.dataset}"
        print(wrapped(f"{about}; {device_in_words(training)}"))
        print(datasets.in_words(training.feed))
        datasets.warn(training.feed)
        lines = f"run: {opened_run.folder}", group.processes(), run and start_in_words(training)
        print(*map(wrapped, filter(None, lines)), sep="\n", flush=True)
        code, skipped = train_and_save(training, opened_run)
        say_skipped(skipped)
        return code


@contextlib.contextmanager
def opened(config, run=None, name=None, group=SINGLE):
    """(the Training that a Config asks for, at the newest checkpoint of its run if there is one; the Run).

    run: one that exists; None: a new one is made, called `name`.  Rank 0 alone reads and writes the folder, and holds
    its lock within the context.
    """
    resumed = run is not None
    group.set_timeout(config.wait_limit)
    with contextlib.ExitStack() as held:
        if resumed and group.rank == 0:
            held.enter_context(run.held())  # before the data are read, which may take long
            check_recipe(run, config)  # another process may have begun the run since it was looked for
        training = prepare(config, group=group)
        about = training.feed.about()
        if resumed and run.images().sha256 != about["sha256"]:
            raise InputError(f"run {run.name!r}: {config.dataset} is not the data that it was started with")
        group.verify({"the run that is resumed": run and run.name, **_common_facts(config, training, about)})
        group.prepare_transport(training.device, int(config.bucket_mib * 2**20), config.bucket_dtype)
        if resumed:
            _restore(training, run)
        else:
            run = group.on_rank_0(lambda: _begin(training, name, held))
        yield training, run


def _begin(training, name, held):
    """A new run, held within the ExitStack `held`."""
    run = Run.claim(training.config, name)
    held.enter_context(run.held())
    run.begin(training.config, training.feed.about(), training.device.name)
    return run


def _restore(training, run):
    """Bring a Training to the run's newest checkpoint, if there is one, in all processes."""
    group = training.group
    state = group.on_rank_0(lambda: recovery.restore(run, training) and group.size > 1 and resuming.state(training))
    if group.rank and state:
        resuming.restore(training, *state)


def device_in_words(training):
    """What computes: the device, the type of its numbers and its kernels."""
    return ", ".join(filter(None, (training.device.name, training.config.dtype, training.device.kernels)))


def start_in_words(training):
    """Where a resumed run goes on, in words; "" for a finished run."""
    epoch, step, steps = training.epoch, training.position, training.feed.steps
    if epoch == step == 0:
        return "no checkpoint was saved before: the run starts at epoch 1"
    if epoch == training.config.epochs:
        return ""
    return f"goes on after epoch {epoch}" + (f", step {step} of {steps}" if step else "")


def _common_facts(config, training, about):
    """{name: value} of all that has to be the same in all processes."""
    own = {"data_dir", "plugin", "device", "threads", "workers"}
    flags = {f"--{name.replace('_', '-')}": value for name, value in vars(config).items() if name not in own}
    kernels = training.device.kernels.partition(",")[0]  # they round alike, on however many threads
    named = {f"{name}'s version": version for name, version in versions().items()}
    named["wtref's source code"] = checksum()
    named["the plug-in's text"] = plugins.loaded.get(config.plugin)
    return {**named, "the data's sha256": about["sha256"], "kernels": kernels, **flags}


def resumed_config(run, given):
    """The run's own Config with the changeable fields of `given`.

    Raises InputError where its other fields contradict the run, or the plug-in is not the one that the run was started with.
    """
    run.check_plugin()
    if different := contradictions(run, given):
        raise InputError(f"flags contradict run {run.name!r}: {different}; leave them out, or choose another name")
    return replace(run.config(), **{name: value for name, value in given.items() if name in CHANGEABLE})


def recipe(config):
    """{field: value} of a Config that runs under several rules and seeds have in common where they are compared."""
    return {name: value for name, value in vars(config).items() if name not in VARIED | CHANGEABLE}


def check_recipe(run, config):
    """Raise InputError unless the run is one of this Config, in all but its changeable fields."""
    if different := contradictions(run, vars(config)):
        raise InputError(f"{run.folder} holds a run of another recipe: {different}; move it away")


def contradictions(run, given):
    """In words: the fields of Config in the dict `given` that make the run another one than it is, "" if none do."""
    config = run.config()
    return "; ".join(
        f"--{name.replace('_', '-')} is {getattr(config, name)}, not {value}"
        for name, value in given.items()
        if name not in CHANGEABLE and getattr(config, name) != value
    )


def train_and_save(training, run, before=""):
    """Train to the end, or until a signal asks one of the processes to stop; returns (exit code, skipped images).

    before: what stands before the line about the present step.  An epoch is saved before its row is printed.  After a signal
    the code is as a shell reports it: 130 after Ctrl-C, 143 after SIGTERM; if the signal came during the last steps, the run is
    finished all the same.
    """
    config, group = training.config, training.group
    done = "already finished" if training.epoch == config.epochs else "done"
    step_line = printed.StepLine(training, before)
    if training.epoch < config.epochs:
        print(printed.head(config.epochs), flush=True)
        progress.show(step_line())
    with stop_requests() as stop, event_writer(run, config.tensorboard and group.rank == 0) as write_events:
        group.watch_stop(stop)
        for record in _explained(training.run(), run):
            progress.update(step_line)
            if record or group.max(stop.signal or 0) or training.position % config.save_every == 0:
                training.flush()
                group.on_rank_0(lambda: run.save(training, record))
                if record:
                    print(printed.row(record, config.epochs), flush=True)
                    write_events(record)
                signal = group.max(stop.signal or 0)
                if signal and training.epoch < config.epochs:
                    print(_stopped(training, run), file=sys.stderr)
                    return 128 + signal, set()
        print(wrapped(f"{done}: {counted(config.epochs, 'epoch')}, checkpoints and metrics in {run.folder}"))
        skipped = group.union(set(training.feed.skipped))
    signal = group.max(stop.signal or 0)
    return (128 + signal if signal else 0), skipped


def say_skipped(skipped):
    """Print how many images were skipped, if any.  skipped: a line about each."""
    if skipped:
        print(wrapped(f"images that cannot be read and were skipped: {len(skipped):,}, such as: {min(skipped)}"))


def _explained(steps, run):
    """The same steps; the messages of Diverged and MemoryError also state what is saved."""
    try:
        yield from steps
    except Diverged as error:
        raise Diverged(f"{error}; {run.saved()}") from None
    except MemoryError as error:
        raise MemoryError(f"at batch size {run.config().batch_size}: {memory_reason(error)}; {run.saved()}") from None


def _stopped(training, run):
    """Where a training was stopped, and how to continue it, in words."""
    at = f"epoch {training.epoch + 1}, after step {training.position} of {training.feed.steps}"
    plugin = training.config.plugin
    go_on = f"go on with: {program()} train --resume {run.name}" + (f" --plugin {shlex.quote(plugin)}" if plugin else "")
    return f"wtref: stopped in {at}; all of it is saved in {run.folder}; {go_on}"
