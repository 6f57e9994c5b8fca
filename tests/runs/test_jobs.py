"""Worker processes: what one of them, or the process that started them, takes with it when it is killed."""

import json
import os
import signal
from concurrent.futures import Future
from pathlib import Path

import pytest

from launching import MLP
from programs import finish, is_empty, start, wait_until
from wtref.cli.main import main
from wtref.errors import Diverged, InputError, Unsaved
from wtref.runs import compare

LONG = ["compare", *MLP, "--rules", "bp", "fa", "--seeds", "5000", "--jobs", "2", "--threads", "1"]
METRICS = Path("runs/compare-digits-1/metrics.jsonl")

needs_proc = pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="/proc names no children")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def comparing():
    """A running compare with at least one finished run."""
    process = start(*LONG)
    try:
        wait_until(METRICS.exists)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def workers(process):
    children = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def seeds(lines, rule):
    return {line["seed"] for line in lines if line["rule"] == rule}


def saved():
    return [json.loads(line) for line in METRICS.read_text().splitlines()]


@needs_proc
def test_a_worker_that_is_killed_ends_the_comparison_and_nothing_finished_is_lost(comparing):
    os.kill(workers(comparing)[0], signal.SIGKILL)
    code, out, err = finish(comparing)
    assert code == 1
    assert err.startswith("wtref: a worker process ended before its run, as it does where memory runs out (fewer --jobs need less); ")
    assert f"the finished runs are in {METRICS}; missing: " in err and err.count("\n") == 1
    told = {tuple(line.split(":")[0].split()[-3::2]) for line in out.splitlines() if " % right" in line}
    assert told and told == {(line["rule"], str(line["seed"])) for line in saved()}
    first = next((rule, seed) for seed in range(5000) for rule in ("bp", "fa") if seed not in seeds(saved(), rule))
    assert f"missing: {first[0]} seed {first[1]}, " in err and " more\n" in err
    wait_until(lambda: is_empty(comparing.pid), seconds=10)


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_workers_end_with_their_parent(comparing, number):
    assert len(workers(comparing)) == 2
    os.kill(comparing.pid, number)
    code, _, err = finish(comparing)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in err
    wait_until(lambda: is_empty(comparing.pid), seconds=10)
    assert saved()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_to_all_processes_is_one_line(comparing, number):
    os.killpg(comparing.pid, number)
    code, _, err = finish(comparing)
    assert code == 128 + number
    assert err.startswith(f"wtref: interrupted; the finished runs are in {METRICS}; missing: ") and err.count("\n") == 1


def test_a_run_that_diverges_does_not_stop_the_others(capsys):
    """At this learning rate, signs as feedback keep the weights finite."""
    assert main(["compare", *MLP, "--rules", "bp", "ss", "--seeds", "1", "--lr", "100"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("wtref: the loss became ") and err.endswith("(bp, seed 0)\n") and err.count("\n") == 1
    assert [line.split()[0] for line in out.splitlines() if "±" in line] == ["ss"]
    assert {line["rule"] for line in saved()} == {"ss"} and "ss" in METRICS.with_name("table.txt").read_text()


@pytest.fixture
def pretended(monkeypatch):
    """compare's runs, whose order of finishing is the reverse of the order they were asked for in."""
    outcomes = {}

    def completed(function, configs, jobs):
        for config in reversed(configs):
            future = Future()
            outcome = outcomes.get((config.rule, config.seed), (record(config.seed), set()))
            (future.set_exception if isinstance(outcome, Exception) else future.set_result)(outcome)
            yield config, future

    monkeypatch.setattr(compare, "completed", completed)
    return outcomes


def record(seed):
    return [{"epoch": 1, "seconds": 1.0, "test_error": float(seed), "matrix_angles": {}, "delta_angles": {"a": 1.0}}]


def test_metrics_do_not_depend_on_the_order_of_finishing(pretended, capsys):
    assert main(["compare", *MLP, "--rules", "fa", "bp", "fa", "--seeds", "2"]) == 0
    assert [(line["rule"], line["seed"]) for line in saved()] == [("fa", 0), ("bp", 0), ("fa", 1), ("bp", 1)]


@pytest.mark.parametrize(
    "error, said", [(Diverged("the loss became inf"), "inf (fa, seed 0)"), (MemoryError(), "out of memory; fewer --jobs")]
)
def test_one_failure_among_good_runs(pretended, capsys, error, said):
    pretended["fa", 0] = error
    assert main(["compare", *MLP, "--rules", "fa", "bp", "--seeds", "2"]) == 1
    out, err = capsys.readouterr()
    assert said in err and err.count("\n") == 1 and "(fa, seed 0)" in err
    rows = {line.split()[0]: line.split()[1:4] for line in out.splitlines() if "±" in line}
    assert rows == {"fa": ["99.00", "±", "0.00"], "bp": ["99.50", "±", "0.71"]}
    assert seeds(saved(), "fa") == {1} and seeds(saved(), "bp") == {0, 1}


def test_data_that_become_unreadable_end_the_comparison_and_the_finished_runs_are_named(pretended, capsys):
    pretended["fa", 1] = InputError("x.png cannot be read")
    assert main(["compare", *MLP, "--rules", "fa", "bp", "--seeds", "2"]) == 2
    out, err = capsys.readouterr()
    missing = "fa seed 0, bp seed 0, fa seed 1"
    assert err == f"wtref: x.png cannot be read; the finished runs are in {METRICS}; missing: {missing}\n"
    assert [line.split()[0] for line in out.splitlines() if "±" in line] == ["bp"]
    assert [(line["rule"], line["seed"]) for line in saved()] == [("bp", 1)]


def test_an_internal_error_in_a_worker_is_not_dressed_up(pretended):
    pretended["bp", 0] = IndexError("bug")
    with pytest.raises(IndexError, match="bug"):
        main(["compare", *MLP, "--rules", "fa", "bp", "--seeds", "2"])
    assert seeds(saved(), "bp") == {1}


def test_a_full_disk_stops_no_run_and_the_table_is_shown(pretended, monkeypatch, capsys):
    def full(path, records):
        raise Unsaved(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(compare, "write_lines", full)
    assert main(["compare", *MLP, "--rules", "fa", "bp", "--seeds", "1"]) == 1
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines() if "±" in line] == ["fa", "bp"]
    once = f"wtref: cannot write {METRICS}: No space left on device"
    assert err.splitlines() == [f"{once}; the runs go on"] * 2 + [once]
