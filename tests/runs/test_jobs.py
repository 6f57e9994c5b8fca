"""Worker processes: what one of them, or the process that started them, takes with it when it is killed."""

import json
import os
import re
import signal
from concurrent.futures import Future
from pathlib import Path
from statistics import mean, stdev

import pytest

from launching import MLP
from programs import finish, is_empty, start, wait_until
from wtref.cli.main import main
from wtref.errors import Diverged, InputError, Unsaved
from wtref.runs import compare
from wtref.runs.folders import run_names
from wtref.runs.run import Run

LONG = ["compare", *MLP, "--rules", "bp", "fa", "--seeds", "5000", "--jobs", "2", "--threads", "1"]

needs_proc = pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="/proc names no children")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def comparing():
    """A running comparison with at least one finished run."""
    process = start(*LONG)
    try:
        wait_until(saved)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def workers(process):
    children = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def saved():
    """{(rule, seed)} of the runs that are finished."""
    runs = map(Run, run_names())
    return {(run.config().rule, run.config().seed) for run in runs if run.finished()}


@pytest.mark.slow
@needs_proc
def test_a_worker_that_is_killed_ends_the_comparison_and_nothing_finished_is_lost(comparing):
    wait_until(lambda: len(saved()) > 2)  # then one of the two workers has told of a run and begun another
    os.kill(workers(comparing)[0], signal.SIGKILL)
    code, out, err = finish(comparing)
    assert code == 1
    assert err.startswith("wtref: a worker process ended before its run, as it does where memory runs out (fewer --jobs need less); ")
    assert err.count("\n") == 1 and f"; {len(saved())} of 15000 runs finished; missing: " in err
    told = {(rule, int(seed)) for rule, seed in re.findall(r"\] (\w+) +seed (\d+): test accuracy", out)}
    assert told and told <= saved()
    first = next((rule, seed) for seed in range(5000) for rule in ("bp", "fa", "frozen") if (rule, seed) not in saved())
    assert f"missing: {first[0]} seed {first[1]}, " in err and " more; do what is left with: python run.py compare" in err
    wait_until(lambda: is_empty(comparing.pid), seconds=10)


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_workers_end_with_their_parent(comparing, number):
    assert len(workers(comparing)) == 2
    os.kill(comparing.pid, number)
    code, _, err = finish(comparing)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in err
    wait_until(lambda: is_empty(comparing.pid), seconds=10)
    assert saved()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_to_all_processes_is_one_line(comparing, number):
    os.killpg(comparing.pid, number)
    code, _, err = finish(comparing)
    assert code == 128 + number
    assert re.match(r"wtref: interrupted; \d+ of 15000 runs finished; missing: ", err) and err.count("\n") == 1


def rows(out):
    """{rule: mean and standard deviation} of the printed table."""
    table, _ = out[out.index("  rule ") :].split("\n\n", 1)
    return {cells[0].lower(): cells[1:4] for cells in map(str.split, table.splitlines()) if cells[2:3] == ["±"]}


def test_a_run_that_diverges_does_not_stop_the_others(capsys):
    """At this learning rate, signs as feedback keep the weights finite."""
    assert main(["compare", *MLP, "--rules", "bp", "ss", "--seeds", "2", "--lr", "100", "--weight-decay", "0.03"]) == 1
    out, err = capsys.readouterr()
    assert all(line.startswith("wtref: the loss became ") for line in err.splitlines())
    assert sorted(line.split()[-1] for line in err.splitlines()) == ["(compare-digits-1-bp-0)", "(compare-digits-1-bp-1)"]
    assert rows(out).keys() == {"ss", "frozen"} and saved() == {(rule, seed) for rule in ("ss", "frozen") for seed in (0, 1)}
    assert "4 of 6 runs finished; missing: bp seed 0, bp seed 1\n" in Path("runs/compare-digits-1/table.txt").read_text()


@pytest.fixture
def pretended(monkeypatch):
    """{(rule, seed): exception}: instead of these runs; all are done in this process, in reverse of the order asked for."""
    outcomes = {}

    def completed(function, items, jobs, waiting):
        for item in reversed(items):
            future = Future()
            config = item[1]
            if error := outcomes.get((config.rule, config.seed)):
                future.set_exception(error)
            else:
                future.set_result(function(item))
            yield item, future

    monkeypatch.setattr(compare, "completed", completed)
    return outcomes


TWO = ["compare", *MLP, "--rules", "fa", "bp", "--seeds", "2", "--jobs", "2"]


def lines():
    return [json.loads(line) for line in Path("runs/compare-digits-1/metrics.jsonl").read_text().splitlines()]


def test_metrics_do_not_depend_on_the_order_of_finishing(pretended, capsys):
    assert main([*TWO, "--rules", "fa", "bp", "fa"]) == 0
    assert [(line["rule"], line["seed"]) for line in lines()] == [(rule, seed) for seed in (0, 1) for rule in ("fa", "bp", "frozen")]


@pytest.mark.parametrize(
    "error, said", [(Diverged("the loss became inf"), "inf (compare-digits-1-fa-0)"), (MemoryError("x"), "out of memory (x); fewer --jobs")]
)
def test_one_failure_among_good_runs(pretended, capsys, error, said):
    pretended["fa", 0] = error
    assert main(TWO) == 1
    out, err = capsys.readouterr()
    assert said in err and err.count("\n") == 1 and "(compare-digits-1-fa-0)" in err
    (fa,) = (100 - line["test_error"] for line in lines() if line["rule"] == "fa")
    others = {rule: [100 - line["test_error"] for line in lines() if line["rule"] == rule] for rule in ("bp", "frozen")}
    assert rows(out) == {rule: [f"{mean(found):.2f}", "±", f"{stdev(found):.2f}"] for rule, found in others.items()}
    assert re.search(rf"^ *FA +{fa:.2f} ", out, re.MULTILINE)
    assert saved() == {("fa", 1), ("bp", 0), ("bp", 1), ("frozen", 0), ("frozen", 1)}


@pytest.mark.parametrize(
    "error, code", [(InputError("x.png cannot be read"), 2), (Unsaved("cannot write runs/x: No space left on device"), 1)]
)
def test_unreadable_data_and_a_full_disk_end_the_comparison_and_what_is_missing_is_named(pretended, capsys, error, code):
    pretended["fa", 1] = error
    assert main(TWO) == code
    out, err = capsys.readouterr()
    again = f"do what is left with: python run.py {' '.join(TWO)} --log-name compare-digits-1\n"
    assert err == f"wtref: {error}; 2 of 6 runs finished; missing: fa seed 0, bp seed 0, frozen seed 0, fa seed 1; {again}"
    assert re.findall(r"^ *(FA|BP|frozen) ", out, re.MULTILINE) == ["BP", "frozen"] and saved() == {("bp", 1), ("frozen", 1)}


def test_an_internal_error_in_a_worker_is_not_dressed_up(pretended):
    pretended["bp", 0] = IndexError("bug")
    with pytest.raises(IndexError, match="bug"):
        main(TWO)
    assert saved() == {("frozen", 0), ("frozen", 1), ("bp", 1), ("fa", 1)}
