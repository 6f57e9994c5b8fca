"""The table of all runs that the command `runs` prints."""

from wtref.errors import InputError
from wtref.runs.folders import run_names
from wtref.runs.run import Run
from wtref.text import columns, printable


def table():
    """All runs in runs/ as text: name, rule, model, data, epoch, best test error and state, one line each."""
    rows = [("name", "rule", "model", "data", "epoch", "best error", "state"), *map(_row, run_names())]
    return columns(rows)


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
