"""Arrays that are no data set are refused at the one door; data on which errors mean little are spoken of."""

import re

import numpy as np
import pytest
from PIL import Image

from wtref import datasets
from wtref.cli.main import main
from wtref.datasets import Dataset
from wtref.datasets.base import doubts
from wtref.device import open_device
from wtref.errors import InputError
from wtref.installation import EMBEDDED
from wtref.runs.config import Config

IMAGES, LABELS = np.full((6, 4, 5, 1), 16, np.uint8), np.array([0, 1, 2, 0, 1, 2])
LARGE = np.full((6, 4, 6, 1), 16, np.uint8)
BYTES, INTEGERS = "right would be uint8 of shape (N, H, W, C)", "right would be integers of shape (6,)"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(train_images=IMAGES, train_labels=LABELS, test_images=IMAGES, test_labels=LABELS, **more):
    return Dataset("mine", 3, train_images, train_labels, test_images, test_labels, **more)


WRONG = {
    "label too large": ({"train_labels": LABELS + 1}, "mine, training images: label 3 at image 2, right would be 0 to 2"),
    "negative label": ({"test_labels": LABELS - 1}, "mine, test images: label -1 at image 0, right would be 0 to 2"),
    "unsigned label": (
        {"train_labels": np.array([0, 1, 2, 255, 1, 2], np.uint8)},
        "mine, training images: label 255 at image 3, right would be 0 to 2",
    ),
    "label of 64 bits": (
        {"train_labels": np.array([0, 1, 2, 2**63, 1, 2], np.uint64)},
        f"mine, training images: label {2**63} at image 3, right would be 0 to 2",
    ),
    "float labels": ({"train_labels": LABELS / 1}, f"mine, training images: labels are float64 of shape (6,), {INTEGERS}"),
    "bool labels": ({"test_labels": LABELS > 1}, f"mine, test images: labels are bool of shape (6,), {INTEGERS}"),
    "one-hot labels": (
        {"train_labels": np.eye(3, dtype=int)[LABELS]},
        f"mine, training images: labels are int64 of shape (6, 3), {INTEGERS}",
    ),
    "fewer labels": ({"test_labels": LABELS[:5]}, f"mine, test images: labels are int64 of shape (5,), {INTEGERS}"),
    "more labels": ({"train_labels": np.tile(LABELS, 2)}, f"mine, training images: labels are int64 of shape (12,), {INTEGERS}"),
    "float images": ({"train_images": IMAGES / 16}, f"mine, training images: are float64 of shape (6, 4, 5, 1), {BYTES}"),
    "NaN": ({"test_images": IMAGES * np.nan}, f"mine, test images: are float64 of shape (6, 4, 5, 1), {BYTES}"),
    "no channels": ({"train_images": IMAGES[..., 0]}, f"mine, training images: are uint8 of shape (6, 4, 5), {BYTES}"),
    "no images": (
        {"train_images": IMAGES[:0], "train_labels": LABELS[:0]},
        "mine, training images: there are none in an array of shape (0, 4, 5, 1)",
    ),
    "no test images": (
        {"test_images": IMAGES[:0], "test_labels": LABELS[:0]},
        "mine, test images: there are none in an array of shape (0, 4, 5, 1)",
    ),
    "no pixels": ({"train_images": IMAGES[:, :0]}, "mine, training images: there are none in an array of shape (6, 0, 5, 1)"),
    "two sizes": (
        {"test_images": LARGE},
        "mine: has training images of shape (4, 5, 1) and test images of shape (4, 6, 1), right would be one shape",
    ),
    "names": ({"class_names": ("a", "b")}, "mine: has 2 names for 3 classes"),
    "levels": ({"levels": 15}, "mine, training images: have pixels up to 16, right would be 0 to 15"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_data_set_is_refused_in_one_line(case):
    arrays, wanted = WRONG[case]
    with pytest.raises(InputError, match=f"^{re.escape(wanted)}$"):
        made(**arrays)


def test_what_is_one_is_taken():
    for kind in (np.uint8, np.int16, np.int64, np.uint64):
        assert made(train_labels=LABELS.astype(kind), class_names=("a", "b", "c"), levels=16).shape == (4, 5, 1)


def test_digits_with_wrong_labels_or_pixels_are_named_as_damaged(here, capsys):
    (here / "digits").mkdir()
    with np.load(EMBEDDED / "digits" / "digits.npz") as file:
        images, labels = file["images"], file["labels"]
    damages = {
        "label 10 at": {"images": images, "labels": np.where(np.arange(1797) == 5, 10, labels)},
        "label -1 at": {"images": images, "labels": labels.astype(int) - (np.arange(1797) == 0)},
        "labels are float64": {"images": images, "labels": labels / 1},
        "are float32": {"images": images.astype(np.float32), "labels": labels},
        "pixels up to 32": {"images": images * 2, "labels": labels},
    }
    for wanted, arrays in damages.items():
        np.savez(here / "digits" / "digits.npz", **arrays)
        assert main(["train", "--data-dir", str(here), "--device", "cpu"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and wanted in err
        assert err.startswith(f"wtref: digits: {here}/digits/digits.npz is damaged (")
    assert not (here / "runs").exists()


def write_folder(root, classes):
    for split in ("train", "val"):
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(root / split / name / "x.png")


@pytest.mark.slow
def test_a_data_set_of_one_class_is_warned_of(here, capsys):
    write_folder(here / "one", ["only\x1b"])
    warning = "wtref: the data have one class only, only\\x1b: any network has an error of 0 % and learns nothing\n"
    flags = ["--model", "mlp", "--hidden", "4", "--epochs", "1", "--device", "cpu", "--data-dir", "one"]
    for command in (
        ["train", "--dataset", "small-folder", "--log-name", "mine"],
        ["train", "--dataset", "folder", "--image-size", "8"],
        ["compare", "--dataset", "small-folder", "--rules", "bp", "--seeds", "1", "--jobs", "1"],
        ["eval", "mine"],
    ):
        assert main(command + (flags if command[0] != "eval" else [])) == 0
        out, err = capsys.readouterr()
        assert warning in err and err.count("one class") == 1
        assert "test error nan" not in out


def test_a_data_set_of_several_classes_is_not(here, capsys):
    write_folder(here / "two", "ab")
    flags = "train --model mlp --hidden 4 --epochs 1 --device cpu --data-dir two --dataset small-folder"
    assert main(flags.split()) == 0
    assert capsys.readouterr().err == ""


def test_classes_without_images_are_spoken_of():
    names = ("a", "b", "c")
    assert doubts(names, LABELS, LABELS) == ()
    assert doubts(names, LABELS, np.array([0, 0])) == ("2 of 3 classes have no test images, such as b",)
    assert doubts(names, np.array([2]), np.array([0, 1, 2])) == ("2 of 3 classes have no training images, such as a",)


def test_the_data_sets_of_this_program_leave_no_doubts():
    for name in ("digits", "synthetic"):
        assert datasets.open_feed(Config(dataset=name, device="cpu"), open_device("cpu")).doubts == ()
