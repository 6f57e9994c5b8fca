"""A network's weights as a PyTorch state_dict, and back: `run.py export` and `run.py import`.

The state_dict is that of networks.build with the same model, shape, classes and options.  It holds what the forward pass
needs and, if asked for, the feedback weights, but no velocities.  As the weights do not determine the activation or the place of batch
norm, the OrderedDict has an attribute `wtref` with the options and a description of the images; PyTorch keeps the
attribute when it loads the file, and load_state_dict ignores it.
"""

import io
import os
import re
import warnings
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from wtref.device import to_host
from wtref.errors import InputError
from wtref.files import saving
from wtref.layers import Conv2d, Linear, walk
from wtref.models import ALIASES
from wtref.rules import Backprop
from wtref.runs.config import Config
from wtref.runs.run_files import Images
from wtref.runs.trained import check_images
from wtref.values import check_entries

try:
    import torch
except ImportError:
    raise InputError("this needs PyTorch, which is not installed: pip install 'wtref[test]'") from None


OPTIONS = {
    "model": str, "norm": str | None, "activation": str, "hidden": tuple[int, ...], "stem": str | None, "loss": str,
}  # fmt: skip


def export(network, config, images, path, feedback=False):
    """Write the network's state_dict to path by torch.save.

    Parameters: network; config, its Config; images, the run_files.Images that it learned; feedback, whether to write
        every B too.
    Raises: Unsaved.
    """
    state = OrderedDict((name, torch.from_numpy(array.copy())) for name, array in _to_torch(network, feedback).items())
    for norm in network.norms:
        state[f"{norm.name}.num_batches_tracked"] = torch.tensor(0)
    state.wtref = {"options": {name: getattr(config, name) for name in OPTIONS}, "images": images._asdict()}
    data = io.BytesIO()  # torch.save reports a full disk as an internal error
    torch.save(state, data)
    with saving(path) as file:
        file.write(data.getbuffer())


class StateFile(NamedTuple):
    """A state_dict read from a file.

    Attributes: path; arrays on the host, by wtref's names; the values of OPTIONS and run_files.Images, if wtref wrote it;
    names, {wtref's: the file's}.
    """

    path: str
    arrays: dict
    options: dict | None
    images: Images | None
    names: dict

    @property
    def feedback(self):
        """Whether it holds feedback weights."""
        return any(name.endswith(".weights.B") for name in self.arrays)


def read(path):
    """Read the StateFile at path.  Raises InputError if it holds no state_dict of real numbers."""
    if not os.path.isfile(path):
        raise InputError(f"no file {path}; give a state_dict as written by export or torch.save")
    try:
        with warnings.catch_warnings(action="ignore"):  # the exceptions below say more
            state = _unwrapped(torch.load(path, map_location="cpu", weights_only=True))
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            kind = f"a {type(state).__name__}" + (" whose keys are not names" if isinstance(state, dict) else "")
            raise ValueError(f"it holds {kind}, right would be a dict of tensors by name")
        own = hasattr(state, "wtref")
        names = {name if own else _own_name(name): name for name in state if not name.endswith("num_batches_tracked")}
        arrays = {name: _real(given, state[given]) for name, given in names.items()}
        if not own:
            return StateFile(path, arrays, None, None, names)
        check_entries(state.wtref, {"options": dict, "images": dict})
        check_entries(state.wtref["options"], OPTIONS)
        return StateFile(path, arrays, state.wtref["options"], Images.of(state.wtref["images"]), names)
    except Exception as error:  # the file determines which exception torch.load raises
        reason = str(error) or repr(error)
        if reason.startswith("Weights only load failed"):  # PyTorch goes on to recommend executing the file
            reason = "it is damaged, or holds other objects than tensors; save the model's state_dict() alone"
        raise InputError(f"{path} is no PyTorch state_dict ({reason.splitlines()[0]})") from None


def _unwrapped(state):
    """The state_dict in a checkpoint that holds it under one of the usual WRAPPINGS beside other things; else what was given."""
    for key in WRAPPINGS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            return state[key]
    return state


def _own_name(name):
    """wtref's name of an array in another program's state_dict: without a wrapper's prefix, and translated from torchvision's ResNets."""
    part, _, array = re.sub(PREFIXES, "", name).rpartition(".")
    if block := re.fullmatch(r"layer(\d+)\.(\d+)\.(conv\d|bn\d|downsample\.[01])", part):
        stage, number, inside = block.groups()
        inside = re.sub(r"^(conv\d)$", r"\1.weights", inside)
        inside = re.sub(r"^bn(\d)$", r"conv\1.norm", inside)
        inside = inside.replace("downsample.0", "shortcut.weights").replace("downsample.1", "shortcut.norm")
        return f"stage{stage}.block{int(number) + 1}.{inside}.{array}"
    return f"{TORCHVISION.get(part, part)}.{array}" if part else array


def _real(name, value):
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor of real numbers")
    return value.detach().to(torch.promote_types(value.dtype, torch.float32)).numpy()


def config_of(file, given):
    """The Config of a StateFile's network, with the options of the file and the fields `given`.

    Raises InputError where these contradict the file.
    """
    options = {name: value for name, value in (file.options or {}).items() if name in OPTIONS and value is not None}
    different = [
        f"--{name} is {options[name]}, not {given[name]}"
        for name in options.keys() & given.keys()
        if ALIASES.get(options[name], options[name]) != ALIASES.get(given[name], given[name])
    ]
    if different:
        raise InputError(f"{file.path} contradicts the flags: {'; '.join(sorted(different))}; leave those flags out")
    return Config(**{**options, **given})


def remarks(file, training):
    """Yield a line of text for each thing that was assumed of a StateFile, and for each that differs from its training."""
    if file.options is None:
        options = ", ".join(f"{name} {getattr(training.config, name)}" for name in OPTIONS)
        yield f"{file.path} does not say which network it is of; assumed: {options}"
    elif not np.allclose(*map(_statistics, (file.images, Images.of(training.feed.about()))), rtol=1e-6):
        yield f"{file.path} is of a network whose images had another mean and deviation than those of {training.config.dataset}"
    if file.feedback and isinstance(training.rule, Backprop):
        yield f"the feedback weights in {file.path} are not used: under --rule {training.config.rule} B is W^T"


def _statistics(images):
    """Mean and standard deviation of each channel, in units of white."""
    return np.array([images.mean, images.std]) / images.levels


def load(training, file):
    """Set W, b and the batch norms of a Training's network to those of a StateFile, and B if the file holds it.

    Otherwise B remains as the rule has drawn it; backprop's is W^T in any case.
    Raises InputError if the file is of another architecture or of other images.
    """
    if file.images:
        check_images(Images.of(training.feed.about()), file.images, f"--dataset {training.config.dataset}", file.path)
    wanted = _to_torch(training.network, feedback=file.feedback)
    missing, unknown = sorted(wanted.keys() - file.arrays.keys()), sorted(file.names[name] for name in file.arrays.keys() - wanted.keys())
    if missing or unknown:
        lists = [("missing", missing), ("unknown to this architecture", unknown)]
        found = "; ".join(f"{what}: {_first(names)}" for what, names in lists if names)
        raise InputError(f"{file.path} does not fit --model {training.config.model}: {found}; choose --model and its options to fit")
    for name, array in wanted.items():
        found = file.arrays[name]
        if array.shape != found.shape:
            place = f"under --rule {training.config.rule} it is" if name.endswith(".B") else "this architecture"
            raise InputError(f"{file.path}: {file.names[name]} has shape {found.shape}, {place} {array.shape}")
        if not np.abs(found).max(initial=0) <= np.finfo(array.dtype).max:
            raise InputError(f"{file.path}: {file.names[name]} must hold finite numbers of {array.dtype}")
    _from_torch(training, file.arrays)


def _first(names):
    """The first of sorted names, and how many more there are."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


def _to_torch(network, feedback):
    """{name: host array}, with the names and shapes of the state_dict; feedback: with every B."""
    state = {}
    for layer in _weighted(network):
        s = layer.synapses
        state[f"{s.name}.weights.weight"] = _to_images(layer, to_host(s.W))
        if s.b is not None:
            state[f"{s.name}.weights.bias"] = to_host(s.b)
        if feedback and s.B is not None:
            B = _to_images(layer, to_host(s.B).T)
            state[f"{s.name}.weights.B"] = B.reshape(len(B), s.n_in).T
    for norm in network.norms:
        for theirs, ours in NORM.items():
            state[f"{norm.name}.{theirs}"] = to_host(getattr(norm, ours))
    return state


def _from_torch(training, state):
    network, device = training.network, training.device
    for layer in _weighted(network):
        s = layer.synapses
        if (B := state.get(f"{s.name}.weights.B")) is not None:  # before W, of which it is a view under backprop
            s.B[...] = device.array(_from_images(layer, B.T)).T
        s.W[...] = device.array(_from_images(layer, state[f"{s.name}.weights.weight"]))
        if s.b is not None:
            s.b[...] = device.array(state[f"{s.name}.weights.bias"])
    for norm in network.norms:
        for theirs, ours in NORM.items():
            getattr(norm, ours)[...] = device.array(state[f"{norm.name}.{theirs}"])


def _to_images(layer, x):
    """x (m, n_in) -> (m, c_in, k_h, k_w), PyTorch's order of a patch, in a convolution; else x itself."""
    return x.reshape(len(x), *layer.kernel, layer.c_in).transpose(0, 3, 1, 2) if isinstance(layer, Conv2d) else x


def _from_images(layer, x):
    """x (m, n_in), or of the shape of PyTorch's weight, with n_in in PyTorch's order -> (m, n_in) in wtref's."""
    if isinstance(layer, Conv2d):
        x = x.reshape(len(x), layer.c_in, *layer.kernel).transpose(0, 2, 3, 1)
    return x.reshape(len(x), layer.synapses.n_in)


def _weighted(network):
    return [layer for layer in walk(network) if isinstance(layer, (Conv2d, Linear))]


LISTED = 8  # arrays named in a message
WRAPPINGS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = r"^((module|model|_orig_mod)\.)*"  # of DataParallel, of a model within another and of torch.compile
TORCHVISION = {"conv1": "stem.weights", "bn1": "stem.norm", "fc": "output.weights"}  # outside of blocks
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}
