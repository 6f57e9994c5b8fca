"""What `run.py bench` times, the goals it holds the times against, and how it tells them; measure.py takes them."""

import os
import platform
import time
from dataclasses import dataclass, fields
from datetime import datetime
from functools import partial
from importlib import metadata
from itertools import chain, islice, pairwise, product
from operator import ge, le
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from wtref.bench.measure import WARM_UP, measure
from wtref.datasets.memory import images_per_second
from wtref.device import to_host
from wtref.errors import InputError
from wtref.fast.ops import cores
from wtref.files import write_json
from wtref.runs.config import Config

BATCHES = (8, 16, 32, 64, 128, 256, 512)
NETWORKS = ("resnet8", "resnet20", "resnet18", "resnet50")
TOLERANCE = 0.1  # of "flat" and "linear"

DEFAULTS = {"lr": 0.01, "schedule": "constant", "warmup": 0.0, "weight_decay": 5e-4, "device": "cpu"}
OWN = {"models", "rules", "batches", "shape", "profile"}
WHERE = {"device", "threads", "kernels", "precision", "graph"}
NETWORK = {"norm", "activation", "hidden", "stem", "dtype"}
LEARNING = {"lr", "momentum", "nesterov", "weight_decay", "mirror_rows", "mirror_every"}
FLAGS = {  # what each kind of bench heeds, PyTorch's side included
    "goals": {"profile"} | WHERE,
    "growth": {"profile"} | WHERE,
    "grid": OWN | WHERE | NETWORK | LEARNING,
    "scaling": {"models", "rules", "batches", "shape", "threads", "kernels", "bucket_mib", "sync_bn"} | NETWORK | LEARNING,
    "loader": {"models", "rules", "batches"} | {spec.name for spec in fields(Config)},
}


@dataclass(frozen=True)
class Work:
    """What is timed: training steps, or evaluation, of config's network on random images of one shape (H, W, C)."""

    config: Config
    shape: tuple
    evaluation: bool = False

    @classmethod
    def of(cls, model, rule, batch, shape=None, evaluation=False, **options):
        """shape: None for MNIST's in an mlp or a lenet, CIFAR's in the others; options: fields of Config."""
        config = Config(**{**DEFAULTS, **options, "model": model, "rule": rule, "batch_size": batch})
        usual = (28, 28, 1) if model in ("mlp", "lenet") else (32, 32, 3)
        return cls(config, tuple(shape or usual), evaluation)

    def __str__(self):
        size = "x".join(map(str, self.shape))
        what = "evaluation" if self.evaluation else self.config.rule
        return f"{self.config.model} {size} {what} batch {self.config.batch_size}"

    @property
    def classes(self):
        """As many as ImageNet's for images of its size."""
        return 1000 if min(self.shape[:2]) >= 64 else 10

    @property
    def on_gpu(self):
        return self.config.device.startswith("cuda")

    @property
    def threads(self):
        return self.config.threads or cores()

    def data(self):
        """images (N, H, W, C), labels (N,): random, and always the same."""
        rng, n = np.random.default_rng(0), self.config.batch_size
        return rng.standard_normal((n, *self.shape), self.config.dtype), rng.integers(self.classes, size=n)

    def about(self):
        """What is timed, as plain values."""
        config = self.config
        return {"work": str(self), "model": config.model, "rule": config.rule, "batch": config.batch_size,
                "shape": self.shape, "evaluation": self.evaluation, "threads": self.threads}  # fmt: skip

    def task(self, side):
        """What is called again and again, of wtref's side or PyTorch's."""
        return side.evaluate if self.evaluation else side.step


class Goal(NamedTuple):
    """A quantity of a row, and what it has to be."""

    quantity: str
    sign: str
    limit: float

    def judge(self, row):
        """{"goal", "found", "met"}; the last two are None where the quantity could not be measured."""
        found = row.get(self.quantity)
        met = None if found is None else {"<=": le, ">=": ge}[self.sign](found, self.limit)
        return {"goal": f"{self.quantity} {self.sign} {self.limit}", "found": found, "met": met}


def goals(**options):
    """[(Work, its Goals)]: the speed that this program sets itself, on two cores."""
    work = partial(Work.of, **options)
    mlp = partial(work, "mlp", batch=128, activation="sigmoid", hidden=(500,))

    def ratio(limit):
        return Goal("ratio", ">=", limit)

    def epoch(limit):
        return Goal("mnist_epoch_seconds", "<=", limit)

    return [
        (work("resnet18", "kp", 128), [ratio(1.3), Goal("memory_ratio", "<=", 1.0)]),
        (work("resnet18", "bp", 32), [ratio(1.0)]),
        (work("resnet20", "kp", 128), [ratio(1.3)]),
        (work("resnet8", "kp", 128), [ratio(1.3)]),
        (work("resnet50", "kp", 8, (224, 224, 3)), [ratio(1.0)]),
        (mlp(rule="bp"), [epoch(1.0)]),
        (mlp(rule="kp"), [ratio(1.5), epoch(1.1)]),
        (mlp(rule="wm"), [ratio(1.5), epoch(1.4)]),
        (work("resnet18", "wm", 128), [Goal("of_bp", "<=", 1.25)]),
        (work("resnet18", "bp", 256, evaluation=True), [ratio(1.2)]),
    ]


def gpu_goals(**options):
    """The same on one H100."""
    work = partial(Work.of, **options)
    ratio = partial(Goal, "ratio", ">=")
    return [
        (work("resnet18", "kp", 512), [ratio(1.2)]),
        (work("resnet18", "kp", 128), [ratio(1.5)]),
        (work("resnet50", "kp", 128, (224, 224, 3)), [ratio(1.0)]),
        (work("resnet18", "wm", 512), [Goal("of_bp", "<=", 1.15)]),
    ]


def growth(**options):
    """([Work], [Work]): one network over BATCHES, NETWORKS at one batch."""
    over_batches = [Work.of("resnet8", "kp", batch, **options) for batch in BATCHES]
    return over_batches, [Work.of(network, "kp", 32, **options) for network in NETWORKS]


def judge_growth(rows):
    """By the rows of `growth`: is the time per image flat over the batches, and linear in FLOP over the networks?"""
    named = {row["work"]: row for row in rows}
    batches, networks = ([named[str(work)] for work in works] for works in growth())
    per_image = [row["ms"] / row["batch"] for row in batches]
    speed = [row["gflops"] for row in networks]
    uneven = max(abs(t / median(per_image) - 1) for t in per_image)
    slower = max(before / after - 1 for before, after in pairwise(speed))
    return [
        {"goal": f"resnet8: ms an image within {TOLERANCE} of the median", "found": uneven, "met": uneven <= TOLERANCE},
        {"goal": f"networks: ms a FLOP grow by at most {TOLERANCE}", "found": slower, "met": slower <= TOLERANCE},
    ]


def kind(loader, growth, scaling, flags):
    """Which of FLAGS is meant; raises InputError for one of `flags` that means nothing to it."""
    asked = [name for name, wanted in (("loader", loader), ("growth", growth), ("scaling", scaling)) if wanted]
    kind = asked[0] if asked else "grid" if flags.keys() & OWN - {"profile"} else "goals"
    for name in sorted(flags.keys() - FLAGS[kind]):
        goes = " or ".join(f"bench's {other}" for other in FLAGS if name in FLAGS[other])
        raise InputError(f"--{name.replace('_', '-')} goes with {goes}, not with its {kind}")
    return kind


def combinations(own, given):
    """A dict of model, rule and batch_size for each combination of the flags --models, --rules and --batches."""
    names = {"model": "models", "rule": "rules", "batch_size": "batches"}
    values = [own.get(many) or [given.get(one, getattr(Config, one))] for one, many in names.items()]
    return [dict(zip(names, which)) for which in product(*values)]


def plan(kind, own, given):
    """[(Work, its Goals)] of the goals, the growth or the grid that the flags ask for, each Work once."""
    if kind == "grid":
        return [(Work.of(*which.values(), own.get("shape"), **given), []) for which in combinations(own, given)]
    works = {}
    if kind == "goals":
        aims = gpu_goals if given.get("device", "cpu").startswith("cuda") else goals
        works = {str(work): (work, goals) for work, goals in aims(**given)}
    for work in chain(*growth(**given)):
        works.setdefault(str(work), (work, []))
    return list(works.values())


def scaling_works(own, given):
    """[Work] whose scaling the flags ask for; without any, ResNet-18's at batch 128."""
    usual = {"models": ["resnet18"], "batches": [128]}
    return [Work.of(*which.values(), own.get("shape"), **given) for which in combinations(usual | own, given)]


def run(plan, repeats, profiled=False):
    """Measure every (Work, Goals) of a plan and print a line each; returns the rows."""
    rows = []
    for work, goals in plan:
        row = measure(work, repeats, profiled)
        row["goals"] = [goal.judge(row) for goal in goals]
        if not rows:
            print(f"{'work':<40}{''.join(title for title, _, _ in COLUMNS)}  PyTorch's setting; goals")
        print(line(row), flush=True)
        rows.append(row)
    return rows


COLUMNS = (
    ("  wtref ms", "ms", 2), ("  images/s", "images_per_second", 0), ("  GFLOP/s", "gflops", 1),
    ("     MiB", "memory_mib", 0), ("  PyTorch ms", "torch_ms", 2), ("  GFLOP/s", "torch_gflops", 1),
    ("     MiB", "torch_memory_mib", 0), ("  ratio", "ratio", 2),
)  # fmt: skip


def line(row):
    """A row as text: one line, and one more for each part of its profile."""
    cells = [f"{row[key]:,.{digits}f}" if key in row else "-" for _, key, digits in COLUMNS]
    cells = "".join(cell.rjust(len(title)) for cell, (title, _, _) in zip(cells, COLUMNS))
    notes = [row.get("torch_setting", "no PyTorch"), *map(verdict, row["goals"])]
    if "compiled_ratio" in row:
        notes.insert(1, f"torch.compile {row['torch_compiled_ms']:,.2f} ms, ratio {row['compiled_ratio']:.2f}")
    if "torch_compiled_obstacle" in row:
        notes.insert(1, f"no torch.compile ({row['torch_compiled_obstacle']})")
    parts = row.get("profile", {}).items()
    width = max([20, *(len(name) for name, _ in parts)])
    lines = [f"{row['work']:<40}{cells}  {'; '.join(notes)}"]
    lines += [f"    {name:<{width}}{100 * ms / sum(row['profile'].values()):6.1f} %{ms:12.2f} ms" for name, ms in parts]
    return "\n".join(lines)


def verdict(judged):
    """What Goal.judge found, in words."""
    if judged["met"] is None:
        return f"{judged['goal']}: not measured"
    return f"{judged['goal']}: {'met' if judged['met'] else 'MISSED'}, {judged['found']:.2f}"


def check_path(path):
    """Raise InputError if a file cannot be written there; said before hours of work, not after."""
    path = Path(path)
    if path.exists() and not path.is_file() or not os.access(path.parent, os.W_OK):
        raise InputError(f"--json {path}: cannot be written; name a file in an existing folder")


def write(path, **found):
    """What was found, with the machine and the versions it was found on, as JSON."""
    machine = {"cpu": _cpu(), "cores": os.cpu_count()}
    versions = {"python": platform.python_version(), "numpy": np.__version__, "torch": _torch_version()}
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    write_json(path, {"date": now, "machine": machine, "versions": versions, **found})


def _cpu():
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor()


def _torch_version():
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def loader_and_step(training, batches=10):
    """(images/s that the feed hands out alone, images/s of the training step on one batch; median of `batches`)."""
    loader = images_per_second(training.feed, batches)
    images, labels = next(islice(training.feed.train_batches(epoch=0), 1))
    seconds = []
    for _ in range(WARM_UP + batches):
        start = time.perf_counter()
        loss, _ = training.step(images, labels)
        to_host(loss)  # wait for the device
        seconds.append(time.perf_counter() - start)
    return loader, len(images) / median(seconds[WARM_UP:])
