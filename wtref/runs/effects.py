"""Which flags have an effect in which runs: a flag that is given and would have none is an error, not ignored."""

from collections.abc import Callable
from typing import NamedTuple

from wtref.errors import InputError
from wtref.runs import rule_options
from wtref.runs.config import Config

FOLDERS = ("folder", "small-folder")


class Effect(NamedTuple):
    """Flags, what they are for, and whether they have an effect in runs of a Config under some rules."""

    names: tuple[str, ...]
    purpose: str
    has: Callable


def _taken(name, rules):
    """Whether the constructor of one of the rules takes that field of Config."""
    return any(name in rule_options.flags(rule).values() for rule in rules)


EFFECTS = (
    Effect(("crop", "rotate"), "data sets held in memory", lambda config, rules: config.dataset != "folder"),
    Effect(("jitter", "image_size"), "--dataset folder", lambda config, rules: config.dataset == "folder"),
    Effect(("bad_images", "workers"), "image folders", lambda config, rules: config.dataset in FOLDERS),
    Effect(("data_dir",), "data sets in files", lambda config, rules: config.dataset != "synthetic"),
    Effect(("hidden",), "--model mlp", lambda config, rules: config.model == "mlp"),
    Effect(("stem",), "residual networks", lambda config, rules: config.model not in ("mlp", "lenet")),
    Effect(("milestones",), "--schedule step", lambda config, rules: config.schedule == "step"),
    Effect(("nesterov",), "--momentum above 0", lambda config, rules: config.momentum > 0),
    Effect(("mirror_rows",), "rules wm, aa and ia", lambda config, rules: _taken("mirror_rows", rules)),
    Effect(("mirror_window",), "rule wm", lambda config, rules: _taken("mirror_window", rules)),
    Effect(("output_backprop",), "rules with feedback weights of their own", lambda config, rules: not {"bp", "frozen"}.issuperset(rules)),
    Effect(("noise_steps",), "rule fa", lambda config, rules: "fa" in rules),
)


def check_effects(config, rules, given):
    """Raise InputError, naming the flags, if some of those given have no effect in runs of config under the rules.

    rules: the names of rules, or their classes.
    given: the names of the flags that were given; other names in it are ignored, and so are flags with their default
    value.  The values of a preset are not among them and need no effect.
    """
    default = Config()
    idle = [
        f"--{name.replace('_', '-')} (it is for {effect.purpose})"
        for effect in EFFECTS if not effect.has(config, rules)
        for name in effect.names if name in given and getattr(config, name) != getattr(default, name)
    ]  # fmt: skip
    if idle:
        raise InputError(f"without effect in this run: {', '.join(idle)}; leave {'them' if idle[1:] else 'it'} out")
