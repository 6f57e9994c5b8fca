"""The commands that train: compare, reproduce and train."""

import argparse
import contextlib
import shlex
from dataclasses import replace

from wtref import plugins
from wtref.cli.arguments import WHERE, add_config, add_names, flag, listed
from wtref.cli.parser import Distinct
from wtref.errors import InputError, check_choice, choose
from wtref.installation import program
from wtref.relatives import RULES
from wtref.runs import course, rule_options, session
from wtref.runs.compare import KINDS, compare, finished_lines, reported
from wtref.runs.config import Config
from wtref.runs.effects import check_effects
from wtref.runs.experiments import COMPARED, DIGITS, EXPERIMENTS, Experiment, with_control
from wtref.runs.folders import RUNS, reserved, run_names
from wtref.runs.run import Run, check_name
from wtref.runs.series import write as write_series
from wtref.runs.tensorboard import check_installed
from wtref.studies.depth import DEPTH
from wtref.studies.differences import DIFFERENCES

# The fields of Config on which the time that Kolen-Pollack needs to align depends, besides the weight decay
STEPS = ("dataset", "epochs", "batch_size", "lr", "momentum", "schedule", "warmup", "milestones")
SERIES = {"depth": DEPTH, "mnist-differences": DIFFERENCES}
CONTROL = "the control, frozen, is always added"  # in the help of --rules


def add_commands(command):
    add_compare(command("compare", compare_rules, together=True))
    add_reproduce(command("reproduce", reproduce, together=True))
    add_train(command("train", train, together=True))


def add_compare(parser):
    add_names(parser, "--rules", "RULE", COMPARED, RULES, note=f"; {CONTROL}")
    seeds = EXPERIMENTS["digits"].seeds
    parser.add_argument("--seeds", type=int, default=seeds, metavar="N", help=f"number of seeds, 0, 1, ... (default: {seeds})")
    parser.add_argument(
        "--log-name", metavar="NAME", help="the report's folder in runs/ (default: a free name); one that exists is continued"
    )
    _add_jobs(parser)
    decay = f"{DIGITS['weight_decay']}, chosen for the main job; with any of {listed(map(flag, STEPS))}, that of train"
    add_config(parser, without=("rule", "seed"), **{**DIGITS, "weight_decay": decay})


def compare_rules(args, given):
    """Train one network under several rules and seeds, by a recipe of your own; print a table and write a report."""
    options = given.pop("rule_option", ())
    recipe = _recipe(given)
    config = Config(**recipe)
    names = with_control(args.rules)
    for rule in names:
        check_choice("rule", rule, RULES)
    rules = rule_options.of_each(names, options)
    check_effects(config, args.rules, vars(args))
    if args.log_name is not None:
        _check_report_name(args.log_name)
    experiment = Experiment(f"{config.model} on {config.dataset}", recipe, rules, args.seeds)
    with contextlib.ExitStack() as held:
        name = args.log_name or args.group.on_rank_0(lambda: held.enter_context(reserved(f"compare-{config.dataset}")).name)
        command = _command(args.words if args.log_name else [*args.words, "--log-name", name])
        return compare(experiment, name, RUNS / name, command, args.jobs, args.group)


def _check_report_name(name):
    """Raise InputError unless this is a plain file name, and none of the reports of `reproduce`."""
    check_name(name)
    if name.startswith("reproduce-"):
        raise InputError(f"--log-name {name}: names that begin with reproduce- are those of the reports of reproduce; choose another")


def _recipe(given):
    """The main job's recipe with the fields `given`; its weight decay was chosen for its own steps and learning rates."""
    fitting = {} if given.keys().isdisjoint(STEPS) else {"weight_decay": Config.weight_decay}
    return {**DIGITS, **fitting, **given}


def add_reproduce(parser):
    known = listed(f"{name} ({experiment.about})" for name, experiment in {**EXPERIMENTS, **SERIES}.items())
    parser.add_argument("name", metavar="NAME", help=known)
    rules = f"only these of the experiment's rules; {CONTROL}"
    parser.add_argument("--rules", nargs="+", action=Distinct, metavar="RULE", help=rules)
    parser.add_argument("--seeds", type=int, metavar="N", help="number of seeds, 0, 1, ... (default: the experiment's)")
    epochs = "passes over the training images (default: the experiment's); the runs have names of their own"
    parser.add_argument("--epochs", type=int, metavar="N", default=argparse.SUPPRESS, help=epochs)
    beside = "a CSV file of another program's epochs, shown beside these in experiments that have a picture of their course"
    parser.add_argument("--beside", metavar="FILE", help=f"{beside}; its columns: {listed(course.LOGGED)}")
    _add_jobs(parser)
    add_config(parser, only=WHERE, dataset="the experiment's")


def reproduce(args, given):
    """Do what is left of an experiment: train all its rules and seeds, print a table and write a report."""
    if args.name in SERIES:
        return _reproduce_series(args, given, SERIES[args.name])
    experiment = choose("experiment", args.name, {**EXPERIMENTS, **SERIES})
    rules = {rule: choose(f"rule for {args.name}", rule, experiment.rules) for rule in with_control(args.rules or experiment.rules)}
    ((name, experiment),) = _with_log(args, {args.name: replace(experiment, rules=rules, others=experiment.rules)}).items()
    code, _ = _reproduce(args, given, name, experiment)
    return code


def _reproduce(args, given, name, experiment):
    """Train what is left of an Experiment with the flags given; returns (exit code, metrics lines of all runs of its report)."""
    recipe = {**experiment.recipe, **given}
    if "plugin" in recipe:
        plugins.load(recipe["plugin"])
    experiment = replace(experiment, recipe=recipe, seeds=args.seeds or experiment.seeds)
    name = _named(name, given)
    for config in experiment.configs(name).values():
        check_effects(config, (config.rule,), given)
    code = compare(experiment, name, RUNS / f"reproduce-{name}", _command(args.words), args.jobs, args.group) if experiment.rules else 0
    return code, args.group.on_rank_0(lambda: finished_lines(reported(experiment, name)))


def _reproduce_series(args, given, series):
    """Reproduce the experiments of a Series one after the other, and show them together; returns the exit code."""
    known = {rule: rule for experiment in series.parts.values() for rule in experiment.rules}
    names = [choose(f"rule for {args.name}", rule, known) for rule in with_control(args.rules or known)]
    worst, lines = 0, {}
    for part, experiment in _with_log(args, series.parts).items():
        rules = {rule: own for rule, own in experiment.rules.items() if rule in names}
        code, found = _reproduce(args, given, part, replace(experiment, rules=rules, others=experiment.rules))
        if code > 1:  # bad input, or interrupted
            return code
        worst = max(worst, code)
        if rules or found:
            lines[part] = found
    name = _named(args.name, given)
    text, paths = args.group.on_rank_0(lambda: write_series(series, args.name, lines, RUNS / f"reproduce-{name}"))
    print(f"\n{text}", *(f"{KINDS[path.suffix]}: {path}" for path in paths), sep="\n")
    return worst


def _named(name, given):
    """The name of an experiment with its number of epochs, if that is given."""
    return name + (f"-{given['epochs']}epochs" if "epochs" in given else "")


def _with_log(args, parts):
    """The Experiments `parts`, {name: Experiment}; those that show their course have the log that --beside names."""
    if args.beside is None:
        return parts
    if not any(experiment.looks for experiment in parts.values()):
        raise InputError(f"--beside {args.beside} has no effect in {args.name}; leave it out")
    logs = {name: course.read_log(args.beside, {**each.others, **each.rules}) for name, each in parts.items() if each.looks}
    return {name: replace(experiment, beside=logs.get(name, [])) for name, experiment in parts.items()}


def _add_jobs(parser):
    jobs = "runs trained at a time, each in a process of its own (default: one per core; one on a GPU); 1: show every epoch"
    parser.add_argument("--jobs", type=int, metavar="N", help=jobs)


def _command(words):
    return f"{program()} {' '.join(map(shlex.quote, words))}"


def add_train(parser):
    names = parser.add_mutually_exclusive_group()
    names.add_argument("--log-name", metavar="NAME", help="the run's folder in runs/ (default: a free name)")
    names.add_argument("--resume", metavar="NAME", help="go on with that run, from its newest checkpoint")
    names.add_argument(
        "--resume-or-start", metavar="NAME", help="go on with that run, or start it if it does not exist, as in a requeued job"
    )
    add_config(parser)


def train(args, given):
    """Train one network by one rule, in a folder of its own under runs/."""
    existing = args.resume_or_start if args.resume_or_start in run_names() else args.resume
    run = Run.find(existing) if existing is not None else None
    config = session.resumed_config(run, given) if run else Config(**given)
    check_effects(config, (config.rule,), vars(args))
    if config.tensorboard:
        check_installed()
    new = args.log_name if args.resume_or_start is None else args.resume_or_start
    return session.train(config, run, new, args.group)
