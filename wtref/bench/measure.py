"""Measures one Work: its times, taken turn by turn with PyTorch's, its memory and its profile, as a row of results."""

import math
from dataclasses import replace

from wtref.bench.apart import Obstacle, times_beside
from wtref.bench.launch_times import kernel_times, timed_device
from wtref.bench.memory import peak_memory
from wtref.bench.sampling import thread_times
from wtref.bench.sides import COMPILED, Ours, compiled_sides, pytorch_side
from wtref.bench.turns import median_seconds

EPOCHS = {(28, 28, 1): ("mnist", 60_000), (32, 32, 3): ("cifar", 50_000)}  # training images, by their shape


def measure(work, repeats, profiled=False, eager=False):
    """Yield the row of a Work, a dict of plain values, twice: before and after the sides that are compiled first are timed.

    repeats: the turns of each side; profiled: whether the row also has {part of the step: ms}; eager: whether
    torch.compile is left out.  PyTorch's and JAX's values are absent where the library, or the Work in it, is missing.
    row["ratio"] is the fastest side's time over wtref's.
    """
    row, setting = _measure_uncompiled(work, repeats, profiled)
    yield row
    for name, side in compiled_sides(work, None if eager else setting).items():
        try:
            ours, theirs = times_beside(work, repeats, side)
            row |= {f"{name}_ms": theirs, f"{name}_ratio": theirs / ours}
        except Obstacle as obstacle:
            row[f"{name}_obstacle"] = str(obstacle)
    row |= _lowest_ratio(row)
    yield row


def _measure_uncompiled(work, repeats, profiled):
    """(the row of wtref beside PyTorch without torch.compile, PyTorch's best Setting or None)"""
    pytorch, ours, setting = pytorch_side(work), Ours(work), None
    tasks = {"wtref": work.task(ours)}
    memory = peak_memory(work, ours)
    if work.config.rule == "wm":
        tasks["bp"] = work.task(Ours(replace(work, config=replace(work.config, rule="bp"))))
    if pytorch:
        setting = _fastest(work, pytorch, ours.device.wait)
        theirs = pytorch.Theirs(work, setting)
        tasks["torch"] = work.task(theirs)
        their_memory = peak_memory(work, theirs, setting)
    seconds = median_seconds(tasks.values(), repeats, ours.device.wait)
    ms = {name: 1000 * each for name, each in zip(tasks, seconds)}

    row = work.description() | {"kernels": ours.device.kernels, "ms": ms["wtref"]} | _speed(work, ours, ms["wtref"]) | memory
    if "bp" in tasks:
        row["of_bp"] = ms["wtref"] / ms["bp"]
    if profiled:
        row["profile"] = _kernels_profile(work) if work.on_gpu else thread_times(tasks["wtref"])
    if pytorch:
        row |= _beside(row, ms["torch"], setting, their_memory) | {"torch_instruction_set": pytorch.instruction_set()}
    return row | _lowest_ratio(row), setting


def _lowest_ratio(row):
    """{"ratio": that of the fastest side beside wtref}, {} without one."""
    ratios = [row[f"{name}_ratio"] for name in ("torch", *COMPILED) if f"{name}_ratio" in row]
    return {"ratio": min(ratios)} if ratios else {}


def _kernels_profile(work):
    """{kernel: ms of a step} on a GPU, without a CUDA graph, in which no kernel can be timed alone."""
    device, launches = timed_device(work.config.open_device(), work.config.precision)
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
