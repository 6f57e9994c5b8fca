"""The networks of models.py as ordinary PyTorch modules.

They are written from the architectures, not from the layers of wtref: images are (N, C, H, W), the arithmetic is that of
torch.nn.functional, and autograd takes the backward pass.  Only the names of the layers agree, so that weights can be
copied from one to the other.  `run.py check` (check.py) compares the two.
"""

import math
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from wtref.errors import choose
from wtref.models import ALIASES


class Feedback(torch.autograd.Function):
    """The identity on a layer's output z, whose backward pass sends delta to y through B instead of W^T.

    z must have been computed from y.detach(): autograd then finds the gradients of W and b from delta, (4), and the only
    error that reaches y is B delta, (3).  If B requires a gradient, it is y delta^T, (17).  Under direct feedback alignment the
    network's output error takes the place of delta in both.
    """

    @staticmethod
    def forward(ctx, z, y, B, layer):
        """z (N, n_out, ...), y the layer's input, B (n_in, n_out)."""
        ctx.save_for_backward(y, B)
        ctx.layer = layer
        return z.view_as(z)

    @staticmethod
    def backward(ctx, delta):
        (y, B), layer = ctx.saved_tensors, ctx.layer
        arriving = delta.flatten(2) if delta.ndim > 2 else delta[:, :, None]  # (N, n_out, P)
        if layer.output_error is not None:  # divided equally among the P positions
            positions = arriving.shape[2]
            arriving = (layer.output_error / positions)[:, :, None].expand(-1, -1, positions)
        below = torch.einsum("io,nop->nip", B, arriving)
        B_gradient = torch.einsum("nip,nop->io", layer.columns(y), arriving) if ctx.needs_input_grad[2] else None
        return delta, layer.image(below, y), B_gradient, None


class _WithFeedback:
    """A mixin for layers of torch.nn: errors return through B, or by autograd alone where B is None.

    B is a buffer (n_in, n_out), n_in in PyTorch's order; a state_dict may hold it.  A patch is ordered (C_in, k_h, k_w) in
    PyTorch and (k_h, k_w, C_in) in wtref: `ours` and `theirs` reorder the last axis of an array of inputs to wtref's order
    and to PyTorch's.
    """

    output_error = None  # (N, classes), for direct feedback alignment

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.register_buffer("B", None)

    def _load_from_state_dict(self, state, prefix, *rest):
        found = state.get(f"{prefix}B")
        if found is not None and self.B is None:
            self.B = self.weight.new_empty(found.shape)
        super()._load_from_state_dict(state, prefix, *rest)

    def forward(self, y):
        if self.B is None:
            return super().forward(y)
        return Feedback.apply(super().forward(y.detach()), y, self.B, self)

    @torch.no_grad()
    def start(self, W, b=None, B=None):
        """Copy W (n_out, n_in), b (n_out,) and B (n_in, n_out), which are in wtref's order, into the layer."""
        self.weight.copy_(self.theirs(W).view_as(self.weight))
        if b is not None:
            self.bias.copy_(b)
        if B is not None:
            self.B = self.theirs(B.T).T.contiguous()

    def arrays(self, pick):
        """{"W", "b", "B"} of pick(tensor) in wtref's order; pick returns a tensor of the same shape, or None."""
        W, b, B = (None if x is None else pick(x) for x in (self.weight, self.bias, self.B))
        return {"W": None if W is None else self.ours(W.flatten(1)), "b": b, "B": None if B is None else self.ours(B.T).T}


class Linear(_WithFeedback, nn.Linear):
    """A fully connected layer; `columns` and `image` turn (N, n_in) into (N, n_in, 1) and back."""

    @property
    def sign_scale(self):
        """The magnitude of B's entries under sign-symmetry (Xiao et al., 2018)."""
        return 1 / math.sqrt(self.in_features)

    def columns(self, y):
        return y[:, :, None]

    def image(self, columns, like):
        return columns[:, :, 0]

    def ours(self, x):
        return x

    theirs = ours


class Conv2d(_WithFeedback, nn.Conv2d):
    """A convolution; `columns` turns (N, C, H, W) into patches (N, C k_h k_w, P), `image` sums patches at their positions."""

    @property
    def sign_scale(self):
        """The magnitude of B's entries under sign-symmetry (Xiao et al., 2018)."""
        return math.sqrt(2 / (math.prod(self.kernel_size) * self.out_channels))

    def columns(self, y):
        return F.unfold(y, self.kernel_size, stride=self.stride, padding=self.padding)

    def image(self, columns, like):
        return F.fold(columns, like.shape[2:], self.kernel_size, stride=self.stride, padding=self.padding)

    def ours(self, x):
        return x.unflatten(-1, (-1, *self.kernel_size)).movedim(-3, -1).flatten(-3)

    def theirs(self, x):
        return x.unflatten(-1, (*self.kernel_size, -1)).movedim(-1, -3).flatten(-3)


class Unit(nn.Module):
    """Weights followed by phi, with a batch norm before phi, after it, or none; phi may be None."""

    def __init__(self, weights, norm, phi):
        super().__init__()
        self.weights, self.order, self.phi = weights, norm, phi
        if norm != "none":
            make = nn.BatchNorm1d if isinstance(weights, nn.Linear) else nn.BatchNorm2d
            self.norm = make(len(weights.weight))

    def forward(self, y):
        y = self.weights(y)
        if self.order == "before":
            y = self.norm(y)
        if self.phi is not None:
            y = self.phi(y)
        if self.order == "after":
            y = self.norm(y)
        return y


class MLP(nn.Module):
    def __init__(self, shape, classes, options):
        super().__init__()
        sizes = [shape[0] * shape[1] * shape[2], *options.hidden]
        norm, phi = options.norm or "none", PHI[options.activation]
        self.hidden = [f"hidden{i}" for i in range(1, len(sizes))]
        for name, n_in, n_out in zip(self.hidden, sizes, sizes[1:]):
            self.add_module(name, Unit(Linear(n_in, n_out), norm, phi))
        self.output = Unit(Linear(sizes[-1], classes), "none", None)

    def forward(self, y):
        y = _flat(y)
        for name in self.hidden:
            y = getattr(self, name)(y)
        return self.output(y)


class LeNet(nn.Module):
    def __init__(self, shape, classes, options):
        super().__init__()
        height, width, channels = shape
        norm, phi = options.norm or "none", PHI[options.activation]
        positions = ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2)
        self.conv1 = Unit(Conv2d(channels, 6, 5, padding=2), norm, phi)
        self.conv2 = Unit(Conv2d(6, 16, 5), norm, phi)
        self.hidden1 = Unit(Linear(16 * positions, 120), norm, phi)
        self.hidden2 = Unit(Linear(120, 84), norm, phi)
        self.output = Unit(Linear(84, classes), "none", None)

    def forward(self, y):
        y = F.max_pool2d(self.conv1(y), 2)
        y = F.max_pool2d(self.conv2(y), 2)
        return self.output(self.hidden2(self.hidden1(_flat(y))))


class Basic(nn.Module):
    """A residual block of two 3x3 convolutions."""

    widening = 1

    def __init__(self, c_in, c_out, stride, norm, phi):
        super().__init__()
        bias, last = norm != "before", phi if norm == "after" else None
        self.conv1 = Unit(Conv2d(c_in, c_out, 3, stride, 1, bias=bias), norm, phi)
        self.conv2 = Unit(Conv2d(c_out, c_out, 3, 1, 1, bias=bias), norm, last)
        self.shortcut = _shortcut(c_in, c_out, stride, norm)
        self.after_sum = phi if norm != "after" else nn.Identity()

    def forward(self, y):
        return self.after_sum(self.conv2(self.conv1(y)) + self.shortcut(y))


class Bottleneck(nn.Module):
    """A residual block of 1x1, 3x3 and 1x1 convolutions, the last of which has four times as many channels."""

    widening = 4

    def __init__(self, c_in, inner, stride, norm, phi):
        super().__init__()
        bias, last = norm != "before", phi if norm == "after" else None
        self.conv1 = Unit(Conv2d(c_in, inner, 1, bias=bias), norm, phi)
        self.conv2 = Unit(Conv2d(inner, inner, 3, stride, 1, bias=bias), norm, phi)
        self.conv3 = Unit(Conv2d(inner, 4 * inner, 1, bias=bias), norm, last)
        self.shortcut = _shortcut(c_in, 4 * inner, stride, norm)
        self.after_sum = phi if norm != "after" else nn.Identity()

    def forward(self, y):
        return self.after_sum(self.conv3(self.conv2(self.conv1(y))) + self.shortcut(y))


class ResNet(nn.Module):
    """A residual network; every stage but the first halves the image and doubles the channels."""

    def __init__(self, shape, classes, options, block, counts, width):
        super().__init__()
        norm, phi, width = options.norm or "before", PHI[options.activation], options.width or width
        large = len(counts) == 4 and min(shape[:2]) >= 64
        self.pool = (options.stem or ("imagenet" if large else "cifar")) == "imagenet"
        kernel, stride, padding = (7, 2, 3) if self.pool else (3, 1, 1)
        self.stem = Unit(Conv2d(shape[2], width, kernel, stride, padding, bias=norm != "before"), norm, phi)
        channels = width
        self.stages = [f"stage{i}" for i in range(1, len(counts) + 1)]
        for i, (name, count) in enumerate(zip(self.stages, counts)):
            stage = nn.Sequential()
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                stage.add_module(f"block{j + 1}", block(channels, width << i, stride, norm, phi))
                channels = block.widening * (width << i)
            self.add_module(name, stage)
        self.output = Unit(Linear(channels, classes), "none", None)

    def forward(self, y):
        y = self.stem(y)
        if self.pool:
            y = F.max_pool2d(y, 3, stride=2, padding=1)
        for name in self.stages:
            y = getattr(self, name)(y)
        return self.output(y.mean(dim=(2, 3)))


def build(name, shape, classes, options):
    """The network called `name` for images of shape (H, W, C), as an nn.Module on (N, C, H, W).

    Raises InputError for an unknown name.
    """
    make, *plan = choose("model", ALIASES.get(name, name), NETWORKS)
    return make(shape, classes, options, *plan)


@contextmanager
def plain_arithmetic():
    """A context in which PyTorch uses no TF32 and, on the CPU, one thread, which suits layers as small as those of the check."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(threads)


def _shortcut(c_in, c_out, stride, norm):
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    return Unit(Conv2d(c_in, c_out, 1, stride, bias=norm != "before"), norm, None)


def _flat(y):
    """(N, C, H, W) -> (N, H W C), the order of a channels-last image."""
    return y.permute(0, 2, 3, 1).flatten(1)


NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
PHI = {"relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}

NETWORKS = {
    "mlp": (MLP,),
    "lenet": (LeNet,),
    "resnet8": (ResNet, Basic, (1, 1, 1), 16),
    "resnet20": (ResNet, Basic, (3, 3, 3), 16),
    "resnet56": (ResNet, Basic, (9, 9, 9), 16),
    "resnet18": (ResNet, Basic, (2, 2, 2, 2), 64),
    "resnet34": (ResNet, Basic, (3, 4, 6, 3), 64),
    "resnet50": (ResNet, Bottleneck, (3, 4, 6, 3), 64),
    "resnet101": (ResNet, Bottleneck, (3, 4, 23, 3), 64),
    "resnet152": (ResNet, Bottleneck, (3, 8, 36, 3), 64),
}
