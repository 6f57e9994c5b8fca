"""`reproduce`: resumable, and a report that holds what the runs' metrics say."""

import json
import re
from pathlib import Path
from statistics import mean

import pytest

from wtref.cli import main
from wtref.config import Config
from wtref.experiments import EXPERIMENTS, Experiment
from wtref.runs import Run
from wtref.training import Training

TINY = Experiment(
    "a tiny one",
    {"model": "mlp", "dataset": "digits", "hidden": (16,), "epochs": 2, "batch_size": 128},
    rules={"bp": {}, "kp": {"lr": 0.2}},
    published={"kp": "1.25(5)"},
    source="nobody",
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(EXPERIMENTS, "tiny", TINY)


def errors(seeds=(0, 1)):
    return {(rule, seed): [x["test_error"] for x in Run(f"tiny-{rule}-{seed}").metrics()] for rule in TINY.rules for seed in seeds}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_recipe_is_a_run_that_can_be(name):
    experiment = EXPERIMENTS[name]
    for rule, own in experiment.rules.items():
        Config(**{**experiment.recipe, **own, "rule": rule})
    assert experiment.published.keys() <= experiment.rules.keys()
    assert bool(experiment.source) == bool(experiment.published)


def test_table_and_report_say_what_the_runs_found(capsys):
    assert main(["reproduce", "tiny", "--threads", "1"]) == 0
    kp = mean(errors()["kp", seed][-1] for seed in (0, 1))
    table = Path("runs/reproduce-tiny/table.txt").read_text()
    assert re.search(rf"KP +{kp:.2f} ± \d+\.\d\d +2 .* 1\.25\(5\)$", table, re.MULTILINE)
    assert re.search(r"BP .* 0\.0 .* –$", table, re.MULTILINE)
    page = Path("runs/reproduce-tiny/report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 3 and not re.search(r'(src|href)="(?!data:)', page)
    assert f"{kp:.2f} ±" in page and "reproduce tiny --threads 1" in page and "nobody" in page
    lines = [json.loads(line) for line in Path("runs/reproduce-tiny/metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 2 * TINY.recipe["epochs"]
    assert Run("tiny-kp-1").config().lr == 0.2 and Run("tiny-bp-1").config().lr == Config.lr


def test_an_interrupted_experiment_does_what_is_left(monkeypatch, capsys):
    assert main(["reproduce", "tiny"]) == 0
    wanted = errors()
    monkeypatch.chdir(Path("runs"))  # a fresh place
    step, left = Training.train_step, [30]

    def cut_short(self, *args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Training, "train_step", cut_short)
    assert main(["reproduce", "tiny"]) == 130
    assert not Path("runs/reproduce-tiny").exists()
    left[0] = 10**6
    assert main(["reproduce", "tiny"]) == 0
    assert errors() == wanted
    assert 10**6 - left[0] <= 4 * 2 * 12 - 12, "the first run's first epoch at least was not done again"
    monkeypatch.setattr(Training, "train_step", None)
    assert main(["reproduce", "tiny"]) == 0, "nothing is left to do, and nothing is done"


def test_fewer_epochs_are_runs_of_their_own():
    assert main(["reproduce", "tiny", "--epochs", "1", "--seeds", "1", "--rules", "kp"]) == 0
    assert len(Run("tiny-1epochs-kp-0").metrics()) == 1
    assert Path("runs/reproduce-tiny-1epochs/report.html").exists()


@pytest.mark.parametrize(
    "flags, said",
    [
        (["unheard-of"], "unknown experiment 'unheard-of'; choose from: digits,"),
        (["tiny", "--rules", "fa"], "unknown rule for tiny 'fa'; choose from: bp, kp"),
        (["tiny", "--seeds", "0"], "--seeds must be at least 1, found 0"),
        (["tiny", "--epochs", "0"], "--epochs must be at least 1, found 0"),
    ],
)
def test_what_cannot_be_is_one_line(flags, said, capsys):
    assert main(["reproduce", *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"wtref: {said}") and len(err.splitlines()) == 1 and not Path("runs").exists()


def test_runs_of_another_recipe_are_not_taken_for_one_s_own(monkeypatch, capsys):
    assert main(["reproduce", "tiny", "--seeds", "1", "--rules", "bp"]) == 0
    monkeypatch.setitem(TINY.recipe, "lr", 0.05)
    assert main(["reproduce", "tiny", "--seeds", "1", "--rules", "bp"]) == 2
    assert "tiny-bp-0" in capsys.readouterr().err


def test_figures_are_redrawn_from_the_metrics_file(capsys):
    assert main(["reproduce", "tiny", "--seeds", "1"]) == 0
    drawn = {name: Path(f"runs/reproduce-tiny/{name}.png").read_bytes() for name in ("test-error", "depth", "angles")}
    assert main(["figures", "runs/reproduce-tiny/metrics.jsonl"]) == 0
    assert {name: Path(f"runs/figures-1/{name}.png").read_bytes() for name in drawn} == drawn


@pytest.mark.parametrize("text", ["", "{", "3\n", '{"rule": "bp"}\n', None])
def test_what_is_no_metrics_file_is_one_line(text, capsys):
    if text is not None:
        Path("some.jsonl").write_text(text)
    assert main(["figures", "some.jsonl"]) == 2
    err = capsys.readouterr().err
    assert "some.jsonl" in err and len(err.splitlines()) == 1 and not Path("runs").exists()
