"""The main job shows what the paper shows."""

import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest

ROOT = Path(__file__).resolve().parents[2]

COMMAND = [sys.executable, ROOT / "run.py"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def main_job(tmp_path_factory):
    """(printed text, folder, last epoch's metrics lines) of COMMAND."""
    folder = tmp_path_factory.mktemp("main")
    done = subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True, check=True)
    text = (folder / "runs" / "reproduce-digits" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return done.stdout, folder, [line for line in lines if line["epoch"] == max(x["epoch"] for x in lines)]


def heading_at(text):
    """Where the table begins."""
    return re.search(r"^ *rule ", text, re.MULTILINE).start()


def accuracy(lines, rule):
    return mean(100 - line["test_error"] for line in lines if line["rule"] == rule)


def layer_angles(lines, rule, kind="matrix"):
    """Each layer's angle, mean over seeds."""
    mine = [line[f"{kind}_angles"] for line in lines if line["rule"] == rule]
    return [mean(angles[name] for angles in mine) for name in mine[0]]


def test_all_seeds_of_five_rules_and_the_control(main_job):
    _, _, lines = main_job
    assert {(line["rule"], line["seed"]) for line in lines} == {
        (rule, seed) for rule in ("bp", "fa", "ss", "wm", "kp", "frozen") for seed in range(5)
    }


def test_feedback_alignment_falls_behind_and_stays_unaligned(main_job):
    _, _, lines = main_job
    assert accuracy(lines, "fa") <= accuracy(lines, "bp") - 1
    assert mean(layer_angles(lines, "fa")) > 70


@pytest.mark.parametrize("rule", ["bp", "ss", "wm", "kp"])  # what FA teaches hidden layers here is worth nothing
def test_hidden_layers_learn_more_than_the_control_s(main_job, rule):
    _, _, lines = main_job
    assert accuracy(lines, rule) >= accuracy(lines, "frozen") + 1


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
    paths = re.findall(r"^(?:metrics|table|picture|report): (\S+)$", text, re.MULTILINE)
    assert len(paths) == 7 and all((folder / path).stat().st_size > 0 for path in paths)


def test_the_table_has_the_columns_and_rules_of_the_readme(main_job):
    text, _, lines = main_job
    readme = (ROOT / "README.md").read_text()
    columns = re.search(r"^\| (rule .*) \|$", readme, re.MULTILINE)[1].split(" | ")
    heading, *rows = text[heading_at(text) :].splitlines()[:7]
    assert re.split(r"  +", heading.strip())[: len(columns)] == [column.removesuffix(" °") for column in columns]
    assert [row.split()[0] for row in rows] == re.findall(r"^\| ([A-Z]{2}|frozen) \| \d", readme, re.MULTILINE)
    assert all(f"{accuracy(lines, row.split()[0].lower()):.2f} ± " in row for row in rows)


def test_a_second_time_nothing_is_trained_and_the_output_says_so(main_job):
    first, folder, _ = main_job
    done = subprocess.run(COMMAND, cwd=folder, capture_output=True, text=True, check=True)
    said, again = done.stdout.split("\n\n", 1)
    assert said.startswith("30 of 30 runs finished already") and "runs/digits-RULE-SEED" in said
    assert again.lstrip() == first[heading_at(first) :].lstrip()
