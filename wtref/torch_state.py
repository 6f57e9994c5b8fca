"""A network's weights as a PyTorch state_dict, and back: `run.py export` and `run.py import`.

The state_dict is that of torch_networks.build with the same model, shape, classes and options.  Only
what the forward pass needs travels: feedback weights and velocities stay here.
"""

import io
import warnings

from wtref.backend import to_host
from wtref.errors import InputError
from wtref.files import saving
from wtref.layers import Conv2d, Linear, walk

try:
    import torch
except ImportError:
    raise InputError("this needs PyTorch, which is not installed: pip install 'wtref[test]'") from None


def export(network, path):
    """Write the network's state_dict to path (torch.save)."""
    arrays = {name: array.copy() for name, array in _to_torch(network).items()}
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    for norm in network.norms:
        state[f"{norm.name}.num_batches_tracked"] = torch.tensor(0)
    data = io.BytesIO()  # torch.save reports a full disk as an internal error
    torch.save(state, data)
    with saving(path) as file:
        file.write(data.getbuffer())


def load(training, path):
    """Bring the network's W, b and batch norms to the state_dict at path; B starts as the rule draws it.

    Raises InputError if the file is no state_dict of this architecture.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # what is wrong is said below
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = {name: value.numpy() for name, value in state.items() if "num_batches" not in name}
    except Exception as error:  # torch.load raises what the file makes it raise
        raise InputError(f"{path} is no PyTorch state_dict ({(str(error) or repr(error)).splitlines()[0]})") from None
    wanted = _to_torch(training.network)
    for name in wanted.keys() ^ state.keys():
        where = "missing from" if name in wanted else "unknown to this architecture in"
        raise InputError(f"{name} is {where} {path}; choose --model and its options to fit")
    for name, array in wanted.items():
        if array.shape != state[name].shape:
            raise InputError(f"{path}: {name} has shape {state[name].shape}, this architecture {array.shape}")
    _from_torch(training, state)


def _to_torch(network):
    """Host arrays by the names and in the shapes of the state_dict."""
    state = {}
    for layer in _weighted(network):
        s, W = layer.synapses, to_host(layer.synapses.W)
        if isinstance(layer, Conv2d):
            W = W.reshape(s.n_out, *layer.kernel, layer.c_in).transpose(0, 3, 1, 2)
        state[f"{s.name}.weights.weight"] = W
        if s.b is not None:
            state[f"{s.name}.weights.bias"] = to_host(s.b)
    for norm in network.norms:
        for theirs, ours in NORM.items():
            state[f"{norm.name}.{theirs}"] = to_host(getattr(norm, ours))
    return state


def _from_torch(training, state):
    network, device = training.network, training.device
    for s in network.synapses:
        weight = state[f"{s.name}.weights.weight"]
        rows = weight.transpose(0, 2, 3, 1) if weight.ndim == 4 else weight
        s.W[...] = device.array(rows.reshape(s.n_out, s.n_in))
        if s.b is not None:
            s.b[...] = device.array(state[f"{s.name}.weights.bias"])
    for norm in network.norms:
        for theirs, ours in NORM.items():
            getattr(norm, ours)[...] = device.array(state[f"{norm.name}.{theirs}"])


def _weighted(network):
    return [layer for layer in walk(network) if isinstance(layer, (Conv2d, Linear))]


NORM = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}
