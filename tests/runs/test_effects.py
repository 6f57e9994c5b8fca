"""Flags that would have no effect are refused by name; image folders are flipped unless --no-flip says otherwise."""

import numpy as np
import pytest
from PIL import Image

from wtref import datasets
from wtref.cli.main import main
from wtref.device import open_device
from wtref.errors import InputError
from wtref.runs.config import Config
from wtref.runs.effects import EFFECTS, check_effects
from wtref.runs.experiments import EXPERIMENTS
from wtref.runs.presets import PRESETS

CPU = ["--device", "cpu", "--epochs", "1"]
MLP = ["--model", "mlp", "--hidden", "4", *CPU]
MEMORY, FOLDER, FOLDERS = "it is for data sets held in memory", "it is for --dataset folder", "it is for image folders"
RESIDUAL = "it is for residual networks"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


IDLE = {
    "train --dataset folder --data-dir x --crop 4": f"--crop ({MEMORY})",
    "train --dataset folder --data-dir x --crop 4 --rotate 3": f"--crop ({MEMORY}), --rotate ({MEMORY})",
    "train --dataset mnist --image-size 32": f"--image-size ({FOLDER})",
    "train --dataset small-folder --data-dir x --image-size 32": f"--image-size ({FOLDER})",
    "train --jitter 0.4": f"--jitter ({FOLDER})",
    "train --workers 2": f"--workers ({FOLDERS})",
    "train --bad-images skip --workers 2": f"--bad-images ({FOLDERS}), --workers ({FOLDERS})",
    "train --dataset synthetic --data-dir x": "--data-dir (it is for data sets in files)",
    "train --model resnet8 --hidden 4": "--hidden (it is for --model mlp)",
    "train --model mlp --stem cifar": f"--stem ({RESIDUAL})",
    "train --model lenet --dataset synthetic --stem cifar": f"--stem ({RESIDUAL})",
    "train --milestones 0.3": "--milestones (it is for --schedule step)",
    "train --nesterov --momentum 0": "--nesterov (it is for --momentum above 0)",
    "train --rule kp --mirror-rows 64": "--mirror-rows (it is for rules wm, aa and ia)",
    "train --rule aa --mirror-window 3": "--mirror-window (it is for rule wm)",
    "compare --rules bp kp --noise-steps 2": "--noise-steps (it is for rule fa)",
    "train --rule frozen --output-backprop": "--output-backprop (it is for rules with feedback weights of their own)",
    "compare --rules bp --output-backprop": "--output-backprop (it is for rules with feedback weights of their own)",
    "compare --rules bp frozen --output-backprop": "--output-backprop (it is for rules with feedback weights of their own)",
    "compare --jitter 1": f"--jitter ({FOLDER})",
    "reproduce digits --workers 2": f"--workers ({FOLDERS})",
    "constants --models mlp --workers 2": f"--workers ({FOLDERS})",
    "decays --workers 2": f"--workers ({FOLDERS})",
}


@pytest.mark.parametrize("command", IDLE)
def test_a_flag_without_effect_is_refused_by_name(command, here, capsys):
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    leave = "leave them out" if "), --" in IDLE[command] else "leave it out"
    assert (out, err) == ("", f"wtref: without effect in this run: {IDLE[command]}; {leave}\n")
    assert not list(here.iterdir())


def test_no_run_is_resumed_or_imported_with_a_flag_without_effect(capsys):
    assert main(["train", *MLP, "--log-name", "mine"]) == 0
    capsys.readouterr()
    assert main(["export", "mine"]) == 0
    for command in ("train --resume mine", "import runs/mine/torch.pt"):
        capsys.readouterr()
        assert main([*command.split(), "--workers", "2"]) == 2
        assert capsys.readouterr().err == f"wtref: without effect in this run: --workers ({FOLDERS}); leave it out\n"


HEEDED = (
    "train --jitter 0 --workers 2 --bad-images skip --dataset small-folder",
    "train --no-flip --rotate 0 --crop 0 --jitter 0.4 --image-size 8 --dataset folder",
)


def test_flags_with_an_effect_and_flags_with_their_default_are_taken(here):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in "ab":
            folder = here / "data" / split / name
            folder.mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(folder / "x.png")
    for number, command in enumerate(HEEDED):
        assert main([*command.split(), *MLP, "--data-dir", "data", "--log-name", f"run{number}"]) == 0


def test_the_control_s_want_of_an_effect_is_no_reason_to_refuse_a_flag():
    flags = "--rules wm --output-backprop --mirror-rows 64 --mirror-window 20 --seeds 1 --jobs 1".split()
    assert main(["compare", *MLP, *flags]) == 0


def test_the_recipes_of_this_program_have_no_flags_without_effect():
    for preset in PRESETS.values():
        check_effects(Config(**preset), ("bp",), preset)
    for experiment in EXPERIMENTS.values():
        for config in experiment.configs("x").values():
            check_effects(config, (config.rule,), {**experiment.recipe, **experiment.rules[config.rule]})


def test_a_preset_s_values_need_no_effect(here):
    assert main(["train", *MLP, "--preset", "cifar100-res18", "--dataset", "digits"]) == 0  # its stem


def test_flags_of_several_rules_count_for_all_of_them():
    check_effects(Config(mirror_rows=64), ("bp", "wm"), {"mirror_rows"})
    with pytest.raises(InputError, match="--mirror-rows"):
        check_effects(Config(mirror_rows=64), ("bp", "kp"), {"mirror_rows"})


def test_every_flag_named_is_a_field_of_config():
    assert {name for effect in EFFECTS for name in effect.names} <= vars(Config()).keys()


def training_images(root, flip):
    """What a network sees of the two images in root in 30 epochs of training."""
    config = Config(dataset="folder", data_dir=str(root), image_size=4, flip=flip, workers=1, device="cpu")
    feed = datasets.open_feed(config, open_device("cpu", "float64"))
    batches = [batch for epoch in range(30) for batch in feed.train_batches(epoch)]
    return np.concatenate([images for images, _ in batches])


def test_folders_are_flipped_unless_told_not_to(here):
    ramp = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[None, :, None], 32, axis=0).repeat(3, axis=2)
    for path in ("train/a", "train/b", "val/a", "val/b"):
        (here / path).mkdir(parents=True)
        Image.fromarray(ramp).save(here / path / "x.png")  # dark on the left
    slope = {flip: np.diff(training_images(here, flip), axis=2) for flip in (None, True, False)}
    assert (slope[False] > 0).all()
    assert 10 < (slope[True] < 0).all(axis=(1, 2, 3)).sum() < 50
    assert np.array_equal(slope[None], slope[True])


def test_sets_in_memory_are_not_flipped_unless_told_to():
    def feed(flip):
        return datasets.open_feed(Config(flip=flip, device="cpu"), open_device("cpu"))

    assert [feed(flip).augmentation.flip for flip in (None, False, True)] == [False, False, True]
