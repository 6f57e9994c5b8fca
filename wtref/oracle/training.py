"""Training in PyTorch with the steps of train_step: the other side of `run.py check` (check.py).

Backprop is autograd, the feedback path is an autograd.Function (networks.py), the optimizer is torch.optim.SGD, and each
rule is written a second time (rules.py).
"""

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from wtref.device import to_host
from wtref.oracle import networks
from wtref.oracle.rules import RULES

# At a usual learning rate, training on four images multiplies a difference of 1e-13 by 10 in every step.  At this small
# one the difference does not grow, and the large decay keeps lr * weight_decay well above rounding.
LR, MOMENTUM, WEIGHT_DECAY = 1e-5, 0.9, 10.0


class Theirs:
    """A network of networks.py with its rule and its optimizer."""

    def __init__(self, model, rule, shape, classes, device, options, start, draws=None):
        """start: {"layer.array": array on the host}, with the initial W, b, B, ... of every layer; draws: as rules.py takes it."""
        self.rule, self.device = RULES[rule](device, LR, draws), device
        self.net = networks.build(model, shape, classes, options)
        self.net.to(device.name, getattr(torch, np.dtype(device.dtype).name))
        parts = list(self.net.named_modules())
        self.layers = {name: unit.weights for name, unit in parts if isinstance(unit, networks.Unit)}
        self.norms = {name: norm for name, norm in parts if isinstance(norm, networks.NORMS)}
        self.with_feedback = list(self.layers.values())[1:]
        for number, (name, layer) in enumerate(self.layers.items()):
            layer.number = number
            self._start(name, layer, start)
        self.optimizer = torch.optim.SGD(self._groups(), LR, MOMENTUM)

    def _start(self, name, layer, start):
        arrays = {array: self._tensor(start[f"{name}.{array}"]) for array in ("W", "b", "B", "R", "F") if f"{name}.{array}" in start}
        layer.start(**{array: x for array, x in arrays.items() if array in ("W", "b", "B")})
        if "R" in arrays:
            self.rule.start(layer, arrays["R"], arrays["F"])

    def _groups(self):
        """The optimizer's parameter groups: W and what the rule descends besides decay; biases and batch norms do not."""
        *hidden, output = self.layers.values()
        for layer in [*hidden, output]:
            layer.requires_grad_(self.rule.learns(layer, layer is output))
        learning = [layer for layer in self.layers.values() if layer.weight.requires_grad]
        decaying = [layer.weight for layer in learning] + [x for layer in self.with_feedback for x in self.rule.descends(layer)]
        others = [layer.bias for layer in learning if layer.bias is not None]
        others += [parameter for norm in self.norms.values() for parameter in norm.parameters()]
        return [{"params": decaying, "weight_decay": WEIGHT_DECAY}, {"params": others}]

    def before_training(self):
        for layer in self.with_feedback:
            self.rule.before_training(layer)

    def step(self, images, labels):
        """Take a training step on images (N, H, W, C); returns {"logits": array on the host}."""
        for layer in self.with_feedback:
            self.rule.before_step(layer)
        self.net.train()
        logits = self.net(self._images(images))
        loss = cross_entropy(logits, self._tensor(labels))
        if self.rule.direct:
            (error,) = torch.autograd.grad(loss, logits, retain_graph=True)
            for layer in self.with_feedback:
                layer.output_error = error
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for layer in self.with_feedback:
            self.rule.after_step(layer)
        return {"logits": _host(logits)}

    def evaluate(self, images):
        """The logits of evaluation, as {"logits": array on the host}."""
        self.net.eval()
        with torch.no_grad():
            return {"logits": _host(self.net(self._images(images)))}

    def arrays(self):
        """{"layer.array": array on the host}, in wtref's order."""
        return self._collect(lambda tensor: tensor)

    def gradients(self):
        """{"layer.array": gradient on the host} of the arrays that have one, in wtref's order."""
        return self._collect(lambda tensor: tensor.grad if tensor.is_leaf else None)

    def _collect(self, pick):
        found = {}
        for name, layer in self.layers.items():
            found |= {f"{name}.{array}": x for array, x in layer.arrays(pick).items()}
            found |= {f"{name}.{array}": x for array, x in self.rule.arrays(layer, pick).items()}
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


def _host(tensor):
    return tensor.detach().cpu().numpy()
