"""The command line: `python run.py COMMAND --flags`, one short function per command."""

import argparse
import sys
from dataclasses import fields
from typing import get_args

from wtref import __version__, audit, compare, datasets
from wtref.backend import open_device
from wtref.config import Config
from wtref.errors import Diverged, InputError
from wtref.rules import RULES
from wtref.runs import Run
from wtref.training import Training

DESCRIPTION = """\
Deep learning without weight transport (Akrout et al., NeurIPS 2019), written by hand.

With no arguments: compare, the main job.  With flags but no command: train."""


def main(argv=None):
    """Run one command; returns the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    argv = [_hyphens(token) for token in (sys.argv[1:] if argv is None else argv)]
    if not argv:
        argv = ["compare"]
    elif argv[0].startswith("--") and argv[0] not in ("--help", "--version"):
        argv = ["train", *argv]
    try:
        args = _parser().parse_args(argv)
        return args.command(args) or 0
    except InputError as error:
        print(f"wtref: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"wtref: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("wtref: interrupted", file=sys.stderr)
        return 130


def _train(args):
    """Train one network by one rule, in a folder of its own under runs/."""
    given = _given(args)
    if args.resume is not None and args.log_name is not None:
        raise InputError(f"--resume goes on under the run's own name, {args.resume}; leave --log-name {args.log_name} out")
    run = Run.find(args.resume) if args.resume is not None else None
    config = _resumed_config(run, given) if run else Config(**given)
    device = open_device(config.device, config.dtype)
    training = Training(config, device, datasets.load(config.dataset, config.data_dir))
    run = run or Run.create(config, args.log_name)
    run.restore(training)
    weights = sum(s.W.size for s in training.network.synapses)
    print(f"{config.model}, {weights:,} weights, by {config.rule} on {config.dataset}; {device.name}, {config.dtype}")
    print(f"run: {run.folder}")
    try:
        for record in training.epochs():
            run.save(training, record)
            print(_epoch_line(record, config.epochs), flush=True)
    except KeyboardInterrupt:
        go_on = f"go on with: python run.py train --resume {run.name}"
        print(f"\nwtref: interrupted in epoch {run.saved_epoch() + 1}; {_saved(run)}; {go_on}", file=sys.stderr)
        return 130
    except Diverged as error:
        raise Diverged(f"{error}; {_saved(run)}") from None
    print(f"done: {config.epochs} epochs, checkpoint and metrics in {run.folder}")


def _evaluate(args):
    """Test a run's network on its data set's test images."""
    run = Run.find(args.name)
    config = run.config()
    device = open_device(args.device, config.dtype)
    data = datasets.load(config.dataset, config.data_dir)
    training = Training(config, device, data)
    if not run.restore(training):
        raise InputError(f"run {run.name!r} has no finished epoch yet; continue it with --resume {run.name}")
    loss, error = training.evaluate(data.test_images, data.test_labels)
    print(f"{run.name}: epoch {training.epoch}, {len(data.test_labels)} test images of {config.dataset}")
    print(f"test error {error:.2f} %, test loss {loss:.4f} nats")


def _compare(args):
    """The same network under several rules and seeds, as a table and pictures."""
    config = Config(**{**compare.DEFAULTS, **_given(args)})
    return compare.run(config, args.rules, args.seeds, args.jobs)


def _check(args):
    """The same network in PyTorch, side by side; exits 1 where float64 exceeds 1e-9."""
    from wtref import torch_check

    rows = torch_check.check(args.models, args.rules, args.device, args.dtype, progress=print)
    print(torch_check.table(rows))
    return int(not all(row.passed for row in rows))


def _audit(args):
    """Does a rule's backward pass read W?  Exits 1 if a rule that claims to be free of it is not."""
    findings = audit.audit(open_device(args.device, args.dtype))
    print(audit.table(findings))
    return int(not all(finding.honest for finding in findings))


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(f"{message} (see {self.prog} --help)")


def _parser():
    parser = _Parser(prog="run.py", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"wtref {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name, function):
        sub = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(command=function)
        return sub

    sub = command("compare", _compare)
    sub.add_argument("--rules", nargs="+", default=["bp", "fa", "ss", "wm", "kp"], metavar="RULE", help=_list(RULES))
    sub.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0 up (default 5)")
    sub.add_argument("--jobs", type=int, help="runs at a time (default: one per CPU core; 1 on a GPU)")
    _add_config(sub, without=("rule", "seed"), **compare.DEFAULTS)

    sub = command("train", _train)
    sub.add_argument("--log-name", metavar="NAME", help="the run's folder in runs/ (default: a free name)")
    sub.add_argument("--resume", metavar="NAME", help="go on with that run")
    _add_config(sub)

    sub = command("eval", _evaluate)
    sub.add_argument("name", metavar="NAME", help="a run in runs/")
    _add_device(sub)

    sub = command("check", _check)
    sub.add_argument("--models", nargs="+", default=["mlp", "lenet", "resnet18", "resnet50"], metavar="MODEL")
    sub.add_argument("--rules", nargs="+", default=["bp", "fa", "ss", "kp", "wm", "dfa"], metavar="RULE")
    _add_device(sub, dtype="float64")

    _add_device(command("audit", _audit), dtype="float64")
    return parser


def _add_config(sub, without=(), **defaults):
    """A flag for each field of Config; a flag that is not given stays absent."""
    group = sub.add_argument_group("the run")
    for spec in fields(Config):
        if spec.name in without:
            continue
        default = defaults.get(spec.name, spec.default)
        text = spec.metadata["help"] + (f": {_list(spec.metadata['choices'])}" if spec.metadata["choices"] else "")
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text += "" if default is None else f" (default {shown})"
        how = {"action": argparse.BooleanOptionalAction} if spec.type is bool else _value(spec)
        group.add_argument(_flag(spec.name), default=argparse.SUPPRESS, help=text.replace("%", "%%"), **how)


def _value(spec):
    """How argparse reads a field: its number type, and several values for a tuple."""
    kinds = [kind for kind in get_args(spec.type) if kind not in (type(None), Ellipsis)] or [spec.type]
    many = {"nargs": "+"} if isinstance(spec.default, tuple) else {}
    return {"type": kinds[0], "metavar": kinds[0].__name__.upper().replace("STR", "NAME"), **many}


def _add_device(sub, dtype=None):
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    if dtype:
        sub.add_argument("--dtype", default=dtype, help=f"float32, float64 (default {dtype})")


def _given(args):
    """The Config fields that were set on the command line."""
    values = {spec.name: getattr(args, spec.name) for spec in fields(Config) if hasattr(args, spec.name)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _resumed_config(run, given):
    """The run's own Config; refuses flags that contradict it."""
    config = run.config()
    different = [
        f"{_flag(name)} is {getattr(config, name)}, not {value}"
        for name, value in given.items()
        if getattr(config, name) != value
    ]
    if different:
        raise InputError(f"--resume {run.name} contradicts the run: {'; '.join(different)}; leave those flags out")
    return config


def _epoch_line(record, epochs):
    angles = " ".join(
        f"{kind} angle {sum(values.values()) / len(values):.1f}°"
        for kind, values in (("matrix", record["matrix_angles"]), ("delta", record["delta_angles"]))
        if values
    )
    return (
        f"epoch {record['epoch']}/{epochs}  loss {record['train_loss']:.4f}  train error {record['train_error']:.2f} %  "
        f"test error {record['test_error']:.2f} %  {angles}  {record['images_per_second']:,.0f} images/s"
    )


def _saved(run):
    done = run.saved_epoch()
    return f"{run.folder} holds epoch {done}" if done else f"{run.folder} holds no finished epoch"


def _hyphens(token):
    """--log_name=a_b -> --log-name=a_b."""
    if not token.startswith("--"):
        return token
    name, equals, value = token.partition("=")
    return name.replace("_", "-") + equals + value


def _flag(name):
    return "--" + name.replace("_", "-")


def _list(choices):
    return ", ".join(choices)
