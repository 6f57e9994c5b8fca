"""Flags with unknown or impossible values, presets, and devices that are not there: one line each, and the disk as it was."""

import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from fake_cupy import fake_cupy
from launching import MLP
from wtref.cli.main import main
from wtref.datasets import DATASETS
from wtref.models import ALIASES, MODELS
from wtref.relatives import RULES
from wtref.runs.config import Config
from wtref.runs.presets import PRESETS
from wtref.runs.run import Run


@pytest.fixture
def mine(capsys):
    """The folder of a run called mine, of one epoch."""
    assert main([*MLP, "--log-name", "mine"]) == 0
    capsys.readouterr()
    return Path("runs/mine")


@pytest.mark.parametrize("command", [[], ["train"], ["compare"]])
@pytest.mark.parametrize(
    "flag, choices",
    [
        ("--model", [*MODELS, *ALIASES]),
        ("--dataset", DATASETS),
        ("--device", ["auto", "cpu", "cuda", "cuda:N"]),
        ("--dtype", ["float32", "float64"]),
        ("--bad_images", ["error", "skip"]),
        ("--schedule", ["constant", "step", "cosine"]),
        ("--loss", ["softmax", "sigmoid"]),
        ("--norm", ["before", "after", "none"]),
        ("--activation", ["relu", "sigmoid", "tanh"]),
        ("--stem", ["cifar", "imagenet"]),
    ],
)
def test_an_unknown_choice_lists_the_choices(refused, command, flag, choices):
    said = refused(*command, flag, "nonsense")
    assert "'nonsense'" in said and flag.strip("-").replace("_", "-").replace("-", " ") in said
    assert said.rstrip().endswith(f"choose from: {', '.join(choices)}")


@pytest.mark.parametrize("argv", ["--rule bq", "train --rule bq", "compare --rules bp bq"])
def test_an_unknown_rule_lists_the_rules(refused, argv):
    assert refused(*argv.split()).rstrip().endswith(f"unknown rule 'bq'; choose from: {', '.join(RULES)}")


@pytest.mark.parametrize("argv", [["check", "--dtype", "float16"], ["check", "--device", "tpu"]])
def test_an_unknown_choice_for_the_check(refused, argv):
    said = refused(*argv)
    assert f"unknown {argv[1].strip('-')} {argv[2]!r}" in said and "choose from: " in said


@pytest.mark.parametrize("value", ["many", "1,5", ""])
@pytest.mark.parametrize("flag", ["--epochs", "--lr", "--momentum", "--seed", "--mirror-window", "--hidden"])
def test_not_a_number(refused, flag, value):
    said = refused("train", flag, value)
    assert flag in said and repr(value) in said


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--epochs", 0), ("--epochs", -3), ("--batch-size", 0), ("--lr", 0), ("--lr", -1), ("--lr", "nan"),
        ("--momentum", 1), ("--momentum", -0.1), ("--weight-decay", -1), ("--warmup", 1), ("--warmup", "nan"),
        ("--hidden", 0), ("--mirror-window", 0), ("--mirror-rows", 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["train --rule wm", "compare --rules wm"])
def test_an_impossible_number_names_the_flag_and_the_value(refused, command, flag, value):
    said = refused(*command.split(), flag, value)
    assert f"{flag} must be " in said and str(value) in said


def test_an_impossible_seed(refused):
    assert "--seed must be at least 0, found -1" in refused("train", "--seed", -1)


@pytest.mark.parametrize("flags", [["--hidden"], ["--milestones"], ["--lr"], ["--log-name"]])
def test_a_flag_without_its_value(refused, flags):
    assert flags[0] in refused("train", *flags)


@pytest.mark.parametrize("command", [["train", "--rule"], ["compare", "--rules", "bp"]], ids=" ".join)
def test_mirror_rows_of_another_rule(refused, command):
    said = refused(*command, "kp", "--model", "mlp", "--mirror-rows", 3)
    assert "--mirror-rows (it is for rules wm, aa and ia)" in said


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_network_too_large_for_the_images(refused, command):
    said = refused(command, "--model", "lenet", "--dataset", "digits", "--device", "cpu")
    assert "conv2" in said and "5x5" in said and "4x4" in said


@pytest.mark.parametrize("value", [0, -2, "five"])
@pytest.mark.parametrize("flag", ["--seeds", "--jobs"])
def test_compare_wants_seeds_and_jobs(refused, flag, value):
    said = refused("compare", *MLP, "--rules", "bp", flag, value)
    assert flag in said and str(value) in said


def test_eval_wants_a_name(refused):
    assert "NAME" in refused("eval")


@pytest.mark.parametrize("flag", ["--nesterov", "--no-nesterov", "--no_nesterov"])
def test_a_switch_has_two_positions(flag):
    main([*MLP, flag, "--log-name", "mine"])
    assert Run("mine").config().nesterov == (flag == "--nesterov")


@pytest.mark.parametrize("command", ["train", "compare", "check"])
@pytest.mark.parametrize(
    "cupy, device, wanted",
    [
        (None, "cuda", "CuPy is not installed"),
        (fake_cupy(0), "cuda", "finds no GPU"),
        (fake_cupy(1), "cuda:7", "cuda:7"),
    ],
)
def test_a_gpu_that_is_not_there(monkeypatch, refused, command, cupy, device, wanted):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert wanted in refused(command, "--device", device)


def test_eval_on_a_gpu_that_is_not_there(monkeypatch, refused, mine):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "CuPy is not installed" in refused("eval", "mine", "--device", "cuda")


def test_auto_trains_on_the_cpu_without_cupy(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["--model", "mlp", "--hidden", "4", "--epochs", "1"]) == 0
    assert "; cpu, float32" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_config(name):
    config = Config(**PRESETS[name])
    assert all(asdict(config)[key] == value for key, value in PRESETS[name].items())


@pytest.mark.parametrize("name", PRESETS)
def test_explicit_flags_override_a_preset(said, name):
    said("--preset", name, *MLP, "--dataset", "digits", "--crop", "1", "--no-flip", "--log-name", "mine")
    config = Run.find("mine").config()
    mine = {"model": "mlp", "hidden": (8,), "epochs": 1, "device": "cpu", "dataset": "digits", "crop": 1, "flip": False}
    assert config == Config(**{**PRESETS[name], **mine})


def test_an_unknown_preset_lists_them(refused):
    said = refused("--preset", "nonsense")
    assert said.rstrip().endswith(f"unknown preset 'nonsense'; choose from: {', '.join(PRESETS)}")
