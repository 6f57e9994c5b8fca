"""The table of all runs that the command `runs` prints."""

import math

from wtref.errors import InputError
from wtref.runs.folders import run_names
from wtref.runs.run import Run
from wtref.text import WIDTH, columns, printable

INDENT = "    "


def table():
    """All runs in runs/ as text: name, rule, model, data, epoch, best test error and state.

    A run has one line, or two where the lines would be longer than WIDTH, so that its name, which other commands take, is whole.
    """
    rows = [("name", "rule", "model", "data", "epoch", "best error", "state"), *map(_row, run_names())]
    text = columns(rows, width=math.inf)
    if max(map(len, text.splitlines())) <= WIDTH:
        return text
    rest = columns([row[1:] for row in rows], width=WIDTH - len(INDENT)).splitlines()
    return "\n".join(f"{name}\n{INDENT}{line}" for (name, *_), line in zip(rows, rest))


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
