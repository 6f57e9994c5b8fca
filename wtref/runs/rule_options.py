"""The options of a rule's constructor, given as text: `--rule-option c=0.1`."""

import ast
import inspect

from wtref.errors import InputError
from wtref.relatives import RULES


def names(rule):
    """The names of the options that a rule's constructor takes; rule: its name."""
    return [*_defaults(rule)]


def _defaults(rule):
    """{option: its default} of a rule's constructor."""
    parameters = list(inspect.signature(RULES[rule]).parameters.values())[1:]  # without rng
    return {each.name: each.default for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}


def values(options):
    """{name: value} of texts such as "c=0.1": numbers, True, False, None and the like, and any other text as it is.

    Raises InputError for other texts, and for an option that is given twice.
    """
    found = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--rule-option must be a name and a value, such as c=0.1, found {option!r}")
        if name in found:
            raise InputError(f"--rule-option {name} is given twice; leave one of them out")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found


def check(rule, options):
    """Raise InputError unless all options, texts such as "c=0.1", are those of the rule, and numbers or switches where its defaults are."""
    given, defaults = values(options), _defaults(rule)
    for name in given.keys() - defaults.keys():
        raise InputError(f"rule {rule!r} has no option {name!r}; it has: {', '.join(defaults) or 'none'}")
    for name, value in given.items():
        default = defaults[name]
        for right, fits in (("a number", _is_number), ("True or False", _is_switch)):
            if fits(default) and not fits(value):
                raise InputError(f"--rule-option {name} must be {right}, as its default {default} is, found {value!r}")


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_switch(value):
    return isinstance(value, bool)


def of_each(rules, options):
    """{rule: {"rule_option": its part of the options}} for rules that are compared; empty where it has none of them.

    Raises InputError for an option that no rule has.
    """
    for name in values(options).keys() - {name for rule in rules for name in names(rule)}:
        raise InputError(f"none of the rules {', '.join(rules)} has an option {name!r}")
    parts = {rule: tuple(option for option in options if option.partition("=")[0] in names(rule)) for rule in rules}
    return {rule: {"rule_option": part} if part else {} for rule, part in parts.items()}
