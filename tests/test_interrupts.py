"""Ctrl-C, SIGTERM and SIGHUP end the program without loss, at any moment and however often they are sent."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from wtref.cli.main import main
from wtref.interrupts import Interrupted, deferring, interrupting, stop_requests
from wtref.runs import checkpoints

ROOT = Path(__file__).parents[1]
TINY = "train --model mlp --hidden 8 --batch-size 500 --device cpu --kernels plain --threads 1 --epochs 3 --log-name mine".split()
SAVED = "all of it is saved in runs/mine; go on with: python run.py train --resume mine\n"

# The process sends itself the signals argv[1] while a checkpoint is written, or (argv[2]) while the data are read; the rest is for wtref.
PROGRAM = """
import os, signal, sys
from wtref import datasets
from wtref.cli import main as cli
from wtref.runs.run import Run
signals, where = [getattr(signal, name) for name in sys.argv[1].split(",")], sys.argv[2]
signal.signal(signal.SIGINT, signal.default_int_handler)
if where == "ignored":
    signal.signal(signals[0], signal.SIG_IGN)
owner, name = (datasets, "open_feed") if where == "loading" else (Run, "save")
original = getattr(owner, name)
def struck(*args):
    for number in signals:
        os.kill(os.getpid(), number)
    setattr(owner, name, original)
    return original(*args)
setattr(owner, name, struck)
if where != "loading":
    from wtref.training import Training
    first = Training.step
    def asked(self, *args, **how):
        Training.step = first
        os.kill(os.getpid(), signals[0])
        return first(self, *args, **how)
    Training.step = asked
sys.exit(cli.main(sys.argv[3:]))
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def struck(signals, where):
    """The finished process of a run that was sent these signals at this place of the program."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, signals, where, *TINY]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "signals, code",
    [
        ("SIGTERM,SIGTERM,SIGTERM", 143),
        pytest.param("SIGHUP,SIGHUP", 129, marks=pytest.mark.slow),
        pytest.param("SIGTERM,SIGHUP", 143, marks=pytest.mark.slow),
        pytest.param("SIGTERM,SIGINT", 143, marks=pytest.mark.slow),
    ],
)
def test_repeated_signals_do_not_disturb_the_writing_of_a_checkpoint(signals, code):
    done = struck(signals, "saving")
    assert done.returncode == code
    assert done.stderr == f"wtref: stopped in epoch 1, after step 1 of 3; {SAVED}"
    assert checkpoints.read(Path("runs/mine/last.npz"))[1]["position"] == 1


def test_a_second_ctrl_c_ends_at_once():
    done = struck("SIGINT,SIGINT", "saving")
    assert (done.returncode, done.stderr) == (130, "wtref: interrupted\n")
    assert not list(Path("runs/mine").glob("*.npz"))


@pytest.mark.parametrize(
    "signals, code",
    [("SIGTERM,SIGTERM", 143), pytest.param("SIGHUP", 129, marks=pytest.mark.slow), pytest.param("SIGINT", 130, marks=pytest.mark.slow)],
)
def test_before_training_begins_the_signals_end_the_program_in_one_line(signals, code):
    done = struck(signals, "loading")
    assert (done.returncode, done.stderr) == (code, "wtref: interrupted\n")
    assert not Path("runs").exists()


@pytest.mark.parametrize("signals", ["SIGHUP", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(signals):
    """SIGHUP under nohup, SIGINT in a job that a script put in the background."""
    done = struck(signals, "ignored")
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["epoch"] for line in Path("runs/mine/metrics.jsonl").read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("module, said", [("numpy", ""), ("argparse", "wtref: interrupted\n")])
def test_ctrl_c_while_modules_are_imported_ends_the_program_without_a_traceback(tmp_path, module, said):
    (tmp_path / f"{module}.py").write_text("raise KeyboardInterrupt")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, ROOT / "run.py", "runs"], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", said)


def test_a_command_restores_the_handlers_of_signals():
    every = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in every]
    assert main(TINY) == 0
    assert [signal.getsignal(number) for number in every] == before


def test_a_run_may_be_trained_in_a_thread():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main(TINY)))
    thread.start()
    thread.join()
    assert codes == [0]


@pytest.mark.parametrize("number, raised", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Interrupted)])
def test_a_signal_that_is_deferred_is_handled_at_the_end(number, raised):
    passed = []
    with interrupting(), pytest.raises(raised):
        with deferring():
            os.kill(os.getpid(), number)
            time.sleep(0.01)  # Python handles signals between two of its instructions
            passed.append(number)
    assert passed == [number]


def test_a_request_holds_its_first_signal():
    with stop_requests() as stop:
        assert stop.signal is None
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert stop.signal == signal.SIGHUP
