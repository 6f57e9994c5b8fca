"""The program of distributed/test_network.py, which mpiexec starts: a few steps of many networks.

`python group_program.py OUT [NAME...]` trains the networks whose names begin with one of those given, or all.  Rank 0 writes
their final arrays to OUT, an .npz file.  `python group_program.py OUT double` runs on the doubles of CuPy and NCCL.
"""

import sys
from dataclasses import replace

import numpy as np
from threadpoolctl import threadpool_limits

from wtref.datasets.augment import Augmentation
from wtref.datasets.base import Dataset
from wtref.datasets.memory import MemoryFeed
from wtref.device import Device
from wtref.distributed.group import open_group
from wtref.runs.config import Config
from wtref.runs.prepare import prepare
from wtref.runs.resuming import state

STEPS = 20
RULES = ("bp", "fa", "ss", "frsf", "brsf", "dfa", "dkp", "pfa", "kp", "wm")
USUAL = {
    "dtype": "float64", "device": "cpu", "threads": 1, "batch_size": 7, "epochs": 3, "lr": 0.05, "hidden": (20, 12),
    "bucket_mib": 0.02, "check_copies": 5,
}  # fmt: skip
CASES = {
    **{f"{model} {rule}": Config(**USUAL, model=model, rule=rule) for model in ("mlp", "lenet", "resnet8") for rule in RULES},
    **{f"mlp {rule}": Config(**USUAL, model="mlp", rule=rule, norm="after") for rule in ("om", "aa", "ia", "sa", "frozen")},
    "mlp wm few rows": Config(**USUAL, model="mlp", rule="wm", norm="after", mirror_rows=50),
    "mlp fa after noise": Config(**USUAL, model="mlp", rule="fa", noise_steps=3, output_backprop=True),
    "plain kernels": Config(**USUAL, model="resnet8", rule="wm", norm="after", kernels="plain"),
    "own statistics": Config(**USUAL, model="resnet8", rule="kp", sync_bn=False),
}
DOUBLED = ("resnet8 kp", "lenet dfa", "mlp wm few rows")


def data():
    """51 images to train on: an epoch's last batch of 7 holds two of them, too few for three or four processes."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(64, 14, 14, 1), dtype=np.uint8), rng.integers(10, size=64)
    return Dataset("noise", 10, images[:51], labels[:51], images[51:], labels[51:])


def outcome(config, device, group):
    """Every array after STEPS steps, and every number of the epochs' records, by name."""
    feed = MemoryFeed(data(), device, config.batch_size, config.seed, Augmentation(crop=1, flip=True, rotate=10), group)
    training = prepare(config, device, group, feed)
    found = {}
    for _, record in zip(range(STEPS), training.run()):
        if record:
            found |= {f"{name} {record['epoch']}": record[name] for name in ("train_loss", "train_error", "test_loss", "test_error", "update_angle")}
            found |= {f"{kind} {layer}": angle for kind in ("matrix_angles", "delta_angles", "local_delta_angles", "delta_ratios") for layer, angle in record[kind].items()}
    return found | state(training)[0]


def cases(group, names):
    """(name, Config, Device) of each network."""
    if "double" not in names:
        for name, config in CASES.items():
            if name.startswith(tuple(names) or ""):
                yield name, config, config.open_device(group=group)
        return
    from nccl_double import cupy

    threadpool_limits(1)
    for name in DOUBLED:
        yield name, CASES[name], Device("cuda:0", cupy, np.float64)
    config = replace(CASES["resnet8 kp"], dtype="float32", bucket_dtype="bf16")
    yield "bf16", config, Device("cuda:0", cupy, np.float32)


def main(out, *names):
    group, found = open_group(), {}
    for case, config, device in cases(group, names):
        group.prepare_transport(device, int(config.bucket_mib * 2**20), config.bucket_dtype)
        found |= {f"{case}: {name}": value for name, value in outcome(config, device, group).items()}
    group.on_rank_0(lambda: np.savez(out, **found))


if __name__ == "__main__":
    main(*sys.argv[1:])
