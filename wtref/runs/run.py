"""The folder of a run, runs/NAME/: its configuration, its results, and the checkpoints from which it can be resumed.

    config.json     the run's Config, the versions it was started with, and a description of its data
    metrics.jsonl   one line per epoch (Training.record in training.py lists the entries)
    last.npz        the newest checkpoint (checkpoints.py);  previous.npz, the one before it
    best.npz        the checkpoint of the epoch with the lowest test error
    lock            held by the process that trains the run (locks.py)

recovery.py reads the checkpoints back.
"""

import contextlib
import os
import re
from dataclasses import asdict

from wtref import locks, plugins
from wtref.errors import InputError, Unsaved, resembling
from wtref.files import make_folder, remove, write_json, write_lines
from wtref.runs import checkpoints, resuming, run_files
from wtref.runs.folders import RUNS, free_folder, run_names
from wtref.runs.provenance import versions

OWN_FILES = ("config", "metrics", "last", "previous", "best")  # without their endings


class Run:
    """The folder of one run.  `create` makes a new one, `find` returns one that exists.

    Attributes: name; folder, a Path; made, whether `claim` has made the folder.
    """

    def __init__(self, name, made=False):
        self.name, self.folder, self.made = name, RUNS / name, made

    # --- a new run ---

    @classmethod
    def create(cls, config, data, device, name=None, training=None):
        """Make a new run: `claim` and `begin` in one."""
        run = cls.claim(config, name)
        with run.held():
            run.begin(config, data, device, training)
        return run

    @classmethod
    def claim(cls, config, name=None):
        """A Run whose folder exists and may `begin`; without a name it gets a new folder, named after the Config.

        Raises InputError if the name is no plain file name.
        """
        if name is None:
            return cls(free_folder(f"{config.model}-{config.rule}-{config.dataset}").name, made=True)
        check_name(name)
        run = cls(name, made=not os.path.lexists(RUNS / name))
        make_folder(run.folder)
        return run

    def begin(self, config, data, device, training=None):
        """Write the first files of a run; this process must hold the folder.

        Parameters
        ----------
        config : Config
        data : dict
            The description of the images, a feed's `about()`.
        device : str
            The name of the device.
        training : Training, optional
            The training that the run continues, if it does not start from initial weights.

        Raises
        ------
        InputError
            If the folder is not empty.
        Unsaved
            If the files cannot be written; what was written is removed then, and the folder if `claim` has made it.
        """
        self._check_empty()
        self.remove_leftovers()
        used = {**versions(), "device": device} | ({"plugin": plugins.loaded[config.plugin]} if config.plugin else {})
        about = {"config": asdict(config), "data": data, "versions": used}
        try:
            if training:
                self._save(training)
            write_json(self.folder / "config.json", about)  # from now on the folder is a run
        except Unsaved as error:
            self._undo()
            raise Unsaved(f"{error}; no run was started") from None

    def _undo(self):
        """Remove what `begin` has written, as far as the disk allows, and the folder if `claim` has made it."""
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                if self.made or path.name != "lock":
                    path.unlink()
            if self.made:
                self.folder.rmdir()

    def _check_empty(self):
        """Raise InputError unless the folder holds at most the leftovers of a process that was killed in `begin`."""
        present = {path.name for path in self.folder.iterdir() if path.name != "lock"}
        if "config.json" in present:
            go_on = f"continue it with --resume {self.name}, or choose another --log-name"
            raise InputError(f"a run named {self.name!r} exists in {self.folder}; {go_on}")
        if present - {path.name for path in self._leftovers()}:
            raise InputError(f"{self.folder} exists, but holds no run; remove it, or choose another --log-name")

    # --- an existing run ---

    @classmethod
    def find(cls, name):
        """The Run of that name.  Raises InputError, which lists the existing runs, if there is none."""
        if name not in run_names():
            close = resembling(name, run_names())
            hint = f", did you mean {close!r}?" if close else ";"
            raise InputError(f"no run named {name!r} in {RUNS}/{hint} there are: {', '.join(run_names()) or 'none yet'}")
        if not name.isprintable():
            raise InputError(f"{RUNS / name}: a run's name must consist of printable characters; rename the folder")
        return cls(name)

    def held(self):
        """A context in which no other process writes to the folder.  Raises InputError if another process holds it."""
        return locks.held(self.folder / "lock", f"run {self.name!r}")

    def config(self):
        """The Config that the run was started with."""
        return run_files.read_about(self.folder / "config.json")["config"]

    def check_plugin(self):
        """Raise InputError unless this process has run the plug-in, if there is one, that the run was started with."""
        about = run_files.read_about(self.folder / "config.json")
        path, was = about["config"].plugin, about["versions"].get("plugin")
        if path is None or was in plugins.loaded.values():
            return
        if not plugins.loaded:
            raise InputError(f"run {self.name!r} was started with a plug-in, which is not run unless it is named: give --plugin {path}")
        (other, found), *_ = plugins.loaded.items()
        changed = f"run {self.name!r} was started with the plug-in {path} of checksum {was}, found {other} of checksum {found}"
        raise InputError(f"{changed}; restore the text that it had, or start a new run")

    def images(self):
        """The run_files.Images that the run was started with."""
        return run_files.read_images(self.folder / "config.json")

    def metrics(self):
        """The records of all finished epochs, a list of dicts in the order of epochs."""
        try:
            records = run_files.read_metrics(self.folder / "metrics.jsonl")
        except FileNotFoundError:
            return []
        return sorted(records, key=lambda record: record["epoch"])

    def epochs_written(self):
        """The number of lines in the metrics file, which is not checked; 0 where there is none."""
        try:
            return (self.folder / "metrics.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0

    def lines(self):
        """The metrics with the run's rule and seed in each record, as `compare` writes them."""
        config = self.config()
        return [{"rule": config.rule, "seed": config.seed, **record} for record in self.metrics()]

    def progress(self):
        """The plain values of the newest checkpoint, which tell how far the run has come; None before the first checkpoint.

        Raises InputError if the checkpoint is damaged or lost.
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
        with resuming.naming(path):
            resuming.check_plain(plain)
        return plain

    def finished(self):
        """True if both the checkpoint and the record of the last epoch are saved."""
        try:
            progress, records = self.progress(), self.metrics()
        except InputError:
            return False
        epochs = self.config().epochs
        return progress is not None and progress["epoch"] == epochs in [record["epoch"] for record in records]

    def saved(self):
        """A phrase that tells how far the newest checkpoint goes."""
        try:
            plain = self.progress()
        except InputError:
            plain = None
        if plain is None:
            return f"{self.folder} holds no checkpoint"
        return f"{self.folder} holds epoch {plain['epoch']} and {plain['position']} steps more"

    # --- writing ---

    def save(self, training, record=None):
        """Replace the newest checkpoint and keep the one before it, and the best; record: that of an epoch just finished.

        The checkpoint contains the record as well, so recovery.restore can complete metrics.jsonl if the process is
        killed between the two files.  Raises Unsaved.
        """
        with self.writing():
            self._save(training, record)

    def _save(self, training, record=None):
        last = self.folder / "last.npz"
        if last.exists():
            checkpoints.keep_as(last, self.folder / "previous.npz")
        arrays, plain = resuming.state(training)
        checkpoints.write(last, arrays, {**plain, "record": record})
        self.keep_best(plain, last)
        if record:
            self.write_metrics([r for r in self.metrics() if r["epoch"] < record["epoch"]] + [record])

    @contextlib.contextmanager
    def writing(self):
        """A context in which Unsaved also tells how far the newest checkpoint goes."""
        try:
            yield
        except Unsaved as error:
            raise Unsaved(f"{error}; {self.saved()}") from None

    def keep_best(self, plain, path):
        """Keep the checkpoint at path, with these plain values, as best.npz if it ends the best epoch."""
        if plain["best"] and plain["best"]["epoch"] == plain["epoch"] and plain["position"] == 0:
            checkpoints.keep_as(path, self.folder / "best.npz")

    def write_metrics(self, records):
        """Write the records of all finished epochs to metrics.jsonl."""
        write_lines(self.folder / "metrics.jsonl", records)

    def remove_leftovers(self):
        """Remove the temporary files of a process that was killed while it wrote one of the run's files."""
        for leftover in self._leftovers():
            remove(leftover)

    def _leftovers(self):
        """The temporary files of the run's own files; those of figures and exports are left alone."""
        return [path for path in self.folder.glob(".*.tmp") if path.name.split(".")[1] in OWN_FILES]


def check_name(name):
    """Raise InputError unless this is a plain file name."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"log name {name!r} is not a plain file name; use letters, digits, '.', '_' and '-', the first not '.' or '-'")
