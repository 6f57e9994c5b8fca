"""The GPU report, with steps that need no GPU."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpu_steps import ABOUT, GOOD
from wtref.bench import compile_kernels, gpu_report
from wtref.bench.gpu_report import Step
from wtref.cli import bench
from wtref.cli.main import main

ROOT = Path(__file__).parents[2]
BAD = Step("bad", ["-c", "import sys; print('half'); sys.exit(3)"], 20)
STARTING = "import subprocess, sys; print('begun'); subprocess.run(['sleep', '20'], start_new_session=%s)"
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
def test_a_failing_step_does_not_stop_the_others(taken, tmp_path):
    start = time.perf_counter()
    failed, found, text = taken(BAD, SLOW, SLOWER, GOOD)
    assert failed == 3
    assert time.perf_counter() - start < 18, "what a step has started is not waited for"
    late = "FAILED, not done after 3 s"
    assert [step["outcome"] for step in found["steps"]] == ["FAILED, exit code 3", late, late, "passed"]
    assert [step["output"].strip() for step in found["steps"]] == ["half", "begun", "begun", "it works"]
    assert found["gpu"] == "a simulated one" and "a simulated one" in text
    logs = sorted(path.name for path in (tmp_path / "out").glob("*.log"))
    assert logs == ["01-bad.log", "02-slow.log", "03-slower.log", "04-good.log"]
    assert "the driver's CUDA 13.2\nOne a simulated one, 1 GiB; numpy 2.4.\n" in text
    places = [line.rindex(" s  ") for line in text.splitlines() if re.search(r"\d s  (bad|slow|slower|good)$", line)]
    assert len(places) == 4 and len(set(places)) == 1, "the seconds of all steps end in one column"
    assert text.count("== slow: FAILED, not done") == text.count("== bad: FAILED, exit code 3") == 1 and "it works" in text


def test_an_earlier_report_stays(taken, tmp_path, capsys):
    taken(GOOD)
    before = (tmp_path / "out/report.json").read_bytes()
    assert main(["gpu-report", "--out", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert (tmp_path / "out/report.json").read_bytes() == before


def test_all_that_a_step_prints_is_kept_beside_the_end_that_the_report_shows(taken, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_report, "KEPT", 20)
    _, found, text = taken(Step("long, with (many) lines", ["-c", "print(*range(1000), sep='\\n')"], 20))
    assert found["steps"][0]["output"] == "994\n995\n996\n997\n998\n999\n"[-20:]
    assert (tmp_path / "out/01-long-with-many-lines.log").read_text().split() == list(map(str, range(1000)))


BLOCKED = "import sys, pytest; sys.modules |= dict.fromkeys(['torch', 'hypothesis', 'mpi4py']); sys.exit(pytest.main(%r))"


@pytest.mark.slow
@pytest.mark.parametrize("which, outcome", [("kernels", "INCOMPLETE"), ("cuda", "passed"), ("nccl", "passed")])
def test_the_gpu_s_tests_need_neither_pytorch_nor_hypothesis_to_start(taken, monkeypatch, which, outcome):
    """Only the random shapes of the kernels' tests need hypothesis; verification.py has compared each kernel before."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # one of them imports hypothesis
    (step,) = [step for step in gpu_report.steps(Path(), "cuda") if step.name == f"tests, {which}"]
    assert step.command[:2] == ["-m", "pytest"]
    _, found, text = taken(step._replace(command=["-c", BLOCKED % step.command[2:]]))
    assert found["steps"][0]["outcome"] == outcome, text
    assert "SKIPPED" in text


@pytest.mark.slow
@pytest.mark.parametrize("seconds, started", [("0", False), ("1000", True)])
def test_no_test_is_started_too_late(seconds, started):
    command = [sys.executable, "-m", "pytest", "tests/test_readme.py", "-rA", "--start-within", seconds]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    output = done.stdout
    assert done.returncode == (0 if started else 5)
    assert ("PASSED" in output) == started and (f"not started within {seconds} s" in output) != started


@pytest.mark.slow
def test_the_first_step_compiles_what_all_others_use(taken, tmp_path):
    """Here the GPU's kernels are missing, and the step says which and why."""
    step = gpu_report.steps(tmp_path, "cuda:7")[0]
    failed, found, _ = taken(step)
    output = found["steps"][0]["output"].splitlines()
    lines = [line for line in output if not line.startswith("wtref: compiling")]  # on a machine that has not compiled them yet
    assert failed == 1 and len(lines) == 6
    for kind in ("cuda:7, float64, float32", "cuda:7, float32, float32", "cuda:7, float32, tf32", "cuda:7, float32, bf16"):
        assert any(re.match(rf"{kind} products, \d+ s: --device cuda", line) for line in lines), kind
    assert sum(line.startswith("cpu, ") for line in lines) == 2


@pytest.mark.parametrize("kernels, right", [("CUDA kernels, tf32 products", True), ("CUDA kernels without relu, tf32 products", False)])
def test_kernels_that_verification_replaces_fail_the_first_step(monkeypatch, kernels, right):
    monkeypatch.setattr(compile_kernels, "open_device", lambda *_: None)
    monkeypatch.setattr(compile_kernels, "equip", lambda *_, **__: SimpleNamespace(kernels=kernels))
    line, found = compile_kernels.compiled("cuda", "float32", "tf32")
    assert found == right and line == f"cuda, float32, tf32 products, 0 s: {kernels}"


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
    flags = ["--models", "mlp", "--rules", "kp", "--batches", "8", "--hidden", "4", "--repeats", "1", "--eager"]
    step = Step("mlp, kp", ["run.py", "bench", "steps", *flags, "--device", "cpu", "--json", str(path)], 500, path)
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
    planned, rows = [], (*gpu_report.BENCHES, *gpu_report.OTHERS, *gpu_report.BENCHES)
    monkeypatch.setattr(bench, "_measure", lambda plan, *_, **__: planned.extend(work for work, _ in plan))
    steps = [step for step in gpu_report.steps(tmp_path, "cuda:1") if step.json]
    assert len({step.json for step in steps}) == len(steps) == len(rows)
    assert ["--eager" in step.command for step in steps] == sorted("--eager" in step.command for step in steps)[::-1]
    for step in steps:
        assert main(step.command[1:]) == 0
    for work, (model, rule, batch, precision) in zip(planned, rows):
        config = work.config
        assert (config.model, config.rule, config.batch_size, config.precision) == (model, rule, batch, precision)
        assert config.device == "cuda:1" and work.classes == (1000 if model == "resnet50" else 10)
    assert len(planned) == len(steps)
