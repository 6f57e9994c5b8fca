"""NCCL on real GPUs: sums over one process on one device, and training on two where there are two."""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from roundings import bf16
from wtref.device import open_device
from wtref.distributed.buckets import Buckets
from wtref.distributed.nccl import Bf16Compression, NcclTransport
from wtref.runs import checkpoints

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cupy():
    cupy = pytest.importorskip("cupy")
    nccl = pytest.importorskip("cupy.cuda.nccl")
    if not nccl.available:
        pytest.skip("CuPy finds no NCCL")
    return cupy


@pytest.fixture(scope="module")
def transport(cupy):
    open_device("cuda")
    nccl = importlib.import_module("cupy.cuda.nccl")
    return NcclTransport(cupy, nccl, nccl.NcclCommunicator(1, nccl.get_unique_id(), 0))


@pytest.mark.parametrize("compression", [None, Bf16Compression()])
@pytest.mark.parametrize("size", [1, 10_000, 1 << 24])
def test_sums_of_one_process_are_its_arrays_though_just_computed(cupy, transport, compression, size):
    """Products that take so long that their sums are started before they are computed."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-2, 3, size=(1024, 1024)).astype(np.float32) for _ in range(2))
    on_device, buckets = [cupy.asarray(x) for x in (a, b)], Buckets(transport, size, compression)
    products = [on_device[0] @ on_device[1] for _ in range(8)]
    for each in products:
        buckets.add(each)
    buckets.finish()
    wanted = bf16(a @ b) if compression else a @ b
    assert all(np.array_equal(each.get(), wanted) for each in products)
    assert transport.pop_waiting_time() >= 0 and transport.pop_waiting_time() == 0


def test_sums_of_float64(cupy, transport):
    x = np.random.default_rng(0).standard_normal((7, 5))
    assert np.array_equal(transport.all_reduce(cupy.asarray(x)).get(), x)
    assert np.array_equal(transport.all_reduce(cupy.asarray(x).T).get(), x.T)


@pytest.mark.parametrize("rule", ["kp", "wm"])
def test_two_devices_train_as_one(cupy, tmp_path, rule):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one GPU; this needs two")
    pytest.importorskip("mpi4py")
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    train = [sys.executable, ROOT / "run.py", *"train --model resnet8 --epochs 1 --dtype float64 --device cuda".split()]
    states = []
    for count in (1, 2):
        command = [mpiexec, "-n", str(count), *train, "--rule", rule, "--check-copies", "10", "--log-name", f"on{count}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        states.append(checkpoints.read(tmp_path / "runs" / f"on{count}" / "last.npz")[0])
    for name, array in states[0].items():
        assert np.abs(states[1][name] - array).max() <= 1e-6 * max(np.abs(array).max(), 1e-3), name
