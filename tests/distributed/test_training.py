"""Runs of several processes: the same records and checkpoints as of one, from data in memory and in image folders."""

import json
import os
import signal
import socket
from collections import Counter
from pathlib import Path

import pytest

from launching import (
    FOLDER, RUN_PY, SIGNALLED, SMALL, assert_same_run, fails, image_folder, messages, mpiexec, needs_mpi, records, run, train, write_program
)  # fmt: skip
from wtref.runs.run import Run

pytestmark = [needs_mpi, pytest.mark.slow]


def test_a_run_can_be_resumed_with_another_number_of_processes(here):
    train(1, "--epochs", "3", "--log-name", "whole")
    done = run(mpiexec(3, write_program(SIGNALLED), 1, "SIGTERM", *SMALL, "--epochs", "3", "--log-name", "parts"))
    assert done.returncode == 128 + signal.SIGTERM
    assert [line.partition(";")[0] for line in messages(done.stderr)] == ["wtref: stopped in epoch 1, after step 4 of 15"]
    train(2, "--epochs", "3", "--resume", "parts")
    assert_same_run("whole", "parts")
    about = json.loads(Path("runs/parts/config.json").read_text())
    assert "processes" not in about["config"]


def test_rank_0_holds_the_lock_of_a_run(here):
    train(2, "--epochs", "1", "--log-name", "mine")
    in_use = f"run 'mine' is in use by process {os.getpid()} on {socket.gethostname()}; wait for it or stop it"
    with Run("mine").held():
        assert fails(mpiexec(2, RUN_PY, "train", "--resume", "mine"), 2) == [f"wtref: rank 0: {in_use}"]
    assert "already finished: 1 epoch" in run(mpiexec(2, RUN_PY, "train", "--resume", "mine")).stdout
    assert not Path("runs/mine/lock").exists()


def test_waiting_is_recorded_for_several_processes_only(here):
    train(2, "--epochs", "1", "--log-name", "two")
    train(1, "--epochs", "1", "--log-name", "one")
    two, one = (json.loads(Path("runs", name, "metrics.jsonl").read_text()) for name in ("two", "one"))
    assert 0 < two["waiting_ms_per_step"] < 1000 * two["seconds"] / 15
    assert "waiting_ms_per_step" not in one and two.keys() - one.keys() == {"waiting_ms_per_step", "processes"}


def test_each_rank_opens_its_shard_of_an_image_folder_and_together_they_open_all(here):
    image_folder(here / "data", count=10)
    script = here / "opened.py"
    script.write_text(
        "import os, sys\n"
        "from wtref.cli import main as cli\n"
        "from wtref.datasets import reading\n"
        "read = reading.read_file\n"
        "def recorded(path):\n"
        "    with open(f'opened-{os.getpid()}', 'a') as file:\n"
        "        file.write(f'{path}\\n')\n"
        "    return read(path)\n"
        "reading.read_file = recorded\n"
        "sys.exit(cli.main())\n"
    )
    done = run(mpiexec(3, script, *FOLDER, "--data-dir", "data", "--epochs", "1", "--log-name", "three"))
    assert done.returncode == 0, done.stderr
    opened = [path.read_text().split() for path in Path().glob("opened-*")]
    assert len(opened) == 3 and all(opened)
    counts = [Counter(paths) for paths in opened]
    measured = counts[0] & counts[1] & counts[2]  # the batch of the delta angles, which all processes read at the end of the epoch
    assert measured.total() == 6 and all("train" in path for path in measured)
    everything = Counter(str(path) for path in Path("data").glob("*/*/*.png"))
    assert sum((each - measured for each in counts), Counter()) == everything  # each once
    done = run(mpiexec(1, RUN_PY, *FOLDER, "--data-dir", "data", "--epochs", "1", "--log-name", "one"))
    assert done.returncode == 0, done.stderr
    together, alone = records("three")[0], records("one")[0]
    assert together["test_error"] == alone["test_error"] and together["train_error"] == alone["train_error"]
    assert together["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2])  # of size 1, some batches have no image in any process
def test_damaged_images_are_skipped_as_by_one_process(here, batch_size):
    image_folder(here / "data", count=4)
    for name in ("train/a/1.png", "val/b/0.png"):
        (here / "data" / name).write_bytes(b"no image")
    (here / "data/train/b/9.png").symlink_to("gone.png")
    flags = [*FOLDER, "--data-dir", "data", "--epochs", "2", "--bad-images", "skip", "--dtype", "float64"]
    for processes in (1, 3):
        log = f"by{processes}"
        done = run(mpiexec(processes, RUN_PY, *flags, "--batch-size", str(batch_size), "--log-name", log))
        assert done.returncode == 0, done.stderr
        assert "images that cannot be read and were skipped: 3, such as" in done.stdout
    assert_same_run("by1", "by3")
