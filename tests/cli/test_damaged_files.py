"""Damaged or missing checkpoints, configurations, metrics and data sets are one line that names the file."""

from pathlib import Path

import numpy as np
import pytest

from launching import MLP
from wtref.cli.main import main
from wtref.datasets.digits import load_digits
from wtref.errors import InputError
from wtref.installation import EMBEDDED
from wtref.runs import checkpoints


DATA = {"shape": (8, 8, 1), "class_names": tuple("0123456789"), "mean": [5.0], "std": [6.0], "levels": 16, "sha256": ""}


@pytest.fixture
def mine(capsys):
    """The folder of a run called mine, of one epoch."""
    assert main([*MLP, "--log-name", "mine"]) == 0
    capsys.readouterr()
    return Path("runs/mine")


def flipped(data, place):
    """The byte at `place` is another."""
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


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
        path.write_bytes(flipped(data, len(data) // 2))
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


def places(data):
    """Bytes throughout a zip file, those of its first header and of its directory at the end among them."""
    return [*range(100), *range(100, len(data) - 250, max(len(data) // 150, 1)), *range(len(data) - 250, len(data))]


@pytest.mark.slow
def test_digits_with_any_byte_flipped_are_refused_or_the_same(digits):
    data, whole = digits.read_bytes(), load_digits(EMBEDDED)
    read = 0
    for place in places(data):
        digits.write_bytes(flipped(data, place))
        try:
            found = load_digits(digits.parents[1])
        except InputError as refusal:
            assert str(refusal).startswith(f"digits: {digits} is damaged (")
            continue
        read += 1  # the byte is one that no reader needs, such as a time
        for part in ("train_images", "train_labels", "test_images", "test_labels"):
            assert np.array_equal(getattr(found, part), getattr(whole, part))
    assert 0 < read < len(places(data)) / 3


@pytest.mark.slow
def test_a_checkpoint_with_any_byte_flipped_is_damaged_or_the_same(mine):
    path = mine / "last.npz"
    data, (arrays, plain) = path.read_bytes(), checkpoints.read(path)
    for place in places(data):
        path.write_bytes(flipped(data, place))
        try:
            found, values = checkpoints.read(path)
        except checkpoints.Damaged as damage:
            assert str(damage).startswith(f"{path} is damaged (")
            continue
        assert values == plain and found.keys() == arrays.keys()
        assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


def test_a_damaged_header_is_one_line(refused, digits, said):
    data = digits.read_bytes()
    digits.write_bytes(flipped(data, data.index(b"PK\1\2") + 10))  # the method of compression
    assert "digits.npz is damaged" in refused(*MLP, "--data-dir", "data")
    assert "digits         damaged" in said("data", "--data-dir", "data")


def test_digits_with_too_few_labels(refused, digits):
    with np.load(digits) as file:
        arrays = dict(file)
    save(digits, images=arrays["images"], labels=arrays["labels"][:100])
    assert "digits.npz" in refused(*MLP, "--data-dir", "data")


@pytest.mark.parametrize("command", ["train", "compare"])
def test_missing_digits(refused, command):
    said = refused(command, *MLP, "--data-dir", "nowhere")
    assert "nowhere/digits/digits.npz" in said and "missing" in said and "--data-dir" in said
