"""A run's folder, runs/NAME/: what was asked for, what came of it, and all it takes to go on.

    config.json     the run's Config and the versions it ran with
    metrics.jsonl   a line per epoch (training.py says what is in it)
    last.npz        the checkpoint of the last finished epoch
"""

import json
import platform
import re
import zipfile
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

import wtref
from wtref.backend import to_host
from wtref.config import Config
from wtref.errors import InputError
from wtref.files import replacing

RUNS = Path("runs")


class Run:
    """The folder of one run; `create` a new one or `find` one that is there."""

    def __init__(self, name):
        self.name, self.folder = name, RUNS / name

    @classmethod
    def create(cls, config, name=None):
        """A new folder for a run of config.  Raises InputError if the name is taken or no plain name."""
        run = cls(name if name is not None else free_name(f"{config.model}-{config.rule}-{config.dataset}"))
        if not re.fullmatch(r"\w[\w.-]*", run.name):
            raise InputError(f"log name {run.name!r} is not a plain file name; use letters, digits, '.', '_' and '-'")
        if run.folder.exists():
            go_on = f"continue it with --resume {run.name}, or choose another --log-name"
            raise InputError(f"a run named {run.name!r} exists in {run.folder}; {go_on}")
        new_folder(run.folder)
        versions = {"wtref": wtref.__version__, "numpy": np.__version__, "python": platform.python_version()}
        run._write_text("config.json", json.dumps({"config": asdict(config), "versions": versions}, indent=2))
        return run

    @classmethod
    def find(cls, name):
        """The folder of an existing run.  Raises InputError if there is none; names those there are."""
        run = cls(name)
        if not (run.folder / "config.json").is_file():
            known = sorted(path.parent.name for path in RUNS.glob("*/config.json"))
            raise InputError(f"no run named {name!r} in {RUNS}/; there are: {', '.join(known) or 'none yet'}")
        return run

    def config(self):
        """The Config that the run was started with."""
        path = self.folder / "config.json"
        tuples = {spec.name for spec in fields(Config) if isinstance(spec.default, tuple)}
        try:
            stored = json.loads(path.read_text())["config"]
            return Config(**{name: tuple(v) if name in tuples else v for name, v in stored.items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is damaged ({error!r}); restore it from a copy, or start a new run") from None

    def save(self, training, record):
        """Add the epoch's record to the metrics and replace the checkpoint."""
        records = [r for r in self.metrics() if r["epoch"] < record["epoch"]] + [record]
        self._write_text("metrics.jsonl", "".join(json.dumps(r) + "\n" for r in records))
        arrays, plain = training.state()
        arrays = {name: to_host(array) for name, array in arrays.items()}
        with replacing(self.folder / "last.npz") as file:
            np.savez(file, **arrays, **{PLAIN: np.array(json.dumps(plain))})

    def restore(self, training):
        """Bring a fresh Training to where the checkpoint was written; False if there is none yet."""
        arrays, plain = self.checkpoint()
        if plain is None:
            return False
        self.metrics()  # if they are damaged, it shows before any work
        try:
            training.restore(arrays, plain)
        except (KeyError, ValueError) as error:
            raise InputError(f"{self.folder / 'last.npz'} does not fit the run's network ({error!r})") from None
        return True

    def saved_epoch(self):
        """The epoch that the checkpoint was written after; 0 if there is none."""
        _, plain = self.checkpoint()
        return plain["epoch"] if plain else 0

    def checkpoint(self):
        """(arrays, plain values) as saved, or (None, None)."""
        path = self.folder / "last.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return arrays, json.loads(str(arrays.pop(PLAIN)))
        except FileNotFoundError:
            return None, None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is damaged ({error}); restore it from a copy, or start a new run") from None

    def metrics(self):
        """The records of all finished epochs."""
        path = self.folder / "metrics.jsonl"
        try:
            records = [json.loads(line) for line in path.read_text().splitlines()]
            return sorted(records, key=lambda record: record["epoch"])
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error!r}); restore it from a copy") from None

    def _write_text(self, name, text):
        with replacing(self.folder / name) as file:
            file.write(text.encode())


PLAIN = "plain.json"  # the checkpoint's entry for everything that is not an array


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
