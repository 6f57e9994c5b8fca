"""Programs that a real launcher starts as several processes, and what their runs leave, for the tests of several processes."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wtref.runs import checkpoints

ROOT = Path(__file__).parents[1]
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
RUN_PY = ROOT / "run.py"
MLP = "--model mlp --hidden 8 --device cpu --epochs 1".split()
SMALL = "train --model mlp --hidden 6 --batch-size 100 --device cpu --threads 1 --dtype float64 --rule wm".split()
FOLDER = "train --dataset folder --image-size 16 --model resnet8 --batch-size 6 --device cpu --threads 1".split()
TIMES = ("seconds", "images_per_second", "waiting_ms_per_step", "processes")  # of a record, which differ between runs

# The rank argv[1] sends itself the signal argv[2] before its fourth step; the other arguments are for wtref.
SIGNALLED = """
import os, signal, sys
from wtref.cli import main as cli
from wtref.runs import prepare
from wtref.distributed.training import DistributedTraining
rank, number = int(sys.argv[1]), getattr(signal, sys.argv[2])
class Signalled(DistributedTraining):
    def step(self, *batch):
        if self.group.rank == rank and self.position == 3:
            os.kill(os.getpid(), number)
        return super().step(*batch)
prepare.DistributedTraining = Signalled
raise SystemExit(cli.main(sys.argv[3:]))
"""

needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason="several processes need mpi4py and mpiexec: pip install 'wtref[mpi]'",
)


def mpiexec(processes, *argv):
    """The command that starts so many processes of `python argv`."""
    return [MPIEXEC, "-n", str(processes), sys.executable, *map(str, argv)]


def environment():
    """The environment in which programs can import wtref and the tests' modules."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


def run(command, seconds=300, cwd=None):
    """The finished process of a command, its output as text."""
    return subprocess.run(command, cwd=cwd, env=environment(), timeout=seconds, text=True, capture_output=True)


def start(command):
    """The running process of a command, its output pipes of text."""
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write_program(text):
    """The path of a Python program with this text, in the working directory."""
    Path("program.py").write_text(text)
    return "program.py"


def train(processes, *flags):
    """The standard output of a training that succeeds."""
    done = run(mpiexec(processes, RUN_PY, *SMALL, *flags))
    assert done.returncode == 0 and "wtref: " not in done.stderr, done.stderr
    assert nothing_left(Path.cwd())
    return done.stdout


def fails(command, code):
    """The lines on stderr of a command that ends with this code before its first step."""
    done = run(command)
    assert done.returncode == code, done.stderr
    assert "epoch" not in done.stdout and "Traceback" not in done.stderr and nothing_left(Path.cwd())
    return done.stderr.splitlines()


def process_ids(lines, processes):
    """{rank: process id} of so many processes, from the lines of a training's standard output, of which no more are read than needed."""
    text = ""
    for line in lines:
        text = " ".join([text, *line.split()])  # a long line is wrapped
        found = {int(rank): int(pid) for rank, pid in re.findall(r"(\d+) is (\d+)", text)}
        if len(found) == processes:
            return found
    raise AssertionError(f"no process ids of {processes} ranks in: {text}")


def messages(stderr):
    """The lines of wtref itself."""
    return [line for line in stderr.splitlines() if line.startswith("wtref: ")]


def nothing_left(folder, seconds=10):
    """Whether within so many seconds no other process, such as the watchdog, has this folder as its working directory."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(_works_in(process, folder) for process in Path("/proc").glob("[0-9]*")):
            return True
        time.sleep(0.05)
    return False


def _works_in(process, folder):
    try:
        return (process / "cwd").readlink() == folder and int(process.name) != os.getpid()
    except OSError:  # it has ended, or belongs to another user
        return False


def distance(a, b):
    """The largest difference, relative to the largest value or 0.001: some angles are 0.

    NaN, which stands for no angle, differs from every angle.
    """
    a, b = (np.nan_to_num(x, nan=-1) for x in (a, b))
    return np.abs(a - b).max() / max(np.abs(a).max(), 1e-3)


def records(name):
    """The records of a run's epochs, without their times."""
    lines = Path("runs", name, "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def assert_same_run(a, b):
    """Two runs' checkpoints and records agree to 1e-9."""
    (arrays, plain), (others, plain_b) = (checkpoints.read(Path("runs", name, "last.npz")) for name in (a, b))
    assert {key for key in arrays if not distance(arrays[key], others[key]) < 1e-9} == set()
    assert plain["rule"] == plain_b["rule"] and plain["epoch"] == plain_b["epoch"]
    for record, other in zip(records(a), records(b), strict=True):
        assert record.keys() == other.keys()
        for key, value in record.items():
            assert other[key] == pytest.approx(value, rel=1e-9, abs=1e-6)


def image_folder(root, count):
    """Write an image folder with two classes of `count` images to train on and three to test on."""
    rng = np.random.default_rng(count)
    for split, images in (("train", count), ("val", 3)):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            for i in range(images):
                pixels = rng.integers(256, size=(20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
