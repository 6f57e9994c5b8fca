"""Series of experiments: trained one after the other, continued, and shown in one table and picture."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tiny_experiment import TINY
from wtref.cli import training
from wtref.cli.main import main
from wtref.runs import series
from wtref.runs.colours import COLOURS
from wtref.runs.config import Config
from wtref.runs.run import Run
from wtref.runs.series import Series
from wtref.studies import depth

TWO = {"tiny-slow": TINY, "tiny-quick": replace(TINY, recipe={**TINY.recipe, "lr": 0.2}, rules={"fa": {}, "frozen": {}})}
COMMAND = "reproduce tiny-series --seeds 1 --jobs 1".split()


@pytest.fixture(autouse=True)
def tiny_series(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(training.SERIES, "tiny-series", Series("two rates", TWO))


def rows(text):
    return [line.split() for line in text.splitlines()]


@pytest.mark.slow
def test_a_series_trains_its_parts_and_shows_them_in_one_table(capsys):
    assert main(COMMAND) == 0
    accuracy = {
        name: f"{100 - Run(name).metrics()[-1]['test_error']:.2f}" for name in ("tiny-slow-bp-0", "tiny-slow-kp-0", "tiny-quick-fa-0")
    }
    table = Path("runs/reproduce-tiny-series/table.txt").read_text()
    slow, quick = rows(table)[1:3]
    assert slow[:3] == ["slow", accuracy["tiny-slow-bp-0"], accuracy["tiny-slow-kp-0"]] and slow[4:] == ["–"]
    assert quick[:3] == ["quick", "–", "–"] and quick[4] == accuracy["tiny-quick-fa-0"]
    assert table in capsys.readouterr().out
    before = {path: path.read_bytes() for path in Path("runs").glob("tiny-*/metrics.jsonl")}
    assert main(COMMAND) == 0 and "finished already" in capsys.readouterr().out
    assert len(before) == 5 and all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.slow
def test_only_some_rules_of_a_series(capsys):
    assert main([*COMMAND, "--rules", "kp", "--epochs", "1"]) == 0
    assert sorted(path.parent.name for path in Path("runs").glob("*/config.json")) == [
        "tiny-quick-1epochs-frozen-0", "tiny-slow-1epochs-frozen-0", "tiny-slow-1epochs-kp-0",
    ]  # fmt: skip
    assert main([*COMMAND, "--rules", "fa", "--epochs", "1"]) == 0
    table = Path("runs/reproduce-tiny-series-1epochs/table.txt").read_text()
    assert rows(table)[0] == ["accuracy", "%", "KP", "frozen", "FA"], "those that were trained before too"
    assert main([*COMMAND, "--rules", "zzz"]) == 2
    assert "unknown rule for tiny-series 'zzz'; choose from: bp, kp, frozen, fa" in capsys.readouterr().err


@pytest.mark.parametrize("code, parts", [(143, 1), (2, 1), (1, 2)])
def test_a_series_ends_where_a_part_is_interrupted_and_goes_on_after_one_that_diverged(monkeypatch, code, parts):
    calls = []
    monkeypatch.setattr(training, "compare", lambda *call: calls.append(call) or code)
    assert main(COMMAND) == code and len(calls) == parts
    assert Path("runs/reproduce-tiny-series").exists() == (code == 1)


def line_of(rule, angle, layers=("a", "b"), **other):
    angles = {kind: dict.fromkeys(layers, angle) for kind in ("matrix_angles", "delta_angles", "local_delta_angles")}
    return {"rule": rule, "seed": 0, "epoch": 1, "test_error": 5.0, **angles, **other}


def test_the_table_is_of_each_run_s_last_epoch_with_its_spread():
    lines = [line_of("kp", 80.0), line_of("kp", 20.0, epoch=2, test_error=2.0), line_of("kp", 40.0, epoch=2, test_error=4.0, seed=1)]
    unknown = [line_of("fa", math.nan)]
    text = series.text(Series("rates", {}), {"rate-one": lines, "rate-two": unknown})
    assert [row for row in rows(text) if row[:1] == ["one"]] == [
        ["one", "97.00±1.41", "–"],
        ["one", "30.0", "–"],
        ["one", "30.0", "–"],
    ]
    assert [row for row in rows(text) if row[:1] == ["two"]] == [["two", "–", "95.00"], ["two", "–", "–"], ["two", "–", "–"]]


def test_a_wide_table_keeps_every_digit_and_names_that_differ():
    """Seven columns, and deviations of two digits before the point, in 80 characters."""
    rules = "bp", "fa", "ss", "wm", "kp", "frozen"
    lines = [line_of(rule, 10.0, seed=seed, test_error=5 + 40.0 * seed) for rule in rules for seed in (0, 1)]
    parts = {f"depth-resnet{layers}": lines for layers in (8, 20, 56)}
    first, *others = rows(series.text(Series("depth", {}), parts))[1:4]
    assert first == ["resnet8", *["75.00±28.28"] * 6] and [row[0] for row in others] == ["resnet20", "resnet56"]


def test_every_network_of_the_depth_series_can_be_and_has_its_depth():
    for depths in depth.FAMILIES.values():
        for layers, (part, recipe) in depths.items():
            config = Config(**recipe)
            assert part in depth.PARTS
            assert layers == (len(config.hidden) + 1 if config.model == "mlp" else int(config.model.removeprefix("resnet")))


def test_the_picture_of_depth_shows_the_first_layer_s_angle():
    pytest.importorskip("matplotlib").use("Agg")
    lines = {"depth-mlp2": [line_of("kp", 20.0), line_of("bp", 0.0)], "depth-mlp8": [line_of("kp", 70.0), line_of("bp", 0.0)]}
    lines["depth-mlp8"][0]["delta_angles"]["a"] = 60.0
    *_, accuracy, delta, local = depth.draw(lines).axes
    assert {curve.get_color(): list(curve.get_ydata()) for curve in accuracy.lines} == {COLOURS["kp"]: [95, 95], COLOURS["bp"]: [95, 95]}
    assert [(list(curve.get_xdata()), list(curve.get_ydata())) for curve in delta.lines] == [([3, 9], [20, 60])]
    assert [list(curve.get_ydata()) for curve in local.lines] == [[20, 70]]
