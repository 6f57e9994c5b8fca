"""import understands what other programs and a user's own models write, and says what it cannot take."""

import re
from pathlib import Path

import numpy as np
import pytest

from exporting import export_to, trained
from wtref.runs import checkpoints
from wtref.runs.config import Config
from wtref.runs.prepare import prepare


def torchvision_s(name):
    """torchvision's name of an array of a ResNet, from the one in an exported file."""
    name = name.replace("stem.weights", "conv1").replace("stem.norm", "bn1").replace("output.weights", "fc")
    name = name.replace("shortcut.weights", "downsample.0").replace("shortcut.norm", "downsample.1")
    name = re.sub(r"(conv\d)\.weights", r"\1", re.sub(r"conv(\d)\.norm", r"bn\1", name))
    return re.sub(r"stage(\d)\.block(\d)", lambda place: f"layer{place[1]}.{int(place[2]) - 1}", name)


@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model."])
def test_torchvision_s_names_and_usual_wrappings_are_understood(here, key, prefix):
    import torch

    from wtref.oracle import states as torch_state

    config = Config(model="resnet8", batch_size=64, device="cpu")
    training = trained(config, steps=1)
    export_to(here / "net.pt", training)
    state = torch.load("net.pt", weights_only=True)
    theirs = {prefix + torchvision_s(name): torch.nn.Parameter(x, x.is_floating_point()) for name, x in state.items()}
    torch.save({key: theirs, "epoch": 3} if key else theirs, "theirs.pt")
    assert "layer2.0.downsample.0.weight" in map(torchvision_s, state) and "bn1.bias" in map(torchvision_s, state)
    again = prepare(config)
    torch_state.load(again, torch_state.read("theirs.pt"))
    mine, theirs = training.network.arrays(), again.network.arrays()
    assert all(mine[name].tobytes() == theirs[name].tobytes() for name in mine if not name.endswith(".B"))


def test_bf16_weights_are_taken_and_nan_is_refused(here, refused):
    import torch

    from wtref.oracle import states as torch_state

    config = Config(model="resnet8", batch_size=64, device="cpu")
    export_to(here / "net.pt", trained(config, steps=1))
    rounded = {name: x.bfloat16() if x.is_floating_point() else x for name, x in torch.load("net.pt", weights_only=True).items()}
    torch.save(rounded, "half.pt")
    again = prepare(config)
    torch_state.load(again, torch_state.read("half.pt"))
    assert again.network.synapses[-1].W.dtype == np.float32
    assert (again.network.synapses[-1].W == rounded["output.weights.weight"].float().numpy()).all()
    rounded["output.weights.weight"][3, 5] = float("nan")
    torch.save(rounded, "nan.pt")
    line = refused("import", "nan.pt", "--model", "resnet8", "--device", "cpu")
    assert line == "wtref: nan.pt: output.weights.weight must hold finite numbers of float32\n"


def test_all_missing_and_unknown_arrays_are_listed(here, refused):
    import torch

    export_to(here / "net.pt", trained(Config(model="mlp", hidden=(4,), device="cpu"), steps=1))
    state = dict(torch.load("net.pt", weights_only=True))
    for name in ("b", "a"):
        state[f"{name}.weight"] = torch.zeros(2)
    del state["output.weights.bias"], state["hidden1.weights.bias"]
    torch.save(state, "other.pt")
    line = refused("import", "other.pt", "--model", "mlp", "--hidden", 4, "--device", "cpu")
    assert "missing: hidden1.weights.bias, output.weights.bias; unknown to this architecture: a.weight, b.weight;" in line


def test_of_many_arrays_the_first_are_listed_by_the_names_in_the_file(here, refused):
    import torch

    export_to(here / "net.pt", trained(Config(model="resnet8", batch_size=64, device="cpu"), steps=1))
    state = {f"module.{torchvision_s(name)}": x for name, x in torch.load("net.pt", weights_only=True).items()}
    torch.save(state, "theirs.pt")
    line = refused("import", "theirs.pt", "--model", "mlp", "--device", "cpu")
    assert "missing: hidden1.weights.bias, hidden1.weights.weight;" in line and line.count("module.") == 8
    assert "unknown to this architecture: module.bn1.bias, module.bn1.running_mean, " in line and re.search(r" and \d\d more; choose", line)
    state["module.layer2.0.conv1.weight"][0] = float("inf")
    torch.save(state, "theirs.pt")
    line = refused("import", "theirs.pt", "--model", "resnet8", "--device", "cpu")
    assert line == "wtref: theirs.pt: module.layer2.0.conv1.weight must hold finite numbers of float32\n"


OWN = """
import wtref
from wtref.layers import Flatten, Linear
@wtref.model("tiny")
def tiny(shape, classes, options):
    return [Flatten(), Linear("module.first", shape[0] * shape[1] * shape[2], 9), Linear("second", 9, classes)]
@wtref.rule("counting")
class Counting(wtref.Rule):
    def connect(self, s, classes):
        super().connect(s, classes)
        s.extra["C"] = 0 * s.B
"""


def test_a_run_of_one_s_own_model_and_rule_is_tested_exported_and_imported(here, said, registries):
    """Whatever arrays the rule keeps, and with the names that the model gives to its layers."""
    Path("mine.py").write_text(OWN)
    own = ["--plugin", "mine.py", "--device", "cpu"]
    said("train", "--model", "tiny", "--rule", "counting", "--epochs", "1", "--log-name", "mine", *own)
    assert said("export", "mine", "--feedback", *own) == "PyTorch state_dict: runs/mine/torch.pt\n"
    said("import", "runs/mine/torch.pt", "--rule", "counting", "--log-name", "again", *own)
    results = [said("eval", name, *own).splitlines()[1] for name in ("mine", "again")]
    assert results[0] == results[1]
    old, new = (checkpoints.read(Path("runs", name, "last.npz"))[0] for name in ("mine", "again"))
    assert all(old[name].tobytes() == new[name].tobytes() for name in ("module.first.W", "second.W", "second.B"))


@pytest.mark.parametrize("held, kind", [([1, 2], "a list"), ({0: 1}, "a dict whose keys are not names"), (3.0, "a float")])
def test_a_file_that_holds_no_dict_by_name_is_one_line(here, refused, held, kind):
    import torch

    torch.save(held, "net.pt")
    assert f"net.pt is no PyTorch state_dict (it holds {kind}, right would be a dict of tensors by name)" in refused("import", "net.pt")
