"""The results of `run.py bench` as lines of a table and as JSON."""

import os
import platform
from datetime import datetime
from importlib import metadata
from pathlib import Path

import numpy as np

from wtref.bench.sides import COMPILED
from wtref.errors import InputError
from wtref.files import write_json
from wtref.text import wrapped

# The variables that narrow the instruction sets of wtref's kernels, NumPy's products, PyTorch's kernels, those of the
# libraries it calls, and JAX's.
SWITCHES = ("CC", "OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "XLA_FLAGS")

KERNELS = "kernel, launches in a step without a graph"

COLUMNS = (
    ("  wtref ms", "ms", 2), ("   images/s", "images_per_second", 0), ("  GFLOP/s", "gflops", 1),
    ("     MiB", "memory_mib", 0), ("  PyTorch ms", "torch_ms", 2), ("  GFLOP/s", "torch_gflops", 1),
    ("     MiB", "torch_memory_mib", 0), ("   ratio", "ratio", 2),
)  # fmt: skip


def header(row):
    """The lines above all rows, of which `row` is the first: what computes, and the titles of the columns."""
    sides = [f"wtref: {row['kernels']}"]
    if "torch_setting" in row:
        sides.append(f"PyTorch {_torch_version()}" + (f": {row['torch_instruction_set']}" if "torch_instruction_set" in row else ""))
    switches = [f"{name}={value}" for name, value in _switches().items()]
    titles = "".join(title for title, _, _ in COLUMNS)
    return f"{wrapped('; '.join([*sides, *switches]))}\n{titles}"


def _switches():
    """{variable: value} of those SWITCHES that are set."""
    return {name: os.environ[name] for name in SWITCHES if name in os.environ}


def line(row):
    """A row as text: the work, its numbers, PyTorch's setting with what else there is to say, and the parts of its profile."""
    cells = [_number(row[key], digits) if key in row else "-" for _, key, digits in COLUMNS]
    cells = "".join(cell.rjust(len(title)) for cell, (title, _, _) in zip(cells, COLUMNS))
    notes = [_torch_note(row), *_compiled_notes(row), *map(verdict, row["goals"])]
    lines = [wrapped(row["work"]), cells, *(wrapped(f"    {note}", " " * 8) for note in notes)]
    return "\n".join([*lines, *_profile_lines(row.get("profile", {}), KERNELS if "CUDA" in row.get("kernels", "") else "function")])


def _profile_lines(parts, title):
    """The lines of a profile {part: ms}, under its titles; [] without a profile."""
    if not parts:
        return []
    width, total = max(len(name) for name in [title, *parts]), sum(parts.values())
    shares = [f"    {name:<{width}}{100 * ms / total:6.1f} %{ms:10.2f} ms" for name, ms in parts.items()]
    return [f"    {title:<{width}}{'share':>8}{'time':>13}", *shares]


def _number(value, digits):
    """A number with so many digits after the point, from 1,000 on with none."""
    return f"{value:,.{0 if value >= 1000 else digits}f}"


def _torch_note(row):
    """PyTorch's setting, or why PyTorch could not be timed."""
    if "torch_obstacle" in row:
        return f"no PyTorch ({row['torch_obstacle']})"
    return f"PyTorch: {row['torch_setting']}" if "torch_setting" in row else "no PyTorch"


def _compiled_notes(row):
    """What the row says of torch.compile and JAX: time and ratio, or the obstacle."""
    for name, title in COMPILED.items():
        if f"{name}_ms" in row:
            yield f"{title} {row[f'{name}_ms']:,.2f} ms, ratio {row[f'{name}_ratio']:.2f}"
        if f"{name}_obstacle" in row:
            yield f"no {title} ({row[f'{name}_obstacle']})"


def verdict(judged):
    """The result of Goal.judge in words."""
    if judged["met"] is None:
        return f"{judged['goal']}: not measured"
    return f"{judged['goal']}: {'met' if judged['met'] else 'MISSED'}, {judged['found']:.2f}"


def check_path(path):
    """Raise InputError if no file can be written to path; to be called before the hours of work."""
    path = Path(path)
    if path.exists() and not path.is_file() or not os.access(path.parent, os.W_OK):
        raise InputError(f"--json {path}: cannot be written; name a file in an existing folder")


def write(path, **found):
    """Write the results as JSON, with the date, the machine and the versions.  Raises Unsaved."""
    machine = {"cpu": _processor(), "cores": os.cpu_count(), "switches": _switches()}
    versions = {"python": platform.python_version(), "numpy": np.__version__, "torch": _torch_version()}
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    write_json(path, {"date": now, "machine": machine, "versions": versions, **found})


def _processor():
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor()


def _torch_version():
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None
