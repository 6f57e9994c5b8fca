"""wtref from Python: `fit` trains a network on arrays, `audit` and `check` examine a rule.  Nothing here starts a process."""

from __future__ import annotations  # so that help() shows them as they are written

import contextlib
import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wtref.datasets.arrays import as_images, check_finite, from_arrays
from wtref.datasets.augment import Augmentation
from wtref.datasets.memory import MemoryFeed
from wtref.errors import InputError, choose
from wtref.files import make_folder
from wtref.layers import Flatten
from wtref.models import Network, assembled, build
from wtref.plugins import check_constructor
from wtref.randomness import FEEDBACK, generator
from wtref.relatives import RULES
from wtref.rules import Rule
from wtref.runs import figures
from wtref.runs.config import Config
from wtref.runs.effects import check_effects
from wtref.runs.predicting import probabilities
from wtref.runs.prepare import assemble, make_rule
from wtref.studies import audit as auditing
from wtref.training import Training

FOR_FIT = (  # the fields of Config that `fit` takes as settings
    "batch_size", "lr", "momentum", "nesterov", "weight_decay", "schedule", "warmup", "milestones", "loss", "norm", "activation", "hidden",
    "stem", "crop", "flip", "rotate", "seed", "device", "threads", "kernels", "dtype", "graph", "precision", "mirror_rows", "mirror_window",
    "output_backprop", "rule_option",
)  # fmt: skip


class FittedRun:
    """What `fit` returns.

    Attributes
    ----------
    records : list of dict    one of each epoch, of plain numbers: "test_error" in percent, "test_loss" in nats, "matrix_angles"
                              by layer in degrees, and the others of `wtref.training.Training.record`
    network : Network         trained; `network.synapses` have its W (n_out, n_in), B (n_in, n_out) and b (n_out,)
    rule : Rule               by which it was trained
    config : Config           all settings
    """

    def __init__(self, name: str, network: Network, training: Training, records: list[dict[str, Any]]):
        self.name, self.network, self.records = name, network, records
        self.rule, self.config, self._training = training.rule, training.config, training

    def __repr__(self) -> str:
        last = self.records[-1]
        return f"<wtref run: {self.name}, epoch {last['epoch']}, test error {last['test_error']:.2f} %>"

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """The most probable class of each row of X, integers (N,); see `probabilities`."""
        return self.probabilities(X).argmax(axis=1)

    def probabilities(self, X: ArrayLike) -> NDArray[np.floating]:
        """The softmax of the network's outputs, (N, classes).

        Parameters: X, as in training, and normalised like it.
        Raises: InputError if X has another shape or kind of values than in training, or holds NaN.
        """
        feed, images = self._training.feed, as_images(X)
        bytes_or_floats = np.uint8 if feed.dataset.levels else np.floating
        if images.shape[1:] != feed.shape or not np.issubdtype(images.dtype, bytes_or_floats):
            right, (H, W, C) = "bytes (uint8)" if feed.dataset.levels else "floats", feed.shape
            shape = f"(N, {W})" if H == C == 1 else f"(N, {H}, {W}, {C})"
            raise InputError(f"X is {images.dtype} of shape {np.shape(X)}, right would be {right} of shape {shape}, as in training")
        if images.dtype != np.uint8:
            check_finite("X", images)
        parts = [self._outputs(images[start : start + 256]) for start in range(0, len(images), 256)]
        return np.concatenate([np.empty((0, feed.classes), self._training.device.dtype), *parts])

    def _outputs(self, images):
        training = self._training
        return probabilities(training.network.forward(training.feed.normalise(training.device.raw(images)), train=False))

    def figures(self, folder: str | Path) -> list[Path]:
        """Draw the test error and the angles of all epochs into a folder, which is made if need be.

        Returns: the paths of the pictures; none, and a line on stderr, where matplotlib is not installed.
        Raises: Unsaved if a picture cannot be written.
        """
        folder = Path(folder)
        make_folder(folder)
        with _backend_kept():
            return figures.draw_comparison([{"rule": self.name, "curve": self.name, **record} for record in self.records], folder)


def fit(
    model: str | Sequence | Callable[..., Sequence | Network],
    train: tuple[ArrayLike, ArrayLike],
    test: tuple[ArrayLike, ArrayLike],
    rule: str | Rule | type[Rule] = "kp",
    epochs: int = 5,
    **settings: Any,
) -> FittedRun:
    """Train a network by a learning rule, and test it after each epoch.

    Parameters
    ----------
    model : "mlp", "resnet8" or another name in `wtref.MODELS`; a list of layers, such as [wtref.Linear("a", 64, 30), wtref.ReLU(),
        wtref.Linear("b", 30, 10)], of which a copy is trained; or a function of (shape, classes, options) that returns layers or a
        Network, shape being (H, W, C)
    train, test : pairs (X, y).  X (N, D) or (N, H, W, C): bytes (uint8), which are normalised by the mean and standard deviation
        of each channel in train, or floats, which the network takes as they are; a network of images is given (N, D) as (N, 1, D, 1).
        y (N,): integers from 0 up; the largest in train tells how many classes there are
    rule : "bp", "fa", "ss", "wm", "kp" or another name in `wtref.RULES`; or a subclass of `wtref.Rule`, or one of its objects,
        of which a copy is used, with its own options and random numbers
    epochs : passes over train
    settings : the flags of `run.py train` by name, such as lr=0.05, batch_size=64, hidden=(200, 100), seed=1 or device="cuda"

    Returns
    -------
    FittedRun

    Raises
    ------
    InputError
        In one line, for data, settings, a network or a rule that cannot be or do not fit together.
    Diverged
        If the loss becomes NaN or infinite.

    Source: Akrout et al. 2019; `wtref.rules` has each rule beside its equations.
    """
    config = _config(model, rule, epochs, settings)
    data, device = from_arrays("data", train, test), config.open_device()
    flat = np.ndim(train[0]) == 2
    if flat and (idle := [name for name in ("crop", "flip", "rotate") if getattr(config, name)]):
        advice = f"leave {'them' if idle[1:] else 'it'} out, or give X as (N, H, W, C)"
        raise InputError(f"{', '.join(idle)} would change images, but X is (N, D); {advice}")
    augmentation = Augmentation(config.crop, config.flip is True, config.rotate)
    feed = MemoryFeed(data, device, config.batch_size, config.seed, augmentation)
    network = _network(model, config, feed, flat)
    trained_by = copy.deepcopy(rule) if isinstance(rule, Rule) else make_rule(config, _class(rule))
    training = assemble(config, network, trained_by, feed, device)
    records = [record for record in training.run() if record]
    return FittedRun(_name(rule), network, training, records)


def audit(rule: str | Rule | type[Rule]) -> dict[str, Any]:
    """Find whether a rule transports weights, in two training steps on a small residual network (studies/audit.py).

    Parameters: rule, a name in `wtref.RULES`, a subclass of `wtref.Rule` or one of its objects, which is not changed.
    Returns: {"rule": its name, "declares": its `transports_weights`, "found": how it transports weights in words, or None,
        "honest": False if it does so without declaring it}.
    Raises: InputError for an unknown name; whatever the rule's own code raises.
    """
    make = (lambda rng: copy.deepcopy(rule)) if isinstance(rule, Rule) else _class(rule)
    (finding,) = auditing.audit({_name(rule): lambda: make(generator(0, FEEDBACK))})
    return asdict(finding) | {"honest": finding.honest}


def check(rule: str, models: str | Sequence[str] = ("mlp", "resnet8")) -> list[dict[str, Any]]:
    """Compare training steps by a rule with PyTorch's, in float64 on the CPU (oracle/check.py).

    wtref's own rules, which are written for PyTorch a second time, are compared in all they do; of a rule of one's own the
    forward and backward passes are, with the W and B that it had in each step.

    Parameters: rule, a name in `wtref.RULES`, to which `@wtref.rule` adds; models, one or more names of wtref's own in `wtref.MODELS`.
    Returns: of each model a dict of its largest relative errors by kind, of which "worst" is the largest; "passed": below 1e-9.
    Raises: InputError for unknown names, and if PyTorch is not installed.
    """
    from wtref.oracle import check as checking

    if not isinstance(rule, str):
        raise InputError(f"check takes the name of a rule, found {rule!r}; give it one by @wtref.rule(name)")
    rows = checking.check([models] if isinstance(models, str) else models, [rule])
    return [asdict(row) | {"worst": row.worst, "passed": row.passed} for row in rows]


@contextlib.contextmanager
def _backend_kept():
    """A context after which Matplotlib has the backend that it had before, as a notebook's that shows pictures."""
    if not find_spec("matplotlib"):
        yield
        return
    import matplotlib

    backend = dict.get(matplotlib.rcParams, "backend")  # as it is, where no backend has been chosen yet
    yield
    if isinstance(backend, str):
        matplotlib.use(backend)


def _config(model, rule, epochs, settings):
    """The Config of `fit`, in which a model or rule without a name keeps the default's name, and so does a rule's object."""
    for name in settings:
        choose("setting of fit", name, dict.fromkeys(FOR_FIT))
    kind = _class(rule)
    named = None if isinstance(rule, Rule) else rule if isinstance(rule, str) else _registered(kind)
    _check_rule_settings(rule, kind, named, settings)
    names = {field: name for field, name in (("model", model), ("rule", named)) if isinstance(name, str)}
    settings = {name: _plain(value) for name, value in settings.items()}
    config = Config(**settings, **names, epochs=_plain(epochs))
    own = () if isinstance(model, str) else ("hidden", "stem", "norm", "activation")
    if isinstance(model, (list, tuple)) and (idle := [name for name in own if name in settings]):
        raise InputError(f"without effect on a list of layers: {', '.join(idle)}; leave {'them' if idle[1:] else 'it'} out")
    check_effects(config, (_registered(kind) or kind,), settings.keys() - {*own})
    return config


def _check_rule_settings(rule, kind, named, settings):
    """Raise InputError for options that would not reach the rule: its object has its own, and only those of a name can be checked."""
    own = ("rule_option", "mirror_rows", "mirror_window") if isinstance(rule, Rule) else () if named else ("rule_option",)
    if idle := [name for name in own if name in settings]:
        them = "them" if idle[1:] else "it"
        raise InputError(f"{', '.join(idle)} would not reach the rule; give {them} to the constructor, rule={kind.__name__}(...)")


def _plain(value):
    """A setting as Config takes it: NumPy's numbers as Python's, and lists and arrays as tuples."""
    value = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
    return tuple(value) if isinstance(value, list) else value


def _network(model, config, feed, flat):
    """The Network of the argument `model`; flat: whether the data are vectors."""
    if isinstance(model, str):
        return build(model, feed.shape, feed.classes, config.model_options)
    if isinstance(model, (list, tuple)):
        return Network(*([Flatten()] if flat else []), *copy.deepcopy(model))
    if not callable(model):
        raise InputError(f"model must be a name, a list of layers or a function that returns layers, found {model!r}")
    return assembled(model, feed.shape, feed.classes, config.model_options)


def _class(rule):
    """The class of a rule that is given as a name, a class or an object."""
    if isinstance(rule, str):
        return choose("rule", rule, RULES)
    if isinstance(rule, Rule):
        return type(rule)
    if inspect.isclass(rule) and issubclass(rule, Rule):
        check_constructor(rule.__name__, rule)
        return rule
    raise InputError(f"rule must be a name, a subclass of wtref.Rule or one of its objects, found {rule!r}")


def _registered(kind):
    """The name by which a rule's class is registered; None if it is not."""
    return next((name for name, each in RULES.items() if each is kind), None)


def _name(rule):
    """A name for figures and tables: that by which a rule is registered, else its class's."""
    return rule if isinstance(rule, str) else _registered(_class(rule)) or _class(rule).__name__
