"""Is a rule free of weight transport?  `run.py audit` takes training steps in which W can only be used as a circuit could.

Every rule is given guarded synapses (guards.py).  Their W may be descended, and in mirror mode (`before_training`,
`between_steps`) activity may pass through it, y @ W.T; every other use is found and reported with the name of the rule's
method.  Which activity passes through W in mirror mode is the rule's choice.  An identity matrix passed through W shows
all of W; this is allowed by design, as the cells between which W lies could do the same.

Two further tests do not depend on the guards.  While any other method of the rule runs, and during the backward pass, W's
memory holds NaN, and NaN in B or in an error is found.  And errors may come down through B alone: the backward pass is
taken with every B at zero, when none may arrive below the output layer, whatever a layer has kept of W.
"""

from dataclasses import dataclass

import numpy as np

from wtref import models
from wtref.device import open_device
from wtref.losses import softmax_cross_entropy
from wtref.relatives import RULES
from wtref.studies.guards import GuardedNetwork, GuardedRule, GuardedSGD, Transported
from wtref.text import columns
from wtref.training import train_step

SHAPE, CLASSES, BATCH, STEPS = (8, 8, 3), 10, 16, 2


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

    Parameters: rules, {name: class or function that makes the rule}; model, the network's name.
    Returns: a list of Findings.
    Raises: whatever a rule's own code raises.
    """
    made = {name: make() for name, make in rules.items()}
    return [Finding(name, rule.transports_weights, _transport(rule, model)) for name, rule in made.items()]


def table(findings):
    """The findings as text, in columns."""
    rows = [(f.rule, "yes" if f.found else "no", "as declared" if f.honest else "NOT AS DECLARED", f.found or "") for f in findings]
    return columns([("rule", "transports weights", "verdict", "how"), *rows])


def _transport(rule, model):
    """How the rule transports weights in STEPS training steps, in words; None if it does not."""
    device, rng = open_device("cpu", "float64"), np.random.default_rng(0)
    network = models.build(model, SHAPE, CLASSES)
    network.initialise(device, rng)
    network = GuardedNetwork(network)
    rule = GuardedRule(rule, network)
    try:
        for s in network.with_feedback:
            rule.connect(s, CLASSES)
        for s in network.with_feedback:
            rule.before_training(s)
        sgd = GuardedSGD(network)
        for step in range(STEPS):
            images, labels = device.array(rng.standard_normal((BATCH, *SHAPE))), device.raw(rng.integers(CLASSES, size=BATCH))
            train_step(network, rule, sgd, softmax_cross_entropy, images, labels, step)
    except Transported as found:
        return str(found)
    return None
