"""Damaged or missing checkpoints, configurations, metrics and data sets are one line that names the file."""

from pathlib import Path

import numpy as np
import pytest

from launching import MLP
from wtref.cli.main import main
from wtref.installation import EMBEDDED


DATA = {"shape": (8, 8, 1), "class_names": tuple("0123456789"), "mean": [5.0], "std": [6.0], "levels": 16, "sha256": ""}


@pytest.fixture
def mine(capsys):
    """The folder of a run called mine, of one epoch."""
    assert main([*MLP, "--log-name", "mine"]) == 0
    capsys.readouterr()
    return Path("runs/mine")


def flipped(data):
    """One byte in the middle is another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


def save(path, **arrays):
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def spoil(path, how):
    """Damage the .npz at path."""
    data = path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)
    key = next(iter(arrays))
    if how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not what was there\n")
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flipped byte":
        path.write_bytes(flipped(data))
    elif how == "other array":
        with open(path, "wb") as file:
            np.save(file, np.ones(3))
    elif how == "missing array":
        save(path, **{name: array for name, array in arrays.items() if name != key})
    elif how == "shorter array":
        save(path, **{**arrays, key: arrays[key][:-1]})
    elif how == "nothing inside":
        save(path)


HOW = (
    "empty", "text", "cut", "flipped byte", "other array", "missing array", "shorter array", "nothing inside",
)  # fmt: skip
USES = ("eval mine --device cpu", "train --resume mine")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("use", USES)
def test_a_damaged_checkpoint(refused, mine, use, how):
    spoil(mine / "last.npz", how)
    assert "last.npz" in refused(*use.split())


NO_CONFIGS = (
    b"", b"{", b"[]", b"{}", b"\0", b"\xff\xfe", b'{"config": 3}', b'{"config": {"layers": 3}}',
    b'{"config": {"epochs": "x"}}', b'{"config": {"model": "vgg"}}',
)  # fmt: skip


@pytest.mark.parametrize("data", NO_CONFIGS)
@pytest.mark.parametrize("use", USES)
def test_a_damaged_config(refused, mine, use, data):
    (mine / "config.json").write_bytes(data)
    assert "config.json" in refused(*use.split())


def test_damaged_metrics(refused, mine):
    config = (mine / "config.json").read_text()
    (mine / "config.json").write_text(config.replace('"epochs": 1', '"epochs": 2'))  # there is more to do
    (mine / "metrics.jsonl").write_text('{"epoch": 1, "tra')
    assert "metrics.jsonl" in refused("--resume", "mine")


@pytest.fixture
def digits(here):
    """A copy of the digits' file, to be damaged."""
    path = here / "data" / "digits" / "digits.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes((EMBEDDED / "digits" / "digits.npz").read_bytes())
    return path


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize("how", HOW)
def test_damaged_digits(refused, digits, command, how):
    spoil(digits, how)
    assert "digits.npz" in refused(command, *MLP, "--data-dir", "data")


def test_digits_with_too_few_labels(refused, digits):
    with np.load(digits) as file:
        arrays = dict(file)
    save(digits, images=arrays["images"], labels=arrays["labels"][:100])
    assert "digits.npz" in refused(*MLP, "--data-dir", "data")


@pytest.mark.parametrize("command", ["train", "compare"])
def test_missing_digits(refused, command):
    said = refused(command, *MLP, "--data-dir", "nowhere")
    assert "nowhere/digits/digits.npz" in said and "missing" in said and "--data-dir" in said
