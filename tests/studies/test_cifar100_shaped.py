"""The made-up images have CIFAR-100's shape and classes, and the recipe of CIFAR-100 trains on them."""

from wtref.cli.main import main
from wtref.installation import PACKAGE

PLUGIN = str(PACKAGE / "studies" / "cifar100_shaped.py")


def test_the_recipe_takes_the_images(registries, tmp_path, monkeypatch, capsys):
    """A small network's number of weights tells the size of an image and the number of classes."""
    monkeypatch.chdir(tmp_path)
    flags = ["--preset", "cifar100-res18", "--plugin", PLUGIN, "--dataset", "cifar100-shaped", "--model", "mlp", "--hidden", "4"]
    assert main(["train", *flags, "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert f"mlp, {32 * 32 * 3 * 4 + 4 * 100:,} weights" in out and "10,000 training and 2,000 test images of 100 classes" in out
