"""Measures one Work: its times, taken turn by turn with PyTorch's, its memory and its profile, as a row of results."""

import math
from dataclasses import replace
from functools import partial

from wtref.bench.apart import Obstacle, times_beside
from wtref.bench.launch_times import kernel_times, timed_device
from wtref.bench.memory import peak_memory
from wtref.bench.sampling import thread_times
from wtref.bench.sides import COMPILED, Ours, compiled_sides, pytorch_side
from wtref.bench.turns import median_seconds

EPOCHS = {(28, 28, 1): ("mnist", 60_000), (32, 32, 3): ("cifar", 50_000)}  # training images, by their shape


def measure(work, repeats, profiled=False, eager=False):
    """Yield the row of a Work, a dict of plain values, several times: of wtref alone (on a GPU), beside PyTorch, with the
    profile, and beside the sides that are compiled first.  What fails or is killed later costs nothing that came before.

    repeats: the turns of each side; profiled: whether the row also has {part of the step: ms}; eager: whether
    torch.compile is left out.  PyTorch's and JAX's values are absent where the library, or the Work in it, is missing.
    row["ratio"] is the fastest side's time over wtref's.
    """
    pytorch, ours, row, setting = pytorch_side(work), Ours(work), None, None
    own_row, tasks = partial(_own_row, work, ours, peak_memory(work, ours)), _own_tasks(work, ours)
    times = partial(_milliseconds, repeats=repeats, wait=ours.device.wait)
    if work.on_gpu or not pytorch:
        row = own_row(times(tasks))
        yield row
    if pytorch:
        try:
            row, setting = _row_beside(work, pytorch, ours, own_row, times, tasks)
        except Exception as error:  # PyTorch documents none
            row = (row or own_row(times(tasks))) | {"torch_obstacle": f"{type(error).__name__}: {error}".splitlines()[0]}
        yield row
    if profiled:
        row |= {"profile": _kernels_profile(work) if work.on_gpu else thread_times(tasks["wtref"])}
        yield row
    for name, side in compiled_sides(work, None if eager else setting).items():
        try:
            own_ms, their_ms = times_beside(work, repeats, side)
            row |= {f"{name}_ms": their_ms, f"{name}_ratio": their_ms / own_ms}
        except Obstacle as obstacle:
            row[f"{name}_obstacle"] = str(obstacle)
    row |= _lowest_ratio(row)
    yield row


def _own_tasks(work, ours):
    """{name: wtref's task}: the Work's, and for WM also backprop's, with which it is compared."""
    tasks = {"wtref": work.task(ours)}
    if work.config.rule == "wm":
        tasks["bp"] = work.task(Ours(replace(work, config=replace(work.config, rule="bp"))))
    return tasks


def _milliseconds(tasks, repeats, wait):
    """{name: ms of a task}, which take turns."""
    return {name: 1000 * each for name, each in zip(tasks, median_seconds(tasks.values(), repeats, wait))}


def _own_row(work, ours, memory, ms):
    """The row of wtref alone; ms: the milliseconds of its tasks."""
    row = work.description() | {"kernels": ours.device.kernels, "ms": ms["wtref"]} | _speed(work, ours, ms["wtref"]) | memory
    return row | ({"of_bp": ms["wtref"] / ms["bp"]} if "bp" in ms else {})


def _row_beside(work, pytorch, ours, own_row, times, tasks):
    """(the row of wtref beside PyTorch without torch.compile, PyTorch's best Setting)"""
    setting = _fastest(work, pytorch, ours.device.wait)
    theirs = pytorch.Theirs(work, setting)
    memory = peak_memory(work, theirs, setting)
    ms = times({**tasks, "torch": work.task(theirs)})
    row = own_row(ms)
    row |= _beside(row, ms["torch"], setting, memory)
    row |= {} if work.on_gpu else {"torch_instruction_set": pytorch.instruction_set()}
    return row | _lowest_ratio(row), setting


def _lowest_ratio(row):
    """{"ratio": that of the fastest side beside wtref}, {} without one."""
    ratios = [row[f"{name}_ratio"] for name in ("torch", *COMPILED) if f"{name}_ratio" in row]
    return {"ratio": min(ratios)} if ratios else {}


def _kernels_profile(work):
    """{kernel: ms of a step} on a GPU, without a CUDA graph, in which no kernel can be timed alone; {} where plain CuPy computes."""
    device = work.config.open_device()
    if device.ops is None:
        return {}
    device, launches = timed_device(device, work.config.precision)
    ours = Ours(replace(work, config=replace(work.config, graph=False)), device=device)
    return kernel_times(device.xp, launches, work.task(ours))


def _speed(work, ours, ms):
    """The quantities of a row that follow from wtref's time."""
    batch = work.config.batch_size
    speed = {"images_per_second": 1000 * batch / ms}
    if not work.evaluation:
        gflop = ours.gflop()
        speed |= {"gflop_per_image": gflop / batch, "gflops": 1000 * gflop / ms}
    if work.shape in EPOCHS and not work.evaluation:
        name, images = EPOCHS[work.shape]
        speed[f"{name}_epoch_seconds"] = math.ceil(images / batch) * ms / 1000
    return speed


def _beside(row, ms, setting, memory):
    """The quantities of a row that compare PyTorch with wtref."""
    theirs = {"torch_ms": ms, "torch_setting": str(setting), "torch_ratio": ms / row["ms"]}
    if "gflops" in row:
        theirs["torch_gflops"] = row["gflops"] / theirs["torch_ratio"]
    if memory:
        theirs["memory_ratio"] = row["memory_mib"] / memory["memory_mib"]
    return theirs | {f"torch_{name}": value for name, value in memory.items()}


def _fastest(work, pytorch, wait):
    """PyTorch's fastest Setting in a short run of each."""

    def seconds(setting):
        return median_seconds([work.task(pytorch.Theirs(work, setting))], 3, wait=wait)

    return min(pytorch.settings(work.on_gpu), key=seconds)
