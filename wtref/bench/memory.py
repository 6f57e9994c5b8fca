"""The memory that a side of `run.py bench` takes at its peak."""

from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from wtref import plugins
from wtref.bench.sides import Ours, pytorch_side
from wtref.runs.jobs import completed

STEPS = 3


def peak_memory(work, side, setting=None):
    """The memory of a side as a part of its row.

    On a GPU, "memory_mib" is what the side takes there after some steps.  On a CPU, it is what three steps add to a new
    process that has loaded all it needs, and "memory_total_mib" is all memory of that process; without /proc both are absent.
    setting: PyTorch's Setting, or None for wtref's side.
    """
    if work.on_gpu:
        for _ in range(STEPS):
            work.task(side)()
        return {"memory_mib": side.memory()}
    if not Path("/proc/self/status").exists():
        return {}
    with closing(completed(_peak, [(work, setting)], jobs=1)) as calls:
        _, call = next(calls)
        return call.result()


def _peak(pair):
    work, setting = pair
    if work.config.plugin is not None:
        plugins.load(work.config.plugin)
    side = partial(pytorch_side(work).Theirs, setting=setting) if setting else Ours
    smallest = replace(work.config, model="mlp", hidden=(1,), batch_size=2)
    side(replace(work, config=smallest)).step()  # PyTorch imports half of itself as it goes
    before = _resident("VmRSS")
    task = work.task(side(work))
    for _ in range(STEPS):
        task()
    peak = _resident("VmHWM")  # ru_maxrss would begin with the parent's
    return {"memory_mib": peak - before, "memory_total_mib": peak}


def _resident(name):
    """The VmRSS (memory now) or VmHWM (its peak) of this process, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))
