"""What `run.py gpu-report` does: everything about a GPU that takes a GPU to find out, in under nine minutes.

Each step is a command that anyone can run alone.  A step that fails or runs out of its time is
reported as such; the others follow all the same.
"""

import json
import platform
import subprocess
import sys
import time
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from wtref.errors import InputError
from wtref.files import replacing

ROOT = Path(__file__).parents[1]
PACKAGES = ("numpy", "torch", "pytest", "cupy", "cupy-cuda12x", "cupy-cuda13x", "mpi4py", "mpich")
KEPT = 6000  # characters of a step's output, from its end


class Step(NamedTuple):
    """name; command, after `python`; seconds it may take."""

    name: str
    command: list
    seconds: int


def steps(folder, device):
    """530 seconds at most."""
    run = ["run.py"]
    on = ["--device", device]

    def bench(name, *flags):
        return [*run, "bench", *on, "--repeats", "5", "--json", str(folder / f"bench-{name}.json"), *flags]

    train = ["--model", "resnet8", "--epochs", "3", "--batch-size", "32", "--log-name"]
    return [
        Step("tests on the GPU", ["-m", "pytest", "tests/cuda", "--durations=5"], 150),
        Step("cross-check with PyTorch", [*run, "check", *on, "--models", "mlp", "lenet", "resnet18"], 60),
        Step("bench, bf16", bench("bf16", "--precision", "bf16"), 110),
        Step("bench, tf32", bench("tf32", "--precision", "tf32"), 100),
        Step("bench, float32", bench("float32", "--models", "resnet18", "--rules", "kp", "--batches", "128"), 40),
        *(Step(f"training, {rule}", [*run, "train", *on, "--rule", rule, *train, f"gpu-{rule}-{int(time.time())}"], 35)
          for rule in ("kp", "wm")),
    ]  # fmt: skip


def report(folder, device):
    """Take all steps; write report.json and report.txt into `folder` as it goes.  Returns the number that failed.

    Raises InputError if the folder holds a report already, or there is no such device.
    """
    folder = Path(folder)
    if (folder / "report.json").exists():
        raise InputError(f"--out {folder}: holds a report already; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    found = {"date": datetime.now().astimezone().isoformat(timespec="seconds"), **_machine(device), "steps": []}
    for step in steps(folder, device):
        print(f"{step.name} ...", flush=True)
        found["steps"].append(taken := take(step))
        print(f"    {taken['outcome']}, {taken['seconds']:.0f} s", flush=True)
        _write(folder, found)
    print(f"report: {folder / 'report.txt'}")
    return sum(step["outcome"] != "passed" for step in found["steps"])


def take(step):
    """Run a step; {"name", "command", "outcome", "seconds", "output"}."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, *step.command], cwd=ROOT, timeout=step.seconds, text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        outcome = "passed" if done.returncode == 0 else f"FAILED, exit code {done.returncode}"
        output = done.stdout
    except subprocess.TimeoutExpired as late:
        outcome = f"FAILED, not done after {step.seconds} s"
        output = (late.stdout or b"").decode(errors="replace")
    return {
        "name": step.name,
        "command": " ".join(["python", *step.command]),
        "outcome": outcome,
        "seconds": time.perf_counter() - start,
        "output": output[-KEPT:],
    }


def _machine(device):
    """The GPU and the versions."""
    import cupy

    which = cupy.cuda.Device(int(device.partition(":")[2] or 0))
    properties = cupy.cuda.runtime.getDeviceProperties(which.id)
    installed = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    return {
        "gpu": properties["name"].decode(),
        "memory_gib": properties["totalGlobalMem"] / 2**30,
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "python": platform.python_version(),
        "versions": {name: installed[name] for name in PACKAGES if name in installed},
    }


def _write(folder, found):
    """As JSON, and as text to read."""
    with replacing(folder / "report.json") as file:
        file.write(json.dumps(found, indent=2).encode())
    about = [f"{name}: {value}" for name, value in found.items() if name != "steps"]
    parts = [f"== {s['name']}: {s['outcome']}, {s['seconds']:.0f} s\n$ {s['command']}\n{s['output']}" for s in found["steps"]]
    with replacing(folder / "report.txt") as file:
        file.write("\n\n".join(["\n".join(about), *parts]).encode())
