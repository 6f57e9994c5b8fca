"""A run's checkpoints, read back: to resume training, and to use the trained network."""

import sys

from wtref.errors import InputError
from wtref.files import nan_for_null
from wtref.runs import checkpoints, resuming
from wtref.text import printable


def restore(run, training):
    """Bring a new Training to the newest intact checkpoint of a Run, and the run's folder to the state of that moment.

    Returns False if the run has not saved a checkpoint yet.  Raises InputError if it has, and none is intact.
    """
    damages = []
    for name in ("last.npz", "previous.npz"):
        path = run.folder / name
        try:
            arrays, plain = checkpoints.read(path)
        except FileNotFoundError:
            continue
        except checkpoints.Damaged as damage:
            damages.append(str(damage))
            continue
        with resuming.naming(path):
            resuming.check_training(arrays, plain, training)
        resuming.restore(training, arrays, plain)
        for damage in damages:
            print(f"wtref: {printable(damage)}; falling back to the checkpoint before it, {name}", file=sys.stderr)
        with run.writing():
            _tidy(run, path, plain)
        return True
    _check_nothing_lost(run, damages)
    with run.writing():
        run.remove_leftovers()
    return False


def load(run, network, device, which):
    """Bring a network to which no rule is connected to a Run's checkpoint "last" or "best"; returns its plain values.

    Raises InputError if that checkpoint does not exist, is damaged, or belongs to another network.
    """
    path = run.folder / f"{which}.npz"
    try:
        arrays, plain = checkpoints.read(path)
    except FileNotFoundError:
        remedy = "try --checkpoint best" if run.folder.joinpath("best.npz").exists() else f"go on with --resume {run.name}"
        raise InputError(f"run {run.name!r} has no {which} checkpoint; {remedy}") from None
    except checkpoints.Damaged as damage:
        raise InputError(f"{damage}; try another with --checkpoint, or --resume {run.name}") from None
    with resuming.naming(path):
        resuming.load(network, device, arrays, plain)
    return plain


def _check_nothing_lost(run, damages):
    """Raise InputError if a run without an intact checkpoint had one once; damages: the messages about damaged ones."""
    best = run.folder / "best.npz"
    if damages or best.exists() or run.folder.joinpath("metrics.jsonl").exists():
        lost = "; ".join(damages) or f"{run.folder} has metrics, but neither last.npz nor previous.npz"
        copy = f"restore last.npz from a copy{f', or copy {best} there' if best.exists() else ''}"
        raise InputError(f"{lost}; no checkpoint is left to go on from: {copy}, or start a new run")


def _tidy(run, path, plain):
    """Bring the run's folder to the state in which it was when the checkpoint at path had been saved."""
    last = run.folder / "last.npz"
    if path != last:
        checkpoints.keep_as(path, last)
    run.keep_best(plain, path)
    run.remove_leftovers()
    _complete_metrics(run, plain)


def _complete_metrics(run, plain):
    """Bring metrics.jsonl to the epoch of the checkpoint with these plain values."""
    present = run.metrics()
    records = {r["epoch"]: r for r in present if r["epoch"] <= plain["epoch"]}
    if record := plain.get("record"):
        records.setdefault(record["epoch"], nan_for_null(record))
    if list(records.values()) != present:
        run.write_metrics(records.values())
    if missing := plain["epoch"] - len(records):
        path = run.folder / "metrics.jsonl"
        print(f"wtref: {path} lacks {missing} of {plain['epoch']} epochs, which cannot be recovered", file=sys.stderr)
