"""The networks, by name.

All are built from units: weights, their batch norm and their activation, where the batch norm
stands before the activation or after it (the paper's runs used both).
"""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from wtref.activations import ACTIVATIONS, Identity
from wtref.errors import InputError, check_choice, choose
from wtref.layers import BatchNorm, Conv2d, Flatten, GlobalAvgPool, Linear, MaxPool, Residual, Sequential, walk


class Network(Sequential):
    """A stack of layers, and the lists of its weights and batch norms.

    Attributes
    ----------
    device : the device that holds its arrays
    synapses : every Synapses, in the order of the forward pass
    with_feedback : the same without the first, which has no feedback path
    norms : every BatchNorm

    Raises InputError for what is no layer, for one object in two places, and for a batch norm before the first weights.
    """

    def __init__(self, *layers):
        super().__init__(*layers)
        parts = list(walk(self))
        _check_layers(parts)
        self.synapses = [part.synapses for part in parts if hasattr(part, "synapses")]
        self.with_feedback = self.synapses[1:]
        self.norms = [part for part in parts if isinstance(part, BatchNorm)]
        for layer, s in enumerate(self.synapses):
            s.layer, s.is_output = layer, s is self.synapses[-1]

    def initialise(self, device, rng):
        """Draw every W; set biases and batch norms to their starting values."""
        self.device = device
        for part in self.synapses + self.norms:
            part.initialise(device, rng)

    def arrays(self):
        """Every array that training changes, as {"layer.array": array}."""
        parts = self.synapses + self.norms
        return {f"{part.name}.{name}": array for part in parts for name, array in part.arrays().items()}


def _check_layers(layers):
    """Raise InputError for what is no layer, for one object in two places, and for a batch norm that no error could reach."""
    seen, first = set(), next((i for i, layer in enumerate(layers) if hasattr(layer, "synapses")), 0)
    for i, layer in enumerate(layers):
        if inspect.isclass(layer) or not hasattr(layer, "backward"):
            raise InputError(f"the network holds {layer!r}, right would be layers, objects such as wtref.ReLU()")
        if id(layer) in seen:  # its backward passes would both use what its last forward pass kept
            name = getattr(getattr(layer, "synapses", layer), "name", "")
            what = f"{type(layer).__name__} {name}".rstrip()
            raise InputError(f"the network has one object, {what}, in two places; make one for each place")
        if i < first and isinstance(layer, BatchNorm):
            raise InputError(f"batch norm {layer.name!r} stands before the first weights, which send no error down; put it behind them")
        seen.add(id(layer))


@dataclass(frozen=True)
class Options:
    """What can be chosen about a network besides its name.

    norm : batch norm "before" or "after" the activation, or "none"; None: "before" in residual
        networks, "none" in the others
    activation : "relu", "sigmoid" or "tanh"
    hidden : sizes of an mlp's hidden layers
    stem : of a residual network, "cifar" (3x3) or "imagenet" (7x7 stride 2, max-pool); None: the
        second in resnet18 and larger for images of 64 pixels or more
    width : channels of a residual network's first stage; None: as published
    """

    norm: str | None = None
    activation: str = "relu"
    hidden: tuple = (500,)
    stem: str | None = None
    width: int | None = None

    def __post_init__(self):
        if not isinstance(self.hidden, (tuple, list)):
            raise InputError(f"hidden must be a tuple of integers, one for each hidden layer, found {self.hidden!r}")


def build(name, shape, classes, options=Options()):
    """The network called `name` for images of shape (H, W, C), its arrays not yet drawn.

    Raises
    ------
    InputError
        For an unknown name or option, or a shape that is not (H, W, C).  Images that are too small raise it in the first forward pass.
    """
    if not isinstance(shape, (tuple, list)) or len(shape) != 3:
        raise InputError(f"shape must be (H, W, C), that of an image, found {shape!r}")
    check_choice("model", name, {**MODELS, **ALIASES})
    return assembled(MODELS[ALIASES.get(name, name)], shape, classes, options)


def assembled(make, shape, classes, options=Options()):
    """The network of a function of (shape, classes, options) that returns its layers, or a Network.  Raises InputError for what is neither."""
    made = make(shape, classes, options)
    if isinstance(made, Network):
        return made
    if not isinstance(made, Iterable):
        raise InputError(f"the function of a model must return a list of layers or a Network, found {type(made).__name__}")
    return Network(*made)


def mlp(shape, classes, options):
    """Fully connected: hidden layers of the given sizes, then the classes."""
    unit = _Unit(options, default_norm="none")
    sizes = [shape[0] * shape[1] * shape[2], *options.hidden]
    hidden = [
        unit(Linear(f"hidden{i}", n_in, n_out), n_out)
        for i, (n_in, n_out) in enumerate(zip(sizes, sizes[1:]), start=1)
    ]
    return Flatten(), *hidden, Linear("output", sizes[-1], classes)


def lenet(shape, classes, options):
    """LeNet-5's layers (LeCun et al., 1998), with max-pooling; 28x28x1 gives 61,706 parameters."""
    height, width, channels = shape
    unit = _Unit(options, default_norm="none")
    rows, columns = ((side // 2 - 4) // 2 for side in (height, width))
    features = 16 * max(rows, 1) * max(columns, 1)  # where less is left, conv2 reports the misfit
    return (
        unit(Conv2d("conv1", channels, 6, 5, padding=2), 6),
        MaxPool("pool1", 2),
        unit(Conv2d("conv2", 6, 16, 5), 16),
        MaxPool("pool2", 2),
        Flatten(),
        unit(Linear("hidden1", features, 120), 120),
        unit(Linear("hidden2", 120, 84), 84),
        Linear("output", 84, classes),
    )


def resnet(shape, classes, options, *, blocks, width, bottleneck=False):
    """A residual network (He et al., 2016) whose stages double their channels and halve their size.

    blocks : number of residual blocks in each stage;  width : channels of the first stage
    """
    unit = _Unit(options, default_norm="before")
    width = options.width or width
    stem = options.stem or ("imagenet" if len(blocks) == 4 and min(shape[:2]) >= 64 else "cifar")
    layers = [choose("stem", stem, STEMS)(unit, shape[2], width)]
    block = _bottleneck if bottleneck else _basic
    channels = width
    for stage, count in enumerate(blocks, start=1):
        inner = width * 2 ** (stage - 1)
        for i in range(1, count + 1):
            stride = 2 if stage > 1 and i == 1 else 1
            layers.append(block(unit, f"stage{stage}.block{i}", channels, inner, stride))
            channels = 4 * inner if bottleneck else inner
    return *layers, GlobalAvgPool(), Linear("output", channels, classes)


def _cifar_stem(unit, channels, width):
    return unit(Conv2d("stem", channels, width, 3, padding=1, bias=unit.bias), width)


def _imagenet_stem(unit, channels, width):
    conv = Conv2d("stem", channels, width, 7, stride=2, padding=3, bias=unit.bias)
    return Sequential(unit(conv, width), MaxPool("stem.pool", 3, stride=2, padding=1))


STEMS = {"cifar": _cifar_stem, "imagenet": _imagenet_stem}


def _basic(unit, name, c_in, c_out, stride):
    """Two 3x3 convolutions."""
    last, end = unit.last(Conv2d(f"{name}.conv2", c_out, c_out, 3, padding=1, bias=unit.bias), c_out)
    body = Sequential(unit(Conv2d(f"{name}.conv1", c_in, c_out, 3, stride, padding=1, bias=unit.bias), c_out), last)
    return Residual(body, _shortcut(unit, name, c_in, c_out, stride), end)


def _bottleneck(unit, name, c_in, inner, stride):
    """1x1, 3x3 (which carries the stride) and 1x1 convolutions; the last has 4 times the channels."""
    c_out = 4 * inner
    last, end = unit.last(Conv2d(f"{name}.conv3", inner, c_out, 1, bias=unit.bias), c_out)
    body = Sequential(
        unit(Conv2d(f"{name}.conv1", c_in, inner, 1, bias=unit.bias), inner),
        unit(Conv2d(f"{name}.conv2", inner, inner, 3, stride, padding=1, bias=unit.bias), inner),
        last,
    )
    return Residual(body, _shortcut(unit, name, c_in, c_out, stride), end)


def _shortcut(unit, name, c_in, c_out, stride):
    if stride == 1 and c_in == c_out:
        return Sequential()
    return unit.linear(Conv2d(f"{name}.shortcut", c_in, c_out, 1, stride, bias=unit.bias), c_out)


class _Unit:
    """Weights with their batch norm and activation, in the order the options ask for.

    Before:  weights, norm, phi; a block's last phi waits until after the sum.
    After:   weights, phi, norm; nothing follows the sum.
    """

    def __init__(self, options, default_norm):
        self.norm = options.norm or default_norm
        check_choice("norm", self.norm, NORMS)
        self.activation = choose("activation", options.activation, ACTIVATIONS)
        self.bias = self.norm != "before"  # right behind the weights, batch norm brings its own beta

    def __call__(self, weights, channels):
        return Sequential(weights, *self._tail(weights, channels, self.activation()))

    def last(self, weights, channels):
        """The last unit of a residual block, and what ends the block: phi, of the unit's and the shortcut's sum."""
        if self.norm == "after":
            return self(weights, channels), Identity()
        return self.linear(weights, channels), self.activation()

    def linear(self, weights, channels):
        """Weights and batch norm alone."""
        return Sequential(weights, *self._tail(weights, channels, None))

    def _tail(self, weights, channels, phi):
        """phi, None to leave it out, and batch norm in their order."""
        if self.norm == "none":
            order = (phi,)
        else:
            norm = BatchNorm(f"{weights.synapses.name}.norm", channels)
            order = (phi, norm) if self.norm == "after" else (norm, phi)
        return [layer for layer in order if layer]


NORMS = ("before", "after", "none")

MODELS = {
    "mlp": mlp,
    "lenet": lenet,
    "resnet8": partial(resnet, blocks=(1, 1, 1), width=16),
    "resnet20": partial(resnet, blocks=(3, 3, 3), width=16),
    "resnet56": partial(resnet, blocks=(9, 9, 9), width=16),
    "resnet18": partial(resnet, blocks=(2, 2, 2, 2), width=64),
    "resnet34": partial(resnet, blocks=(3, 4, 6, 3), width=64),
    "resnet50": partial(resnet, blocks=(3, 4, 6, 3), width=64, bottleneck=True),
    "resnet101": partial(resnet, blocks=(3, 4, 23, 3), width=64, bottleneck=True),
    "resnet152": partial(resnet, blocks=(3, 8, 36, 3), width=64, bottleneck=True),
}
ALIASES = {"res18": "resnet18", "res34": "resnet34", "res50": "resnet50"}
