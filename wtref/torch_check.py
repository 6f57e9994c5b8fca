"""The same network in PyTorch, side by side: `run.py check`.

Both sides start from the same W, b and B, see the same batches and, in mirror mode, the same
noise; all the rest each computes for itself.  On PyTorch's side backprop is autograd, the feedback
path is an autograd.Function (torch_networks.py), the optimizer is torch.optim.SGD, and each rule
is written a second time, from the paper.
"""

import math
from collections import defaultdict
from dataclasses import astuple, dataclass

import numpy as np

from wtref.backend import open_device, to_host
from wtref.errors import InputError, check_choice
from wtref.fast import accelerate
from wtref.kernels import equip
from wtref.losses import softmax_cross_entropy
from wtref.models import ALIASES, Options, build
from wtref.noise import NOISES
from wtref.optim import SGD
from wtref.relatives import RULES
from wtref.training import train_step

try:
    import torch
except ImportError:
    raise InputError("check needs PyTorch, which is not installed: pip install 'wtref[test]'") from None

from torch.nn.functional import cross_entropy

from wtref import torch_networks

MODELS = ("mlp", "lenet", "resnet18", "resnet50")
CHECKED = ("bp", "fa", "ss", "wm", "kp", "dfa")

# What every error of a Row has to stay below.  In float32 a ReLU whose input is within rounding of 0
# can open on one side only, and the errors of a deep network are for information.
LIMITS = {"float64": 1e-9, "float32": math.inf}

# At a usual rate, training on four images multiplies a difference of 1e-13 by 10 in every step.  At
# this small one the difference stays what it is, and the large decay keeps lr * weight_decay visible.
LR, MOMENTUM, WEIGHT_DECAY = 1e-5, 0.9, 10.0

# The mirror's first stretch is then one block, the shortest that shows W^T.
MIRROR = {"noise": "decorrelated", "window": 2, "rows": 128, "seed": 0}

CLASSES = 10

# An array is measured against no less than this fraction of the largest of its kind: where the true
# value is zero (a bias just below a batch norm has no gradient) there is only rounding to compare.
FLOOR = 1e-3


@dataclass(frozen=True)
class Row:
    """The largest relative errors of one model under one rule; None: nothing to compare.

    In the first step: forward, the logits; delta_W, delta_b, delta_B, the gradients that the rule
    learns from (in mirror mode B itself, which has none); norm_gradients, gamma's and beta's;
    running, the running mean and variance.  After `steps` steps: after, every array and the
    logits of evaluation.
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
        """The largest of the errors; NaN if one is."""
        return _largest(astuple(self)[4:])

    @property
    def passed(self):
        """Is every error below the dtype's limit?  NaN is not."""
        return self.worst < LIMITS[self.dtype]


def check(
    models=MODELS, rules=CHECKED, device="cpu", dtype="float64", steps=10, options=Options(), progress=None, kernels="auto"
):
    """Compare every model under every rule with PyTorch.

    Parameters: models and rules by name; device and dtype as `open_device` takes them; steps of
    training; options of the models; progress, called with one line of text after each comparison;
    kernels as `equip` takes them: with "plain" the network's own layers compute, else accelerated ones.
    Returns: a list of Rows.
    Raises: InputError for an unknown name, a rule not in CHECKED, or a device PyTorch lacks.
    """
    for rule in rules:
        check_choice("rule to check", rule, CHECKED)
    device, rows = equip(open_device(device, dtype), kernels), []
    if device.name != "cpu" and not torch.cuda.is_available():
        raise InputError(f"check: PyTorch {torch.__version__} sees no CUDA device; use --device cpu")
    for model in (ALIASES.get(name, name) for name in models):
        for rule in rules:
            with torch_networks.plain_arithmetic():
                rows.append(_compare(model, rule, device, steps, options))
            if progress:
                progress(f"{model} {rule}: largest relative error {rows[-1].worst:.1e}")
    return rows


def table(rows):
    """The rows as text, in columns."""
    after = f"after {rows[0].steps} steps"
    lines = [("model", "rule", "forward", "delta W", "delta b", "delta B", "batch norm", "running", after)]
    for row in rows:
        model, rule, _, _, *errors = astuple(row)
        lines.append((model, rule, *("-" if e is None else f"{e:.1e}" for e in errors)))
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _compare(model, rule, device, steps, options):
    """One Row: both sides take the same steps."""
    batch, *shape = _batch_shape(model, options)
    ours = Ours(model, rule, shape, device, options)
    theirs = Theirs(model, rule, shape, device, options, ours.arrays())
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
                "delta_B": (arrays if rule == "wm" else gradients).get("B"),
                "norm_gradients": _largest([gradients.get("gamma"), gradients.get("beta")]),
                "running": _largest([arrays.get("running_mean"), arrays.get("running_var")]),
            }
    arrays = _errors(ours.arrays(), theirs.arrays())
    evaluation = _errors(ours.evaluate(images), theirs.evaluate(images))
    after = _largest([*arrays.values(), *evaluation.values()])
    return Row(model, rule, np.dtype(device.dtype).name, steps, **first, after=after)


def _batch_shape(model, options):
    """(N, H, W, C), with at least 16 values a channel in every batch norm: fewer amplify rounding."""
    if model in ("mlp", "lenet"):
        return 16, 28, 28, 1
    return (4, 64, 64, 3) if options.stem == "imagenet" else (4, 16, 16, 3)


def _errors(ours, theirs):
    """{kind: the largest relative error}; a kind is what its arrays are called: W, b, gamma, ...

    Parameters: {"layer.kind": array on the host}, of both sides.  An array's error is
    max |a - b| / max |b|, b being PyTorch's; it is infinite where one side has no such array.
    FLOOR says what happens where b vanishes.
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
    """The largest that is not None, NaN if one is; None if there are none."""
    errors = [error for error in errors if error is not None]
    return float(np.max(errors)) if errors else None


class Ours:
    """A network of models.py with its rule and its optimizer."""

    def __init__(self, model, rule, shape, device, options):
        self.network = build(model, shape, CLASSES, options)
        self.device, rng = device, np.random.default_rng(0)
        self.network.initialise(device, rng)
        self.rule = RULES[rule](rng, **(MIRROR if rule == "wm" else {}))
        self.keeps_B = rule != "bp"  # backprop's is W itself
        for s in self.network.with_feedback:
            self.rule.connect(s, CLASSES)
        self.sgd = _RecordingSGD(self.network.arrays(), LR, MOMENTUM, weight_decay=WEIGHT_DECAY)
        self.fast = accelerate(self.network, device)

    def before_training(self):
        for s in self.network.with_feedback:
            self.rule.before_training(s)

    def step(self, images, labels, step):
        """One step of training on images (N, H, W, C); returns the logits."""
        images, labels = self.device.array(images), self.device.raw(labels)
        _, logits = train_step(self.fast, self.rule, self.sgd, softmax_cross_entropy, images, labels, step)
        return {"logits": to_host(logits)}

    def evaluate(self, images):
        """The logits without training."""
        return {"logits": to_host(self.fast.forward(self.device.array(images), train=False))}

    def arrays(self):
        """{"layer.array": array}, on the host."""
        arrays = self.network.arrays().items()
        return {name: to_host(x) for name, x in arrays if self.keeps_B or not name.endswith(".B")}

    def gradients(self):
        """{"layer.array": what the optimizer was given for it in the latest step}, on the host."""
        return {name: to_host(gradient) for name, gradient in self.sgd.gradients.items()}


class _RecordingSGD(SGD):
    """SGD that remembers the gradients it was given."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gradients = {}

    def descend(self, w, gradient, decay):
        self.gradients[self.name_of(w)] = gradient
        super().descend(w, gradient, decay)


class Theirs:
    """The same in PyTorch, from start: {"layer.array": array}, of which it takes W, b and B."""

    def __init__(self, model, rule, shape, device, options, start):
        self.rule, self.device = rule, device
        self.net = torch_networks.build(model, shape, CLASSES, options)
        self.net.to(device.name, getattr(torch, np.dtype(device.dtype).name))
        parts = list(self.net.named_modules())
        self.layers = {name: unit.weights for name, unit in parts if isinstance(unit, torch_networks.Unit)}
        self.norms = {name: norm for name, norm in parts if isinstance(norm, torch_networks.NORMS)}
        self.with_feedback = list(self.layers.values())[1:]
        for name, layer in self.layers.items():
            arrays = {array: start.get(f"{name}.{array}") for array in ("W", "b", "B")}
            layer.start(**{array: self._tensor(x) for array, x in arrays.items() if x is not None})
        self.optimizer = torch.optim.SGD(self._groups(), LR, MOMENTUM)
        self.noise, self.mirrored = NOISES[MIRROR["noise"]](), [0] * len(self.layers)

    def _groups(self):
        """What the optimizer moves: W, and B where it has a gradient, decay; all else does not."""
        decaying = [layer.weight for layer in self.layers.values()]
        others = [layer.bias for layer in self.layers.values() if layer.bias is not None]
        others += [parameter for norm in self.norms.values() for parameter in norm.parameters()]
        if self.rule == "kp":
            decaying += [layer.B.requires_grad_() for layer in self.with_feedback]
        return [{"params": decaying, "weight_decay": WEIGHT_DECAY}, {"params": others}]

    def before_training(self):
        """In mirror mode, S / 2 rows of noise for each layer, in one plain average."""
        if self.rule == "wm":
            for number, layer in enumerate(self.with_feedback, start=1):
                M, S = _mirror_rows(layer)
                for _ in range(math.ceil(S / (2 * M))):
                    self._mirror(number, layer)

    def step(self, images, labels):
        """The same step; the logits."""
        if self.rule == "ss":
            for layer in self.with_feedback:
                layer.B = layer.sign_scale * layer.weight.detach().flatten(1).sign().T
        self.net.train()
        logits = self.net(self._images(images))
        loss = cross_entropy(logits, self._tensor(labels))
        if self.rule == "dfa":
            (error,) = torch.autograd.grad(loss, logits, retain_graph=True)
            for layer in self.with_feedback:
                layer.direct = error
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.rule == "wm":
            for number, layer in enumerate(self.with_feedback, start=1):
                self._mirror(number, layer)
        return {"logits": _host(logits)}

    def _mirror(self, number, layer):
        """(7) with matched decay: B <- (1 - a) B + a y_l y_{l+1}^T / M, at first as a plain average."""
        (M, S), n, step = _mirror_rows(layer), len(layer.B), self.mirrored[number]
        self.mirrored[number] += 1
        a = max(2 * M / (S + M), 1 / self.mirrored[number])  # S = M (2 - a) / a
        y = layer.theirs(self._tensor(self.noise.draw(self.device, (MIRROR["seed"], number, step), M, n).laid_out()))
        y_next = y @ layer.weight.detach().flatten(1).T
        layer.B = torch.addmm(layer.B, y.T, y_next, beta=1 - a, alpha=a / M)

    def evaluate(self, images):
        """The logits without training."""
        self.net.eval()
        with torch.no_grad():
            return {"logits": _host(self.net(self._images(images)))}

    def arrays(self):
        """{"layer.array": array} in this program's order, on the host."""
        return self._collect(lambda tensor: tensor)

    def gradients(self):
        """The same of their gradients, where they have any."""
        return self._collect(lambda tensor: tensor.grad)

    def _collect(self, pick):
        found = {}
        for name, layer in self.layers.items():
            found |= {f"{name}.{array}": x for array, x in layer.arrays(pick).items()}
        for name, norm in self.norms.items():
            found |= {f"{name}.gamma": pick(norm.weight), f"{name}.beta": pick(norm.bias)}
            found[f"{name}.running_mean"] = pick(norm.running_mean)
            found[f"{name}.running_var"] = pick(norm.running_var)
        return {name: _host(tensor) for name, tensor in found.items() if tensor is not None}

    def _images(self, images):
        """(N, H, W, C) on the host -> (N, C, H, W)."""
        return self._tensor(images.astype(self.device.dtype)).permute(0, 3, 1, 2)

    def _tensor(self, x):
        return torch.tensor(to_host(x), device=self.device.name)


def _mirror_rows(layer):
    """M and S: the rows of noise in one step and in B's memory."""
    block = 2 ** math.ceil(math.log2(len(layer.B)))
    return min(MIRROR["rows"], block), MIRROR["window"] * block


def _host(tensor):
    return tensor.detach().cpu().numpy()
