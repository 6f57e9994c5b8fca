"""The commands beside train: what they print, and that what leaves and enters by them is what it was."""

import os
import pickle
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wtref import datasets
from wtref.cli.main import main
from wtref.datasets.synthetic import load_synthetic
from wtref.models import Options
from wtref.runs import checkpoints, resuming
from wtref.runs.config import Config
from wtref.runs.folders import RUNS
from wtref.runs.prepare import prepare
from wtref.runs.presets import PRESETS
from wtref.runs.run import Run
from wtref.runs.run_files import Images
from wtref.training import Training

MLP = "--model mlp --hidden 12 7 --batch-size 100 --epochs 3 --device cpu".split()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(Path(folder).rglob("*"))}


@pytest.fixture
def refused(here, capsys):
    """A function that holds a command line to the rules for bad input and returns its one line."""

    def refuse(*argv):
        capsys.readouterr()
        before = contents(here)
        assert main([str(arg) for arg in argv]) == 2
        out, err = capsys.readouterr()
        assert contents(here) == before
        assert out == ""
        assert err.startswith("wtref: ") and err.count("\n") == 1 and err.endswith("\n")
        return err

    return refuse


@pytest.fixture
def said(capsys):
    """A function that runs a command line and returns its output."""

    def run(*argv):
        capsys.readouterr()
        assert main([str(arg) for arg in argv]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return run


@pytest.fixture
def mine(said):
    said(*MLP, "--rule", "kp", "--log-name", "mine")
    return Run.find("mine")


def trained(config, steps=4):
    """A Training a few steps on its way, so that no array is at its starting value."""
    training = prepare(config)
    for _ in zip(range(steps), training.run()):
        pass
    return training


# --- PyTorch ----------------------------------------------------------------------------------------------

NETWORKS = {
    "mlp": Config(model="mlp", hidden=(12, 7), device="cpu"),
    "mlp with norms": Config(model="mlp", hidden=(12, 7), norm="after", activation="tanh", device="cpu"),
    "resnet8": Config(model="resnet8", rule="kp", device="cpu"),
    "resnet8, norm after": Config(model="resnet8", norm="after", batch_size=64, device="cpu"),
    "lenet": Config(model="lenet", dataset="synthetic", device="cpu"),
}


def export_to(path, training):
    from wtref.oracle import states as torch_state

    torch_state.export(training.network, training.config, Images.of(training.feed.about()), path)


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
    assert "runs/mine/torch.pt" in out
    said("import", "runs/mine/torch.pt", *MLP, "--log-name", "again")
    old, new = (checkpoints.read(Path("runs", name, "last.npz"))[0] for name in ("mine", "again"))
    weights = [name for name in old if name.split(".")[-1] in ("W", "b") and not name.startswith("velocity")]
    assert len(weights) == 6 and all(old[name].tobytes() == new[name].tobytes() for name in weights)
    results = [said("eval", name, "--device", "cpu").splitlines()[1] for name in ("mine", "again")]
    assert results[0] == results[1]
    assert "after 0 epochs and 0 steps" in said("eval", "again", "--device", "cpu")
    said("train", "--resume", "again")
    assert len(Run.find("again").metrics()) == 3


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


RECIPES = [
    f"--model {model} --norm {norm} --activation {activation}"
    for model in ("mlp --hidden 9 5", "resnet8") for norm in ("before", "after", "none") for activation in ("relu", "tanh", "sigmoid")
]  # fmt: skip
RECIPES += ["--model mlp --hidden 6 --loss sigmoid", "--model lenet --dataset synthetic --activation tanh"]


@pytest.mark.parametrize("recipe", RECIPES)
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

    file = torch_state.StateFile("net.pt", {}, {"model": "res18", "activation": "relu"}, None)
    assert torch_state.config_of(file, {"model": "resnet18"}).model == "resnet18"


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


# --- predict ----------------------------------------------------------------------------------------------


def save_png(path, image):
    """A digit (8, 8, 1) of values 0 to 16 as a grey PNG of 0 to 255."""
    Image.fromarray(np.rint(image[..., 0] * (255 / 16)).astype(np.uint8)).save(path)


def test_predict_gives_five_classes_that_fall_and_agree_with_the_network(mine, said):
    training = prepare(mine.config())
    resuming.restore(training, *checkpoints.read(mine.folder / "last.npz"))
    data = datasets.load("digits")
    paths = [f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        save_png(path, data.test_images[i])
    lines = said("predict", "mine", *paths, "--device", "cpu").splitlines()
    assert len(lines) == 3 * 6
    for i, path in enumerate(paths):
        name, *rows = lines[6 * i : 6 * i + 6]
        image = (data.test_images[i : i + 1] - data.mean) / data.std
        logits = training.network.forward(training.device.array(image), train=False)[0].astype(float)
        p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        found = [re.fullmatch(r" +(\d+\.\d\d) %  (\d)", row) for row in rows]
        shown, classes = [float(m[1]) for m in found], [int(m[2]) for m in found]
        assert name == path and shown == sorted(shown, reverse=True)
        assert classes[0] == logits.argmax() and len(set(classes)) == 5
        assert np.allclose(shown, 100 * p[classes], atol=2)  # 16 and 255 grey levels are not quite the same image
        assert np.allclose(shown, 100 * np.sort(p)[::-1][:5], atol=2)


def test_predict_knows_its_own_training_images(said):
    """Only right pixel values, mean and deviation get this many right."""
    said(*"--model mlp --hidden 32 --epochs 8 --device cpu --log-name good".split())
    data = datasets.load("digits")
    for i in range(40):
        save_png(f"{i}.png", data.test_images[i])
    lines = said("predict", "good", *(f"{i}.png" for i in range(40)), "--device", "cpu").splitlines()
    top = [int(line.split()[-1]) for line in lines[1::6]]
    assert np.mean(top == data.test_labels[:40]) >= 0.85


def test_predict_takes_colour_and_any_size(mine, said):
    Image.new("RGB", (300, 200), (200, 30, 90)).save("colour.png")
    Image.new("P", (5, 31)).save("narrow.gif")
    Image.new("RGBA", (1, 1)).save("dot.png")
    assert len(said("predict", "mine", "colour.png", "narrow.gif", "dot.png").splitlines()) == 18


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0", None])
def test_an_unreadable_image_is_one_line(mine, refused, data):
    if data is not None:
        Path("x.png").write_bytes(data)
    assert "x.png" in refused("predict", "mine", "x.png", "--device", "cpu")


def test_a_cut_or_spoilt_image_is_one_line_or_an_image(mine, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8)).save("whole.png")
    data, rng = Path("whole.png").read_bytes(), np.random.default_rng(1)
    for i in range(60):
        spoilt = bytearray(data if i % 2 else data[: rng.integers(len(data))])
        if i % 2:
            spoilt[rng.integers(100)] ^= 1 << rng.integers(8)
        Path("x.png").write_bytes(spoilt)
        capsys.readouterr()
        code = main(["predict", "mine", "x.png", "--device", "cpu"])
        err = capsys.readouterr().err
        assert code in (0, 2)
        assert code == 0 or err.count("\n") == 1 and "x.png" in err


def test_a_folder_is_no_image(mine, refused):
    Path("x.png").mkdir()
    assert "x.png" in refused("predict", "mine", "x.png")


def test_predict_wants_a_checkpoint(refused):
    data = {"shape": (8, 8, 1), "class_names": ["a"], "mean": [0.0], "std": [1.0], "levels": 16, "sha256": ""}
    Run.create(Config(model="mlp"), data, "cpu", "x")
    err = refused("predict", "x", "x.png", "--device", "cpu")
    assert "run 'x' has no last checkpoint; go on with --resume x\n" in err


def test_a_last_checkpoint_that_is_lost_is_told_with_the_one_that_is_there(mine, refused):
    Path("runs/mine/last.npz").unlink()
    assert "run 'mine' has no last checkpoint; try --checkpoint best\n" in refused("eval", "mine")


# --- eval -------------------------------------------------------------------------------------------------


def test_eval_on_other_images_that_do_not_fit(mine, refused):
    assert "does not fit" in refused("eval", "mine", "--dataset", "synthetic", "--device", "cpu")


def test_eval_on_an_unknown_data_set(mine, refused):
    assert "choose from" in refused("eval", "mine", "--dataset", "digit", "--device", "cpu")


# --- runs, figures ----------------------------------------------------------------------------------------


def test_no_runs_is_an_empty_table(said):
    assert said("runs").split() == "name rule model data epoch best error state".split()


def test_the_table_of_runs(mine, said, capsys):
    Run.create(Config(model="mlp", rule="wm", epochs=7), {"sha256": ""}, "cpu", "a-new-one")
    said("compare", *MLP, "--rules", "bp", "--seeds", "1", "--jobs", "1", "--epochs", "1")  # its folder is no run
    head, new, old = said("runs").splitlines()
    best = min(record["test_error"] for record in mine.metrics())
    assert new.split() == ["a-new-one", "wm", "mlp", "digits", "0/7", "-", "not", "begun"]
    assert old.split() == ["mine", "kp", "mlp", "digits", "3/3", f"{best:.2f}", "%", "done"]
    assert head.index("rule") == old.index("kp") == new.index("wm")


def test_an_unfinished_run_in_the_table(mine, said):
    config = RUNS / "mine" / "config.json"
    config.write_text(config.read_text().replace('"epochs": 3', '"epochs": 30'))
    assert said("runs").splitlines()[1].split()[4:] == ["3/30", *said("runs").split()[-3:]]
    assert said("runs").rstrip().endswith("unfinished")


def test_figures_of_several_runs(mine, said):
    pytest.importorskip("matplotlib")
    said(*MLP, "--rule", "fa", "--log-name", "other")
    out = said("figures", "other", "mine")
    assert out.splitlines() == [f"picture: runs/other/{name}.png" for name in ("test-error", "depth", "angles")]
    for name in ("test-error", "depth", "angles"):
        with Image.open(f"runs/other/{name}.png") as image:
            assert image.size[0] > 300 and len(np.unique(np.asarray(image.convert("L")))) > 10


def test_figures_of_nothing(mine, refused):
    assert "'yours'" in refused("figures", "mine", "yours")
    Run.create(Config(model="mlp"), {}, "cpu", "empty")
    assert "empty" in refused("figures", "empty")


# --- data -------------------------------------------------------------------------------------------------


def test_data_lists_what_is_there(said):
    lines = said("data").splitlines()
    assert any(re.match(r"digits +intact ", line) for line in lines)
    lines = said("data", "--data-dir", "nowhere").splitlines()
    assert len(lines) >= 5 and all("missing" in line for line in lines)


def test_data_fetch_wants_a_name(refused):
    assert "cifar10" in refused("data", "fetch")
    assert "cifar10" in refused("data", "fetch", "imagenet", "--data-dir", "data")


# --- presets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_config(name):
    config = Config(**PRESETS[name])
    assert all(asdict(config)[key] == value for key, value in PRESETS[name].items())


@pytest.mark.parametrize("name", PRESETS)
def test_explicit_flags_override_a_preset(said, name):
    said("--preset", name, *MLP, "--dataset", "digits", "--crop", "1", "--no-flip", "--log-name", "mine")
    config = Run.find("mine").config()
    mine = {"model": "mlp", "hidden": (12, 7), "batch_size": 100, "epochs": 3, "device": "cpu", "dataset": "digits",
            "crop": 1, "flip": False}  # fmt: skip
    assert config == Config(**{**PRESETS[name], **mine})


def test_an_unknown_preset_lists_them(refused):
    said = refused("--preset", "nonsense")
    assert said.rstrip().endswith(f"unknown preset 'nonsense'; choose from: {', '.join(PRESETS)}")


# --- TensorBoard ------------------------------------------------------------------------------------------


def test_without_its_package_tensorboard_is_one_line_and_nothing_is_made(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setattr(Training, "step", None)
    assert "tensorboardX" in refused(*MLP, "--tensorboard", "--log-name", "mine")


def events(folder):
    """{(tag, step): number} of the event file in folder, whose records are length, checksum, Event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = Path(folder).iterdir()
    data, found = path.read_bytes(), {}
    while data:
        end = 12 + int.from_bytes(data[:8], "little")
        event, data = Event.FromString(data[12:end]), data[end + 4 :]
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return found


def test_tensorboard_gets_every_number_of_every_epoch(said):
    pytest.importorskip("tensorboardX")
    said(*MLP, "--rule", "fa", "--tensorboard", "--log-name", "mine")
    written = {key: pytest.approx(value, rel=1e-6) for key, value in events("runs/mine/events").items()}
    for record in Run.find("mine").metrics():
        for name in ("test_error", "train_loss", "lr"):
            assert written[name, record["epoch"]] == record[name]
        for layer, angle in record["matrix_angles"].items():
            assert written[f"matrix_angles/{layer}", record["epoch"]] == angle
