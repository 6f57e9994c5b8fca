"""The main job shows what the paper shows; its table and pictures say what the metrics say."""

import json
import math
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest

from wtref.runs import compare, figures

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def main_job(tmp_path_factory):
    """(printed text, folder, last epoch's metrics lines) of `python run.py`, all defaults."""
    folder = tmp_path_factory.mktemp("main")
    done = subprocess.run([sys.executable, ROOT / "run.py"], cwd=folder, capture_output=True, text=True, check=True)
    text = (folder / "runs" / "compare-digits-1" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return done.stdout, folder, [line for line in lines if line["epoch"] == max(x["epoch"] for x in lines)]


def accuracy(lines, rule):
    return mean(100 - line["test_error"] for line in lines if line["rule"] == rule)


def layer_angles(lines, rule, kind="matrix"):
    """Each layer's angle, mean over seeds."""
    mine = [line[f"{kind}_angles"] for line in lines if line["rule"] == rule]
    return [mean(angles[name] for angles in mine) for name in mine[0]]


def test_five_seeds_of_five_rules(main_job):
    _, _, lines = main_job
    assert {(line["rule"], line["seed"]) for line in lines} == {
        (rule, seed) for rule in ("bp", "fa", "ss", "wm", "kp") for seed in range(5)
    }


def test_feedback_alignment_falls_behind_and_stays_unaligned(main_job):
    _, _, lines = main_job
    assert accuracy(lines, "fa") <= accuracy(lines, "bp") - 1
    assert mean(layer_angles(lines, "fa")) > 70


def test_sign_symmetry_lies_between(main_job):
    _, _, lines = main_job
    assert mean(layer_angles(lines, "kp")) < mean(layer_angles(lines, "ss")) < mean(layer_angles(lines, "fa"))
    assert mean(layer_angles(lines, "wm")) < mean(layer_angles(lines, "ss"))


@pytest.mark.parametrize("rule, widest", [("wm", 12), ("kp", 10)])
def test_mirrors_and_kolen_pollack_match_backprop_and_align(main_job, rule, widest):
    _, _, lines = main_job
    assert accuracy(lines, rule) >= accuracy(lines, "bp") - 1
    assert max(layer_angles(lines, rule)) < widest
    assert max(layer_angles(lines, rule, "delta")) < 25


def test_printed_paths_exist(main_job):
    text, folder, _ = main_job
    paths = [line.split(": ")[1] for line in text.splitlines() if line.startswith(("metrics: ", "picture: "))]
    assert len(paths) == 4 and all((folder / path).stat().st_size > 0 for path in paths)


def line_of(rule, seed, error, angle):
    angles = {"conv": angle, "output": 0.0}
    return {"rule": rule, "seed": seed, "epoch": 1, "seconds": 2.0, "test_error": error,
            "matrix_angles": {} if rule == "dfa" else angles, "delta_angles": {"stem": angle}}  # fmt: skip


def test_table_has_mean_and_standard_deviation_over_seeds():
    lines = [line_of("kp", 0, 2.0, 10.0), line_of("kp", 1, 4.0, 30.0), line_of("dfa", 0, 5.0, 90.0)]
    _, kp, dfa = compare.table(lines, ["kp", "dfa"]).splitlines()
    assert kp.split() == ["kp", "97.00", "±", "1.41", "10.0", "20.0", "20.0", "2.0"]
    assert dfa.split() == ["dfa", "95.00", "±", "0.00", "-", "-", "90.0", "2.0"]


def test_the_table_leaves_out_angles_that_could_not_be_measured():
    lines = [line_of("kp", 0, 2.0, 10.0), line_of("kp", 1, 4.0, math.nan), line_of("fa", 0, 5.0, math.nan)]
    lines[2]["matrix_angles"] = {"conv": math.nan, "output": math.nan}
    _, kp, fa = compare.table(lines, ["kp", "fa"]).splitlines()
    assert kp.split()[3:7] == ["1.41", "3.3", "10.0", "10.0"]  # matrix: of 10, 0 and 0
    assert fa.split()[3:7] == ["0.00", "-", "-", "-"]


def test_labels_at_line_ends_keep_order_and_distance():
    placed = figures._spread_out({"a": 0.2, "b": 0.21, "c": 0.97, "d": 0.99}, gap=0.1)
    assert placed == pytest.approx({"a": 0.2, "b": 0.3, "c": 0.9, "d": 1.0})
