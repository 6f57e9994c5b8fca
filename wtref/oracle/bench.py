"""PyTorch's side of `run.py bench`: the networks of networks.py, as fast as PyTorch itself can make them.

The backward pass of a feedback layer is one call of PyTorch's convolution kernel with B in place of W: the error returns
through B, and the gradient of W, which does not depend on W, is computed with it.
"""

import itertools
import sys
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from wtref.models import ALIASES
from wtref.oracle import networks

RULES = ("bp", "fa", "ss", "usf", "wm", "kp")
IN_PLACE = {torch.relu: torch.relu_, torch.sigmoid: torch.sigmoid_, torch.tanh: torch.tanh_}


class Setting(NamedTuple):
    """What PyTorch lets its user choose: the layout of images, oneDNN (None on a GPU), and whether torch.compile is used."""

    channels_last: bool
    onednn: bool | None
    compiled: bool = False

    def __str__(self):
        layout = "channels-last" if self.channels_last else "contiguous"
        onednn = "" if self.onednn is None else f", oneDNN {'on' if self.onednn else 'off'}"
        return f"{layout}{onednn}{', compiled' * self.compiled}"


def settings(on_gpu):
    """Every Setting to be tried; on a GPU both layouts, as cuDNN searches for the fastest algorithm itself."""
    return [Setting(*both) for both in itertools.product((False, True), (None,) if on_gpu else (True, False))]


def instruction_set():
    """The vector instructions of PyTorch's own kernels, such as "AVX2"; oneDNN and MKL choose theirs for themselves."""
    return torch.backends.cpu.get_cpu_capability()


class Theirs:
    """PyTorch's side of a Work."""

    def __init__(self, work, setting):
        torch.set_num_threads(work.threads)
        self.config, self.setting, self.steps = work.config, setting, 0
        model = ALIASES.get(self.config.model, self.config.model)
        self.net = networks.build(model, work.shape, work.classes, self.config.model_options)
        _overwrite(self.net)
        self.feedback = [] if self.config.rule == "bp" else connect(self.net)
        layout = torch.channels_last if setting.channels_last else torch.contiguous_format
        device = self.config.device if work.on_gpu else "cpu"
        if work.on_gpu:
            torch.cuda.init()  # reset_peak_memory_stats raises before
            torch.cuda.reset_peak_memory_stats(device)
        self.net.to(device, dtype=getattr(torch, self.config.dtype), memory_format=layout)
        images, labels = (torch.from_numpy(array).to(device) for array in work.data())
        self.images, self.labels = images.permute(0, 3, 1, 2).contiguous(memory_format=layout), labels
        self.optimizer = self._optimizer()
        self.loss = torch.compile(self._loss) if setting.compiled else self._loss
        self.logits = torch.compile(self.net) if setting.compiled else self.net
        if sys.platform == "darwin":
            torch.backends.nnpack.set_flags(False)  # it slows convolutions on Macs: github.com/pytorch/pytorch/issues/107534
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.config.precision == "tf32"

    def memory(self):
        """The peak MiB of arrays on a GPU; of this side alone, if no other side is left."""
        return torch.cuda.max_memory_allocated(self.images.device) / 2**20

    def step(self):
        """Take a training step."""
        self.net.train()
        if self.config.rule in ("ss", "usf"):
            for layer in self.feedback:
                layer.take_signs()
        with _onednn(self.setting.onednn):
            loss = self.loss()
            self.optimizer.zero_grad()
            loss.backward()
        if self.config.rule == "kp":
            for layer in self.feedback:
                layer.B.grad = layer.layer.weight.grad
        self.optimizer.step()
        self.steps += 1
        if self.config.rule == "wm":
            for layer in self.feedback:
                layer.mirror(self.config)

    def _loss(self):
        with torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return F.cross_entropy(self.net(self.images), self.labels)

    @torch.inference_mode()
    def evaluate(self):
        """Compute the logits of evaluation."""
        self.net.eval()
        with _onednn(self.setting.onednn):
            return self.logits(self.images)

    def _optimizer(self):
        """PyTorch's fused SGD, which is faster on the CPU than its other two, for small and large arrays.

        It does not change an array without a gradient, such as a B that does not learn.
        """
        parameters = list(self.net.parameters())
        decaying = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.config.weight_decay}
        others = {"params": [p for p in parameters if p.ndim == 1]}
        how = {"momentum": self.config.momentum, "nesterov": self.config.nesterov}
        return torch.optim.SGD([decaying, others], self.config.lr, fused=True, **how)


class Feedback(nn.Module):
    """A layer of networks.py whose error returns through B, a tensor of the shape of its weight."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.B = nn.Parameter(torch.randn_like(layer.weight) * layer.weight.detach().std())

    def forward(self, y):
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return _Linear.apply(y, layer.weight, layer.bias, self.B)
        return _Convolution.apply(y, layer.weight, layer.bias, self.B, layer.stride, layer.padding)

    @torch.no_grad()
    def take_signs(self):
        """Sign-symmetry: B has the signs of W, all of one magnitude."""
        torch.sign(self.layer.weight, out=self.B).mul_(self.layer.sign_scale)

    @torch.no_grad()
    def mirror(self, config):
        """One step of rules.WeightMirror, with as many rows of the same kind of noise."""
        W, B = _matrix(self.layer.weight), _matrix(self.B)
        n = W.shape[1]
        M, S = config.mirror_rows or max(1, min(6 * n, 2**21 // n)), config.mirror_window * n * (0.1 / config.lr) ** (2 / 3)
        a = 2 * M / (S + M)
        y = torch.randint(0, 2, (M, n), dtype=torch.int8, device=W.device).mul_(2).sub_(1).to(W.dtype)
        B.addmm_((y @ W.T).T, y, beta=1 - a, alpha=a / M)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, W, b, B):
        ctx.save_for_backward(y, B)
        return F.linear(y, W, b)

    @staticmethod
    def backward(ctx, delta):
        y, B = (x.to(delta.dtype) for x in ctx.saved_tensors)  # under autocast delta is bfloat16
        return delta @ B, delta.T @ y, delta.sum(dim=0), None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, W, b, B, stride, padding):
        ctx.save_for_backward(y, B)
        ctx.stride, ctx.padding, ctx.bias = stride, padding, b is not None
        return F.conv2d(y, W, b, stride, padding)

    @staticmethod
    def backward(ctx, delta):
        y, B = (x.to(delta.dtype) for x in ctx.saved_tensors)
        shape = {"stride": ctx.stride, "padding": ctx.padding, "dilation": (1, 1), "groups": 1}
        below, dW, db = torch.ops.aten.convolution_backward(
            delta, y, B, bias_sizes=[len(B)], **shape, transposed=False, output_padding=(0, 0),
            output_mask=[True, True, ctx.bias],
        )  # fmt: skip
        return below, dW, db, None, None, None


def connect(net):
    """Replace the weights of every layer but the first by a Feedback; returns these, in the order of the forward pass."""
    _, *units = [part for part in net.modules() if isinstance(part, networks.Unit)]
    for unit in units:
        unit.weights = Feedback(unit.weights)
    return [unit.weights for unit in units]


@contextmanager
def _onednn(enabled):
    """Turn oneDNN on or off; torch.backends.mkldnn.flags would change TF32 too, and warn."""
    torch.backends.mkldnn.enabled = bool(enabled)
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = True


def _overwrite(net):
    """Let activations overwrite their inputs: the backward passes of weights, norms and sums do not read their outputs."""
    for part in net.modules():
        for name in ("phi", "after_sum"):
            phi = getattr(part, name, None)
            if phi in IN_PLACE:
                setattr(part, name, IN_PLACE[phi])


def _matrix(weight):
    """A view (n_out, n_in) of a weight, whose inputs are in the order of its memory."""
    if weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.permute(0, 2, 3, 1)
    return weight.view(len(weight), -1)
