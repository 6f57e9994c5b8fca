"""A run's folder, runs/NAME/: what was asked for, what came of it, and all it takes to go on.

    config.json     the run's Config, the versions it ran with, and what its data are
    metrics.jsonl   a line per epoch (training.py says what is in it)
    last.npz        the newest checkpoint (checkpoints.py);  previous.npz, the one before it
    best.npz        the checkpoint of the epoch with the lowest test error
    lock            held by the process that trains the run (locks.py)
"""

import contextlib
import json
import platform
import re
import shutil
import sys
from dataclasses import asdict

import numpy as np

import wtref
from wtref import locks
from wtref.errors import InputError, Unsaved
from wtref.files import replacing
from wtref.runs import checkpoints, fitting, resuming, stored
from wtref.runs.folders import RUNS, free_folder, make_folder
from wtref.text import printable

OWN = ("config", "metrics", "last", "previous", "best")  # the files of a run, without their endings


class Run:
    """The folder of one run; `create` a new one or `find` one that is there."""

    def __init__(self, name):
        self.name, self.folder = name, RUNS / name

    @classmethod
    def create(cls, config, data, device, name=None, training=None):
        """A new run, as `claim` and `begin` make it."""
        run = cls.claim(config, name)
        with run.held():
            run.begin(config, data, device, training)
        return run

    @classmethod
    def claim(cls, config, name=None):
        """A run that may `begin` in its folder: a new one, unless it has a name.  Raises InputError if that is no plain name."""
        if name is None:
            return cls(free_folder(f"{config.model}-{config.rule}-{config.dataset}").name)
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise InputError(f"log name {name!r} is not a plain file name; use letters, digits, '.', '_' and '-'")
        make_folder(RUNS / name)
        return cls(name)

    def begin(self, config, data, device, training=None):
        """Make the folder, which this process holds, a run of config on data described by the dict `data`, on a device.

        training: what it goes on from, if not from the first weights.  Raises InputError if the folder is not empty.
        """
        self._check_empty()
        self._remove_leftovers()
        about = {"config": asdict(config), "data": data, "versions": {**versions(), "device": device}}
        try:
            if training:
                self.save(training)
            self._write_text("config.json", json.dumps(about, indent=2) + "\n")  # from now on it is a run
        except OSError as error:
            shutil.rmtree(self.folder)
            raise Unsaved(f"cannot write to {self.folder}: {error.strerror}; no run was started") from None

    def _check_empty(self):
        """Raise InputError unless nothing is in the folder, or only what a process left that was killed as it made it."""
        there = {path.name for path in self.folder.iterdir() if path.name != "lock"}
        if "config.json" in there:
            go_on = f"continue it with --resume {self.name}, or choose another --log-name"
            raise InputError(f"a run named {self.name!r} exists in {self.folder}; {go_on}")
        if there - {path.name for path in self._leftovers()}:
            raise InputError(f"{self.folder} exists, but holds no run; remove it, or choose another --log-name")

    def held(self):
        """A context in which this process alone writes to the folder.  Raises InputError if another one does."""
        return locks.held(self.folder / "lock", f"run {self.name!r}")

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

    def save(self, training, record=None):
        """Replace the newest checkpoint; keep the one before, and the best; record: that of an epoch that has just ended.

        The checkpoint holds the record too, and metrics.jsonl follows it: `restore` writes what a kill in between left out.
        """
        last = self.folder / "last.npz"
        if last.exists():
            checkpoints.keep_as(last, self.folder / "previous.npz")
        arrays, plain = resuming.state(training)
        checkpoints.write(last, arrays, {**plain, "record": record})
        self._keep_best(plain, "last.npz")
        if record:
            self._write_metrics([r for r in self.metrics() if r["epoch"] < record["epoch"]] + [record])

    def restore(self, training):
        """Bring a fresh Training to the newest checkpoint that is whole; False if none was saved yet.

        Raises InputError if there was one and it is lost.
        """
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
            resuming.restore(training, arrays, plain)
            for damage in damages:
                print(f"wtref: {printable(damage)}; falling back to the checkpoint before it, {name}", file=sys.stderr)
            with self.writing():
                self._tidy(name, plain)
            return True
        best = self.folder / "best.npz"
        if damages or best.exists() or self.folder.joinpath("metrics.jsonl").exists():
            lost = "; ".join(damages) or f"{self.folder} has metrics, but neither last.npz nor previous.npz"
            copy = f"restore last.npz from a copy{f', or copy {best} there' if best.exists() else ''}"
            raise InputError(f"{lost}; no checkpoint is left to go on from: {copy}, or start a new run")
        with self.writing():
            self._remove_leftovers()
        return False

    def load(self, network, device, which):
        """Bring a network, without feedback, to the checkpoint "last" or "best"; returns the checkpoint's plain values."""
        name = f"{which}.npz"
        try:
            arrays, plain = checkpoints.read(self.folder / name)
        except FileNotFoundError:
            remedy = "try --checkpoint best" if self.folder.joinpath("best.npz").exists() else f"go on with --resume {self.name}"
            raise InputError(f"run {self.name!r} has no {which} checkpoint; {remedy}") from None
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

    @contextlib.contextmanager
    def writing(self):
        """Let what keeps the folder from being written to raise Unsaved, which says what is still there."""
        try:
            yield
        except OSError as error:
            raise Unsaved(f"cannot write to {self.folder}: {error.strerror or error}; {self.saved()}") from None

    def progress(self):
        """The plain values of the newest checkpoint, which say how far the run is; None if it has not got to its first.

        Raises InputError if the checkpoint is damaged, or lost.
        """
        path = self.folder / "last.npz"
        try:
            plain = checkpoints.read_plain(path)
        except FileNotFoundError:
            if self.folder.joinpath("metrics.jsonl").exists():
                raise InputError(f"{self.folder} has metrics, but no last.npz") from None
            return None
        except checkpoints.Damaged as damage:
            raise InputError(str(damage)) from None
        with self._fitting(path.name):
            fitting.check_plain(plain)
        return plain

    def finished(self):
        """Has the last epoch been saved, its checkpoint and its record?"""
        try:
            progress, records = self.progress(), self.metrics()
        except InputError:
            return False
        epochs = self.config().epochs
        return progress is not None and progress["epoch"] == epochs in [record["epoch"] for record in records]

    def saved(self):
        """In words: how far the newest checkpoint goes."""
        try:
            plain = self.progress()
        except InputError:
            plain = None
        if plain is None:
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
        """Make the folder what it was when checkpoint `name` had been saved."""
        if name != "last.npz":
            checkpoints.keep_as(self.folder / name, self.folder / "last.npz")
        self._keep_best(plain, name)
        self._remove_leftovers()
        self._complete_metrics(plain)

    def _complete_metrics(self, plain):
        """Bring metrics.jsonl to the epoch of the checkpoint with these plain values."""
        there = self.metrics()
        records = {r["epoch"]: r for r in there if r["epoch"] <= plain["epoch"]}
        if record := plain.get("record"):
            records.setdefault(record["epoch"], record)
        if list(records.values()) != there:
            self._write_metrics(records.values())
        if missing := plain["epoch"] - len(records):
            path = self.folder / "metrics.jsonl"
            print(f"wtref: {path} lacks {missing} of {plain['epoch']} epochs, which are not to be had again", file=sys.stderr)

    def _remove_leftovers(self):
        for leftover in self._leftovers():
            leftover.unlink()

    def _leftovers(self):
        """What a process left that was killed as it wrote one of the run's files; figures and exports are not its own."""
        return [path for path in self.folder.glob(".*.tmp") if path.name.split(".")[1] in OWN]

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
        config, progress, _ = run.config(), run.progress(), run.metrics()
    except InputError:
        return name, "-", "-", "-", "-", "-", "damaged"
    epoch, best = (progress["epoch"], progress["best"]) if progress else (0, None)
    error = f"{best['test_error']:.2f} %" if best else "-"
    state = "done" if epoch >= config.epochs else "unfinished" if progress else "not begun"
    return name, config.rule, config.model, config.dataset, f"{epoch}/{config.epochs}", error, state
