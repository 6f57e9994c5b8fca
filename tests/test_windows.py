"""What Windows lacks is not needed to train: the program runs without it, on this system as a stand-in for Windows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Takes away what Python has not on Windows, then runs the command line.
PROGRAM = """
import os, select, signal, sys

for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for module, names in (
    (os, "O_NOFOLLOW fork getuid killpg register_at_fork sched_getaffinity sched_setaffinity setsid"),
    (signal, "SIGHUP SIGKILL pthread_sigmask setitimer"),
    (select, "epoll"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
first_open, first_unlink = os.open, os.unlink

def open_file(path, *args, **how):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied")
    return first_open(path, *args, **how)

def unlink(path, **how):
    if os.path.basename(path) == "lock":  # Windows keeps files that are open
        raise PermissionError(13, "Permission denied")
    return first_unlink(path, **how)

os.open, os.unlink = open_file, unlink
from wtref.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def run(folder, *command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CC": "no-compiler"}
    program = folder / "program.py"
    program.write_text(PROGRAM)
    return subprocess.run([sys.executable, program, *command], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_networks_are_trained_continued_and_compared(tmp_path):
    flags = "--model mlp --hidden 6 --batch-size 500 --device cpu --threads 1 --epochs".split()
    trained = run(tmp_path, "train", *flags, "2", "--rule", "kp", "--log-name", "mine")
    assert trained.returncode == 0 and "plain kernels" in trained.stdout, trained.stderr
    assert "locks are not available" in trained.stderr and (tmp_path / "runs" / "mine" / "last.npz").is_file()
    (tmp_path / "runs" / "mine" / "last.npz").unlink()  # from its previous checkpoint
    again = run(tmp_path, "train", "--resume", "mine")
    assert again.returncode == 0 and "epoch 2/2" in again.stdout, again.stderr
    compared = run(tmp_path, "compare", *flags, "1", "--rules", "bp", "--seeds", "1", "--jobs", "2", "--log-name", "both")
    assert compared.returncode == 0 and (tmp_path / "runs" / "both" / "report.html").is_file(), compared.stderr
