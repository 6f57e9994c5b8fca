"""Rules, models and data sets of the user's own: the decorators that register them, and plug-ins, the files that hold them.

A plug-in is a Python file.  The command line runs it where the user names it, `--plugin mine.py`, and never because a run's
folder names it.
"""

import contextlib
import hashlib
import inspect
import re
import runpy
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from wtref.datasets import DATASETS, IN_MEMORY
from wtref.errors import InputError
from wtref.models import ALIASES, MODELS
from wtref.relatives import RULES
from wtref.rules import Rule

Registered = TypeVar("Registered", bound=Callable)

BUILT_IN = {"rule": {*RULES}, "model": {*MODELS, *ALIASES}, "data set": {*DATASETS}}

loaded: dict[str, str] = {}  # the path of each plug-in that this process has run: the checksum of its text


def rule(name: str) -> Callable[[type[Rule]], type[Rule]]:
    """Register a learning rule: a decorator of a subclass of `wtref.Rule`.

    Parameters: name, by which `fit`, `--rule` and the tables know it; letters, digits, '.', '_' and '-', not '.' or '-' first.  A name that
        was registered before stands for the newer class.
    The constructor takes `rng`, a NumPy generator for feedback weights, and perhaps options: `def __init__(self, rng=None, c=0.1)`.
    An option named seed is the run's seed; those of a WeightMirror named rows and window are --mirror-rows and --mirror-window.
    Raises: InputError for a name of wtref's own or no plain name, a class that is no rule, or another constructor.
    """

    def register(made):
        if not (inspect.isclass(made) and issubclass(made, Rule)):
            raise InputError(f"@wtref.rule({name!r}) is for a subclass of wtref.Rule, found {made!r}")
        check_constructor(name, made)
        return _register("rule", name, made, RULES)

    return register


def model(name: str) -> Callable[[Registered], Registered]:
    """Register a network: a decorator of a function of (shape, classes, options) that returns its layers.

    Parameters: name, by which `fit`, `--model` and the tables know it.
    The function is given shape, (H, W, C) of an image; classes, the number of outputs; and options, a `wtref.Options`.
    Raises: InputError for a name of wtref's own or no plain name, and for what is no function.
    """
    return lambda made: _register("model", name, made, MODELS)


def dataset(name: str) -> Callable[[Registered], Registered]:
    """Register a data set: a decorator of a function of a folder that returns ((X, y), (Xt, yt)), or a Dataset.

    Parameters: name, by which `--dataset` and the tables know it.
    The function is given the Path of --data-dir, by default that of wtref's own data sets.  Its arrays are those of `fit`.
    Raises: InputError for a name of wtref's own or no plain name, and for what is no function.
    """
    return lambda made: _register("data set", name, made, IN_MEMORY)


def check_constructor(name, made):
    """Raise InputError unless the class of a rule can be called with `rng` alone, its first parameter."""
    signature = inspect.signature(made)
    with contextlib.suppress(TypeError):
        signature.bind(None)
        if next(iter(signature.parameters)) == "rng":
            return
    right = "def __init__(self, rng=None, c=0.1), rng first, with a default for all but rng"
    raise InputError(f"the constructor of rule {name!r} takes {signature}, right would be {right}")


def _register(kind, name, made, registry):
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"a {kind}'s name consists of letters, digits, '.', '_' and '-', the first not '.' or '-', found {name!r}")
    if name in BUILT_IN[kind]:
        raise InputError(f"there is a {kind} named {name!r} in wtref; choose another name")
    if not callable(made):
        raise InputError(f"the {kind} {name!r} must be a function, found {made!r}")
    registry[name] = made
    return made


def load(path: str) -> str:
    """Run a plug-in, unless this process has run that text; returns its absolute path.

    Raises: InputError if it cannot be read, ends with an error, or registers nothing.
    """
    absolute = str(Path(path).resolve())
    try:
        checksum = hashlib.sha256(Path(absolute).read_bytes()).hexdigest()[:12]
    except (OSError, ValueError) as error:
        raise InputError(f"--plugin {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if loaded.get(absolute) == checksum:
        return absolute
    before = _registered()
    with _explained(path, absolute):
        runpy.run_path(absolute, run_name="wtref_plugin")
    if _registered() == before:
        raise InputError(f"--plugin {path} registers nothing; put @wtref.rule('name') before a class in it, or @wtref.model, @wtref.dataset")
    loaded[absolute] = checksum
    return absolute


def _registered():
    return {**RULES, **MODELS, **IN_MEMORY}


@contextlib.contextmanager
def _explained(path, absolute):
    """A context in which a plug-in finds the modules beside it, and its errors become an InputError that names the line."""
    sys.path.append(str(Path(absolute).parent))
    try:
        yield
    except (Exception, SystemExit) as error:  # a plug-in must not end the program, as if all were done
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == absolute]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
        where = f"--plugin {path}" + (f", line {line}" if line else "")
        raise InputError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}") from None
