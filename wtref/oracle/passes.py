"""The forward and backward passes of a rule that PyTorch's side does not know, compared with autograd's.

In each step PyTorch's network starts from the W, b, B and batch norms that wtref's had in its backward pass, whatever the
rule made of them; the rule's own learning is not compared.
"""

import numpy as np
import torch

from wtref.device import to_host
from wtref.oracle.training import Theirs


def step_passes(ours, model, shape, classes, options, batch, step):
    """Let wtref's side (check.Ours) take a step, and PyTorch the same passes.

    Returns: (wtref's, PyTorch's) {"layer.array": array on the host}, the gradients, the running statistics of a first step, and
    the logits.
    """
    images, labels = batch
    watched = ours.fast = _Watched(ours.fast, ours.network)
    try:
        logits = ours.step(images, labels, step)
    finally:
        ours.fast = watched.network
    direct = any(s.direct for s in ours.network.with_feedback)
    theirs = Theirs(model, "dfa" if direct else "fa", shape, classes, ours.device, options, watched.arrays)
    with torch.no_grad():
        for name, norm in theirs.norms.items():
            norm.weight.copy_(torch.tensor(watched.arrays[f"{name}.gamma"]))
            norm.bias.copy_(torch.tensor(watched.arrays[f"{name}.beta"]))
    found = {**watched.gradients, **logits}
    wanted = {**theirs.step(images, labels), **theirs.gradients()}
    if step == 0:  # later ours remember the steps before
        running = [name for name in watched.arrays if "running_" in name]
        found |= {name: watched.arrays[name] for name in running}
        wanted |= {name: theirs.arrays()[name] for name in running}
    return found, wanted


class _Watched:
    """A network that keeps the arrays and the gradients of its backward pass, which the rule may change afterwards."""

    def __init__(self, network, plain):
        self.network, self.plain = network, plain

    def __getattr__(self, name):
        return getattr(self.network, name)

    def backward(self, error):
        self.arrays = {name: np.array(to_host(x)) for name, x in self.plain.arrays().items()}
        self.network.backward(error)
        found = {f"{s.name}.W": s.W_gradient for s in self.plain.synapses}
        found |= {f"{s.name}.b": s.b_gradient for s in self.plain.synapses if s.b is not None}
        found |= {f"{norm.name}.{name}": getattr(norm, f"{name}_gradient") for norm in self.plain.norms for name in ("gamma", "beta")}
        self.gradients = {name: np.array(to_host(x)) for name, x in found.items()}
