"""The options of a rule's constructor: some have a flag of their own, the others are given as text, `--rule-option c=0.1`."""

import ast
import inspect
import reprlib

from wtref.errors import InputError
from wtref.relatives import RULES
from wtref.rules import WeightMirror

SEED, MIRROR = {"seed": "seed"}, {"rows": "mirror_rows", "window": "mirror_window"}  # {option: the field of Config that sets it}


def flags(rule):
    """{option: the field of Config that sets it} of the options of a rule, a name or a class, that have a flag of their own."""
    kind = RULES.get(rule, rule)
    if not inspect.isclass(kind):
        return {}
    fields = SEED | MIRROR if issubclass(kind, WeightMirror) else SEED
    return {option: field for option, field in fields.items() if option in _defaults(kind)}


def names(rule):
    """The names of a rule's other options."""
    return [name for name in _defaults(RULES[rule]) if name not in flags(rule)]


def _defaults(kind):
    """{option: its default} of a rule's constructor, and where it takes **options, of the constructor that it passes them to."""
    parameters = list(inspect.signature(kind).parameters.values())[1:]  # without rng
    passed_on = any(each.kind == each.VAR_KEYWORD for each in parameters)
    own = {each.name: each.default for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    return (_defaults(kind.__base__) if passed_on else {}) | own


def arguments(kind, config):
    """The keyword arguments of a rule's class in a run of a Config; a field that is None leaves the constructor's default."""
    given = {option: getattr(config, field) for option, field in flags(kind).items()}
    return {option: value for option, value in given.items() if value is not None} | values(config.rule_option or ())


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
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last two of a text that is nested too deeply
            found[name] = text
    return found


def check(rule, options):
    """Raise InputError unless all options, texts such as "c=0.1", are those of the rule, and numbers or switches where its defaults are."""
    given, defaults = values(options), _defaults(RULES[rule])
    _refuse_flags(rule, given)
    for name in given.keys() - defaults.keys():
        raise InputError(f"rule {rule!r} has no option {name!r}; it has: {', '.join(names(rule)) or 'none'}")
    for name, value in given.items():
        default = defaults[name]
        for right, fits in (("a number", _is_number), ("True or False", _is_switch)):
            if fits(default) and not fits(value):
                found = reprlib.repr(value)
                raise InputError(f"--rule-option {name} must be {right}, as its default {default} is, found {found}")


def _refuse_flags(rule, given):
    """Raise InputError if one of the options given has a flag of its own."""
    for option, field in flags(rule).items():
        if option in given:
            raise InputError(f"--rule-option {option}: rule {rule!r} takes it from --{field.replace('_', '-')}; give that instead")


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_switch(value):
    return isinstance(value, bool)


def of_each(rules, options):
    """{rule: {"rule_option": its part of the options}} for rules that are compared; empty where it has none of them.

    Raises InputError for an option that no rule has.
    """
    for name in values(options).keys() - {name for rule in rules for name in names(rule)}:
        for rule in rules:
            _refuse_flags(rule, {name})
        raise InputError(f"none of the rules {', '.join(rules)} has an option {name!r}")
    parts = {rule: tuple(option for option in options if option.partition("=")[0] in names(rule)) for rule in rules}
    return {rule: {"rule_option": part} if part else {} for rule, part in parts.items()}
