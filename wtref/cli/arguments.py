"""Command-line flags that several commands share: those made from Config's fields, a run's name, a device."""

import argparse
from dataclasses import fields
from typing import get_args

from wtref.errors import choose
from wtref.runs.config import Config
from wtref.runs.presets import PRESETS

WHERE = ("dataset", *(spec.name for spec in fields(Config) if spec.metadata["changeable"]))  # data may lie in another form


def add_config(parser, without=(), only=None, **defaults):
    """Add a flag for each field of Config, or for those in `only`; a flag that is not given sets no attribute."""
    group = parser.add_argument_group("the run")
    if not only:
        group.add_argument("--preset", metavar="NAME", help=f"a recipe; other flags override it: {listed(PRESETS)}")
    for spec in fields(Config):
        if spec.name in without or only and spec.name not in only:
            continue
        default = defaults.get(spec.name, spec.default)
        text = spec.metadata["help"] + (f": {listed(spec.metadata['choices'])}" if spec.metadata["choices"] else "")
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text += "" if default is None else f" (default {shown})"
        group.add_argument(flag(spec.name), default=argparse.SUPPRESS, help=text.replace("%", "%%"), **_value(spec))


def _value(spec):
    """The arguments that make argparse read a field: its type, and several values for a tuple."""
    kinds = [kind for kind in get_args(spec.type) if kind not in (type(None), Ellipsis)] or [spec.type]
    if kinds == [bool]:
        return {"action": argparse.BooleanOptionalAction}
    many = {"nargs": "+"} if isinstance(spec.default, tuple) else {}
    return {"type": kinds[0], "metavar": kinds[0].__name__.upper().replace("STR", "NAME"), **many}


def given_config(args):
    """The fields of Config that the command line sets, by a preset or one by one, as a dict."""
    values = {spec.name: getattr(args, spec.name) for spec in fields(Config) if hasattr(args, spec.name)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    preset = choose("preset", args.preset, PRESETS) if getattr(args, "preset", None) else {}
    return {**preset, **given}


def add_run(parser):
    """Add the name of a run and the choice of its checkpoint and of a device."""
    parser.add_argument("name", metavar="NAME", help="a run in runs/")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="last", help="best, last (default last)")
    add_device(parser)


def add_device(parser, dtype=None):
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    if dtype:
        parser.add_argument("--dtype", default=dtype, help=f"float32, float64 (default {dtype})")


def flag(name):
    return "--" + name.replace("_", "-")


def listed(choices):
    return ", ".join(choices)
