"""The speed that wtref is to have, beside PyTorch and as batches and networks grow."""

from functools import partial
from itertools import chain, pairwise
from operator import ge, le
from statistics import median
from typing import NamedTuple

from wtref.bench.work import Work

BATCHES = (8, 16, 32, 64, 128, 256, 512)
NETWORKS = ("resnet8", "resnet20", "resnet18", "resnet50")
TOLERANCE = 0.1  # of "flat" and "linear"


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


def cpu_goals(**options):
    """[(Work, its Goals)] for two cores."""
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
        (work("resnet18", "wm", 128), [Goal("of_bp", "<=", 1.3)]),
        (work("resnet18", "bp", 256, evaluation=True), [ratio(1.2)]),
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
    """Judge the rows of `growth`: the time per image must be flat over the batches, and linear in FLOP over the networks."""
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


def all_works(**options):
    """[(Work, its Goals)] of the goals for the device and of the growth, each Work once; options: fields of Config."""
    goals = gpu_goals if options.get("device", "cpu").startswith("cuda") else cpu_goals
    return _once([*goals(**options), *growth_works(**options)])


def growth_works(**options):
    """[(Work, no Goals)] of the growth, each Work once; options: fields of Config."""
    return _once([(work, ()) for work in chain(*growth(**options))])


def _once(works):
    """The first of the pairs of each Work."""
    first = {}
    for work, goals in works:
        first.setdefault(str(work), (work, goals))
    return list(first.values())
