"""Is a rule free of weight transport?  `run.py audit` takes training steps in which W can only be used as a circuit could.

Every rule is given guarded synapses (guards.py).  Their W may be descended, and in mirror mode (`before_training`,
`between_steps`) activity may pass through it, y @ W.T.  Outside of mirror mode every other use is found and reported with the
name of the rule's method; in it, what goes through the guards is, and a rule that goes around them, as to the attributes
behind s, is not.  It would gain nothing: which activity passes through W in mirror mode is the rule's choice, and an identity
matrix passed through W shows all of W.  This is allowed by design, as the cells between which W lies could do the same.  So
could they with the activities of the training images, which a rule sees where it sets `keep_activity`.

Two further tests do not depend on the guards.  While any other method of the rule runs, and during the backward pass, W's
memory holds NaN, and NaN in B or in an error is found.  And errors may come down through B alone: the backward pass is
taken with every B at zero, when none may arrive below the output layer, whatever a layer has kept of W.

At the end the same steps are taken without guards.  They must end with the same arrays, up to rounding: a rule that looks for
guards, or hides what they raise, ends with others.  The audit takes STEPS steps on one network; it cannot find a rule that
transports weights in later steps only.
"""

from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from wtref import models, progress
from wtref.device import open_device, to_host
from wtref.losses import softmax_cross_entropy
from wtref.relatives import RULES
from wtref.optim import SGD
from wtref.studies.guards import SETTINGS, GuardedNetwork, GuardedRule, GuardedSGD, Transported
from wtref.text import columns, shortened, wrapped
from wtref.training import train_step

SHAPE, CLASSES, BATCH, STEPS = (8, 8, 3), 10, 16, 2
NARROW = models.Options(width=4, hidden=(50,))  # so that mirror mode takes little time
ROUNDING = 1e-9  # of the largest value of an array


@dataclass(frozen=True)
class Finding:
    """What the audit of one rule found.

    Attributes: rule, its name; declares, its `transports_weights`; found, how it transports weights, in words, or None.
    """

    rule: str
    declares: bool
    found: str | None

    @property
    def honest(self):
        """A rule may not transport weights unless it declares so."""
        return self.declares or self.found is None


def audit(rules=RULES, model="resnet8"):
    """Audit rules on a network of random weights, on the CPU in float64.

    Parameters: rules, {name: class or function that makes a new rule, always with the same random numbers}; model, the
        network's name; its layers are narrow.
    Returns: a list of Findings.
    Raises: whatever a rule's own code raises.
    """
    return [Finding(name, make().transports_weights, _transport(make, model)) for name, make in progress.each(rules.items(), itemgetter(0))]


def table(findings):
    """The findings as text, in columns."""
    rows = [(shortened(f.rule, 20), "yes" if f.found else "no", "as declared" if f.honest else "NOT AS DECLARED") for f in findings]
    verdicts = columns([("rule", "transports weights", "verdict"), *rows]).splitlines()
    start = max(map(len, verdicts)) + 2  # of the column of reasons
    reasons = ["how", *(f.found or "" for f in findings)]
    return "\n".join(wrapped(f"{verdict:<{start}}{reason}", " " * start).rstrip() for verdict, reason in zip(verdicts, reasons))


def _transport(make, model):
    """How a rule transports weights in STEPS training steps, in words; None if it does not.  make: a function that makes the rule."""
    plain, network = _network(model), _network(model)
    guarded = GuardedNetwork(network)
    try:
        _train(guarded, GuardedRule(make(), guarded), lambda: GuardedSGD(guarded))
    except Transported as found:
        return str(found)
    _train(plain, make(), lambda: SGD(plain.arrays(), **SETTINGS))
    arrays = network.arrays()
    different = [name for name, array in plain.arrays().items() if name not in arrays or not _equal(array, arrays[name])]
    return f"{different[0]} ends with other values without guards" if different else None


def _network(model):
    network = models.build(model, SHAPE, CLASSES, NARROW)
    network.initialise(open_device("cpu", "float64"), np.random.default_rng(0))
    return network


def _train(network, rule, make_sgd):
    """Take STEPS training steps; make_sgd is called once every layer has its B."""
    rng = np.random.default_rng(1)
    for s in network.with_feedback:
        rule.connect(s, CLASSES)
    for s in network.with_feedback:
        rule.before_training(s)
    sgd = make_sgd()
    for step in range(STEPS):
        images, labels = rng.standard_normal((BATCH, *SHAPE)), rng.integers(CLASSES, size=BATCH)
        train_step(network, rule, sgd, softmax_cross_entropy, images, labels, step)


def _equal(x, y):
    """Whether two arrays are equal up to rounding."""
    x, y = to_host(x), to_host(y)
    return x.shape == y.shape and abs(x - y).max() <= ROUNDING * max(abs(x).max(), abs(y).max())
