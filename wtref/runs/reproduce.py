"""`run.py reproduce NAME`: all runs of an experiment, one after the other, and its report.

Each run is an ordinary one in runs/NAME-RULE-SEED/.  Those that are finished are left alone and those
that were interrupted go on, so the same command, given again, does what is left to do.
"""

import sys

from wtref import locks
from wtref.distributed.group import SINGLE
from wtref.errors import choose
from wtref.files import make_folder
from wtref.runs import report
from wtref.runs import session as running
from wtref.runs.config import Config
from wtref.runs.effects import check_effects
from wtref.runs.experiments import EXPERIMENTS
from wtref.runs.folders import RUNS, run_names
from wtref.runs.run import Run
from wtref.text import printable


def reproduce(name, rules=None, seeds=None, epochs=None, command="", where=None, group=SINGLE):
    """Do what is left of experiment `name`, then write its report into runs/reproduce-NAME/.

    rules, seeds, epochs: in place of the experiment's own; another number of epochs has runs of its own.
    command: what repeats it, for the report; where: Config fields that say where and how; group: the processes
    that train.  Returns the exit code.
    """
    experiment = choose("experiment", name, EXPERIMENTS)
    rules = list(rules or experiment.rules)
    for rule in rules:
        choose(f"rule for {name}", rule, experiment.rules)
    seeds = experiment.seeds if seeds is None else seeds
    recipe = {**experiment.recipe, **(where or {})}
    if epochs is not None:
        name, recipe["epochs"] = f"{name}-{epochs}epochs", epochs
    configs = {
        f"{name}-{rule}-{seed}": Config(**{**recipe, **experiment.rules[rule], "rule": rule, "seed": seed})
        for seed in range(seeds)
        for rule in rules
    }
    for config in configs.values():
        check_effects(config, (config.rule,), where or {})
    for done, (run_name, config) in enumerate(configs.items(), start=1):
        print(f"[{done}/{len(configs)}] {run_name}", flush=True)
        code = _finish(run_name, config, group)
        if code:
            print(f"wtref: stopped at run {done} of {len(configs)}; do what is left with: {printable(command)}", file=sys.stderr)
            return code
    lines = [line for run_name in configs for line in Run.find(run_name).lines()]
    about, folder = (experiment, list(configs.values()), lines), RUNS / f"reproduce-{name}"
    try:
        group.on_rank_0(lambda: _report(folder, *about, command))
    finally:  # what cannot be kept can still be read
        print(report.text(*about))
    print(f"report: {folder / 'report.html'}")
    return 0


def _report(folder, *about):
    """Write the report; another process may be writing that of other rules there."""
    make_folder(folder)
    with locks.held(folder / "lock", f"the report {folder}"):
        report.write(folder, *about)


def _finish(name, config, group):
    """Start the run, or go on with it, or see that nothing is left to do; returns the exit code."""
    begun, finished = group.on_rank_0(lambda: (name in run_names(), name in run_names() and Run(name).finished()))
    if not begun:
        return running.train(config, name=name, group=group)
    run = Run.find(name)
    config = running.resumed_config(run, vars(config))
    if finished:
        print(f"finished already: {run.folder}")
        return 0
    return running.train(config, run, group=group)
