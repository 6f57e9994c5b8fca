"""Scripts without a main guard, and from stdin: no worker process runs them a second time."""

import subprocess
import sys

import pytest

from launching import environment

SCRIPT = """
import pathlib, sys
pathlib.Path("starts").open("a").write("started\\n")
from wtref.runs.experiments import Experiment
from wtref.runs.compare import compare
recipe = {"model": "mlp", "hidden": (4,), "epochs": 1, "device": "cpu"}
experiment = Experiment("an mlp", recipe, {"bp": {}, "fa": {}}, seeds=1)
sys.exit(compare(experiment, "mine", pathlib.Path("runs/mine"), "again", jobs=2))
"""


@pytest.mark.parametrize("stdin", [False, True])
def test_a_comparison_in_several_processes_needs_no_main_guard(tmp_path, stdin):
    (tmp_path / "script.py").write_text(SCRIPT)
    how = {"input": SCRIPT} if stdin else {}
    command = [sys.executable, "-" if stdin else "script.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, **how)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "starts").read_text() == "started\n"
    assert (tmp_path / "runs" / "mine" / "metrics.jsonl").exists() and "Traceback" not in done.stderr
