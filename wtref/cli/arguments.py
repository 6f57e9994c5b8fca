"""Command-line flags that several commands share: those made from Config's fields, a run's name, a device."""

import argparse
from dataclasses import fields
from types import NoneType
from typing import get_args, get_origin

from wtref.cli.parser import Distinct
from wtref.errors import choose
from wtref.runs.config import Config
from wtref.runs.presets import PRESETS

WHERE = ("dataset", *(spec.name for spec in fields(Config) if spec.metadata["changeable"]))  # data may lie in another form
UNSAVED = ("plugin", "dataset", "data_dir", "workers", "device", "threads", "kernels", "graph")  # those of WHERE for one process without a run

GROUPS = {  # the groups of flags in every help text: fields of Config
    "network": ("model", "hidden", "activation", "norm", "stem", "loss"),
    "data": ("dataset", "data_dir", "crop", "flip", "rotate", "jitter", "image_size", "bad_images", "workers"),
    "optimizer": ("epochs", "batch_size", "lr", "momentum", "nesterov", "weight_decay", "schedule", "warmup", "milestones"),
    "your own": ("plugin",),
    "rule": ("rule", "rule_option", "mirror_rows", "mirror_window", "noise_steps", "output_backprop"),
    "the run": ("seed", "save_every", "tensorboard"),
    "device": ("device", "threads", "kernels", "dtype", "graph", "precision"),
    "several processes": ("sync_bn", "bucket_mib", "bucket_dtype", "wait_limit", "check_copies"),
}

OWN_FORM = {  # not by type alone
    "plugin": {"metavar": "FILE"}, "data_dir": {"metavar": "DIR"}, "rule_option": {"metavar": "NAME=VALUE", "action": "extend"},
}  # fmt: skip


def add_config(parser, without=(), only=None, **defaults):
    """Add a flag for each field of Config, or for those in `only`, in groups; a flag that is not given sets no attribute.

    defaults: {field: the default that the help text states}, where it is not Config's.
    """
    specs = {spec.name: spec for spec in fields(Config)}
    if not only:
        parser.add_argument("--preset", metavar="NAME", help=f"a recipe; other flags override it: {listed(PRESETS)}")
    for title, names in GROUPS.items():
        taken = [specs[name] for name in names if name not in without and (not only or name in only)]
        if taken:
            group = parser.add_argument_group(title)
        for spec in taken:
            text = _help(spec, defaults.get(spec.name, spec.default))
            group.add_argument(flag(spec.name), default=argparse.SUPPRESS, help=text, **_value(spec))


def _help(spec, default):
    """The help text of a field: what it is, its choices and its default."""
    choices = f": {listed(spec.metadata['choices'])}" if spec.metadata["choices"] else ""
    default = spec.metadata["otherwise"] if default is None else _in_words(default)
    return f"{spec.metadata['help']}{choices} (default: {default})".replace("%", "%%")


def _in_words(value):
    """A value as on the command line; for a switch, its position."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _value(spec):
    """The arguments that make argparse read a field: its type, and several values for a tuple."""
    kind = get_args(spec.type)[0] if NoneType in get_args(spec.type) else spec.type
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    many = {"nargs": "+"} if get_origin(kind) is tuple else {}
    kind = get_args(kind)[0] if many else kind
    return {"type": kind, "metavar": kind.__name__.upper().replace("STR", "NAME"), **many, **OWN_FORM.get(spec.name, {})}


def given_config(args):
    """The fields of Config that the command line sets, by a preset or one by one, as a dict."""
    values = {spec.name: getattr(args, spec.name) for spec in fields(Config) if hasattr(args, spec.name)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    preset = choose("preset", args.preset, PRESETS) if getattr(args, "preset", None) else {}
    return {**preset, **given}


def add_run(parser):
    """Add the name of a run and the choice of its checkpoint and of a device."""
    parser.add_argument("name", metavar="NAME", help="a run in runs/")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="last", help="best, last (default: last)")
    add_device(parser)


def add_device(parser, dtype=None):
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    if dtype:
        parser.add_argument("--dtype", default=dtype, help=f"float32, float64 (default: {dtype})")


def add_names(parser, name, metavar, default, choices, note=""):
    """Add a flag that takes several names, each of which counts once; note: what its help text says besides."""
    shown = "all" if list(default) == list(choices) else " ".join(default)
    text = f"{listed(choices)}{note} (default: {shown})"
    parser.add_argument(name, nargs="+", action=Distinct, default=default, metavar=metavar, help=text)


def flag(name):
    return "--" + name.replace("_", "-")


def listed(choices):
    return ", ".join(choices)
