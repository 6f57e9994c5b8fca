"""export and import: PyTorch computes the same from what leaves, and what enters is what it was."""

import os
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exporting import export_to, trained
from wtref import datasets
from wtref.cli.main import main
from wtref.datasets.synthetic import load_synthetic
from wtref.installation import data_folder
from wtref.models import Options
from wtref.runs import checkpoints
from wtref.runs.config import Config
from wtref.runs.prepare import prepare
from wtref.runs.run import Run


MLP = "--model mlp --hidden 12 7 --batch-size 100 --epochs 3 --device cpu".split()


@pytest.fixture
def mine(said):
    said(*MLP, "--rule", "kp", "--log-name", "mine")
    return Run.find("mine")


NETWORKS = {
    "mlp": Config(model="mlp", hidden=(12, 7), device="cpu"),
    "mlp with norms": Config(model="mlp", hidden=(12, 7), norm="after", activation="tanh", device="cpu"),
    "resnet8": Config(model="resnet8", rule="kp", device="cpu"),
    "resnet8, norm after": Config(model="resnet8", norm="after", batch_size=64, device="cpu"),
    "lenet": Config(model="lenet", dataset="synthetic", device="cpu"),
}


def torch_logits(config, training, state):
    """The logits of PyTorch's network on all test images, from a state_dict alone."""
    import torch

    from wtref.oracle import networks as torch_networks

    feed = training.feed
    theirs = torch_networks.build(config.model, feed.shape, feed.classes, config.model_options)
    theirs.load_state_dict(state, strict=True)
    theirs.eval()
    images = np.concatenate([images for images, _ in feed.test_batches()])
    with torch.no_grad():
        return images, theirs(torch.tensor(images).permute(0, 3, 1, 2)).numpy()


def assert_same_logits(training, config, path):
    import torch

    state = torch.load(path, weights_only=True)
    images, theirs = torch_logits(config, training, state)
    ours = training.network.forward(images, train=False)
    assert np.abs(ours).max() > 0.05
    assert np.abs(theirs - ours).max() <= 1e-5 * max(1, np.abs(ours).max())


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
def test_an_exported_network_is_pytorch_s_own(here, config):
    training = trained(config)
    export_to(here / "net.pt", training)
    assert_same_logits(training, config, here / "net.pt")


@pytest.mark.slow
def test_an_exported_bottleneck_network_is_pytorch_s_own(here, monkeypatch):
    """resnet50, four channels wide."""
    monkeypatch.setattr(Config, "model_options", Options(width=4, stem="cifar"))
    config = Config(model="resnet50", batch_size=64, lr=0.01, device="cpu")
    training = trained(config, steps=2)
    export_to(here / "net.pt", training)
    assert_same_logits(training, config, here / "net.pt")


@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
def test_what_was_exported_comes_back_to_the_bit(here, config):
    from wtref.oracle import states as torch_state

    training = trained(config)
    export_to(here / "net.pt", training)
    again = prepare(config)
    torch_state.load(again, torch_state.read(here / "net.pt"))
    mine, theirs = training.network.arrays(), again.network.arrays()
    exported = [name for name in mine if not name.endswith(".B")]
    assert all(mine[name].tobytes() == theirs[name].tobytes() for name in exported)
    test = [t.evaluate(t.feed.test_batches()) for t in (training, again)]
    assert test[0] == test[1]


def test_export_and_import_by_the_command_line(mine, said):
    out = said("export", "mine", "--to", "torch", "--device", "cpu")
    assert out.startswith("PyTorch state_dict: runs/mine/torch.pt; in Python:\n")
    pasted = {}
    exec(out.split("\n", 1)[1], pasted)
    assert [tuple(layer.shape) for layer in pasted["network"].state_dict().values()][::2] == [(12, 64), (7, 12), (10, 7)]
    said("import", "runs/mine/torch.pt", *MLP, "--log-name", "again")
    old, new = (checkpoints.read(Path("runs", name, "last.npz"))[0] for name in ("mine", "again"))
    weights = [name for name in old if name.split(".")[-1] in ("W", "b") and not name.startswith("velocity")]
    assert len(weights) == 6 and all(old[name].tobytes() == new[name].tobytes() for name in weights)
    results = [said("eval", name, "--device", "cpu").splitlines()[1] for name in ("mine", "again")]
    assert results[0] == results[1]
    assert "after 0 epochs and 0 steps" in said("eval", "again", "--device", "cpu")
    said("train", "--resume", "again")
    assert len(Run.find("again").metrics()) == 3


def test_an_export_needs_no_data_set(here, said):
    shutil.copytree(data_folder("digits") / "digits", "data/digits")
    said(*MLP, "--data-dir", "data", "--log-name", "mine")
    shutil.rmtree("data")
    said("export", "mine", "--device", "cpu")
    assert Path("runs/mine/torch.pt").exists()


@pytest.mark.parametrize("rule", ["fa", "kp", "dfa", "bp"])
@pytest.mark.parametrize("name", ["mlp", "resnet8", "lenet"])
def test_feedback_weights_leave_and_come_back_to_the_bit(here, name, rule):
    """By way of PyTorch's network, which takes them from its state_dict and gives them back in its own."""
    import torch

    from wtref.oracle import networks, states

    config = replace(NETWORKS[name], rule=rule)
    training, again = trained(config, steps=2), prepare(replace(config, seed=1))
    export_to(here / "net.pt", training, feedback=True)
    theirs = networks.build(config.model, training.feed.shape, training.feed.classes, config.model_options)
    theirs.load_state_dict(torch.load("net.pt", weights_only=True), strict=True)
    torch.save(theirs.state_dict(), "theirs.pt")
    states.load(again, states.read("theirs.pt"))
    old, new = (t.network.arrays() for t in (training, again))
    assert all(old[name].tobytes() == new[name].tobytes() for name in old) and any(name.endswith(".B") for name in old)


@pytest.mark.parametrize("name", ["mlp", "resnet8"])
def test_in_pytorch_errors_return_through_exported_feedback_weights(here, name):
    """The gradient of the first layer is that of wtref."""
    import torch

    from wtref.oracle import networks

    config = replace(NETWORKS[name], rule="fa", dtype="float64")
    training = trained(config, steps=1)
    export_to(here / "net.pt", training, feedback=True)
    theirs = networks.build(config.model, training.feed.shape, training.feed.classes, config.model_options).double()
    theirs.load_state_dict(torch.load("net.pt", weights_only=True))
    images, labels = next(training.feed.train_batches(1))
    training.step(images, labels)
    torch.nn.functional.cross_entropy(theirs(torch.tensor(images).permute(0, 3, 1, 2)), torch.tensor(labels)).backward()
    first = training.network.synapses[0]
    wanted = dict(theirs.named_modules())[f"{first.name}.weights"].arrays(lambda tensor: tensor.grad)["W"].numpy()
    assert np.abs(first.W_gradient - wanted).max() < 1e-10 * np.abs(wanted).max()


def test_export_with_feedback_by_the_command_line(mine, said, refused, capsys):
    import torch

    out = said("export", "mine", "--feedback", "--device", "cpu")
    pasted = {}
    exec(out.split("\n", 1)[1], pasted)
    assert tuple(pasted["network"].hidden2.weights.B.shape) == (12, 7) and pasted["network"].hidden1.weights.B is None
    said("import", "runs/mine/torch.pt", "--rule", "kp", "--device", "cpu", "--log-name", "again")
    old, new = (checkpoints.read(Path("runs", name, "last.npz"))[0] for name in ("mine", "again"))
    assert old["output.B"].tobytes() == new["output.B"].tobytes() and old["hidden2.B"].any()
    line = refused("import", "runs/mine/torch.pt", "--rule", "dfa", "--device", "cpu")
    assert line == "wtref: runs/mine/torch.pt: hidden2.weights.B has shape (12, 7), under --rule dfa it is (12, 10)\n"
    assert main("import runs/mine/torch.pt --rule bp --device cpu --log-name bp".split()) == 0
    assert capsys.readouterr().err == "wtref: the feedback weights in runs/mine/torch.pt are not used: under --rule bp B is W^T\n"
    state = torch.load("runs/mine/torch.pt", weights_only=True)
    del state["output.weights.B"]
    torch.save(dict(state), "part.pt")
    assert "missing: output.weights.B;" in refused("import", "part.pt", *MLP, "--rule", "kp")


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def foreign_files(folder):
    import torch

    good = {"hidden1.weights.weight": torch.zeros(3, 64)}
    torch.save(Malicious(), folder / "malicious.pt")
    (folder / "pickle.pt").write_bytes(pickle.dumps(Malicious()))
    (folder / "old-pickle.pt").write_bytes(pickle.dumps(Malicious(), protocol=0))
    (folder / "text.pt").write_text("hello\nthere\n")
    (folder / "empty.pt").write_bytes(b"")
    torch.save([1, 2], folder / "list.pt")
    torch.save(3, folder / "number.pt")
    torch.save({"hidden1.weights.weight": "x"}, folder / "no-tensor.pt")
    torch.save({1: torch.zeros(2)}, folder / "number-as-name.pt")
    torch.save(good, folder / "other-names.pt")
    return sorted(folder.glob("*.pt"))


def test_a_foreign_file_is_refused_and_never_run(here, refused, recwarn):
    paths = foreign_files(here)
    assert len(paths) == 10
    for path in [*paths, here / "missing.pt", here]:
        said = refused("import", path, *MLP)
        assert str(path) in said
    assert not Path("executed").exists() and not Path("runs").exists()
    assert not recwarn.list  # a second line on stderr


def test_a_state_dict_of_other_shapes_is_refused(mine, said, refused):
    said("export", "mine", "--device", "cpu")
    without_options(Path("runs/mine/torch.pt"))
    flags = "--model mlp --hidden 12 8 --device cpu".split()
    line = refused("import", "runs/mine/torch.pt", *flags)
    assert re.search(r"has shape \(.*\), this architecture \(", line)
    line = refused("import", "runs/mine/torch.pt", "--model", "resnet8", "--device", "cpu")
    assert "--model" in line


def without_options(path):
    """Let the state_dict in a file be as other programs write it."""
    import torch

    torch.save(dict(torch.load(path, weights_only=True)), path)


NORMS, ACTIVATIONS = ("before", "after", "none"), ("relu", "tanh", "sigmoid")
RECIPES = [f"--model mlp --hidden 9 5 --norm {norm} --activation {activation}" for norm in NORMS for activation in ACTIVATIONS]
RECIPES += ["--model mlp --hidden 6 --loss sigmoid"]
SLOW_RECIPES = [f"--model resnet8 --norm {norm} --activation {activation}" for norm in NORMS for activation in ACTIVATIONS]
SLOW_RECIPES += ["--model lenet --dataset synthetic --activation tanh"]


@pytest.mark.parametrize("recipe", [*RECIPES, *(pytest.param(recipe, marks=pytest.mark.slow) for recipe in SLOW_RECIPES)])
def test_an_import_takes_the_network_s_options_from_the_file(monkeypatch, said, refused, recipe):
    """The imported run tests as the exported one did; flags that contradict the file are refused by name."""
    small = load_synthetic(None, train=60, test=30), datasets.load("digits")
    small = {data.name: replace(data, train_images=data.train_images[:60], train_labels=data.train_labels[:60]) for data in small}
    for name, data in small.items():
        monkeypatch.setitem(datasets.IN_MEMORY, name, lambda folder, data=data: data)
    dataset = "--dataset synthetic" if "synthetic" in recipe else ""
    said("train", *recipe.split(), "--epochs", 1, "--lr", "0.02", "--device", "cpu", "--log-name", "a")
    said("export", "a", "--device", "cpu")
    said("import", "runs/a/torch.pt", *dataset.split(), "--device", "cpu", "--log-name", "b")
    results = [said("eval", name, "--device", "cpu").splitlines()[1] for name in "ab"]
    assert results[0] == results[1]
    old, new = (Run.find(name).config() for name in "ab")
    for option in ("model", "norm", "activation", "hidden", "stem", "loss"):
        assert getattr(new, option) == getattr(old, option)
    other = {"relu": "tanh", "tanh": "sigmoid", "sigmoid": "relu"}[old.activation]
    for flags in (["--activation", other], ["--model", "resnet20", "--activation", old.activation]):
        name, right, wrong = flags[0][2:], getattr(old, flags[0][2:]), flags[1]
        assert refused("import", "runs/a/torch.pt", *dataset.split(), *flags) == (
            f"wtref: runs/a/torch.pt contradicts the flags: --{name} is {right}, not {wrong}; leave those flags out\n"
        )


def test_agreeing_flags_and_other_names_of_a_model_are_welcome(here, said):
    config = Config(model="mlp", hidden=(4,), norm="after", activation="tanh", device="cpu")
    export_to(here / "net.pt", trained(config))
    said("import", "net.pt", *"--model mlp --hidden 4 --norm after --activation tanh --loss softmax --device cpu".split())
    from wtref.oracle import states as torch_state

    file = torch_state.StateFile("net.pt", {}, {"model": "res18", "activation": "relu"}, None, {})
    assert torch_state.config_of(file, {"model": "resnet18"}).model == "resnet18"
    from wtref.oracle import networks

    assert networks.build("res18", (8, 8, 3), 2, Options(width=4)).state_dict().keys() >= {"stem.weights.weight", "output.weights.bias"}


def test_a_file_that_is_no_state_dict_is_refused_without_advice_to_execute_it(here, refused):
    (here / "net.pt").write_text("# no pickle")
    assert refused("import", "net.pt", *MLP) == (
        "wtref: net.pt is no PyTorch state_dict (it is damaged, or holds other objects than tensors; save the model's state_dict() alone)\n"
    )


def test_a_file_without_options_says_what_was_assumed(mine, said, capsys):
    said("export", "mine", "--device", "cpu")
    without_options(Path("runs/mine/torch.pt"))
    capsys.readouterr()
    assert main(["import", "runs/mine/torch.pt", *MLP, "--log-name", "b"]) == 0
    assert capsys.readouterr().err == (
        "wtref: runs/mine/torch.pt does not say which network it is of; "
        "assumed: model mlp, norm None, activation relu, hidden (12, 7), stem None, loss softmax\n"
    )


def test_an_import_onto_other_classes_is_refused_and_onto_other_statistics_remarked(monkeypatch, here, refused, capsys):
    export_to(here / "net.pt", trained(Config(model="mlp", hidden=(4,), device="cpu")))
    digits = datasets.load("digits")
    monkeypatch.setitem(datasets.IN_MEMORY, "mnist", lambda folder: replace(digits, train_images=digits.train_images // 2))
    monkeypatch.setitem(datasets.IN_MEMORY, "fashion-mnist", lambda folder: digits)
    assert refused("import", "net.pt", "--dataset", "fashion-mnist", "--device", "cpu") == (
        "wtref: class 0 of --dataset fashion-mnist is 'T-shirt', of net.pt '0'; classes must be the same, in the same order\n"
    )
    assert "images of 32x32x3" in refused("import", "net.pt", "--dataset", "synthetic", "--device", "cpu")
    assert main("import net.pt --dataset mnist --device cpu".split()) == 0
    said = "wtref: net.pt is of a network whose images had another mean and deviation than those of mnist\n"
    assert capsys.readouterr().err == said


def test_load_state_dict_takes_the_file_as_it_is(here):
    import torch

    from wtref.oracle import networks as torch_networks

    config = Config(model="resnet8", norm="after", activation="tanh", batch_size=64, device="cpu")
    training = trained(config, steps=1)
    export_to(here / "net.pt", training)
    net = torch_networks.build("resnet8", training.feed.shape, 10, config.model_options)
    net.load_state_dict(torch.load("net.pt", weights_only=True), strict=True)
    file = torch.load("net.pt", weights_only=True)
    assert file.wtref["options"]["activation"] == "tanh" and file.wtref["images"]["class_names"] == tuple("0123456789")


def test_arrays_that_are_no_weights_are_refused(here, refused):
    """Of each kind in turn, in the place of one weight: not finite, not real, not dense, of another shape."""
    import torch

    training = trained(Config(model="mlp", hidden=(4,), device="cpu"))
    export_to(here / "net.pt", training)
    whole = torch.load("net.pt", weights_only=True)
    name, W = "output.weights.weight", whole["output.weights.weight"]
    for wrong in (W * torch.nan, W * torch.inf, W.double() * 1e300, W + 0j, W.int(), W > 0, W.to_sparse(), W[:1, :1], W[0, 0],
                  "text", None, 1.0):  # fmt: skip
        torch.save({**whole, name: wrong}, "wrong.pt")
        assert name in refused("import", "wrong.pt", "--model", "mlp", "--hidden", 4, "--device", "cpu")


@pytest.mark.parametrize("change", [
    {"options": {}}, {"images": None}, {"options": {"activation": 5}}, {"images": {"mean": (float("nan"),)}},
    {"images": {"shape": (0, 8, 1)}}, {"options": {"hidden": (10**12,)}}, {"options": {"activation": "swish"}},
    {"options": {"epochs": 1.5}},
], ids=str)  # fmt: skip
def test_options_that_cannot_be_are_one_line(here, capsys, change):
    import torch

    export_to(here / "net.pt", trained(Config(model="mlp", hidden=(4,), device="cpu")))
    state = torch.load("net.pt", weights_only=True)
    for key, value in change.items():
        state.wtref[key] = {**state.wtref[key], **value} if value else value
    torch.save(state, "net.pt")
    harmless = "epochs" in str(change)  # of no interest in such a file
    assert main("import net.pt --device cpu".split()) == (0 if harmless else 2)
    assert capsys.readouterr().err.count("\n") == (0 if harmless else 1)
