"""Synapses, a network and an optimizer whose W can only be used as a circuit could use it; for the audit (audit.py).

Each guard stands for the object that it wraps and raises Transported where a rule uses W in any other way.
"""

from contextlib import contextmanager, nullcontext

import numpy as np

from wtref.device import to_host
from wtref.optim import SGD
from wtref.synapses import Synapses

MIRROR_MODE = ("before_training", "between_steps")
SETTINGS = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01}  # of the optimizer


class Transported(BaseException):
    """W was used in a way that a rule free of weight transport does not need; the message names the use.

    No Exception, so that a rule that handles its own exceptions does not hide it.
    """


class GuardedRule:
    """A rule whose methods run on guarded synapses, and are checked for W's values once they are over.

    An exception from a method is its own if it is raised on the synapses without a guard as well, and passes on unchanged.
    Otherwise the method has handed the guarded W to code that needs an array's memory: Transported.
    """

    def __init__(self, rule, network):
        self.rule, self.network = rule, network

    def __getattr__(self, name):
        method, network = getattr(self.rule, name), self.network

        def checked(s, *arguments):
            network.running = name
            try:
                with nullcontext() if name in MIRROR_MODE else network.hidden():
                    method(s, *arguments)
            except Exception as error:
                if not _runs(method, vars(s)["_synapses"], *arguments):
                    raise  # an error of the rule's own
                raise Transported(f"{name} fails only where W is guarded: {type(error).__name__}: {error}") from error
            network.move()
            for x in (s.B, s.output_error, *arguments):
                if isinstance(x, s.device.xp.ndarray) and not _finite(x):
                    raise Transported(f"{name} reads W's memory")

        return checked


def _runs(method, *arguments):
    """Does the method run to its end?"""
    try:
        method(*arguments)
    except Exception:
        return False
    return True


class GuardedNetwork:
    """A network whose synapses are guarded.

    Attributes: running, the name of the rule's method that is running; moves, the descents of W put off until it is over.
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
        """Take the backward pass with every B at zero, when the output layer alone may have an error."""
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
        """A context in which the memory of every W holds NaN."""
        kept = [s.W.copy() for s in self.network.synapses]
        for s in self.network.synapses:
            s.W[...] = np.nan
        try:
            yield
        finally:
            for s, W in zip(self.network.synapses, kept):
                s.W[...] = W

    def move(self):
        """Take the descents of W that were put off."""
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
        raise Transported(f"{self._network.running} reads all arrays")

    def initialise(self, device, rng):
        raise Transported(f"{self._network.running} draws W itself")


class _GuardedW:
    """W as a rule may use it: in `sgd.descend(W, ...)` and, in mirror mode, in `y @ W.T` or `W @ y`."""

    def __init__(self, W, network):
        vars(self).update(_W=W, _network=network, shape=W.shape, dtype=W.dtype, ndim=W.ndim, size=W.size)

    @property
    def T(self):
        return _Transposed(self._W.T, self._network)

    def __matmul__(self, y):
        return self._W.copy() @ self._passing(y)

    def _passing(self, y):
        """y, if it may pass through W now.  It is multiplied by a copy of W, so that a y of the rule's own class cannot keep W's memory."""
        if self._network.running not in MIRROR_MODE:
            self._refuse("outside of mirror mode")
        return y

    def _refuse(self, use):
        raise Transported(f"{self._network.running} reads W {use}")

    def __getattr__(self, name):
        self._refuse(f"as an attribute, {name}")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        """Called by NumPy's operators and element-wise functions that have W among their arguments."""
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


class GuardedSGD:
    """An SGD that descends each guarded W once the rule's method is over, and shows none of its arrays."""

    def __init__(self, network):
        self._network, self._sgd = network, SGD(network.network.arrays(), **SETTINGS)
        self.lr, self.momentum = self._sgd.lr, self._sgd.momentum
        self.nesterov, self.weight_decay = self._sgd.nesterov, self._sgd.weight_decay

    def descend(self, w, gradient, decay):
        if isinstance(gradient, _GuardedW):
            gradient._refuse("as a gradient")
        if type(w) is not _GuardedW:
            self._sgd.descend(w, gradient, decay)
        elif type(gradient) is type(w._W):
            self._network.moves.append((self._sgd.descend, w._W, gradient.copy(), decay))
        else:
            raise Transported(f"{self._network.running} descends W along a {type(gradient).__name__}")

    def __getattr__(self, name):
        if not name.startswith("_") and hasattr(self._sgd, name):
            raise Transported(f"{self._network.running} reads {name} of the optimizer")
        raise AttributeError(f"SGD has no attribute {name}")
