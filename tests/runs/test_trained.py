"""A run's network on other data: normalised as in training, its classes the same ones, and no data set where none is needed."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wtref import datasets
from wtref.cli.main import main
from wtref.runs.run import Run
from wtref.runs.trained import Trained

TRAIN = "train --model mlp --hidden 8 --device cpu --epochs 3 --batch-size 8 --lr 0.01 --log-name mine".split()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture_set(root, classes=("cat", "dog"), size=(6, 6), light=0):
    """16 training and 8 test images of each class; `light` brightens the training images alone."""
    for split, count in (("train", 16), ("val", 8)):
        for label, name in enumerate(classes):
            folder = Path(root, split, name)
            folder.mkdir(parents=True)
            for i in range(count):
                rng = np.random.default_rng((label, i, count))
                pixels = rng.integers(0, 100, (*size, 3)) + 40 * label + (light if split == "train" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")


@pytest.fixture
def mine(capsys):
    """A run on the images in set/."""
    picture_set("set")
    assert main([*TRAIN, "--dataset", "small-folder", "--data-dir", "set"]) == 0
    capsys.readouterr()


@pytest.fixture
def tested(capsys):
    """A function that evaluates the run on other data and returns the line about the test images."""

    def test(*flags):
        assert main(["eval", "mine", "--device", "cpu", *flags]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out.splitlines()[1]

    return test


def refusal(capsys, *flags):
    capsys.readouterr()
    assert main(["eval", "mine", "--device", "cpu", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err.removeprefix("wtref: ").rstrip("\n")


def test_the_run_s_own_statistics_normalise_other_data(mine, tested):
    """The same test images beside training images that are brighter: the same loss."""
    picture_set("brighter", light=100)
    own = tested()
    assert tested("--data-dir", "brighter") == own and "16 test images of small-folder" in own


@pytest.mark.parametrize("kind, other", [("folder", "small-folder"), ("small-folder", "folder")])
def test_the_run_s_own_statistics_normalise_the_other_kind_of_folder(kind, other):
    """Images read as `folder` are normalised by ImageNet's statistics, not by their own."""
    picture_set("set", size=(8, 8))
    flags = ["--image-size", "8"] if kind == "folder" else []
    assert main([*TRAIN, "--dataset", kind, "--data-dir", "set", *flags]) == 0
    trained = Trained(Run.find("mine"))
    size = {"image_size": 8} if other == "folder" else {"image_size": 224}
    feed = trained.open_feed(replace(trained.config, dataset=other, **size))
    seen = next(feed.test_batches())[0]
    feed.normalise = lambda pixels: pixels.astype(float)
    pixels = next(feed.test_batches())[0]
    mean, std = IMAGENET if kind == "folder" else statistics("set/train")
    assert np.allclose(seen, (pixels - mean) / std, atol=1e-5)


IMAGENET = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


def statistics(folder):
    """Mean and standard deviation of each channel over all pixels of a folder's images."""
    pixels = np.stack([np.asarray(Image.open(path), float) for path in sorted(Path(folder).rglob("*.png"))])
    return pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))


@pytest.mark.parametrize(
    "classes, said",
    [
        (("Cat", "dog"), "class 0 of --dataset small-folder is 'Cat', of run 'mine' 'cat'"),
        (("cat", "zebra"), "class 1 of --dataset small-folder is 'zebra', of run 'mine' 'dog'"),
        (("cat", "dog", "emu"), "--dataset small-folder has 3 classes, run 'mine' has 2"),
    ],
)
def test_other_classes_are_refused(mine, capsys, classes, said):
    picture_set("other", classes)
    line = refusal(capsys, "--data-dir", "other")
    assert line.startswith(said) and line.endswith("must be the same, in the same order")


def test_other_sizes_are_refused(mine, capsys):
    picture_set("other", size=(5, 6))
    assert refusal(capsys, "--data-dir", "other") == (
        "--dataset small-folder has images of 5x6x3, which does not fit run 'mine': its images are 6x6x3"
    )


def test_published_sets_of_one_shape_are_told_apart_by_their_classes(capsys, monkeypatch):
    digits = datasets.load("digits")
    monkeypatch.setitem(datasets.IN_MEMORY, "fashion-mnist", lambda folder: digits)
    assert main(TRAIN) == 0
    assert refusal(capsys, "--dataset", "fashion-mnist").startswith("class 0 of --dataset fashion-mnist is 'T-shirt', of run 'mine' '0'")


def test_pixels_of_another_range_are_brought_to_the_run_s_own(capsys, tested, monkeypatch):
    """The digits, 0 to 16, also as 0 to 240."""
    digits = datasets.load("digits")
    brighter = replace(digits, train_images=digits.train_images[:100] * 15, train_labels=digits.train_labels[:100],
                       test_images=digits.test_images * 15, levels=240)  # fmt: skip
    monkeypatch.setitem(datasets.IN_MEMORY, "mnist", lambda folder: brighter)
    assert main(TRAIN) == 0
    capsys.readouterr()
    assert tested("--dataset", "mnist") == tested().replace("digits", "mnist")


def test_export_and_predict_need_no_data_set(mine, capsys):
    assert main("export mine --device cpu".split()) == 0
    with_data = Path("runs/mine/torch.pt").read_bytes()
    Path("set/val/cat/0.png").rename("x.png")
    shutil.rmtree("set")
    Path("runs/mine/torch.pt").unlink()
    assert main("export mine --device cpu".split()) == 0
    assert Path("runs/mine/torch.pt").read_bytes() == with_data
    assert main("predict mine x.png --device cpu".split()) == 0
