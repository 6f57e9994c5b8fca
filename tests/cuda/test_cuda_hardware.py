"""The program on a real GPU, against the CPU and PyTorch in float64.  PyTorch is loaded only where it is needed."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from on_device import Rounded
from roundings import bf16, tf32
from wtref.device import open_device, to_host
from wtref.fast.cuda_launches import BFLOAT16
from wtref.fast.ops import equip
from wtref.runs import resuming
from wtref.runs.config import Config
from wtref.runs.prepare import prepare

ROOT = Path(__file__).parents[2]
with_bf16 = pytest.mark.skipif(BFLOAT16 is None, reason="no ml_dtypes, from which CuPy has bfloat16")
ALL = ["float32", "tf32", pytest.param("bf16", marks=with_bf16)]


@pytest.mark.parametrize("precision", ALL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_kernels_pass_their_verification(monkeypatch, tmp_path, dtype, precision):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device = equip(open_device("cuda", np.dtype(dtype).name), precision=precision)
    assert device.kernels == f"CUDA kernels, {precision} products"


@pytest.mark.parametrize("model", ["lenet", "resnet50"])
def test_every_rule_is_pytorch_s(model):
    """gpu-report's cross-check has the other networks."""
    pytest.importorskip("torch")
    from wtref.oracle import check as torch_check

    rows = torch_check.check([model], ["bp", "fa", "ss", "kp", "wm", "dfa"], "cuda", "float64")
    assert len(rows) == 6 and all(row.passed for row in rows), torch_check.table(rows)


def trained(device_name, steps, ops=None, **options):
    """Train on the digits: (the network's arrays, the last loss, the Training).  ops: replace the device's own."""
    kernels = "auto" if device_name == "cpu" else "compiled"  # those of a GPU without a fault being hidden
    config = Config(**{"model": "resnet8", "epochs": 1, "dtype": "float64", "device": device_name, "kernels": kernels, **options})
    device = config.open_device()
    training = prepare(config, replace(device, ops=ops) if ops else device)
    for _, (images, labels) in zip(range(steps), training.feed.train_batches(epoch=0)):
        loss, _ = training.step(images, labels)
        training.position += 1
    arrays = {name: to_host(array) for name, array in training.network.arrays().items()}
    return arrays, float(to_host(loss)), training


def assert_same(found, wanted, tolerance):
    for name, array in wanted.items():
        assert np.abs(found[name] - array).max() <= tolerance * max(np.abs(array).max(), 1e-3), name


@pytest.mark.parametrize("rule", ["bp", "fa", "ss", "frsf", "brsf", "wm", "kp", "dfa"])
def test_training_is_the_cpu_s(rule):
    (found, loss, _), (wanted, other, _) = (trained(device, 10, rule=rule) for device in ("cuda", "cpu"))
    assert_same(found, wanted, 1e-7)
    assert loss == pytest.approx(other, rel=1e-7)


@pytest.mark.parametrize("rule", ["bp", "ss", "wm", "kp", "dfa"])
def test_a_replayed_step_is_the_same_step(rule):
    """12 steps, of which 9 are replays, give the same bits as 12 steps without a graph."""
    found, loss, training = trained("cuda", 12, rule=rule, dtype="float32")
    wanted, other, _ = trained("cuda", 12, rule=rule, dtype="float32", graph=False)
    assert training.train_step.engaged.graph is not None
    assert loss == other
    assert_same(found, wanted, 0)


def difference(found, wanted, start):
    """The difference of two steps from `start`, in all W together, relative to the length of the second."""
    names = [name for name in wanted if name.endswith(".W")]
    apart, length = ([x[name] - y[name] for name in names] for x, y in ((found, wanted), (wanted, start)))
    return np.linalg.norm(np.concatenate(apart, axis=None)) / np.linalg.norm(np.concatenate(length, axis=None))


@pytest.mark.parametrize("precision, roundings", [("tf32", [tf32]), pytest.param("bf16", [bf16, bf16], marks=with_bf16)])
def test_a_step_is_the_plain_one_rounded(precision, roundings):
    """The step is as close to that of the plain functions with the same roundings as these are to themselves in float64.

    In either case only the sums differ, by float32's rounding, but a number that is then rounded to another neighbour, or a
    ReLU that opens, moves all later ones.  A step without the roundings is more than twice as far away.
    """
    start, _, _ = trained("cpu", 1, rule="kp", dtype="float32", lr=1e-12)
    found, _, _ = trained("cuda", 1, rule="kp", dtype="float32", precision=precision)
    wanted, _, _ = trained("cpu", 1, ops=Rounded(*roundings), rule="kp", dtype="float32")
    same, _, _ = trained("cpu", 1, ops=Rounded(*roundings, dtype=np.float64), rule="kp", dtype="float64")
    other, _, _ = trained("cpu", 1, rule="kp", dtype="float32")
    limit = 1.5 * difference(same, wanted, start)
    assert difference(found, wanted, start) < limit < difference(other, wanted, start)


def run(*arguments, program=("run.py",), **environment):
    command, env = [sys.executable, *program, *arguments], {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, env=env)


def after(device_name, epochs, state=None):
    """The state, on the host, of a run of 3 epochs after `epochs` of them, from the start or from another state."""
    training = prepare(Config(model="resnet8", rule="kp", epochs=3, dtype="float64", device=device_name))
    if state:
        resuming.restore(training, *state)
    next(record for record in training.run() if record and record["epoch"] == epochs)
    arrays, plain = resuming.state(training)
    return arrays, json.loads(json.dumps(plain))


@pytest.mark.parametrize("first, second", [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_run_goes_on_on_another_device(first, second):
    """Two epochs on the first device and one on the second equal three epochs on the first, up to rounding."""
    (moved, _), (stayed, _) = after(second, 3, after(first, 2)), after(first, 3)
    assert_same(moved, stayed, 1e-5)


def test_compare_gives_the_same_table_as_on_the_cpu():
    flags = ["compare", "--rules", "bp", "kp", "--seeds", "1", "--epochs", "2", "--dtype", "float64"]
    tables = []
    for device in ("cuda", "cpu"):
        done = run(*flags, "--device", device)
        assert done.returncode == 0, done.stderr
        rows = [line.split() for line in done.stdout.splitlines() if re.match(" *(BP|KP|frozen) ", line)]
        tables.append([row[:-2] for row in rows])  # without the seconds and the number of runs
    assert tables[0] == tables[1] and len(tables[0]) == 3


def test_too_little_memory_is_one_line():
    flags = ["--model", "resnet18", "--dataset", "synthetic", "--batch-size", "512", "--device", "cuda"]
    done = run("train", *flags, CUPY_GPU_MEMORY_LIMIT=str(200 * 2**20))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "out of memory" in done.stderr and "--batch-size" in done.stderr and "512" in done.stderr and ".;" not in done.stderr


def test_the_profile_names_the_kernels(tmp_path):
    """The kernels' times add up to about the step's time, which is measured separately, here without PyTorch."""
    alone = "import sys; sys.modules['torch'] = None; from wtref.cli.main import main; sys.exit(main())"
    which = ["--models", "resnet18", "--rules", "kp", "--batches", "64", "--no-graph", "--eager"]
    done = run("bench", "steps", "--device", "cuda", *which, "--profile", "--repeats", "1", "--json", str(tmp_path / "row.json"),
               program=("-c", alone))  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "row.json").read_text())["rows"]
    assert any(name.startswith("convolve_back") and "TFLOP/s" in name for name in row["profile"])
    assert 0.3 * row["ms"] < sum(row["profile"].values()) < 1.1 * row["ms"]


def test_the_second_device():
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one GPU; this needs two")
    arrays, _, training = trained("cuda:1", 2, rule="kp")
    assert training.network.synapses[0].W.device.id == 1
    open_device("cuda:0")
