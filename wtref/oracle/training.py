"""Training in PyTorch with the steps of train_step: the other side of `run.py check` (check.py).

Backprop is autograd, the feedback path is an autograd.Function (networks.py), the optimizer is torch.optim.SGD, and each
rule is written a second time from the paper.
"""

import math

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from wtref.device import to_host
from wtref.noise import independent_signs
from wtref.oracle import networks
from wtref.randomness import NOISE, generator

# At a usual learning rate, training on four images multiplies a difference of 1e-13 by 10 in every step.  At this small
# one the difference does not grow, and the large decay keeps lr * weight_decay well above rounding.
LR, MOMENTUM, WEIGHT_DECAY = 1e-5, 0.9, 10.0

MIRROR = {"rows": 128, "window": 2, "seed": 0}  # at eta_W = 0.1


class Theirs:
    """A network of networks.py with its rule and its optimizer."""

    def __init__(self, model, rule, shape, classes, device, options, start):
        """start: {"layer.array": array on the host}, with the initial W, b and B of every layer."""
        self.rule, self.device = rule, device
        self.net = networks.build(model, shape, classes, options)
        self.net.to(device.name, getattr(torch, np.dtype(device.dtype).name))
        parts = list(self.net.named_modules())
        self.layers = {name: unit.weights for name, unit in parts if isinstance(unit, networks.Unit)}
        self.norms = {name: norm for name, norm in parts if isinstance(norm, networks.NORMS)}
        self.with_feedback = list(self.layers.values())[1:]
        for name, layer in self.layers.items():
            arrays = {array: start.get(f"{name}.{array}") for array in ("W", "b", "B")}
            layer.start(**{array: self._tensor(x) for array, x in arrays.items() if x is not None})
        self.optimizer = torch.optim.SGD(self._groups(), LR, MOMENTUM)
        self.mirrored = [0] * len(self.layers)

    def _groups(self):
        """The optimizer's parameter groups: W and, under Kolen-Pollack, B decay; biases and batch norms do not."""
        decaying = [layer.weight for layer in self.layers.values()]
        others = [layer.bias for layer in self.layers.values() if layer.bias is not None]
        others += [parameter for norm in self.norms.values() for parameter in norm.parameters()]
        if self.rule == "kp":
            decaying += [layer.B.requires_grad_() for layer in self.with_feedback]
        return [{"params": decaying, "weight_decay": WEIGHT_DECAY}, {"params": others}]

    def before_training(self):
        """Under the weight mirror, average over S / 2 rows of noise for each layer."""
        if self.rule == "wm":
            for number, layer in enumerate(self.with_feedback, start=1):
                M = MIRROR["rows"]
                for t in range(1, 1 + math.ceil(MIRROR["window"] * len(layer.B) / (2 * M))):
                    self._mirror(number, layer, 1 / t)

    def step(self, images, labels):
        """Take a training step on images (N, H, W, C); returns {"logits": array on the host}."""
        if self.rule == "ss":
            for layer in self.with_feedback:
                layer.B = layer.sign_scale * layer.weight.detach().flatten(1).sign().T
        self.net.train()
        logits = self.net(self._images(images))
        loss = cross_entropy(logits, self._tensor(labels))
        if self.rule == "dfa":
            (error,) = torch.autograd.grad(loss, logits, retain_graph=True)
            for layer in self.with_feedback:
                layer.output_error = error
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.rule == "wm":
            for number, layer in enumerate(self.with_feedback, start=1):
                S = MIRROR["window"] * len(layer.B) * (0.1 / LR) ** (2 / 3)
                self._mirror(number, layer, 2 * MIRROR["rows"] / (S + MIRROR["rows"]))  # S = M (2 - a) / a
        return {"logits": _host(logits)}

    def _mirror(self, number, layer, a):
        """(7) with matched decay: B <- (1 - a) B + a y_l y_{l+1}^T / M."""
        M, n, step = MIRROR["rows"], len(layer.B), self.mirrored[number]
        self.mirrored[number] += 1
        rng = generator(MIRROR["seed"], NOISE, number, step)
        y = layer.theirs(self._tensor(independent_signs(self.device, rng, M, n)))
        y_next = y @ layer.weight.detach().flatten(1).T
        layer.B = torch.addmm(layer.B, y.T, y_next, beta=1 - a, alpha=a / M)

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
        return self._collect(lambda tensor: tensor.grad)

    def _collect(self, pick):
        found = {}
        for name, layer in self.layers.items():
            found |= {f"{name}.{array}": x for array, x in layer.arrays(pick).items()}
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
