"""The instruments of `run.py bench`: seconds, taken turn by turn, and the memory at its peak.

A side is wtref's (Ours) or PyTorch's (oracle/bench.Theirs) of a goals.Work; both have step() and evaluate().
"""

import math
import multiprocessing
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import repeat
from pathlib import Path
from statistics import median
from types import SimpleNamespace

from wtref.bench.launch_times import kernel_times, timed_device
from wtref.bench.profile import profile
from wtref.distributed.group import SINGLE
from wtref.fast import graphs
from wtref.runs.prepare import prepare

WARM_UP = 2  # steps before the clock starts
TURN = 0.2  # seconds that a side's turn lasts at least
EPOCHS = {(28, 28, 1): ("mnist", 60_000), (32, 32, 3): ("cifar", 50_000)}  # training images, by their shape


class Ours:
    """wtref's side of a Work."""

    def __init__(self, work, group=SINGLE, device=None):
        """group: the processes that share each batch; device: the work's own by default."""
        self.device = device or work.config.open_device(group=group)
        images, labels = (array[group.shard(work.config.batch_size)] for array in work.data())
        self.images, self.labels = self.device.array(images), self.device.raw(labels)
        feed = SimpleNamespace(shape=work.shape, classes=work.classes, steps=1)
        self.training = prepare(work.config, self.device, group, feed)
        for _ in range(graphs.WARM_UP if work.on_gpu and not work.evaluation else 0):
            self.step()

    def step(self):
        """One step of training."""
        self.training.step(self.images, self.labels)
        self.training.position += 1  # mirror_every counts the steps

    def evaluate(self):
        """The logits without training."""
        return self.training.network.forward(self.images, train=False)

    def memory(self):
        """MiB that CuPy holds for this side on a GPU, when all sides that came before are gone."""
        pools = [self.device.xp.get_default_memory_pool(), getattr(getattr(self.training.train_step, "engaged", None), "pool", None)]
        return sum(pool.total_bytes() for pool in pools if pool) / 2**20

    def gflop(self):
        """Of one training step: a product upward, one for Delta W and, where there is a B, one downward."""
        network = self.training.network
        for s in network.synapses:
            s.keep_delta = True
        network.backward(0 * network.forward(self.images))
        weights = [(2 * s.W.size + (0 if s.B is None else s.B.size), s) for s in network.synapses]
        return sum(2 * products * s.delta.size // s.n_out for products, s in weights) / 1e9


def measure(work, repeats, profiled=False):
    """One Work as a dict of plain values; PyTorch's are absent where it, or the rule in it, is missing.

    profiled: also the ms of a step by what they are spent on.
    """
    pytorch, ours, setting = _pytorch(work), Ours(work), None
    tasks = {"wtref": work.task(ours)}
    memory = _memory(work, ours)
    if work.config.rule == "wm":
        tasks["bp"] = work.task(Ours(replace(work, config=replace(work.config, rule="bp"))))
    if pytorch:
        setting = _fastest(work, pytorch, ours.device.wait)
        theirs = pytorch.Theirs(work, setting)
        tasks["torch"] = work.task(theirs)
        their_memory = _memory(work, theirs, setting)
        compiled, obstacle = _compiled(work, pytorch, setting) if work.on_gpu else (None, None)
        if compiled:
            tasks["torch.compile"] = work.task(compiled)
    multiples = [1 if name == "bp" else work.config.mirror_every for name in tasks]
    seconds = median_seconds(tasks.values(), repeats, multiples, ours.device.wait)
    ms = {name: 1000 * each for name, each in zip(tasks, seconds)}

    row = work.about() | {"ms": ms["wtref"]} | _speed(work, ours, ms["wtref"]) | memory
    if "bp" in tasks:
        row["of_bp"] = ms["wtref"] / ms["bp"]
    if profiled:
        row["profile"] = _kernels_profile(work) if work.on_gpu else profile(tasks["wtref"])
    if pytorch:
        row |= _beside(row, ms["torch"], setting, their_memory)
        row |= {"torch_compiled_obstacle": obstacle} if obstacle else {}
    if "torch.compile" in ms:
        row |= {"torch_compiled_ms": ms["torch.compile"], "compiled_ratio": ms["torch.compile"] / ms["wtref"]}
    return row


def _kernels_profile(work):
    """{kernel: ms of a step} on a GPU: of a step as Python launches it, since what is replayed cannot be looked into."""
    device, launches = timed_device(work.config.open_device(), work.config.precision)
    ours = Ours(replace(work, config=replace(work.config, graph=False)), device=device)
    return kernel_times(device.xp, launches, work.task(ours))


def _speed(work, ours, ms):
    """What follows from wtref's time."""
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
    """PyTorch's part of a row."""
    theirs = {"torch_ms": ms, "torch_setting": str(setting), "ratio": ms / row["ms"]}
    if "gflops" in row:
        theirs["torch_gflops"] = row["gflops"] / theirs["ratio"]
    if memory:
        theirs["memory_ratio"] = row["memory_mib"] / memory["memory_mib"]
    return theirs | {f"torch_{name}": value for name, value in memory.items()}


def median_seconds(tasks, repeats, multiples=repeat(1), wait=lambda: None, clock=time.perf_counter):
    """The median time of one call of each task, over `repeats` rounds in which all take turns.

    A turn is as many calls as fill TURN seconds, rounded up to a multiple of the task's own, and what `wait` waits for.
    """
    turns = []
    for task, multiple in zip(tasks, multiples):
        for _ in range(WARM_UP):
            start = clock()
            task()
            wait()
        calls = math.ceil(TURN / (clock() - start))
        turns.append((task, -(-calls // multiple) * multiple, []))
    for _ in range(repeats):
        for task, calls, seconds in turns:
            start = clock()
            for _ in range(calls):
                task()
            wait()
            seconds.append((clock() - start) / calls)
    return [median(seconds) for _, _, seconds in turns]


def _pytorch(work):
    """The module with PyTorch's side; None where PyTorch, or the rule in it, is missing."""
    try:
        from wtref.oracle import bench as torch_bench
    except ImportError:
        return None
    return torch_bench if work.config.rule in torch_bench.RULES else None


def _compiled(work, pytorch, setting):
    """(PyTorch's side under torch.compile, None), or (None, why there is none): it needs compilers of its own."""
    try:
        side = pytorch.Theirs(work, setting._replace(compiled=True))
        work.task(side)()
    except Exception as error:  # which ones, is PyTorch's and Triton's affair
        return None, f"{type(error).__name__}: {error}".splitlines()[0]
    return side, None


def _fastest(work, pytorch, wait):
    """PyTorch's best Setting, by a short run of each."""

    def seconds(setting):
        return median_seconds([work.task(pytorch.Theirs(work, setting))], 3, wait=wait)

    return min(pytorch.settings(work.on_gpu), key=seconds)


def _memory(work, side, setting=None):
    """On a GPU, the MiB that a side takes there once it has made some steps.

    On a CPU, the MiB that three steps add to a process that has loaded all it needs, and its MiB in all; {} without /proc.
    The process is a new one, which leaves Ctrl-C to this one.  setting: PyTorch's, or None for wtref's side.
    """
    if work.on_gpu:
        for _ in range(WARM_UP):
            work.task(side)()
        return {"memory_mib": side.memory()}
    if not Path("/proc/self/status").exists():
        return {}
    ignore_ctrl_c = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_IGN)}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), **ignore_ctrl_c) as pool:
        return pool.submit(_peak, work, setting).result()


def _peak(work, setting):
    side = partial(_pytorch(work).Theirs, setting=setting) if setting else Ours
    smallest = replace(work.config, model="mlp", hidden=(1,), batch_size=2)
    side(replace(work, config=smallest)).step()  # PyTorch imports half of itself as it goes
    before = _resident("VmRSS")
    task = work.task(side(work))
    for _ in range(3):
        task()
    peak = _resident("VmHWM")  # ru_maxrss would begin with the parent's
    return {"memory_mib": peak - before, "memory_total_mib": peak}


def _resident(name):
    """This process's VmRSS (memory now) or VmHWM (its peak), in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))
