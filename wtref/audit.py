"""Does a rule's backward pass read W?  Fill every W with NaN between forward and backward, and see.

A rule that is free of weight transport sends the same delta's and forms the same products
delta_{l+1} y_l^T, bit for bit, as when W was left alone.
"""

from dataclasses import dataclass

import numpy as np

from wtref import models
from wtref.backend import to_host
from wtref.losses import softmax_cross_entropy
from wtref.rules import RULES


@dataclass(frozen=True)
class Finding:
    """What the audit of one rule found."""

    rule: str
    claims: bool  # rule.transports_weights
    deltas: int  # how many layers' delta changed
    products: int  # how many layers' delta y^T changed
    layers: int

    @property
    def reads_W(self):
        return self.deltas + self.products > 0

    @property
    def honest(self):
        """A rule may not read W unless it says so."""
        return self.claims or not self.reads_W


def audit(device, rules=RULES, model="resnet8"):
    """A Finding for each rule, on a network of the given name and one batch of random images."""
    return [_audit_rule(name, device, model) for name in rules]


def table(findings):
    """The findings as text."""
    lines = ["rule   reads W in its backward pass   layers whose delta / Delta W changed   verdict"]
    for f in findings:
        answer = "yes" if f.reads_W else "no"
        changed = f"{f.deltas} / {f.products} of {f.layers}"
        verdict = "as it says" if f.honest else "CLAIMS TO BE FREE OF WEIGHT TRANSPORT AND IS NOT"
        lines.append(f"{f.rule:<5}  {answer:<29}  {changed:<38}  {verdict}")
    return "\n".join(lines)


def _audit_rule(name, device, model):
    plain, poisoned = (_backward(name, device, model, poison) for poison in (False, True))
    deltas, products = (
        sum(not np.array_equal(a, b) for a, b in zip(whole, spoilt)) for whole, spoilt in zip(plain, poisoned)
    )
    return Finding(name, RULES[name].transports_weights, deltas, products, len(plain[0]))


def _backward(name, device, model, poison):
    """Every layer's delta and product from one step under rule `name`, as host arrays."""
    rng = np.random.default_rng(0)
    network = models.build(model, (8, 8, 3), classes=10, options=models.Options())
    network.initialise(device, rng)
    rule = RULES[name]()
    for s in network.with_feedback:
        rule.connect(s, rng, classes=10)
        rule.before_training(s)
    images, labels = device.array(rng.standard_normal((16, 8, 8, 3))), device.raw(np.arange(16) % 10)

    _, error = softmax_cross_entropy(network.forward(images), labels)
    if poison:
        for s in network.synapses:
            s.W[...] = np.nan
    for s in network.with_feedback:
        rule.before_backward(s, rng, error)
    network.backward(error)
    return [to_host(s.delta) for s in network.synapses], [to_host(s.outer) for s in network.synapses]
