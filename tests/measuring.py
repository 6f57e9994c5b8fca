"""What the tests of angles share: a small network and rule that are ready to be measured."""

import numpy as np

from helpers import CPU
from wtref import models
from wtref.losses import softmax_cross_entropy
from wtref.relatives import RULES

CLASSES = 5


def ready_to_measure(rule_name, model="resnet8", **options):
    """A network that has seen nothing so far: (network, rule, images, labels)."""
    rng, rule = np.random.default_rng(0), RULES[rule_name]()
    network = models.build(model, (8, 8, 2), CLASSES, models.Options(width=3, **options))
    network.initialise(CPU, rng)
    for s in network.with_feedback:
        rule.connect(s, CLASSES)
        rule.before_training(s)
    return network, rule, rng.standard_normal((6, 8, 8, 2)), np.arange(6) % CLASSES


def deltas_of(network, rule, images, labels):
    """{layer: delta at its output} of a training step's own passes."""
    _, error = softmax_cross_entropy(network.forward(images), labels)
    for s in network.with_feedback:
        rule.before_backward(s, error)
    for s in network.synapses:
        s.keep_delta = True
    network.backward(error)
    found = {s.name: s.delta for s in network.synapses}
    for s in network.synapses:
        s.keep_delta, s.delta = False, None
    return found
