"""The commands that train: compare, reproduce and train."""

import argparse
import shlex

from wtref.cli.arguments import WHERE, add_config, listed
from wtref.errors import InputError
from wtref.relatives import RULES
from wtref.runs import compare, reproduce, session
from wtref.runs.config import Config
from wtref.runs.effects import check_effects
from wtref.runs.experiments import EXPERIMENTS
from wtref.runs.run import Run
from wtref.runs.tensorboard import check_installed

NOT_COMPARED = (  # without effect in `compare`, which saves no checkpoints and is for one process
    "save_every", "tensorboard", "sync_bn", "bucket_mib", "bucket_dtype", "wait_limit", "check_copies",
)  # fmt: skip


def add_commands(command):
    add_compare(command("compare", compare_rules))
    add_reproduce(command("reproduce", reproduce_experiment, together=True))
    add_train(command("train", train, together=True))


def add_compare(parser):
    parser.add_argument("--rules", nargs="+", default=["bp", "fa", "ss", "wm", "kp"], metavar="RULE", help=listed(RULES))
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0 up (default 5)")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: one per CPU core; 1 on a GPU)")
    add_config(parser, without=("rule", "seed", *NOT_COMPARED), **compare.DEFAULTS)


def compare_rules(args, given):
    """The same network under several rules and seeds, as a table and pictures."""
    config = Config(**{**compare.DEFAULTS, **given})
    check_effects(config, args.rules, vars(args))
    return compare.run(config, args.rules, args.seeds, args.jobs)


def add_reproduce(parser):
    known = listed(f"{name} ({experiment.about})" for name, experiment in EXPERIMENTS.items())
    parser.add_argument("name", metavar="NAME", help=known)
    parser.add_argument("--rules", nargs="+", metavar="RULE", help="only these of the experiment's rules")
    parser.add_argument("--seeds", type=int, metavar="N", help="how many seeds, from 0 up (default: the experiment's)")
    epochs = "passes over the training images (default: the experiment's)"
    parser.add_argument("--epochs", type=int, metavar="N", default=argparse.SUPPRESS, help=epochs)
    add_config(parser, only=WHERE)


def reproduce_experiment(args, given):
    """One of the paper's comparisons: all its rules and seeds, then a report; given again, it does what is left."""
    command = f"python run.py {' '.join(map(shlex.quote, args.words))}"
    return reproduce.reproduce(args.name, args.rules, args.seeds, given.pop("epochs", None), command, given, args.group)


def add_train(parser):
    parser.add_argument("--log-name", metavar="NAME", help="the run's folder in runs/ (default: a free name)")
    parser.add_argument("--resume", metavar="NAME", help="go on with that run, from its newest checkpoint")
    add_config(parser)


def train(args, given):
    """Train one network by one rule, in a folder of its own under runs/."""
    if args.resume is not None and args.log_name is not None:
        extra = f"leave --log-name {args.log_name} out"
        raise InputError(f"--resume goes on under the run's own name, {args.resume}; {extra}")
    run = Run.find(args.resume) if args.resume is not None else None
    config = session.resumed_config(run, given) if run else Config(**given)
    check_effects(config, (config.rule,), vars(args))
    if config.tensorboard:
        check_installed()
    return session.train(config, run, args.log_name, args.group)
