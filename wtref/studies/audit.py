"""Is a rule free of weight transport?  `run.py audit` takes training steps in which W can only be used as a circuit could.

Every rule is given guarded synapses.  Their W may be descended, and in mirror mode (`before_training`, `between_steps`)
activity may pass through it, y @ W.T; every other use is found and named, with the method of the rule that made it.
Which activity passes through W in mirror mode is the rule's choice.  An identity matrix passed through W shows all of W;
this is allowed by design, as the cells between which W lies could do the same.

Two further tests do not rest on the guards.  While any other method of the rule runs, and during the backward pass, W's
memory holds NaN, and NaN in B or in an error is found.  And errors may come down through B alone: the backward pass is
taken with every B at zero, when none may arrive below the output layer, whatever a layer has kept of W.
"""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np

from wtref import models
from wtref.device import to_host
from wtref.losses import softmax_cross_entropy
from wtref.optim import SGD
from wtref.relatives import RULES
from wtref.synapses import Synapses
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
    made = {name: make() for name, make in rules.items()}
    return [Finding(name, rule.transports_weights, _transport(rule, device, model)) for name, rule in made.items()]


def table(findings):
    """The findings as text."""
    lines = ["rule   transports weights   verdict         how"]
    for f in findings:
        verdict = "as it says" if f.honest else "NOT AS IT SAYS"
        lines.append(f"{f.rule:<6} {'no' if f.found is None else 'yes':<20} {verdict:<15} {f.found or ''}".rstrip())
    return "\n".join(lines)


def _transport(rule, device, model):
    """How the rule transports weights in a few steps, in words; None if it does not."""
    rng = np.random.default_rng(0)
    network = models.build(model, SHAPE, CLASSES)
    network.initialise(device, rng)
    network = _GuardedNetwork(network)
    rule = _GuardedRule(rule, network)
    try:
        for s in network.with_feedback:
            rule.connect(s, CLASSES)
        for s in network.with_feedback:
            rule.before_training(s)
        sgd = _GuardedSGD(network)
        for step in range(STEPS):
            images, labels = device.array(rng.standard_normal((BATCH, *SHAPE))), device.raw(rng.integers(CLASSES, size=BATCH))
            train_step(network, rule, sgd, softmax_cross_entropy, images, labels, step)
    except Transported as found:
        return str(found)
    return None


class _GuardedRule:
    """A rule whose methods are watched."""

    def __init__(self, rule, network):
        self.rule, self.network = rule, network

    def __getattr__(self, name):
        method, network = getattr(self.rule, name), self.network

        def watched(s, *arguments):
            network.running = name
            try:
                with nullcontext() if name in MIRROR_MODE else network.hidden():
                    method(s, *arguments)
            except (TypeError, KeyError, AttributeError) as error:  # from code that knows no guarded W
                raise Transported(f"{name} fails where W is guarded: {error}") from error
            network.move()
            for x in (s.B, s.output_error, *arguments):
                if isinstance(x, s.device.xp.ndarray) and not _finite(x):
                    raise Transported(f"{name} reads W's memory")

        return watched


class _GuardedNetwork:
    """A network that shows rules its guarded synapses.

    Attributes: running, the name of the rule's method that is running; moves, what is to be done to W once it is over.
    """

    running = None

    def __init__(self, network):
        self.network, self.norms, self.moves = network, network.norms, []
        self.synapses = [_GuardedSynapses(s, self) for s in network.synapses]
        self.with_feedback = self.synapses[1:]

    def forward(self, images):
        return self.network.forward(images)

    def backward(self, error):
        self.running = "the backward pass"
        with self.hidden():
            self._without_feedback(error)
            self.network.backward(error)
        for s in self.network.synapses:
            if not _finite(s.W_gradient):
                raise Transported(f"the backward pass reads W above {s.name}")

    def _without_feedback(self, error):
        """The backward pass with every B at zero: only the output layer has an error."""
        own = [s.B for s in self.network.with_feedback]
        for s in self.network.with_feedback:
            s.B = 0 * s.B
        self.network.backward(error)
        for s, B in zip(self.network.with_feedback, own):
            s.B = B
        for s in self.network.synapses[:-1]:
            if to_host(s.W_gradient).any():
                raise Transported(f"the backward pass brings errors to {s.name} by another way than B")

    @contextmanager
    def hidden(self):
        """Meanwhile, W's memory holds NaN."""
        kept = [s.W.copy() for s in self.network.synapses]
        for s in self.network.synapses:
            s.W[...] = np.nan
        yield
        for s, W in zip(self.network.synapses, kept):
            s.W[...] = W

    def move(self):
        """Descend each W that waits for it."""
        for descend, *arguments in self.moves:
            descend(*arguments)
        self.moves.clear()


def _finite(x):
    return np.isfinite(to_host(x)).all()


class _GuardedSynapses(Synapses):
    """The synapses of a network whose W is guarded."""

    def __init__(self, synapses, network):
        vars(self).update(_synapses=synapses, _network=network)

    @property
    def W(self):
        return _GuardedW(self._synapses.W, self._network)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._synapses, name)

    def __setattr__(self, name, value):
        if name == "W":
            raise Transported(f"{self._network.running} replaces W")
        if isinstance(value, _GuardedW):
            raise Transported(f"{self._network.running} lets {name} be W")
        setattr(self._synapses, name, value)

    def arrays(self):
        raise Transported(f"{self._network.running} asks for all arrays")

    def initialise(self, device, rng):
        raise Transported(f"{self._network.running} draws W itself")


class _GuardedW:
    """W as a rule may use it: `sgd.descend(W, ...)`, and in mirror mode `y @ W.T` or `W @ y`."""

    def __init__(self, W, network):
        vars(self).update(_W=W, _network=network, shape=W.shape, dtype=W.dtype, ndim=W.ndim, size=W.size)

    @property
    def T(self):
        return _Transposed(self._W.T, self._network)

    def __matmul__(self, y):
        return self._W.copy() @ self._passing(y)

    def _passing(self, y):
        """y, which may pass through W in mirror mode; it is multiplied by a copy, that it may not keep W's memory."""
        if self._network.running not in MIRROR_MODE:
            self._refuse("outside of mirror mode")
        return y

    def _refuse(self, use):
        raise Transported(f"{self._network.running} reads W {use}")

    def __getattr__(self, name):
        self._refuse(f"as an attribute, {name}")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        """NumPy's operators and element-wise functions come here where W is among their arguments."""
        self._refuse(f"in {ufunc.__name__}")

    def __array_function__(self, function, types, arguments, options):
        self._refuse(f"in {function.__name__}")


class _Transposed(_GuardedW):
    @property
    def T(self):
        self._refuse("transposed twice")

    def __matmul__(self, y):
        self._refuse("from its outputs to its inputs")

    def __rmatmul__(self, y):
        return self._passing(y) @ self._W.copy()

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if ufunc is np.matmul and method == "__call__" and inputs[1] is self and not options:
            return self.__rmatmul__(inputs[0])
        return super().__array_ufunc__(ufunc, method, *inputs)


def _refusing(name):
    def refuse(self, *arguments, **options):
        self._refuse(f"by {name.strip('_')}")

    return refuse


READING = (
    "array getitem setitem iter len bool float int index complex neg pos abs eq ne lt le gt ge contains "
    "add radd iadd sub rsub isub mul rmul imul truediv rtruediv itruediv pow rpow ipow mod rmod floordiv rfloordiv divmod "
    "imatmul and or xor invert buffer dlpack copy deepcopy reduce_ex"
).split()
for _name in READING:
    setattr(_GuardedW, f"__{_name}__", _refusing(f"__{_name}__"))


class _GuardedSGD:
    """SGD that descends guarded W's, each once the rule's method is over; it shows nothing of its arrays."""

    def __init__(self, network):
        self._network, self._sgd = network, SGD(network.network.arrays(), lr=0.01, momentum=0.9, weight_decay=0.01)
        self.lr, self.momentum, self.weight_decay = self._sgd.lr, self._sgd.momentum, self._sgd.weight_decay

    def descend(self, w, gradient, decay):
        if isinstance(gradient, _GuardedW):
            gradient._refuse("as a gradient")
        if type(w) is not _GuardedW:
            self._sgd.descend(w, gradient, decay)
        elif type(gradient) is type(w._W):
            self._network.moves.append((self._sgd.descend, w._W, gradient.copy(), decay))
        else:
            raise Transported(f"{self._network.running} descends W along a {type(gradient).__name__}")
