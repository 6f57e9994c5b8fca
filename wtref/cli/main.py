"""The command line: `python run.py COMMAND --flags`.  What the commands do stands in commands.py."""

import argparse
import sys
from dataclasses import fields
from typing import get_args

from wtref import __version__
from wtref.cli import commands
from wtref.cli.streams import Unheard, guarded
from wtref.distributed.group import SINGLE, open_group
from wtref.errors import Diverged, Drifted, InputError, Unanswered, Unsaved, choose
from wtref.interrupts import exit_code, interrupting
from wtref.models import MODELS
from wtref.relatives import RULES
from wtref.runs.compare import DEFAULTS as COMPARE_DEFAULTS
from wtref.runs.config import Config
from wtref.runs.experiments import EXPERIMENTS
from wtref.runs.presets import PRESETS
from wtref.studies.mirror_constants import MODELS as STUDIED
from wtref.values import check_limits

WHERE = ("dataset", *(spec.name for spec in fields(Config) if spec.metadata["changeable"]))  # data may lie in another form
NOT_COMPARED = (  # without effect in `compare`, which saves no checkpoints and is for one process
    "save_every", "tensorboard", "sync_bn", "bucket_mib", "bucket_dtype", "wait_limit", "check_copies",
)  # fmt: skip
TOGETHER = (commands.train, commands.reproduce)  # what several processes can do together
DESCRIPTION = """\
Deep learning without weight transport (Akrout et al., NeurIPS 2019), written by hand.

With no arguments: compare, the main job.  With flags but no command: train."""


@guarded()
def main(argv=None):
    """Run one command; returns the exit code: 0 done, 1 failed, 2 bad input, more than 128 interrupted."""
    argv = [_hyphens(token) for token in (sys.argv[1:] if argv is None else argv)]
    if not argv:
        argv = ["compare"]
    elif argv[0].startswith("--") and argv[0] not in ("--help", "--version"):
        argv = ["train", *argv]
    group = SINGLE
    try:
        group, problem = _open_group()
        with interrupting(), group.session():
            code = _run(argv, group, problem)
            sys.stdout.flush()
            return code
    except InputError as error:
        return group.end(error, 2)
    except (Diverged, Drifted, Unanswered, Unsaved) as error:
        return group.end(error, 1)
    except MemoryError as error:
        reason = " ".join(str(error).split()) or "no more to be had"
        return group.end(f"out of memory ({reason}); lower --batch-size, or choose a smaller network", 2)
    except KeyboardInterrupt as interrupt:
        return group.end("interrupted", exit_code(interrupt))
    except Unheard as error:
        return group.end(error.said, 1)
    except Exception as error:
        group.crash(error)
        raise


def _open_group():
    """The group, and the InputError that kept this process from joining it, or None; whatever one process can do needs no group."""
    try:
        return open_group(), None
    except InputError as error:
        return SINGLE, error


def _run(argv, group, problem):
    try:
        args = _parser().parse_args(argv)
    except SystemExit as shown:
        return group.leave(shown.code)
    if problem and args.command in TOGETHER:
        raise problem
    check_limits(vars(args))
    if group.size > 1 and args.command not in TOGETHER:
        raise InputError(f"{argv[0]!r} is for one process, found {group.size}; start it without mpiexec or srun")
    args.words, args.group = argv, group
    return args.command(args, _given(args)) or 0


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(f"{message} (see {self.prog} --help)")

    def exit(self, *args):
        sys.stdout.flush()
        super().exit(*args)


def _parser():
    parser = _Parser(prog="run.py", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"wtref {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name, function):
        sub = subparsers.add_parser(name, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(command=function)
        return sub

    _add_training(command)
    _add_runs(command)
    _add_checks(command)
    return parser


def _add_training(command):
    sub = command("compare", commands.compare)
    sub.add_argument("--rules", nargs="+", default=["bp", "fa", "ss", "wm", "kp"], metavar="RULE", help=_list(RULES))
    sub.add_argument("--seeds", type=int, default=5, help="how many seeds, from 0 up (default 5)")
    sub.add_argument("--jobs", type=int, help="runs at a time (default: one per CPU core; 1 on a GPU)")
    _add_config(sub, without=("rule", "seed", *NOT_COMPARED), **COMPARE_DEFAULTS)

    sub = command("reproduce", commands.reproduce)
    sub.add_argument("name", metavar="NAME", help=_list(f"{name} ({e.about})" for name, e in EXPERIMENTS.items()))
    sub.add_argument("--rules", nargs="+", metavar="RULE", help="only these of the experiment's rules")
    sub.add_argument("--seeds", type=int, metavar="N", help="how many seeds, from 0 up (default: the experiment's)")
    sub.add_argument("--epochs", type=int, metavar="N", default=argparse.SUPPRESS, help="passes over the training images (default: the experiment's)")
    _add_config(sub, only=WHERE)

    sub = command("train", commands.train)
    sub.add_argument("--log-name", metavar="NAME", help="the run's folder in runs/ (default: a free name)")
    sub.add_argument("--resume", metavar="NAME", help="go on with that run, from its newest checkpoint")
    _add_config(sub)


def _add_runs(command):
    sub = command("eval", commands.evaluate)
    _add_run(sub)
    _add_config(sub, only=("dataset", "data_dir"))

    sub = command("predict", commands.predict)
    _add_run(sub)
    sub.add_argument("images", nargs="+", metavar="IMAGE", help="image files that Pillow reads")

    sub = command("figures", commands.draw)
    sub.add_argument("names", nargs="+", metavar="NAME", help="runs in runs/ (the pictures go to the first one's folder), or a metrics.jsonl")

    command("runs", commands.list_runs)

    sub = command("export", commands.export)
    _add_run(sub)
    sub.add_argument("--to", choices=["torch"], default="torch", help="the form: torch")

    sub = command("import", commands.import_)
    sub.add_argument("file", metavar="FILE", help="a state_dict, as written by export or torch.save")
    sub.add_argument("--log-name", metavar="NAME", help="the run's folder in runs/ (default: a free name)")
    _add_config(sub)


def _add_checks(command):
    sub = command("data", commands.data)
    sub.add_argument("action", nargs="?", choices=["fetch"], help="fetch: download a set from its official home")
    sub.add_argument("name", nargs="?", metavar="NAME", help="the set to fetch")
    _add_config(sub, only=("data_dir",))

    sub = command("bench", commands.bench)
    sub.add_argument("--models", nargs="+", metavar="MODEL", help=_list(MODELS))
    sub.add_argument("--rules", nargs="+", metavar="RULE", help=_list(RULES))
    sub.add_argument("--batches", nargs="+", type=int, metavar="N", help="images per step")
    sub.add_argument("--shape", nargs=3, type=int, metavar=("H", "W", "C"), help="default: CIFAR's or MNIST's")
    sub.add_argument("--repeats", type=int, default=7, metavar="N", help="turns the median is taken over (default 7)")
    sub.add_argument("--profile", action="store_true", help="also show where wtref's time goes")
    sub.add_argument("--json", metavar="FILE", help="write everything there too")
    kinds = sub.add_mutually_exclusive_group()
    kinds.add_argument("--growth", action="store_true", help="only how time grows with the batch and the network")
    kinds.add_argument("--scaling", action="store_true", help="one and two processes of this machine, and a prediction for more")
    kinds.add_argument("--loader", action="store_true", help="the loader's images per second, and the training step's")
    _add_config(sub, without=("model", "rule", "batch_size"))

    sub = command("check", commands.check)
    sub.add_argument("--models", nargs="+", default=["mlp", "lenet", "resnet18", "resnet50"], metavar="MODEL")
    sub.add_argument("--rules", nargs="+", default=["bp", "fa", "ss", "kp", "wm", "dfa"], metavar="RULE")
    _add_device(sub, dtype="float64")

    sub = command("mirror", commands.mirror)
    sub.add_argument("--inputs", type=int, default=576, metavar="N", help="cells of the layer that fires noise (default 576)")
    sub.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")

    sub = command("constants", commands.constants)
    sub.add_argument("--models", nargs="+", default=list(STUDIED), metavar="MODEL", help=_list(MODELS))
    sub.add_argument("--steps", type=int, default=60, metavar="N", help="training steps each (default 60)")
    _add_config(sub, only=(*WHERE, "mirror_noise", "mirror_window", "mirror_rows", "mirror_every", "seed"))

    sub = command("decays", commands.decay)
    sub.add_argument("--seeds", type=int, default=5, metavar="N", help="how many seeds, from 0 up (default 5)")
    _add_config(sub, only=("model", "epochs", "batch_size", "lr", "momentum", "schedule", "warmup", "hidden", *WHERE))

    sub = command("gpu-report", commands.report_gpu)
    sub.add_argument("--out", required=True, metavar="DIR", help="the report's folder")
    sub.add_argument("--device", default="cuda", help="cuda or cuda:N (default cuda)")

    _add_device(command("audit", commands.audit), dtype="float64")


def _add_config(sub, without=(), only=None, **defaults):
    """A flag for each field of Config, or `only` for some; a flag that is not given stays absent."""
    group = sub.add_argument_group("the run")
    if not only:
        group.add_argument("--preset", metavar="NAME", help=f"a recipe; other flags override it: {_list(PRESETS)}")
    for spec in fields(Config):
        if spec.name in without or only and spec.name not in only:
            continue
        default = defaults.get(spec.name, spec.default)
        text = spec.metadata["help"] + (f": {_list(spec.metadata['choices'])}" if spec.metadata["choices"] else "")
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text += "" if default is None else f" (default {shown})"
        how = _value(spec)
        group.add_argument(_flag(spec.name), default=argparse.SUPPRESS, help=text.replace("%", "%%"), **how)


def _add_run(sub):
    """A run that has a checkpoint."""
    sub.add_argument("name", metavar="NAME", help="a run in runs/")
    sub.add_argument("--checkpoint", choices=["best", "last"], default="last", help="best, last (default last)")
    _add_device(sub)


def _value(spec):
    """How argparse reads a field: its type, and several values for a tuple."""
    kinds = [kind for kind in get_args(spec.type) if kind not in (type(None), Ellipsis)] or [spec.type]
    if kinds == [bool]:
        return {"action": argparse.BooleanOptionalAction}
    many = {"nargs": "+"} if isinstance(spec.default, tuple) else {}
    return {"type": kinds[0], "metavar": kinds[0].__name__.upper().replace("STR", "NAME"), **many}


def _add_device(sub, dtype=None):
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    if dtype:
        sub.add_argument("--dtype", default=dtype, help=f"float32, float64 (default {dtype})")


def _given(args):
    """The Config fields that were set on the command line, by a preset or one by one."""
    values = {spec.name: getattr(args, spec.name) for spec in fields(Config) if hasattr(args, spec.name)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    preset = choose("preset", args.preset, PRESETS) if getattr(args, "preset", None) else {}
    return {**preset, **given}


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
