"""The GPU report, with steps that need no GPU."""

import json
import sys
import time

import pytest

from gpu_steps import ABOUT, GOOD
from wtref.bench import gpu_report
from wtref.bench.gpu_report import Step
from wtref.cli import bench
from wtref.cli.main import main

BAD = Step("bad", ["-c", "import sys; print('half'); sys.exit(3)"], 20)
STARTING = "import subprocess, sys; print('begun', flush=True); subprocess.run(['sleep', '20'], start_new_session=%s)"
SLOW = Step("slow", ["-c", STARTING % False], 3)
SLOWER = Step("slower", ["-c", STARTING % True], 3)


@pytest.fixture
def taken(monkeypatch, tmp_path):
    """A function that runs a report of some steps; returns (the number that failed, report.json, report.txt)."""

    def report(*steps):
        monkeypatch.setattr(gpu_report, "steps", lambda folder, device: steps)
        monkeypatch.setattr(gpu_report, "_machine", lambda device: ABOUT)
        failed = gpu_report.report(tmp_path / "out", "cuda")
        return failed, json.loads((tmp_path / "out/report.json").read_text()), (tmp_path / "out/report.txt").read_text()

    return report


@pytest.mark.slow
def test_a_failing_step_does_not_stop_the_others(taken):
    start = time.perf_counter()
    failed, found, text = taken(BAD, SLOW, SLOWER, GOOD)
    assert failed == 3
    assert time.perf_counter() - start < 18, "what a step has started is not waited for"
    late = "FAILED, not done after 3 s"
    assert [step["outcome"] for step in found["steps"]] == ["FAILED, exit code 3", late, late, "passed"]
    assert [step["output"].strip() for step in found["steps"]] == ["half", "begun", "begun", "it works"]
    assert found["gpu"] == "a simulated one" and "a simulated one" in text
    assert text.count("== slow: FAILED, not done") == text.count("== bad: FAILED, exit code 3") == 1 and "it works" in text


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


@pytest.mark.slow
def test_it_takes_less_than_nine_minutes(taken, monkeypatch):
    """However long its steps are: a step is not started without time left."""
    assert gpu_report.SECONDS < 540
    monkeypatch.setattr(gpu_report, "SECONDS", 3)
    monkeypatch.setattr(gpu_report, "LEAST", 1)
    failed, found, _ = taken(SLOW._replace(seconds=100), GOOD)
    assert failed == 2
    assert [step["outcome"] for step in found["steps"]] == ["FAILED, not done after 3 s", "NOT DONE, no time left"]


@pytest.mark.slow
def test_benchmarks_become_a_table(taken, tmp_path):
    """The rows are those that bench writes; a failed step does not affect the rows of others."""
    path = tmp_path / "bench.json"
    flags = ["--models", "mlp", "--rules", "kp", "--batches", "8", "--hidden", "4", "--repeats", "1"]
    step = Step("mlp, kp", ["run.py", "bench", "steps", *flags, "--device", "cpu", "--json", str(path)], 100, path)
    failed, found, text = taken(BAD, step)
    (row,) = found["steps"][1]["rows"]
    assert failed == 1 and row["model"] == "mlp"
    ratio = f"{row['ratio']:.2f}" if "ratio" in row else "–"
    (line,) = [line for line in text.splitlines() if line.startswith("| mlp, kp |")]
    assert line.startswith(f"| mlp, kp | {row['ms']:.2f} |") and f"| {ratio} |" in line
    assert line.count("|") == gpu_report.TABLE.count("|")
    assert "One a simulated one, 1 GiB" in text


def test_every_benchmark_is_one_that_bench_takes(tmp_path, monkeypatch):
    """It measures what its name says, and writes a file of its own."""
    planned = []
    monkeypatch.setattr(bench, "_measure", lambda plan, *_, **__: planned.extend(work for work, _ in plan))
    steps = [step for step in gpu_report.steps(tmp_path, "cuda:1") if step.json]
    assert len({step.json for step in steps}) == len(steps) == len(gpu_report.BENCHES)
    for step in steps:
        assert main(step.command[1:]) == 0
    for work, (model, rule, batch, precision) in zip(planned, gpu_report.BENCHES):
        config = work.config
        assert (config.model, config.rule, config.batch_size, config.precision) == (model, rule, batch, precision)
        assert config.device == "cuda:1" and work.classes == (1000 if model == "resnet50" else 10)
    assert len(planned) == len(steps)
