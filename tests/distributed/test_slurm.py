"""The batch script of wtref/distributed/README.md on a Slurm of two nodes."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from launching import ROOT, RUN_PY, messages, needs_mpi, process_ids
from programs import wait_until
from slurm import cluster, needs_slurm
from wtref.runs import checkpoints

pytestmark = [needs_slurm, needs_mpi, pytest.mark.slow]

README = (ROOT / "wtref/distributed/README.md").read_text()
SIZE = "--nodes=4 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=12 --time=48:00:00"
SHORT = "--dataset synthetic --model mlp --hidden 8 --device cpu --batch-size 100 --epochs 2"
ENDLESS = "--dataset synthetic --model mlp --hidden 8 --device cpu --batch-size 2 --epochs 900 --save-every 1000000"
LAST = Path("runs/mine/last.npz")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def script(flags):
    """The path of the README's script: two small nodes, and another training."""
    (text,) = re.findall(r"```sh\n(#!/bin/bash\n.*?)```", README, re.DOTALL)
    assert SIZE in text
    text = text.replace(SIZE, "--nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --time=10")
    training = re.compile(r"python run\.py train --resume-or-start res50-wm (.*?)\ncode", re.DOTALL)
    text, changes = training.subn(f"{sys.executable} {RUN_PY} train --resume-or-start mine {flags}\ncode", text)
    assert changes == 1
    Path("job.sh").write_text(text.replace("res50-wm", "mine"))
    return "job.sh"


def output(job):
    """What a job has printed so far, without the lines of its epochs."""
    path = Path(f"slurm-{job}.out")
    lines = path.read_text().splitlines() if path.exists() else []
    return "\n".join(line for line in lines if not line.startswith("epoch "))


def wait_for_epoch(job):
    """Wait until the job has trained for an epoch since its latest start; returns the process ids of its ranks."""
    path = Path(f"slurm-{job}.out")

    def since_start():
        return path.read_text().rpartition("\nranks on ")[2]

    wait_until(lambda: path.exists() and "\nepoch " in since_start())
    return process_ids(since_start().splitlines(), 2)


def progress():
    plain = checkpoints.read(LAST)[1]
    return plain["epoch"], plain["position"]


def stopped(epoch, step):
    """The message of a training that is stopped after so many epochs and steps: after step 0 if it was testing an epoch."""
    at = f"epoch {epoch + 1}, after step {step} of 1000"
    return f"wtref: stopped in {at}; all of it is saved in runs/mine; go on with: python run.py train --resume mine"


def test_it_trains_on_two_nodes(here, slurm):
    job = slurm.submit(script(SHORT))
    assert slurm.wait_for(job, "COMPLETED", "FAILED") == "0:0"
    assert process_ids(output(job).splitlines(), 2).keys() == {0, 1} and "done: 2 epochs" in output(job)
    assert messages(output(job)) == []


def test_at_its_time_limit_the_job_saves_the_run_and_is_requeued_to_go_on_with_it_until_it_is_cancelled(here, slurm):
    job = slurm.submit(script(ENDLESS))
    wait_for_epoch(job)
    slurm.update(job, TimeLimit=1)  # Slurm looks at the limits every 30 seconds
    slurm.wait_for(job, "PENDING")
    epoch, step = progress()
    assert messages(output(job)) == [stopped(epoch, step)]
    slurm.update(job, TimeLimit=10, StartTime="now")
    wait_until(lambda: f"\ngoes on after epoch {epoch}" + (f", step {step} of 1000" if step else "") + "\n" in output(job))
    pids = wait_for_epoch(job)  # from its first step on, the training is saved when it is stopped
    Path("cancelled").touch()
    slurm.call("scancel", job)
    wait_until(lambda: LAST.stat().st_mtime_ns > Path("cancelled").stat().st_mtime_ns)  # srun may not print its last lines
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids.values()), seconds=20)  # Slurm kills after 30
    slurm.wait_for(job, "CANCELLED")
    assert progress() > (epoch, step)


def test_a_killed_rank_is_named_and_ends_the_job_for_good(here, slurm):
    job = slurm.submit(script(ENDLESS))
    pids = wait_for_epoch(job)
    os.kill(pids[0], signal.SIGKILL)
    assert slurm.wait_for(job, "FAILED", seconds=30) == "137:0"
    assert "srun: error: node1: task 0: Killed" in output(job)
    assert progress()[0] > 0
