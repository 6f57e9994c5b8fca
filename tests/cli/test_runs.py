"""eval, predict, runs and figures: what they print of runs that exist."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wtref import datasets
from wtref.cli.main import main
from wtref.runs import checkpoints, drawing, figures, resuming
from wtref.runs.config import Config
from wtref.runs.folders import RUNS
from wtref.runs.prepare import prepare
from wtref.runs.run import Run
from wtref.studies import mirror


MLP = "--model mlp --hidden 12 7 --batch-size 100 --epochs 3 --device cpu".split()


@pytest.fixture
def mine(said):
    said(*MLP, "--rule", "kp", "--log-name", "mine")
    return Run.find("mine")


DATA = {"shape": (8, 8, 1), "class_names": tuple("0123456789"), "mean": [5.0], "std": [6.0], "levels": 16, "sha256": ""}


def test_eval_before_the_first_epoch(refused):
    Run.create(Config(model="mlp"), DATA, "cpu", "mine")
    for which in ("last", "best"):
        said = refused("eval", "mine", "--checkpoint", which, "--device", "cpu")
        assert "'mine'" in said and f"no {which} checkpoint" in said and "--resume mine" in said


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
    heading, *lines = said("predict", "mine", *paths, "--device", "cpu").splitlines()
    assert heading == "mine: last checkpoint, after 3 epochs and 0 steps"
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
    top = [int(line.split()[-1]) for line in lines[2::6]]
    assert np.mean(top == data.test_labels[:40]) >= 0.85


def test_predict_takes_colour_and_any_size(mine, said):
    Image.new("RGB", (300, 200), (200, 30, 90)).save("colour.png")
    Image.new("P", (5, 31)).save("narrow.gif")
    Image.new("RGBA", (1, 1)).save("dot.png")
    assert len(said("predict", "mine", "colour.png", "narrow.gif", "dot.png").splitlines()) == 1 + 18


def test_a_file_whose_name_begins_with_hyphens_is_named_as_it_is(mine, said):
    Image.new("L", (8, 8)).save("--a_b.png")
    assert "\n--a_b.png\n" in said("predict", "--device", "cpu", "mine", "--", "--a_b.png")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0", None])
def test_an_unreadable_image_is_one_line(mine, refused, data):
    if data is not None:
        Path("x.png").write_bytes(data)
    assert "x.png" in refused("predict", "mine", "x.png", "--device", "cpu")


@pytest.mark.slow
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


def test_eval_on_other_images_that_do_not_fit(mine, refused):
    assert "does not fit" in refused("eval", "mine", "--dataset", "synthetic", "--device", "cpu")


def test_eval_refuses_a_folder_for_data_that_need_none(said, refused):
    said("train", "--model", "mlp", "--dataset", "synthetic", "--epochs", "1", "--hidden", "3", "--log-name", "syn")
    assert "without effect in this run: --data-dir (it is for data sets in files)" in refused("eval", "syn", "--data-dir", "nowhere")
    assert "test images of synthetic" in said("eval", "syn")


def test_eval_on_an_unknown_data_set(mine, refused):
    assert "choose from" in refused("eval", "mine", "--dataset", "digit", "--device", "cpu")


def test_no_runs_is_an_empty_table(said):
    assert said("runs").split() == "name rule model data epoch best error state".split()


def test_the_table_of_runs(mine, said, capsys):
    Run.create(Config(model="mlp", rule="wm", epochs=7), {"sha256": ""}, "cpu", "a-new-one")
    said("compare", *MLP, "--rules", "frozen", "--seeds", "1", "--jobs", "1", "--epochs", "1")  # its folder is no run
    head, new, compared, old = said("runs").splitlines()
    assert compared.split()[:2] == ["compare-digits-1-frozen-0", "frozen"]
    best = min(record["test_error"] for record in mine.metrics())
    assert new.split() == ["a-new-one", "wm", "mlp", "digits", "0/7", "-", "not", "begun"]
    assert old.split() == ["mine", "kp", "mlp", "digits", "3/3", f"{best:.2f}", "%", "done"]
    assert head.index("rule") == old.index("kp") == new.index("wm")


def test_an_unfinished_run_in_the_table(mine, said):
    config = RUNS / "mine" / "config.json"
    config.write_text(config.read_text().replace('"epochs": 3', '"epochs": 30'))
    assert said("runs").splitlines()[1].split()[4:] == ["3/30", *said("runs").split()[-3:]]
    assert said("runs").rstrip().endswith("unfinished")


def labels(monkeypatch):
    """A list that will hold the labels of the curves of errors."""
    found, save = [], figures.save

    def watched(pictures, folder):
        found.extend(sorted(text.get_text() for text in pictures["test-error.png"].axes[0].texts))
        return save(pictures, folder)

    monkeypatch.setattr(figures, "save", watched)
    return found


def test_figures_of_several_runs(mine, said, monkeypatch):
    pytest.importorskip("matplotlib")
    said(*MLP, "--rule", "fa", "--log-name", "other")
    drawn = labels(monkeypatch)
    out = said("figures", "other", "mine")
    assert [text.split()[0] for text in drawn] == ["FA", "KP"]
    assert out.splitlines() == [f"picture: runs/other/{name}.png" for name in ("test-error", "depth", "angles", "sizes")]
    for name in ("test-error", "depth", "angles", "sizes"):
        with Image.open(f"runs/other/{name}.png") as image:
            assert image.size[0] > 300 and len(np.unique(np.asarray(image.convert("L")))) > 10


@pytest.mark.parametrize(
    "flags, wanted",
    [
        ("--rule kp --seed 1", ["kp"]),
        ("--rule fa --seed 1 --save-every 7", ["fa", "kp"]),
        ("--rule fa --lr 0.01", ["mine", "other"]),
        ("--rule kp --lr 0.01", ["mine", "other"]),
        ("--rule fa --epochs 2", ["mine", "other"]),
    ],
)
def test_runs_that_differ_in_more_than_rule_and_seed_are_labelled_by_their_names(mine, said, monkeypatch, flags, wanted):
    said(*MLP, *flags.split(), "--log-name", "other")
    curves = []
    monkeypatch.setattr(drawing, "available", lambda: True)
    monkeypatch.setattr(figures, "draw_comparison", lambda lines, folder: curves.extend(line["curve"] for line in lines) or [])
    said("figures", "other", "mine")
    assert sorted(set(curves)) == wanted


def test_without_matplotlib_figures_draws_nothing_and_makes_no_folder(mine, capsys, monkeypatch):
    Path("x.jsonl").write_text('{"rule": "kp", "seed": 0, "epoch": 1, "test_error": 5.0, "matrix_angles": {}, "delta_angles": {}}\n')
    before = sorted(RUNS.rglob("*"))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for argv in (["figures", "x.jsonl"], ["figures", "mine"]):
        assert main(argv) == 1
        assert capsys.readouterr() == ("", "no pictures: they need matplotlib, pip install 'wtref[plot]'\n")
    monkeypatch.setattr(mirror, "lessons", lambda *sizes: None)
    monkeypatch.setattr(mirror, "table", lambda lessons: "the table")
    assert main(["mirror"]) == 0 and capsys.readouterr().out == "the table\n"
    assert sorted(RUNS.rglob("*")) == before


def test_figures_of_a_file_in_which_an_epoch_occurs_twice(mine, refused):
    line = json.dumps({**mine.lines()[0], "seed": 3}) + "\n"
    Path("x.jsonl").write_text(line.replace('"seed": 3', '"seed": 4') + 2 * line)
    assert refused("figures", "x.jsonl") == "wtref: x.jsonl has 2 lines of rule kp, seed 3, epoch 1; right would be one\n"


def test_a_network_without_feedback_is_compared_and_drawn(said, registries):
    text = """import wtref
@wtref.model("linear")
def layers(shape, classes, options): return [wtref.Flatten(), wtref.Linear("output", 64, classes)]
"""
    Path("linear.py").write_text(text)
    flags = "--plugin linear.py --model linear --rules kp --seeds 1 --jobs 1 --epochs 1 --device cpu --log-name flat".split()
    out = said("compare", *flags)
    assert "report: runs/flat/report.html" in out and ("picture: runs/flat/test-error.png" in out) == drawing.available()
    assert not list(RUNS.glob("flat/depth.png")) and "–" in Path("runs/flat/table.txt").read_text()


def test_figures_of_nothing(mine, refused):
    assert "'yours'" in refused("figures", "mine", "yours")
    Run.create(Config(model="mlp"), {}, "cpu", "empty")
    assert "empty" in refused("figures", "empty")
