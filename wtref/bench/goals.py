"""The speed that wtref is to have, beside PyTorch and as batches and networks grow."""

from functools import partial
from itertools import chain, pairwise
from operator import ge, le
from statistics import median
from typing import NamedTuple

from wtref.bench.work import DEFAULTS, Work
from wtref.runs.config import Config

BATCHES = (8, 16, 32, 64, 128, 256, 512)
NETWORKS = ("resnet8", "resnet20", "resnet18", "resnet50")
TOLERANCE = 0.1  # of "flat" and "linear"
SMALL = 0.15  # what an image may cost more in a batch of 8 than in one of 128


class Goal(NamedTuple):
    """A limit for one quantity of a row of results."""

    quantity: str
    sign: str
    limit: float

    def judge(self, row):
        """{"goal", "found", "met"}; the last two are None where the quantity could not be measured."""
        found = row.get(self.quantity)
        met = None if found is None else {"<=": le, ">=": ge}[self.sign](found, self.limit)
        return {"goal": f"{self.quantity} {self.sign} {self.limit}", "found": found, "met": met}


def cpu_goals(avx512, **options):
    """[(Work, its Goals)] for two cores, whose compiled kernels use AVX-512 or only AVX2 and less."""
    work = partial(Work.of, **options)
    mlp = partial(work, "mlp", batch=128, activation="sigmoid", hidden=(500,))
    memory = Goal("memory_ratio", "<=", 1.0)

    def goals(ratio, ratio_avx2, *others):
        limit = ratio if avx512 else ratio_avx2
        return [*([] if limit is None else [Goal("ratio", ">=", limit)]), *others]

    def epoch(limit):
        return [Goal("mnist_epoch_seconds", "<=", limit)] if avx512 else []

    return [
        (work("resnet18", "kp", 128), goals(2.09, 1.9, memory)),
        (work("resnet18", "bp", 32), goals(1.8, 1.0)),
        (work("resnet20", "kp", 128), goals(1.49, 1.5)),
        (work("resnet8", "kp", 128), goals(1.39, 1.5)),
        (work("resnet8", "kp", 8), goals(2.04, None)),
        (work("resnet50", "kp", 8, (224, 224, 3)), goals(1.13, 1.1)),
        (mlp(rule="bp"), goals(1.22, 1.2, *epoch(1.0))),
        (mlp(rule="kp"), goals(1.5, 1.5, *epoch(1.1))),
        (mlp(rule="wm"), goals(2.0, 1.5, *epoch(1.4))),
        (work("resnet18", "wm", 128), goals(2.47, None, Goal("of_bp", "<=", 1.3))),
        (work("resnet18", "bp", 256, evaluation=True), goals(1.62, 1.3, memory)),
    ]


def gpu_goals(**options):
    """[(Work, its Goals)] for one H100."""
    work = partial(Work.of, **options)
    ratio = partial(Goal, "ratio", ">=")
    return [
        (work("resnet18", "kp", 512), [ratio(1.2)]),
        (work("resnet18", "kp", 128), [ratio(1.5)]),
        (work("resnet50", "kp", 128, (224, 224, 3)), [ratio(1.0)]),
        (work("resnet18", "wm", 512), [Goal("of_bp", "<=", 1.15)]),
    ]


def growth(**options):
    """([Work], [Work]): one network at all of BATCHES, and all of NETWORKS at one batch size."""
    over_batches = [Work.of("resnet8", "kp", batch, **options) for batch in BATCHES]
    return over_batches, [Work.of(network, "kp", 32, **options) for network in NETWORKS]


def judge_growth(rows):
    """Judge the rows of `growth`: the time per image must be flat over the batches, and linear in FLOP over the networks.

    The smallest batch has a goal of its own instead: what a step takes whatever the batch must be little.
    """
    named = {row["work"]: row for row in rows}
    batches, networks = ([named[str(work)] for work in works] for works in growth())
    by_batch = {row["batch"]: row["ms"] / row["batch"] for row in batches}
    per_image = [by_batch[batch] for batch in BATCHES[1:]]
    speed = [row["gflops"] for row in networks]
    uneven = max(abs(t / median(per_image) - 1) for t in per_image)
    small = by_batch[8] / by_batch[128] - 1
    flat = f"resnet8: ms an image from batch {BATCHES[1]} on"
    slower = max(before / after - 1 for before, after in pairwise(speed))
    return [
        {"goal": f"{flat} within {TOLERANCE} of the median", "found": uneven, "met": uneven <= TOLERANCE},
        {"goal": f"resnet8: ms an image at batch 8 at most {SMALL} above batch 128's", "found": small, "met": small <= SMALL},
        {"goal": f"networks: ms a FLOP grow by at most {TOLERANCE}", "found": slower, "met": slower <= TOLERANCE},
    ]


def all_works(**options):
    """[(Work, its Goals)] of the goals for the device and of the growth, each Work once; options: fields of Config."""
    on_gpu = options.get("device", "cpu").startswith("cuda")
    goals = gpu_goals(**options) if on_gpu else cpu_goals(_has_avx512(options), **options)
    return _once([*goals, *growth_works(**options)])


def _has_avx512(options):
    """Whether the CPU's compiled kernels use AVX-512."""
    ops = Config(**{**DEFAULTS, **options}).open_device().ops
    return ops is not None and ops.instruction_set == "AVX-512"


def growth_works(**options):
    """[(Work, no Goals)] of the growth, each Work once; options: fields of Config."""
    return _once([(work, ()) for work in chain(*growth(**options))])


def _once(works):
    """The first of the pairs of each Work."""
    first = {}
    for work, goals in works:
        first.setdefault(str(work), (work, goals))
    return list(first.values())
