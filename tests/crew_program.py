"""What test_parallel.py starts with mpiexec: `python crew_program.py OUT` takes a few steps of many networks.

Rank 0 writes into OUT, an .npz file, all that they ended with.
"""

import sys

import numpy as np

from wtref.config import Config
from wtref.datasets.augment import Augmentation
from wtref.datasets.base import Dataset
from wtref.datasets.memory import MemoryFeed
from wtref.parallel import open_crew
from wtref.training import Training

STEPS = 20
RULES = ("bp", "fa", "ss", "frsf", "brsf", "dfa", "kp", "wm")
MIRRORS = {
    "turns": {"mirror_rows": 16},
    "scaling": {"mirror_noise": "independent", "mirror_rows": 2, "mirror_bound": "scaling"},
    "relu": {"mirror_activation": "relu"},
}


def cases():
    """(name, Config) of each network."""
    usual = {"dtype": "float64", "device": "cpu", "batch_size": 7, "epochs": 3, "lr": 0.05, "check_copies": 5}
    for model in ("mlp", "lenet", "resnet8"):
        for rule in RULES:
            yield f"{model} {rule}", Config(**usual, model=model, rule=rule, bucket_mib=0.02)
    for name, options in MIRRORS.items():
        yield f"mlp wm {name}", Config(**usual, model="mlp", hidden=(24, 12), rule="wm", norm="after", **options)
    yield "own statistics", Config(**usual, model="resnet8", rule="kp", sync_bn=False)


def data():
    """50 images to train on: an epoch's last batch of 7 holds one of them, fewer than there are processes."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(63, 14, 14, 1), dtype=np.uint8), rng.integers(10, size=63)
    return Dataset("noise", 10, images[:50], labels[:50], images[50:], labels[50:])


def outcome(config, crew):
    """Every array after STEPS steps, and every number measured on the way, by name."""
    device = config.open_device(crew=crew)
    crew.prepare(device, int(config.bucket_mib * 2**20), config.bucket_dtype)
    feed = MemoryFeed(data(), device, config.batch_size, config.seed, Augmentation(crop=1, flip=True, rotate=10))
    training = Training(config, device, feed)
    found = {}
    for _, record in zip(range(STEPS), training.steps()):
        for name in ("train_loss", "train_error", "test_loss", "test_error"):
            if record:
                found[f"epoch {record['epoch']} {name}"] = record[name]
        for kind in ("matrix_angles", "delta_angles"):
            found |= {f"{kind} {layer}": angle for layer, angle in record[kind].items()} if record else {}
    training.settle()
    arrays, _ = training.state_on_host()
    return found | arrays


def main(out):
    crew, found = open_crew(), {}
    for case, config in cases():
        found |= {f"{case}: {name}": value for name, value in outcome(config, crew).items()}
    crew.first(lambda: np.savez(out, **found))


if __name__ == "__main__":
    main(sys.argv[1])
