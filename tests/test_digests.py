"""Twenty steps of every rule on four small networks, in float64, plain and accelerated, held to recorded numbers.

The numbers in digests.json of bp, fa, ss, kp, om (then called wm), usf, frsf, brsf and dfa are what the program gave before it
was rebuilt, the others what it gave when they were added.  `python tests/test_digests.py` writes them
anew; only a change of the mathematics itself, said in the commit, may do that.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from helpers import CPU, equipped
from wtref import fast
from wtref.losses import softmax_cross_entropy
from wtref.models import Options, build
from wtref.optim import SGD
from wtref.relatives import RULES
from wtref.training import train_step

RECORDED = Path(__file__).with_name("digests.json")
NETWORKS = {
    "mlp": ("mlp", (6, 6, 1), Options(hidden=(20, 12), activation="tanh")),
    "lenet": ("lenet", (16, 16, 3), Options()),
    "resnet8": ("resnet8", (8, 8, 3), Options(width=4)),
    "resnet8 after": ("resnet8", (8, 8, 3), Options(norm="after", activation="tanh", width=4)),
}
CLASSES, BATCH, STEPS = 5, 12, 20


def digest(network_name, rule_name, device=CPU):
    """{array: its sum of squares after the last step}, and the sum of the losses of all steps."""
    model, shape, options = NETWORKS[network_name]
    rng = np.random.default_rng(7)
    network, rule = build(model, shape, CLASSES, options), RULES[rule_name](rng)
    network.initialise(device, rng)
    fast.accelerate_noise(rule, device)
    for s in network.with_feedback:
        rule.connect(s, CLASSES)
    for s in network.with_feedback:
        rule.before_training(s)
    make, losses = partial(fast.SGD, device) if device.ops else SGD, []
    sgd = make(network.arrays(), 0.01, momentum=0.9, weight_decay=0.01)
    accelerated = fast.accelerate(network, device)
    for step in range(STEPS):
        images, labels = rng.standard_normal((BATCH, *shape)), rng.integers(CLASSES, size=BATCH)
        loss, _ = train_step(accelerated, rule, sgd, softmax_cross_entropy, images, labels, step)
        losses.append(float(loss))
    arrays = {name: float((x * x).sum()) for name, x in sorted(network.arrays().items())}
    return {"losses": sum(losses), **arrays}


@pytest.mark.parametrize("device", [CPU, equipped()], ids=["plain", "accelerated"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("network", NETWORKS)
def test_twenty_steps_give_the_recorded_numbers(network, rule, device):
    found, recorded = digest(network, rule, device), json.loads(RECORDED.read_text())[network][rule]
    assert found.keys() == recorded.keys()
    for name, number in recorded.items():
        assert found[name] == pytest.approx(number, rel=1e-8, abs=1e-12), name


if __name__ == "__main__":
    numbers = {network: {rule: digest(network, rule) for rule in RULES} for network in NETWORKS}
    rows = [
        f'"{network}": {{\n' + ",\n".join(f'"{rule}": {json.dumps(row)}' for rule, row in rules.items()) + "}"
        for network, rules in numbers.items()
    ]
    RECORDED.write_text("{" + ",\n".join(rows) + "}\n")
