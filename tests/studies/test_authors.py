"""The authors' small program as a plug-in: each of its peculiarities by hand, and its experiments in small."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import published_sets
from helpers import CPU
from wtref import plugins
from wtref.cli.main import main
from wtref.datasets import idx, load
from wtref.losses import sigmoid_cross_entropy
from wtref.models import MODELS, Options, build
from wtref.optim import SGD
from wtref.relatives import RULES
from wtref.rules import Backprop
from wtref.runs.experiments import AUTHORS, EXPERIMENTS
from wtref.runs.run import Run
from wtref.studies.audit import audit
from wtref.studies.differences import PARTS
from wtref.training import train_step


@pytest.fixture(autouse=True)
def authors(registries, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return plugins.load(AUTHORS["plugin"])


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A folder with a small set in MNIST's form."""
    monkeypatch.setattr(idx, "COUNTS", {"train": published_sets.TRAIN, "t10k": published_sets.TEST})
    for name, array in published_sets.arrays().items():
        published_sets.write(tmp_path, name, published_sets.idx_bytes(array), zipped=False)
    return tmp_path


def network(name):
    made = build(name, (28, 28, 1), 10, Options())
    made.initialise(CPU, np.random.default_rng(0))
    return made


def test_weights_and_biases_have_the_authors_variance():
    first, last = network("authors-mlp").synapses
    for s, n in ((first, 784 + 500), (last, 500 + 10)):
        arrays = (s.W, s.b, s.draw_feedback(np.random.default_rng(1)))
        assert [float(x.std()) for x in (arrays[0], arrays[2])] == pytest.approx([n**-0.5] * 2, rel=0.05)
        assert abs(float(s.b.std()) * n**0.5 - 1) < 5 / len(s.b) ** 0.5


def test_b_learns_128_times_more_slowly_and_nothing_else_differs():
    rng, moved = np.random.default_rng(2), {}
    images, labels = rng.random((128, 28, 28, 1)), rng.integers(10, size=128)
    for name in ("authors-mlp", "authors-mlp-quick-bias"):
        made, rule = network(name), Backprop()
        for s in made.with_feedback:
            rule.connect(s, 10)
        before = {name: x.copy() for name, x in made.arrays().items()}
        train_step(made, rule, SGD(made.arrays(), lr=0.2), sigmoid_cross_entropy, images, labels, 0)
        moved[name] = {name: x - before[name] for name, x in made.arrays().items()}
    slow, quick = moved.values()
    for name in slow:
        assert np.allclose(slow[name] * (128 if name.endswith(".b") else 1), quick[name], rtol=1e-9, atol=1e-13)


def test_the_mirror_only_adds_products_of_uncentred_activities():
    made, rule = network("authors-mlp"), RULES["authors-wm"](np.random.default_rng(3))
    (s,) = made.with_feedback
    rule.connect(s, 10)
    again, before = np.random.default_rng(), s.B.copy()
    again.bit_generator.state = rule.rng.bit_generator.state
    rule.between_steps(s, None, 0)
    wanted = before
    for y in again.uniform(-0.05, 0.05, (128, 500)):
        wanted = wanted + 0.01 * np.outer(y, 1 / (1 + np.exp(-(s.W @ y + s.b))))
    assert np.allclose(s.B, wanted, rtol=0, atol=1e-12)
    calls = []
    rule.mirror = calls.append
    rule.before_training(s)
    assert calls == [s] * 468


@pytest.mark.slow
def test_the_mirror_transports_no_weights():
    (finding,) = audit({"authors-wm": lambda: RULES["authors-wm"](np.random.default_rng(0))})
    assert finding.found is None and finding.honest


def test_pixels_are_divided_by_255_and_not_standardised(small_mnist):
    data, whole = load("mnist-pixels", small_mnist), load("mnist", small_mnist)
    assert np.array_equal(data.train_images, whole.train_images / np.float32(255)) and data.mean == [0] and data.std == [1]
    assert np.array_equal(data.test_labels, whole.test_labels)


@pytest.mark.slow
def test_one_command_reproduces_the_experiment_beside_the_log(small_mnist, capsys, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "mnist-authors", replace(EXPERIMENTS["mnist-authors"], looks=(1, 2, 9)))
    log = small_mnist / "log.csv"
    log.write_text("rule,epoch,test_accuracy,matrix_angle_output,delta_angle_hidden\nbp,1,71.25,,\nwm,2,64.5,33.25,44.75\n")
    command = ["reproduce", "mnist-authors", "--data-dir", str(small_mnist), "--epochs", "3", "--seeds", "1", "--jobs", "1",
               "--rules", "bp", "kp", "authors-wm", "--beside", str(log)]  # fmt: skip
    assert main(command) == 0
    out = capsys.readouterr().out
    found = {rule: Run(f"mnist-authors-3epochs-{rule}-0").metrics() for rule in ("bp", "authors-wm")}
    first, second = 100 - found["bp"][0]["test_error"], found["authors-wm"][1]
    angles = [
        second[kind][layer] for kind, layer in (("matrix_angles", "output"), ("delta_angles", "hidden1"), ("local_delta_angles", "output"))
    ]
    rows = [line.split() for line in out.splitlines()]
    assert ["1", "BP", f"{first:.2f}", "/", "71.25", "0.00", "0.00", "0.00"] in rows
    matrix, delta, local = (f"{angle:.2f}" for angle in angles)
    assert ["2", "authors-wm", f"{100 - second['test_error']:.2f}", "/", "64.50", matrix, "/", "33.25", delta, local, "/", "44.75"] in rows
    assert [row[0] for row in rows if row[1:2] == ["KP"]] == ["1", "2", "3"], (
        "the looks and the last epoch, and the first table has no epoch"
    )
    folder = Path("runs/reproduce-mnist-authors-3epochs")
    assert "behind a stroke" in (folder / "report.html").read_text() and "behind a stroke" in (folder / "table.txt").read_text()
    config = json.loads(Path("runs/mnist-authors-3epochs-kp-0/config.json").read_text())["config"]
    assert {name: config[name] for name in ("lr", "momentum", "weight_decay", "batch_size", "loss", "schedule", "warmup")} == {
        "lr": 0.3, "momentum": 0, "weight_decay": 0, "batch_size": 128, "loss": "sigmoid", "schedule": "constant", "warmup": 0,
    }  # fmt: skip


def test_each_part_of_the_differences_differs_in_one_thing():
    practice, *parts, theirs = ({**part.recipe, "rules": part.rules} for part in PARTS.values())
    changed = [{name for name in part if part[name] != practice[name]} for part in parts]
    assert changed == [{"dataset"}, {"weight_decay"}, {"model"}, {"rules"}]
    mirror = parts[-1]["rules"].items()
    assert all(part[name] == theirs[name] for part, (name,) in zip(parts[:-1], changed)) and mirror <= theirs["rules"].items()
    both = {name: part[name] for part, (name,) in zip(parts[:-1], changed)} | {"rules": theirs["rules"]}
    assert {**practice, **both} == {**theirs, "rules": theirs["rules"]}
    assert practice["rules"].keys() ^ theirs["rules"].keys() == {"wm", "authors-wm"}
    assert {part["model"] for part in (practice, *parts)} <= MODELS.keys()
