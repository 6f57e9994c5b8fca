"""`--bad-images skip`: batches with nothing in them teach nothing, and every count is of the images that were seen."""

import json
from pathlib import Path

import numpy as np
import pytest

from helpers import CPU
from pictures import picture
from wtref.cli.main import main
from wtref.datasets.memory import training_order
from wtref.runs import report, resuming
from wtref.runs.config import Config
from wtref.runs.experiments import Experiment
from wtref.runs.prepare import prepare
from wtref.runs.run import Run

CLASSES = ("ant", "bee")
BASE = dict(dataset="folder", data_dir="set", image_size=8, model="resnet8", epochs=2, bad_images="skip", dtype="float64", workers=1)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder of 5 training and 3 test images in each of two classes."""
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 5), ("val", 3)):
        for label, name in enumerate(CLASSES):
            Path("set", split, name).mkdir(parents=True)
            for k in range(count):
                picture(10 * k + label, 12, 12).save(f"set/{split}/{name}/{k}.png")
    return tmp_path


def damage(*names):
    for name in names:
        Path("set", name).write_bytes(b"no image")


def damage_the_fixed_batch():
    """Damage the image of which the delta angles are measured in batches of one and seed 0; returns a seed that takes another."""
    first = {seed: next(training_order(seed, 0, 10, 1))[1][0] for seed in range(100)}
    damage(f"train/{CLASSES[first[0] // 5]}/{first[0] % 5}.png")
    return next(seed for seed in first if first[seed] != first[0])


def training(**changes):
    return prepare(Config(**{**BASE, **changes}), CPU)


def flags_of(options, without=()):
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if name not in without]


def snapshot(run):
    arrays, _ = resuming.state(run)
    return {name: array.copy() for name, array in arrays.items() if not name.endswith(".B")}


@pytest.mark.parametrize("rule", ["bp", "brsf", "wm", "kp"])
def test_an_empty_batch_changes_no_weights_velocities_or_statistics(rule):
    damage("train/ant/2.png", "train/bee/0.png")
    run, steps = training(rule=rule, batch_size=1), {True: 0, False: 0}
    usual = run.step

    def step(images, labels):
        before = snapshot(run)
        loss, logits = usual(images, labels)
        after = snapshot(run)
        same = before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in after)
        assert same == (len(labels) == 0)
        steps[same] += 1
        return loss, logits

    run.step = step
    records = [record for record in run.run() if record]
    assert steps == {True: 4, False: 16}
    assert [record["train_images"] for record in records] == [8, 8]
    assert [record["test_images"] for record in records] == [6, 6]


def test_means_are_over_the_images_that_were_seen():
    damage("train/ant/2.png", "train/bee/0.png", "val/bee/2.png")
    run, seen = training(batch_size=3), []
    usual = run.step

    def step(images, labels):
        loss, logits = usual(images, labels)
        wrong = int((logits.argmax(axis=1) != labels).sum())
        seen.append((len(labels), float(loss), wrong))
        return loss, logits

    run.step = step
    record = next(record for record in run.run() if record)
    counts, losses, wrong = np.array(seen).T
    assert counts.sum() == 8 and (counts < 3).any()
    assert record["train_loss"] == pytest.approx((counts * losses).sum() / 8, rel=1e-12)
    assert record["train_error"] == pytest.approx(100 * wrong.sum() / 8)


def test_a_test_batch_of_one_bad_image_leaves_the_mean_what_it_is_without_the_file():
    damage("val/bee/2.png")
    run = training()
    found = run.evaluate(run.feed.test_batches(5))
    Path("set/val/bee/2.png").unlink()
    whole = training()
    assert found == whole.evaluate(whole.feed.test_batches(5))
    assert found[2] == 5


def test_a_run_goes_on_from_every_step_with_the_same_bits():
    damage("train/ant/2.png", "train/bee/0.png")
    whole, states = training(batch_size=1, epochs=1), []
    for record in whole.run():
        arrays, plain = resuming.state(whole)
        states.append(({name: array.copy() for name, array in arrays.items()}, plain))
    arrays, _ = states.pop()
    assert len(states) == 9
    for state in states:
        resumed = training(batch_size=1, epochs=1)
        resuming.restore(resumed, *state)
        *_, again = resumed.run()
        assert all(np.array_equal(arrays[name], array) for name, array in resuming.state(resumed)[0].items())
        assert {k for k in record if repr(record[k]) != repr(again[k])} <= {"seconds", "images_per_second"}


def test_the_delta_angles_of_an_empty_batch_are_not_numbers_and_left_out_of_means():
    other = damage_the_fixed_batch()
    records = [next(record for record in training(batch_size=1, rule="kp", seed=seed).run() if record) for seed in (0, other)]
    first, second = (record["delta_angles"] for record in records)
    assert first.keys() == second.keys() and np.isnan(list(first.values())).all() and min(second.values()) > 0
    lines = [{"rule": "kp", "seed": 0, **record} for record in records]
    matrix, worst, delta = table_row(lines[:1])[2:5]
    assert delta == "–" and float(worst) >= float(matrix)
    whole = {**lines[0], "seed": 1, "delta_angles": records[1]["delta_angles"]}
    assert table_row([lines[0], whole])[4] == table_row([whole])[4]


def table_row(lines):
    return report.table(Experiment("", {}), [Config(rule="kp", seed=line["seed"]) for line in lines], lines)[1]


@pytest.mark.slow
def test_pictures_are_drawn_without_the_angles_that_were_not_measured():
    pytest.importorskip("matplotlib")
    seeds, flags = {"mine": 0, "other": damage_the_fixed_batch()}, flags_of(BASE)
    for name, seed in seeds.items():
        assert main(["train", *flags, f"--seed={seed}", "--batch-size=1", "--device=cpu", f"--log-name={name}"]) == 0
    first, second = ([list(record["delta_angles"].values()) for record in Run.find(name).metrics()] for name in seeds)
    assert np.isnan(first).all() and not np.isnan(second).any()
    assert main(["figures", "mine"]) == 0
    assert main(["figures", "mine", "other"]) == 0
    Path("first.jsonl").write_text(json.dumps(Run.find("mine").lines()[0]) + "\n")
    assert main(["figures", "first.jsonl"]) == 0


@pytest.mark.parametrize("dataset", ["folder", "small-folder"])
def test_train_and_eval_say_how_many_images_they_saw(capsys, dataset):
    damage("train/ant/2.png", "val/bee/0.png")
    Path("set/val/ant/broken.png").symlink_to("gone.png")
    flags = flags_of({**BASE, "dataset": dataset}, without=() if dataset == "folder" else ("image_size",))
    assert main(["train", *flags, "--batch-size=4", "--device=cpu", "--log-name=mine"]) == 0
    *_, last = capsys.readouterr().out.replace("\n    ", " ").splitlines()
    assert last == (
        "images that cannot be read and were skipped: 3, such as: "
        "set/train/ant/2.png is no image or a damaged one: no format that wtref reads"
    )
    assert {(r["train_images"], r["test_images"]) for r in Run.find("mine").metrics()} == {(9, 5)}
    assert main(["eval", "mine", "--device=cpu"]) == 0
    _, tested, skipped = capsys.readouterr().out.replace("\n    ", " ").splitlines()
    assert tested.startswith(f"5 test images of {dataset}: error ")
    count = 2 if dataset == "folder" else 3  # a set in memory is read whole
    assert skipped.startswith(f"images that cannot be read and were skipped: {count}, such as: set/")


def test_compare_says_what_its_data_hold_and_how_many_images_were_skipped(capsys):
    damage("train/ant/2.png", "val/bee/0.png")
    flags = flags_of({**BASE, "model": "mlp", "epochs": 1})
    assert main(["compare", *flags, "--rules", "bp", "kp", "--seeds=1", "--jobs=2", "--device=cpu"]) == 0
    out = capsys.readouterr().out.replace("\n    ", " ").splitlines()
    assert out[1] == "data: 10 training and 6 test images of 2 classes"
    skipped = "images that cannot be read and were skipped: 2, such as: set/train/ant/2.png is no image or a damaged one"
    assert [line.startswith(skipped) for line in out].count(True) == 1


@pytest.mark.parametrize("dataset", ["folder", "small-folder"])
def test_a_class_without_test_images_is_no_error_and_eval_says_what_was_left_out(capsys, dataset):
    damage(*(f"val/bee/{k}.png" for k in range(3)))
    Path("set/val/ant/notes.txt").touch()
    flags = flags_of({**BASE, "dataset": dataset, "model": "mlp"}, without=() if dataset == "folder" else ("image_size",))
    assert main(["train", *flags, "--device=cpu", "--log-name=mine"]) == 0
    assert [record["test_images"] for record in Run.find("mine").metrics()] == [3, 3]
    capsys.readouterr()
    assert main(["eval", "mine", "--device=cpu"]) == 0
    _, tested, left_out, skipped = capsys.readouterr().out.replace("\n    ", " ").splitlines()
    assert tested.startswith("3 test images of ")
    assert left_out == "left out in set/val: files whose ending is of no format that is read (1), such as ant/notes.txt"
    assert skipped.startswith("images that cannot be read and were skipped: 3, such as: set/val/bee/0.png ")


@pytest.mark.parametrize("split, line", [("train", "training"), ("val", "test")])
def test_nothing_left_is_one_line(capsys, split, line):
    damage(*(f"{split}/{name}/{k}.png" for name in CLASSES for k in range(5 if split == "train" else 3)))
    flags = flags_of(BASE)
    assert main(["train", *flags, "--device=cpu", "--log-name=mine"]) == 2
    assert capsys.readouterr().err == f"wtref: there are no {line} images that can be read\n"
