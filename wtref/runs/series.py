"""A series: experiments that differ in one respect, trained one after the other and shown together."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from os.path import commonprefix

from wtref.angles import mean_angle
from wtref.files import make_folder, write_text
from wtref.runs.colours import label
from wtref.runs.drawing import available, save
from wtref.runs.report import last_lines
from wtref.text import columns, spread, wrapped


@dataclass(frozen=True)
class Series:
    """Several experiments and what is shown of them together.

    Attributes
    ----------
    about : str       what differs, in words
    parts : dict      {the name with which the names of its runs begin: its Experiment}
    draw : function of {part: metrics lines} that returns a Matplotlib figure, or None for a series without a picture
    """

    about: str
    parts: dict
    draw: Callable | None = None


def write(series, name, lines, folder):
    """Write the series' table, and its picture if it has one, into `folder`, new or not; returns the table and the paths.

    lines: {part: metrics lines of its finished runs}.  Raises Unsaved.
    """
    make_folder(folder)
    shown = text(series, lines)
    write_text(folder / "table.txt", shown)
    paths = [folder / "table.txt"]
    if series.draw and any(lines.values()) and available():
        paths += save({f"{name}.png": series.draw(lines)}, folder)
    return shown, paths


def text(series, lines):
    """The accuracies and the delta angles, a row for each part and a column for each rule, as text."""
    accuracies = _table(lines, "accuracy %", lambda last: spread([100 - line["test_error"] for line in last], "±"))
    deltas = _table(lines, "delta", lambda last: _angle(last, "delta_angles"))
    local = _table(lines, "local delta", lambda last: _angle(last, "local_delta_angles"))
    meaning = "each run's last epoch: test accuracy, mean ± standard deviation over seeds; angles in degrees, means over layers and seeds"
    return f"{accuracies}\n\n{deltas}\n\n{local}\n\n{wrapped(f'{series.about}; {meaning}')}\n"


def _table(lines, heading, cell):
    rules = list(dict.fromkeys(line["rule"] for part in lines.values() for line in part))
    shared = commonprefix(list(lines)).rpartition("-")
    skipped = len(shared[0] + shared[1])
    rows = [(heading, *map(label, rules))]
    for part, found in lines.items():
        lasts = [last_lines([line for line in found if line["rule"] == rule]) for rule in rules]
        rows.append((part[skipped:], *(cell(last) if last else "–" for last in lasts)))
    return columns(rows, str.rjust)


def _angle(last, entry):
    angle = mean_angle(mean_angle(line.get(entry, {}).values()) for line in last)
    return "–" if math.isnan(angle) else f"{angle:.1f}"
