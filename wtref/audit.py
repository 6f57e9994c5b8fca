"""Is a rule free of weight transport?  `run.py audit` takes training steps in which W can only be used as a circuit could.

A rule that does not declare `transports_weights` gets guarded synapses.  Their W may be descended, and in mirror
mode (`before_training`, `between_steps`) activity may pass through it, y @ W.T; every other use is found and named.
While the backward pass runs, every W is NaN, so that a layer which reads it is found as well.
"""

from dataclasses import dataclass

import numpy as np

from wtref import models
from wtref.backend import to_host
from wtref.losses import softmax_cross_entropy
from wtref.optim import SGD
from wtref.relatives import RULES
from wtref.training import train_step

MIRROR_MODE = ("before_training", "between_steps")
SHAPE, CLASSES, BATCH, STEPS = (8, 8, 3), 10, 16, 2


class Transported(Exception):
    """W was used in a way that a rule free of weight transport has not; the message says how."""


@dataclass(frozen=True)
class Finding:
    """What the audit of one rule found.

    Attributes: rule, its name; declares, whether it says that it transports weights; found, how it does, in words, or None.
    """

    rule: str
    declares: bool
    found: str | None

    @property
    def honest(self):
        """A rule may not transport weights unless it declares so."""
        return self.declares or self.found is None


def audit(device, rules=RULES, model="resnet8"):
    """A Finding for each rule.  rules: {name: class or function that makes the rule}; model: the network's name."""
    return [Finding(name, make.transports_weights, _transport(make(), device, model)) for name, make in rules.items()]


def table(findings):
    """The findings as text."""
    lines = ["rule   transports weights   verdict    how"]
    for f in findings:
        verdict = "as it says" if f.honest else "NOT AS IT SAYS"
        lines.append(f"{f.rule:<6} {'no' if f.found is None else 'yes':<20} {verdict:<10} {f.found or ''}".rstrip())
    return "\n".join(lines)


def _transport(rule, device, model):
    """How the rule transports weights in a few steps, in words; None if it does not."""
    rng = np.random.default_rng(0)
    network = models.build(model, SHAPE, CLASSES)
    network.initialise(device, rng)
    rule, guarded = _Watched(rule), _Guarded(network)
    try:
        for s in guarded.with_feedback:
            rule.connect(s, CLASSES)
        for s in guarded.with_feedback:
            rule.before_training(s)
        sgd = _GuardedSGD(network.arrays(), lr=0.01, momentum=0.9, weight_decay=0.01)
        for step in range(STEPS):
            images, labels = device.array(rng.standard_normal((BATCH, *SHAPE))), device.raw(rng.integers(CLASSES, size=BATCH))
            train_step(guarded, rule, sgd, softmax_cross_entropy, images, labels, step)
    except Transported as found:
        return str(found)
    return None


class _Watched:
    """A rule that tells which of its methods is running."""

    running = None

    def __init__(self, rule):
        self.rule = rule

    def __getattr__(self, name):
        method = getattr(self.rule, name)

        def watched(s, *arguments):
            s.hook[0] = name
            try:
                return method(s, *arguments)
            except (TypeError, KeyError, AttributeError) as error:  # from code that knows no guarded W
                raise Transported(f"{name} fails where W is guarded: {error}") from error

        return watched


class _Guarded:
    """A network whose rule sees guarded synapses, and whose backward pass finds NaN in every W."""

    def __init__(self, network):
        self.network, self.norms, hook = network, network.norms, [None]
        self.synapses = [_GuardedSynapses(s, hook) for s in network.synapses]
        self.with_feedback = self.synapses[1:]

    def forward(self, images):
        return self.network.forward(images)

    def backward(self, error):
        kept = [(s, s.W.copy()) for s in self.network.synapses]
        for s, W in kept:
            s.W[...] = np.nan
        self.network.backward(error)
        for s, W in kept:
            s.W[...] = W
        for s in self.network.synapses:
            if not np.isfinite(to_host(s.W_gradient)).all():
                raise Transported(f"the backward pass reads W above {s.name}")


class _GuardedSynapses:
    """Synapses whose W is guarded; hook: [the name of the rule's method that is running]."""

    def __init__(self, synapses, hook):
        vars(self).update(_synapses=synapses, hook=hook)

    def __getattr__(self, name):
        if name == "W":
            return _GuardedW(self._synapses.W, self.hook)
        if name == "arrays":
            raise Transported(f"{self.hook[0]} asks for all arrays")
        return getattr(self._synapses, name)

    def __setattr__(self, name, value):
        if name == "W":
            raise Transported(f"{self.hook[0]} replaces W")
        if isinstance(value, (_GuardedW, _Transposed)):
            raise Transported(f"{self.hook[0]} lets {name} be W")
        setattr(self._synapses, name, value)


class _GuardedW:
    """W as a rule may use it: `sgd.descend(W, ...)`, and in mirror mode `y @ W.T`."""

    def __init__(self, W, hook):
        vars(self).update(_W=W, _hook=hook, shape=W.shape, dtype=W.dtype, ndim=W.ndim, size=W.size)

    @property
    def T(self):
        return _Transposed(self._W, self._hook)

    def __getattr__(self, name):
        _refuse(self, f"as an attribute, {name}")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        """NumPy's operators and element-wise functions come here where W is among their arguments."""
        _refuse(self, f"in {ufunc.__name__}")

    def __array_function__(self, function, types, arguments, options):
        _refuse(self, f"in {function.__name__}")


class _Transposed(_GuardedW):
    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if ufunc is not np.matmul or inputs[1] is not self or options:
            return super().__array_ufunc__(ufunc, method, *inputs)
        return self.__rmatmul__(inputs[0])

    def __rmatmul__(self, y):
        """Activity y passes through W."""
        if self._hook[0] not in MIRROR_MODE:
            _refuse(self, "outside of mirror mode")
        return y @ self._W.T


def _refuse(guarded, use):
    raise Transported(f"{guarded._hook[0]} reads W {use}")


def _refusing(name):
    def refuse(self, *arguments, **options):
        _refuse(self, f"by {name.strip('_')}")

    return refuse


READING = (
    "array getitem setitem iter len bool float int index complex neg pos abs eq ne lt le gt ge contains "
    "add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv pow rpow matmul mod rmod floordiv rfloordiv divmod "
    "and or xor invert buffer dlpack array_interface cuda_array_interface copy deepcopy reduce_ex"
).split()
for _name in READING:
    setattr(_GuardedW, f"__{_name}__", _refusing(f"__{_name}__"))


class _GuardedSGD:
    """SGD that moves a guarded W, and shows nothing of its arrays."""

    def __init__(self, *arguments, **options):
        sgd = SGD(*arguments, **options)

        def descend(w, gradient, decay):
            if isinstance(gradient, _GuardedW):
                _refuse(gradient, "as a gradient")
            sgd.descend(w._W if type(w) is _GuardedW else w, gradient, decay)

        self.descend = descend
