"""`run.py check`: every number of a training compared with PyTorch's.

Both sides start from the same W, b and B, and see the same batches and, in mirror mode, the same noise; everything else
each side computes for itself.  wtref's side takes its steps by train_step, as every training does; PyTorch's side is
training.py.
"""

import copy
import math
from collections import defaultdict
from dataclasses import astuple, dataclass
from functools import partial
from itertools import product

import numpy as np

from wtref import fast, progress
from wtref.device import open_device, to_host
from wtref.errors import InputError, check_choice
from wtref.fast.ops import equip
from wtref.losses import softmax_cross_entropy
from wtref.models import ALIASES, Options, build
from wtref.optim import SGD
from wtref.oracle import CHECKED, CHECKED_MODELS
from wtref.relatives import RULES
from wtref.rules import Backprop
from wtref.text import columns, wrapped
from wtref.training import train_step

try:
    import torch
except ImportError:
    raise InputError("check needs PyTorch, which is not installed: pip install 'wtref[test]'") from None

from wtref.oracle.networks import plain_arithmetic
from wtref.oracle.passes import step_passes
from wtref.oracle.rules import MIRROR
from wtref.oracle.rules import RULES as WRITTEN_TWICE
from wtref.oracle.training import LR, MOMENTUM, WEIGHT_DECAY, Theirs

# The limit of every error of a Row.  There is none in float32, where a ReLU whose input is within rounding of 0 can be
# open on one side only, so that the errors of a deep network are for information.
LIMITS = {"float64": 1e-9, "float32": math.inf}

CLASSES = 10
ALIGNMENT = {"rows": MIRROR["rows"], "seed": MIRROR["seed"]}
RULE_OPTIONS = {"wm": MIRROR, "aa": ALIGNMENT, "ia": ALIGNMENT, "pfa": {"width": 2}}  # in less time and memory than by default

# An array's error is relative to at least this fraction of the largest array of its kind: where the true value is zero
# (the gradient of a bias just below a batch norm is) the array holds nothing but rounding.
FLOOR = 1e-3


@dataclass(frozen=True)
class Row:
    """The largest relative errors of one model under one rule; None where the network has no such array.

    Attributes: model, rule, dtype, by name; steps, how many were taken.
        Of the first step: forward, the error of the logits; delta_W, delta_b and delta_B, of the gradients that the rule
        learns from (of R's under pfa, and of B itself where it has no gradient); norm_gradients, of gamma's and beta's;
        running, of the running mean and variance.
        Of all steps: after, the error of every array and of the logits of evaluation.
    """

    model: str
    rule: str
    dtype: str
    steps: int
    forward: float
    delta_W: float
    delta_b: float
    delta_B: float | None
    norm_gradients: float | None
    running: float | None
    after: float

    @property
    def worst(self):
        """The largest of the errors; NaN if one of them is NaN."""
        return _largest(astuple(self)[4:])

    @property
    def passed(self):
        """Whether every error is below the dtype's limit; NaN is not."""
        return self.worst < LIMITS[self.dtype]


def check(
    models=CHECKED_MODELS,
    rules=CHECKED,
    device="cpu",
    dtype="float64",
    steps=10,
    options=Options(),
    report=lambda line: None,
    kernels="auto",
):
    """Compare every model under every rule with PyTorch.

    Parameters: models and rules by name; device and dtype as `open_device` takes them; steps of
    training; options of the models; report, called with one line of text after each comparison;
    kernels as `equip` takes them: with "plain" the network's own layers compute, else accelerated ones.
    Returns: a list of Rows.
    Rules that rules.py does not hold, a user's own, are compared in the forward and backward passes of each step alone.
    Raises: InputError for an unknown name, or a device PyTorch lacks.
    """
    for rule in rules:
        check_choice("rule", rule, RULES)
    device, rows = equip(open_device(device, dtype), kernels), []
    if device.name != "cpu" and not torch.cuda.is_available():
        raise InputError(f"check: PyTorch {torch.__version__} sees no CUDA device; use --device cpu")
    pairs = product([ALIASES.get(name, name) for name in models], rules)
    for model, rule in progress.each(pairs, " ".join):
        with plain_arithmetic():
            rows.append((_compare if rule in WRITTEN_TWICE else _compare_passes)(model, rule, device, steps, options))
        report(f"{model} {rule}: largest relative error {rows[-1].worst:.1e}")
    return rows


def table(rows):
    """The rows as text, in columns, and what was not compared."""
    lines = [("model", "rule", "forward", "delta W", "delta b", "delta B", "norm", "running", f"{rows[0].steps} steps")]
    for row in rows:
        model, rule, _, _, *errors = astuple(row)
        lines.append((model, rule, *("-" if e is None else f"{e:.1e}" for e in errors)))
    passes = ", ".join(dict.fromkeys(row.rule for row in rows if row.rule not in WRITTEN_TWICE))
    note = f"{passes}: the forward and backward passes of every step, with the B it had in each; what it learns is not compared"
    return columns(lines) + (f"\n{wrapped(note)}" if passes else "")


def _compare(model, rule, device, steps, options):
    """Let both sides take the same steps; returns a Row."""
    batch, *shape = _batch_shape(model, options)
    ours = Ours(model, rule, shape, device, options)
    theirs = Theirs(model, rule, shape, CLASSES, device, options, ours.arrays(), copy.deepcopy(ours.rule.rng))
    ours.before_training()
    theirs.before_training()
    rng = np.random.default_rng(2)
    for step in range(steps):
        images, labels = rng.standard_normal((batch, *shape)), rng.integers(CLASSES, size=batch)
        forward = _errors(ours.step(images, labels, step), theirs.step(images, labels))
        if step == 0:
            gradients = _errors(ours.gradients(), theirs.gradients())
            arrays = _errors(ours.arrays(), theirs.arrays())
            first = {
                "forward": forward["logits"],
                "delta_W": gradients["W"],
                "delta_b": gradients["b"],
                "delta_B": (arrays | gradients).get("R" if rule == "pfa" else "B"),
                "norm_gradients": _largest([gradients.get("gamma"), gradients.get("beta")]),
                "running": _largest([arrays.get("running_mean"), arrays.get("running_var")]),
            }
    arrays = _errors(ours.arrays(), theirs.arrays())
    evaluation = _errors(ours.evaluate(images), theirs.evaluate(images))
    after = _largest([*arrays.values(), *evaluation.values()])
    return Row(model, rule, np.dtype(device.dtype).name, steps, **first, after=after)


def _compare_passes(model, rule, device, steps, options):
    """The Row of a rule that PyTorch's side does not know: `after` is the largest error of the passes of all steps."""
    batch, *shape = _batch_shape(model, options)
    ours, rng, errors = Ours(model, rule, shape, device, options), np.random.default_rng(2), []
    ours.before_training()
    for step in range(steps):
        images = rng.standard_normal((batch, *shape)), rng.integers(CLASSES, size=batch)
        errors.append(_errors(*step_passes(ours, model, shape, CLASSES, options, images, step)))
    first = errors[0]
    norms, running = ([first.get(name) for name in names] for names in (("gamma", "beta"), ("running_mean", "running_var")))
    after = _largest([error for each in errors for error in each.values()])
    own = first["logits"], first["W"], first["b"], None, _largest(norms), _largest(running), after
    return Row(model, rule, np.dtype(device.dtype).name, steps, *own)


def _batch_shape(model, options):
    """(N, H, W, C) of a batch, in which every batch norm has at least 16 values a channel; fewer amplify rounding."""
    if model in ("mlp", "lenet"):
        return 16, 28, 28, 1
    return (4, 64, 64, 3) if options.stem == "imagenet" else (4, 16, 16, 3)


def _errors(ours, theirs):
    """{kind: the largest relative error} over layers; the kinds are W, b, B, gamma, ...

    Parameters: {"layer.kind": array on the host} of wtref and of PyTorch.  The error of an array is max |a - b| / max |b|,
    where b is PyTorch's, with the FLOOR where b vanishes; it is infinite where one side has no such array.
    """
    kinds, errors = defaultdict(list), {}
    for name in ours.keys() | theirs.keys():
        kinds[name.split(".")[-1]].append((ours.get(name), theirs.get(name)))
    for kind, pairs in kinds.items():
        floor = FLOOR * max((abs(b).max() for _, b in pairs if b is not None), default=0)
        errors[kind] = _largest([_error(a, b, floor) for a, b in pairs])
    return errors


def _error(a, b, floor):
    if a is None or b is None or a.shape != b.shape:
        return math.inf
    difference = abs(a - b).max()
    return difference / max(abs(b).max(), floor) if difference else 0.0


def _largest(errors):
    """The largest of the errors that are not None: NaN if one of them is NaN, None if there are none."""
    errors = [error for error in errors if error is not None]
    return float(np.max(errors)) if errors else None


class Ours:
    """wtref's side: a network of models.py with its rule and its optimizer."""

    def __init__(self, model, rule, shape, device, options):
        self.network = build(model, shape, CLASSES, options)
        self.device, rng = device, np.random.default_rng(0)
        self.network.initialise(device, rng)
        self.rule = RULES[rule](rng, **RULE_OPTIONS.get(rule, {}))
        self.keeps_B = not isinstance(self.rule, Backprop)  # backprop's is W itself
        for s in self.network.with_feedback:
            self.rule.connect(s, CLASSES)
        make_sgd = SGD if device.ops is None else partial(fast.SGD, device)
        self.sgd = _RecordingSGD(make_sgd(self.network.arrays(), LR, MOMENTUM, weight_decay=WEIGHT_DECAY))
        self.fast = fast.accelerate(self.network, device)
        fast.accelerate_noise(self.rule, device)

    def before_training(self):
        for s in self.network.with_feedback:
            self.rule.before_training(s)

    def step(self, images, labels, step):
        """Take a training step on images (N, H, W, C); returns {"logits": array on the host}."""
        images, labels = self.device.array(images), self.device.raw(labels)
        _, logits = train_step(self.fast, self.rule, self.sgd, softmax_cross_entropy, images, labels, step)
        return {"logits": to_host(logits)}

    def evaluate(self, images):
        """The logits of evaluation, as {"logits": array on the host}."""
        return {"logits": to_host(self.fast.forward(self.device.array(images), train=False))}

    def arrays(self):
        """{"layer.array": array on the host}."""
        arrays = self.network.arrays().items()
        return {name: to_host(x) for name, x in arrays if self.keeps_B or not name.endswith(".B")}

    def gradients(self):
        """{"layer.array": gradient on the host} that the optimizer was called with in the latest step."""
        return {name: to_host(gradient) for name, gradient in self.sgd.gradients.items()}


class _RecordingSGD:
    """An SGD that keeps the gradients it was called with."""

    def __init__(self, sgd):
        self.sgd, self.lr, self.gradients = sgd, sgd.lr, {}

    def descend(self, w, gradient, decay):
        self.gradients[self.sgd.name_of(w)] = gradient
        self.sgd.descend(w, gradient, decay)
