"""`run.py gpu-report`: tests, checks, trainings and benchmarks on a GPU, in under nine minutes.

Each step is a command that can also be run alone.  The most important steps come first.  A step that fails or exceeds its
time is reported as such, and the next ones follow as long as there is time left.  All that a step has printed is in a file of
its own beside the report, which has the end of it.
"""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from wtref.device import open_device
from wtref.errors import InputError, Unsaved
from wtref.files import make_folder, write_json, write_text
from wtref.installation import IS_CLONE, PACKAGE
from wtref.text import printable

PACKAGES = (
    "numpy", "cupy", "cupy-cuda12x", "cupy-cuda13x", "cuda-toolkit", "ml_dtypes", "torch", "triton", "pytest", "hypothesis",
    "mpi4py", "mpich",
)  # fmt: skip
KEPT = 12_000  # the characters kept of a step's output, from its end
SECONDS = 520  # for all steps together
OUTCOMES = {0: "passed", 5: "INCOMPLETE"}  # by exit code; that of pytest is 5 where it skips a file, or tests for lack of time
LEAST = 10  # the seconds that must be left for a step to be started

# Each benchmark runs in a process of its own, so that its failure does not affect the others.
BENCHES = (
    ("resnet18", "kp", 512, "bf16"),
    ("resnet18", "kp", 128, "bf16"),
    ("resnet50", "kp", 128, "bf16"),
    ("resnet18", "wm", 512, "bf16"),
)
OTHERS = (  # without torch.compile, for which there is no time
    ("resnet18", "kp", 512, "tf32"),
    ("resnet18", "kp", 128, "float32"),
)


class Step(NamedTuple):
    """A command, as arguments of Python, the seconds that it may take, and the JSON file of `bench` that it writes, if any."""

    name: str
    command: list
    seconds: int
    json: Path | None = None


def steps(folder, device):
    """The Steps of the report, in order; folder: for their JSON files.

    The first one compiles for all others.  torch.compile comes last, as it takes as long as all before.
    """
    on = ["--device", device]
    train = ["--model", "resnet8", "--epochs", "3", "--batch-size", "32", "--log-name"]
    return [
        Step("compilation and verification", ["-m", "wtref.bench.compile_kernels", device], 120),
        _tests("kernels", 60),
        *(Step(f"training, {rule}", ["run.py", "train", *on, "--rule", rule, *train, f"gpu-{rule}-{int(time.time())}"], 30)
          for rule in ("kp", "wm")),
        *(_bench(folder, on, *row, seconds=60, how=["--eager", "--profile"]) for row in (*BENCHES, *OTHERS)),
        _tests("cuda", 90),
        _tests("nccl", 30),
        Step("cross-check with PyTorch", ["run.py", "check", *on, "--models", "mlp", "resnet18"], 50),
        *(_bench(folder, on, *row, seconds=110, name=", torch.compile") for row in BENCHES),
    ]  # fmt: skip


def _tests(which, seconds):
    """The tests of a file of tests/cuda; none is started in the last third of the time."""
    how = ["-vv", "-rs", "--tb=short", "--durations=5", "--start-within", str(2 * seconds // 3)]
    return Step(f"tests, {which}", ["-m", "pytest", f"tests/cuda/test_{which}_hardware.py", *how], seconds)


def _bench(folder, on, model, rule, batch, precision, seconds, name="", how=()):
    title = f"{model}, {rule}, batch {batch}, {precision}{name}"
    path = folder / f"bench-{file_name(title)}.json"
    which = ["--models", model, "--rules", rule, "--batches", str(batch), "--precision", precision]
    shape = ["--shape", "224", "224", "3"] if model == "resnet50" else []
    return Step(title, ["run.py", "bench", "steps", *on, *which, *shape, *how, "--repeats", "5", "--json", str(path)], seconds, path)


def report(folder, device):
    """Run all steps, and write report.json and report.txt into `folder` after each; returns the number of failed steps.

    Raises InputError outside a clone, which has the tests, and if the folder holds a report already; Unsaved, after all
    steps, if the report cannot be written.
    """
    if not IS_CLONE:
        raise InputError("gpu-report runs the tests of the repository; start it in a clone of it: python run.py gpu-report")
    folder = Path(folder)
    if (folder / "report.json").exists():
        raise InputError(f"--out {folder}: holds a report already; name another folder")
    make_folder(folder)
    folder, end = folder.resolve(), time.perf_counter() + SECONDS
    found = {"date": datetime.now().astimezone().isoformat(timespec="seconds"), **_machine(device), "steps": []}
    for number, step in enumerate(steps(folder, device), start=1):
        print(f"{step.name} ...", flush=True)
        result = run(step, end - time.perf_counter(), folder / f"{number:02}-{file_name(step.name)}.log")
        found["steps"].append(result)
        _try_to_write(folder, found)
        print(f"    {result['outcome']}, {result['seconds']:.0f} s", flush=True)
    try:
        _write(folder, found)
    finally:  # the table is printed even where the report cannot be saved
        print(table(found))
    print(f"report: {printable(folder / 'report.txt')}")
    return sum(step["outcome"] != "passed" for step in found["steps"])


def file_name(title):
    """The title of a step as a part of a file's name."""
    return "-".join(re.findall(r"[\w.]+", title))


def run(step, left, log):
    """Run a step within its own seconds and those left: {"name", "command", "outcome", "seconds", "output", "rows"}.

    log: the file for its whole output.
    """
    start, limit = time.perf_counter(), min(step.seconds, left)
    outcome, output = _run_python(step.command, limit) if left >= LEAST else ("NOT DONE, no time left", "")
    with suppress(Unsaved):  # its end is in the report
        write_text(log, output)
    rows = json.loads(step.json.read_text(encoding="utf-8"))["rows"] if step.json and step.json.exists() else []
    return {
        "name": step.name,
        "command": " ".join(["python", *step.command]),
        "outcome": outcome,
        "seconds": time.perf_counter() - start,
        "output": output[-KEPT:],
        "rows": rows,
    }


def _run_python(command, seconds):
    """(outcome, output) of a Python command, whose whole process group ends with it."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=PACKAGE.parent, encoding="utf-8", errors="replace", start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
        outcome = OUTCOMES.get(process.returncode, f"FAILED, exit code {process.returncode}")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, outcome = _remaining_output(process), f"FAILED, not done after {seconds:.0f} s"
    except BaseException:  # the process, in a session of its own, receives no Ctrl-C
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return outcome, output


def _remaining_output(process):
    """The output of a killed process; a process that it started in another session may keep the pipe open."""
    try:
        return process.communicate(timeout=2)[0]
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode(errors="replace")


def _machine(device):
    """The GPU, and the versions of its driver, Python and PACKAGES."""
    cupy = open_device(device).xp
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


TABLE = "| step | wtref ms | PyTorch ms | PyTorch / wtref | torch.compile ms | its / wtref | memory, wtref / PyTorch | CIFAR epoch, s |"


def table(found):
    """The benchmarks as a Markdown table, and the machine; "" if there are none."""
    lines = [_line(step["name"], row) for step in found["steps"] for row in step["rows"]]
    if not lines:
        return ""
    return "\n".join([TABLE, "|---" * 8 + "|", *lines, "", machine(found)])


def machine(found):
    """The GPU and the versions, in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"One {found['gpu']}, {found['memory_gib']:.0f} GiB; {versions}."


def _line(name, row):
    def cell(key, digits):
        return f"{row[key]:,.{digits}f}" if key in row else "–"

    name += f" ({row['of_bp']:.2f} × BP's step)" if "of_bp" in row else ""
    memory = f"{cell('memory_mib', 0)} / {cell('torch_memory_mib', 0)} MiB"
    times = cell("ms", 2), cell("torch_ms", 2), cell("torch_ratio", 2), cell("torch_compiled_ms", 2), cell("torch_compiled_ratio", 2)
    return f"| {' | '.join([name, *times, memory, cell('cifar_epoch_seconds', 1)])} |"


def _try_to_write(folder, found):
    """Write the report so far, or print why that fails; the next step's end is the next attempt."""
    try:
        _write(folder, found)
    except Unsaved as error:
        print(f"wtref: {printable(error)}; the steps go on", file=sys.stderr, flush=True)


def _write(folder, found):
    """Write the report as JSON and as text."""
    write_json(folder / "report.json", found)
    version = divmod(found["driver"] // 10, 100)
    about = [f"gpu-report of {found['date']}, Python {found['python']}, the driver's CUDA {'.'.join(map(str, version))}", machine(found)]
    width = max(len(step["outcome"]) for step in found["steps"])
    summary = [f"{step['outcome']:<{width}} {step['seconds']:4.0f} s  {step['name']}" for step in found["steps"]]
    parts = [f"== {s['name']}: {s['outcome']}, {s['seconds']:.0f} s\n$ {printable(s['command'])}\n{s['output']}" for s in found["steps"]]
    write_text(folder / "report.txt", "\n\n".join(["\n".join(about), "\n".join(summary), table(found), *parts]))
