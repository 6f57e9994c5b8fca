"""Trains on the fake GPU (fake_gpu.py) and on the CPU, one after the other, and prints what came out as JSON.

python fake_gpu_program.py FLAGS...    e.g. '{"model": "mlp", "rule": "kp"}': those of a Config
"""

import json
import sys

import numpy as np

import fake_gpu
from wtref.device import open_device, to_host
from wtref.fast.ops import equip
from wtref.runs.config import Config
from wtref.runs.prepare import prepare

STEPS = 6  # three of them replay a graph


def trained(device, flags):
    """Train for STEPS steps: the losses, the network's arrays, and the launches in each step."""
    training = prepare(Config(batch_size=4, mirror_rows=16, **flags), device)
    losses, launches = [], []
    for _, (images, labels) in zip(range(STEPS), training.feed.train_batches(epoch=0)):
        before = fake_gpu.launches()
        loss, _ = training.step(images, labels)
        training.position += 1
        launches.append({name: count - before.get(name, 0) for name, count in fake_gpu.launches().items() if count > before.get(name, 0)})
        losses.append(float(to_host(loss)))
    return losses, {name: to_host(array) for name, array in training.network.arrays().items()}, launches


def compared(flags):
    """{"error": the largest of an array, relative to its largest number, "losses": of both, "launches": in each step}."""
    dtype, precision = flags.get("dtype", "float32"), flags.get("precision", "float32")
    losses, found, launches = trained(equip(open_device("cuda", dtype), precision=precision), flags)
    exact = {**flags, "dtype": "float64", "precision": "float32"}
    wanted_losses, wanted, _ = trained(equip(open_device("cpu", "float64"), "plain"), exact)
    error = max(np.abs(found[name] - array).max() / max(np.abs(array).max(), 1e-3) for name, array in wanted.items())
    return {"error": float(error), "losses": [losses, wanted_losses], "launches": launches}


if __name__ == "__main__":
    for text in sys.argv[1:]:
        print(json.dumps(compared(json.loads(text))), flush=True)
