"""The GPU report's own doing, with steps that need no GPU."""

import json
import sys

import pytest

from wtref import gpu_report
from wtref.cli import main
from wtref.gpu_report import Step

GOOD = Step("good", ["-c", "print('it works')"], 20)
BAD = Step("bad", ["-c", "import sys; print('half'); sys.exit(3)"], 20)
SLOW = Step("slow", ["-c", "import time; print('begun', flush=True); time.sleep(60)"], 1)
ABOUT = {"gpu": "a pretended one", "memory_gib": 1.0, "versions": {}}


@pytest.fixture
def taken(monkeypatch, tmp_path):
    """Runs a report of the steps; returns (the number that failed, report.json, report.txt)."""

    def report(*steps):
        monkeypatch.setattr(gpu_report, "steps", lambda folder, device: steps)
        monkeypatch.setattr(gpu_report, "_machine", lambda device: ABOUT)
        failed = gpu_report.report(tmp_path / "out", "cuda")
        return failed, json.loads((tmp_path / "out/report.json").read_text()), (tmp_path / "out/report.txt").read_text()

    return report


def test_a_failing_step_does_not_stop_the_others(taken):
    failed, found, text = taken(BAD, SLOW, GOOD)
    assert failed == 2
    assert [step["outcome"] for step in found["steps"]] == ["FAILED, exit code 3", "FAILED, not done after 1 s", "passed"]
    assert [step["output"].strip() for step in found["steps"]] == ["half", "begun", "it works"]
    assert found["gpu"] == "a pretended one" and "a pretended one" in text
    assert text.count("FAILED") == 2 and "it works" in text


def test_an_earlier_report_stays(taken, tmp_path, capsys):
    taken(GOOD)
    before = (tmp_path / "out/report.json").read_bytes()
    assert main(["gpu-report", "--out", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert (tmp_path / "out/report.json").read_bytes() == before


def test_without_a_gpu_it_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it fails
    assert main(["gpu-report", "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "cuda" in err.lower() and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_it_takes_less_than_nine_minutes(tmp_path):
    assert sum(step.seconds for step in gpu_report.steps(tmp_path, "cuda")) < 540
