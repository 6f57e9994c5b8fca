"""Programs started as several processes by a real launcher, for the tests that need them."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
RUN_PY = ROOT / "run.py"
MLP = "--model mlp --hidden 8 --device cpu --epochs 1".split()
SMALL = "train --model mlp --hidden 6 --batch-size 100 --device cpu --threads 1 --dtype float64 --rule wm".split()


def mpiexec(processes, *argv):
    """The command that starts so many processes of `python argv`."""
    return [MPIEXEC, "-n", str(processes), sys.executable, *map(str, argv)]


def environment():
    """In which the programs find wtref and the tests' modules."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


def run(command, seconds=300):
    """The finished process of a command, its output as text."""
    return subprocess.run(command, env=environment(), timeout=seconds, text=True, capture_output=True)


def start(command):
    """The running process of a command, its output pipes of text."""
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def nothing_left(folder, seconds=10):
    """Whether no other process, the witness least of all, is at work in this folder within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(_works_in(process, folder) for process in Path("/proc").glob("[0-9]*")):
            return True
        time.sleep(0.05)
    return False


def _works_in(process, folder):
    try:
        return (process / "cwd").readlink() == folder and int(process.name) != os.getpid()
    except OSError:  # it has gone, or is another user's
        return False
