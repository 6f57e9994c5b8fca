"""The text files of a run, config.json and metrics.jsonl, read and checked.

Each reader raises FileNotFoundError if the file does not exist, and InputError, which names it, if it is damaged.
"""

import contextlib
import json
import math
import stat
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from wtref.errors import InputError
from wtref.files import nan_for_null
from wtref.runs.config import Config
from wtref.values import LIMITS, check_entries

MEASURED = {"epoch": int, "test_error": float, "matrix_angles": dict[str, float], "delta_angles": dict[str, float]}
RECORD = MEASURED | dict.fromkeys(("lr", "train_loss", "train_error", "test_loss", "seconds", "images_per_second"), float)
LATER = {  # entries that older files lack
    "feedback_ratios": dict[str, float], "delta_ratios": dict[str, float], "update_angle": float, "local_delta_angles": dict[str, float],
}  # fmt: skip


ANGLES = {"matrix": "matrix_angles", "delta": "delta_angles", "local delta": "local_delta_angles"}  # their names for readers


class Images(NamedTuple):
    """The description of a network's images, from a feed's `about()`; mean and std are those of the training images."""

    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    levels: int
    sha256: str

    @classmethod
    def of(cls, about):
        """From a dict.  Raises ValueError for wrong types and impossible values."""
        about = _tuples(about)
        check_entries(about, cls.__annotations__)
        images = cls(*(about[name] for name in cls._fields))
        if len(images.shape) != 3 or not all(1 <= size <= 10_000 for size in images.shape):
            raise ValueError(f"shape must be three sizes from 1 to 10,000, found {images.shape}")
        for name, low in (("mean", 0), ("std", 1e-9)):
            statistic = getattr(images, name)
            if len(statistic) != images.shape[2] or not all(low <= number <= 255 for number in statistic):
                raise ValueError(f"{name} must be from {low:g} to 255 in each of {images.shape[2]} channels, found {statistic}")
        if not 0 <= images.levels <= 255:  # 0: floats, not bytes
            raise ValueError(f"levels must be from 0 to 255, found {images.levels}")
        return images


def read_about(path):
    """config.json as a dict: "config", a Config; "data", a dict that Images.of checks; "versions", a dict."""
    with _naming(path):
        about = _tuples(json.loads(_text(path)))
        check_entries(about, {"config": dict, "data": dict, "versions": dict})
        unknown = about["config"].keys() ^ {spec.name for spec in fields(Config)}
    if unknown:
        raise InputError(f"{path} is of another version of wtref; it differs in: {', '.join(sorted(unknown))}")
    with _naming(path):
        return about | {"config": Config(**about["config"])}


def read_images(path):
    """The Images that config.json describes."""
    about = read_about(path)
    with _naming(path):
        return Images.of(about["data"])


def read_metrics(path, kinds=RECORD):
    """The lines of a metrics.jsonl, dicts with entries of the given types; null is read as NaN."""
    with _naming(path):
        lines = [_tuples(nan_for_null(json.loads(line))) for line in _text(path).splitlines()]
        for line in lines:
            check_record(line, kinds)
        _check_layers(lines)
    return lines


def read_results(path):
    """The lines of a metrics.jsonl of compare or reproduce, which have a rule and a seed as well.

    Raises InputError, also if the file does not exist or an epoch of a run occurs twice.
    """
    try:
        lines = read_metrics(Path(path), MEASURED | {"rule": str, "seed": int})
    except FileNotFoundError:
        raise InputError(f"no file {path}; give a metrics.jsonl of compare or reproduce, or names of runs") from None
    if not lines:
        raise InputError(f"{path} is empty; give a metrics.jsonl of compare or reproduce, or names of runs")
    check_once(path, lines, ("rule", "seed", "epoch"))
    return lines


def check_once(path, lines, names):
    """Raise InputError if two lines have the same values under all of these names; they would be averaged as if they were seeds."""
    for values, count in Counter(tuple(line[name] for name in names) for line in lines).items():
        if count > 1:
            found = ", ".join(f"{name} {value}" for name, value in zip(names, values))
            raise InputError(f"{path} has {count} lines of {found}; right would be one")


def check_record(line, kinds=RECORD):
    """Raise ValueError unless `line` is an epoch's record, with entries of the given types and, if at all, those of LATER."""
    check_entries(line, kinds)
    check_entries(line, {name: kind for name, kind in LATER.items() if name in line})
    if LIMITS["epochs"].misfit(line["epoch"]) or not 0 <= line["test_error"] <= 100:
        raise ValueError(f"epoch {line['epoch']} with a test error of {line['test_error']} % cannot be")
    for kind in ANGLES.values():
        for layer, angle in line.get(kind, {}).items():
            _check_angle(f"{kind} of {layer}", angle)
    _check_angle("update_angle", line.get("update_angle", math.nan))
    for kind in ("feedback_ratios", "delta_ratios"):
        for layer, ratio in line.get(kind, {}).items():
            if ratio < 0 or ratio == math.inf:
                raise ValueError(f"{kind} of {layer} must be at least 0 and finite, found {ratio}")
    for kind, angles in (("feedback_ratios", "matrix_angles"), ("delta_ratios", "delta_angles"), ("local_delta_angles", "matrix_angles")):
        if kind in line and line[kind].keys() != line[angles].keys():
            raise ValueError(f"the layers of {kind} are not those of {angles}")


def _check_angle(name, angle):
    if angle < 0 or angle > 180:  # NaN is allowed: the angle could not be measured
        raise ValueError(f"{name} must be from 0 to 180, found {angle}")


def _check_layers(lines):
    """Raise ValueError unless all lines of one rule have the same layers."""
    layers = {}
    for line in lines:
        mine = line["matrix_angles"].keys(), line["delta_angles"].keys()
        if layers.setdefault(line.get("rule"), mine) != mine:
            raise ValueError(f"the layers of epoch {line['epoch']} are not those of the other lines")


@contextlib.contextmanager
def _naming(path):
    """A context that turns a ValueError or OSError into an InputError that names the file and a remedy."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); restore it from a copy") from None


def _text(path):
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")
    return path.read_text(encoding="utf-8")


def _tuples(value):
    """The value, read from JSON, with tuples in place of lists."""
    if isinstance(value, dict):
        return {name: _tuples(part) for name, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
