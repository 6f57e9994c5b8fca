"""Measures one Work: its times, taken turn by turn with PyTorch's, its memory and its profile, as a row of results."""

import math
import time
from dataclasses import replace
from statistics import median

from wtref.bench.launch_times import kernel_times, timed_device
from wtref.bench.memory import peak_memory
from wtref.bench.sampling import thread_times
from wtref.bench.sides import Ours, pytorch_side

WARM_UP = 2  # steps before the clock starts
TURN = 0.2  # seconds that a side's turn lasts at least
EPOCHS = {(28, 28, 1): ("mnist", 60_000), (32, 32, 3): ("cifar", 50_000)}  # training images, by their shape


def measure(work, repeats, profiled=False):
    """Measure a Work: a row of results as a dict of plain values.

    repeats: the turns of each side; profiled: whether the row also has {part of the step: ms}.  PyTorch's values are
    absent where PyTorch, or the rule in it, is missing.
    """
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
        compiled, obstacle = _compiled(work, pytorch, setting) if work.on_gpu else (None, None)
        if compiled:
            tasks["torch.compile"] = work.task(compiled)
    seconds = median_seconds(tasks.values(), repeats, ours.device.wait)
    ms = {name: 1000 * each for name, each in zip(tasks, seconds)}

    row = work.description() | {"ms": ms["wtref"]} | _speed(work, ours, ms["wtref"]) | memory
    if "bp" in tasks:
        row["of_bp"] = ms["wtref"] / ms["bp"]
    if profiled:
        row["profile"] = _kernels_profile(work) if work.on_gpu else thread_times(tasks["wtref"])
    if pytorch:
        row |= _beside(row, ms["torch"], setting, their_memory)
        row |= {"torch_compiled_obstacle": obstacle} if obstacle else {}
    if "torch.compile" in ms:
        row |= {"torch_compiled_ms": ms["torch.compile"], "compiled_ratio": ms["torch.compile"] / ms["wtref"]}
    return row


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
    theirs = {"torch_ms": ms, "torch_setting": str(setting), "ratio": ms / row["ms"]}
    if "gflops" in row:
        theirs["torch_gflops"] = row["gflops"] / theirs["ratio"]
    if memory:
        theirs["memory_ratio"] = row["memory_mib"] / memory["memory_mib"]
    return theirs | {f"torch_{name}": value for name, value in memory.items()}


def median_seconds(tasks, repeats, wait=lambda: None, clock=time.perf_counter):
    """The median seconds of one call of each task, over `repeats` rounds in which the tasks take turns.

    A turn is as many calls as fill TURN seconds, and ends when `wait` returns.
    """
    turns = []
    for task in tasks:
        for _ in range(WARM_UP):
            start = clock()
            task()
            wait()
        turns.append((task, math.ceil(TURN / (clock() - start)), []))
    for _ in range(repeats):
        for task, calls, seconds in turns:
            start = clock()
            for _ in range(calls):
                task()
            wait()
            seconds.append((clock() - start) / calls)
    return [median(seconds) for _, _, seconds in turns]


def _compiled(work, pytorch, setting):
    """(PyTorch's side under torch.compile, None); (None, an error message) where that fails, as without a compiler."""
    try:
        side = pytorch.Theirs(work, setting._replace(compiled=True))
        work.task(side)()
    except Exception as error:  # PyTorch and Triton document none
        return None, f"{type(error).__name__}: {error}".splitlines()[0]
    return side, None


def _fastest(work, pytorch, wait):
    """PyTorch's fastest Setting in a short run of each."""

    def seconds(setting):
        return median_seconds([work.task(pytorch.Theirs(work, setting))], 3, wait=wait)

    return min(pytorch.settings(work.on_gpu), key=seconds)
