"""A run's folder, runs/NAME/: what was asked for, what came of it, and all it takes to go on.

    config.json     the run's Config, the versions it ran with, and what its data are
    metrics.jsonl   a line per epoch (training.py says what is in it)
    last.npz        the newest checkpoint (checkpoints.py);  previous.npz, the one before it
    best.npz        the checkpoint of the epoch with the lowest test error
"""

import contextlib
import json
import platform
import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

import wtref
from wtref import checkpoints, fitting, stored
from wtref.errors import InputError, Unsaved
from wtref.files import replacing
from wtref.text import printable

RUNS = Path("runs")


class Run:
    """The folder of one run; `create` a new one or `find` one that is there."""

    def __init__(self, name):
        self.name, self.folder = name, RUNS / name

    @classmethod
    def create(cls, config, data, device, name=None):
        """A new folder for a run of config, on data described by the dict `data`, on a device of this name.

        Raises InputError if the name is taken or no plain name.
        """
        run = cls(name if name is not None else free_name(f"{config.model}-{config.rule}-{config.dataset}"))
        if not re.fullmatch(r"\w[\w.-]*", run.name):
            raise InputError(f"log name {run.name!r} is not a plain file name; use letters, digits, '.', '_' and '-'")
        if run.folder.exists():
            if run.name not in names():
                raise InputError(f"{run.folder} exists, but holds no run; remove it, or choose another --log-name")
            go_on = f"continue it with --resume {run.name}, or choose another --log-name"
            raise InputError(f"a run named {run.name!r} exists in {run.folder}; {go_on}")
        new_folder(run.folder)
        about = {"config": asdict(config), "data": data, "versions": {**versions(), "device": device}}
        try:
            run._write_text("config.json", json.dumps(about, indent=2) + "\n")
        except OSError as error:
            run.folder.joinpath("config.json").unlink(missing_ok=True)
            run.folder.rmdir()
            raise Unsaved(f"cannot write to {run.folder}: {error.strerror}; no run was started") from None
        return run

    @classmethod
    def find(cls, name):
        """The folder of an existing run.  Raises InputError if there is none; names those there are."""
        if name not in names():
            raise InputError(f"no run named {name!r} in {RUNS}/; there are: {', '.join(names()) or 'none yet'}")
        if not name.isprintable():
            raise InputError(f"{RUNS / name}: a run's name must consist of printable characters; rename the folder")
        return cls(name)

    def config(self):
        """The Config that the run was started with."""
        return stored.read_about(self.folder / "config.json")["config"]

    def images(self):
        """What the images are that the run was started with, as stored.Images."""
        return stored.read_images(self.folder / "config.json")

    def add(self, record):
        """Write down an epoch's record; the records of its own and of later epochs give way to it."""
        records = [r for r in self.metrics() if r["epoch"] < record["epoch"]] + [record]
        self._write_metrics(records)

    def save(self, training):
        """Replace the newest checkpoint; keep the one before, and the best."""
        last = self.folder / "last.npz"
        if last.exists():
            checkpoints.keep_as(last, self.folder / "previous.npz")
        arrays, plain = training.state_on_host()
        checkpoints.write(last, arrays, plain)
        self._keep_best(plain, "last.npz")

    def restore(self, training):
        """Bring a fresh Training to the newest checkpoint that is whole; False if there is none yet."""
        damages = []
        for name in ("last.npz", "previous.npz"):
            try:
                arrays, plain = checkpoints.read(self.folder / name)
            except FileNotFoundError:
                continue
            except checkpoints.Damaged as damage:
                damages.append(str(damage))
                continue
            with self._fitting(name):
                fitting.check_training(arrays, plain, training)
            training.restore(arrays, plain)
            for damage in damages:
                print(f"wtref: {damage}; falling back to the checkpoint before it, {name}", file=sys.stderr)
            self._tidy(name, plain)
            return True
        if damages:
            raise InputError(f"{'; '.join(damages)}; no checkpoint before it is whole: restore one from a copy")
        self._remove_leftovers()
        return False

    def load(self, network, device, which):
        """Bring a network, without feedback, to the checkpoint "last" or "best"; returns the checkpoint's plain values."""
        name = f"{which}.npz"
        try:
            arrays, plain = checkpoints.read(self.folder / name)
        except FileNotFoundError:
            raise InputError(f"run {self.name!r} has no {which} checkpoint yet; go on with --resume {self.name}") from None
        except checkpoints.Damaged as damage:
            raise InputError(f"{damage}; try another with --checkpoint, or --resume {self.name}") from None
        with self._fitting(name):
            fitting.load(network, device, arrays, plain)
        return plain

    @contextlib.contextmanager
    def _fitting(self, name):
        """Let what is wrong about a checkpoint that is whole name its file."""
        try:
            yield
        except ValueError as error:
            raise InputError(f"{self.folder / name} does not fit the run's network: {error}") from None

    def saved(self):
        """In words: how far the newest checkpoint goes."""
        try:
            _, plain = checkpoints.read(self.folder / "last.npz")
        except (FileNotFoundError, checkpoints.Damaged):
            return f"{self.folder} holds no checkpoint"
        return f"{self.folder} holds epoch {plain['epoch']} and {plain['position']} steps more"

    def lines(self):
        """The metrics as `compare` writes them, a line per epoch, with rule and seed."""
        config = self.config()
        return [{"rule": config.rule, "seed": config.seed, **record} for record in self.metrics()]

    def metrics(self):
        """The records of all finished epochs."""
        try:
            records = stored.read_metrics(self.folder / "metrics.jsonl")
        except FileNotFoundError:
            return []
        return sorted(records, key=lambda record: record["epoch"])

    def _tidy(self, name, plain):
        """Make the folder what it was when checkpoint `name` was written."""
        if name != "last.npz":
            checkpoints.keep_as(self.folder / name, self.folder / "last.npz")
        self._keep_best(plain, name)
        self._remove_leftovers()
        records = self.metrics()
        if records and records[-1]["epoch"] > plain["epoch"]:
            self._write_metrics([r for r in records if r["epoch"] <= plain["epoch"]])

    def _remove_leftovers(self):
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink()

    def _keep_best(self, plain, name):
        """If checkpoint `name` is the end of the best epoch, it is best.npz too."""
        if plain["best"] and plain["best"]["epoch"] == plain["epoch"] and plain["position"] == 0:
            checkpoints.keep_as(self.folder / name, self.folder / "best.npz")

    def _write_metrics(self, records):
        self._write_text("metrics.jsonl", "".join(json.dumps(r) + "\n" for r in records))

    def _write_text(self, name, text):
        with replacing(self.folder / name) as file:
            file.write(text.encode())


def versions():
    """Of all that a run's numbers come from, by name."""
    return {"wtref": wtref.__version__, "numpy": np.__version__, "python": platform.python_version()}


def metrics_file(path):
    """The lines of a metrics.jsonl that compare or reproduce wrote: rule, seed, epoch and what was measured."""
    try:
        lines = stored.read_metrics(Path(path), stored.MEASURED | {"rule": str, "seed": int})
    except FileNotFoundError:
        raise InputError(f"no file {path}; give a metrics.jsonl of compare or reproduce, or names of runs") from None
    if not lines:
        raise InputError(f"{path} is empty; give a metrics.jsonl of compare or reproduce, or names of runs")
    return lines


def names():
    """All runs in runs/, in alphabetical order."""
    return sorted(path.parent.name for path in RUNS.glob("*/config.json"))


def table():
    """All runs as text: rule, model, data, epoch, best test error, state."""
    rows = [("name", "rule", "model", "data", "epoch", "best error", "state"), *map(_row, names())]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows)


def _row(name):
    run, name = Run(name), printable(name)
    try:
        config, records = run.config(), run.metrics()
    except InputError:
        return name, "-", "-", "-", "-", "-", "damaged"
    best = f"{min(r['test_error'] for r in records):.2f} %" if records else "-"
    begun = "unfinished" if run.folder.joinpath("last.npz").exists() else "not begun"
    state = "done" if len(records) == config.epochs else begun
    return name, config.rule, config.model, config.dataset, f"{len(records)}/{config.epochs}", best, state


def new_folder(folder):
    """Make a folder that must not exist yet.  Raises InputError where that cannot be."""
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None


def free_name(stem):
    """stem-1, stem-2, ...: the first that no folder in runs/ has."""
    number = 1
    while (RUNS / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"
