"""Shards, joint moments and the search for a group, in a process by itself."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers import CPU, equipped, modest
from wtref.bench.scaling import small_sums
from wtref.datasets.augment import Augmentation
from wtref.datasets.base import Dataset
from wtref.datasets.folder import FolderFeed
from wtref.datasets.memory import MemoryFeed
from wtref.distributed.group import LAUNCHERS, SINGLE, ProcessGroup, open_group
from wtref.distributed.network import FastSyncBatchNorm
from wtref.errors import InputError
from wtref.fast import layers as fast
from wtref.fast import plain
from wtref.layers import BatchNorm

ROOT = Path(__file__).parents[2]


def group_of(size):
    """Its members, which do not communicate."""
    group = [ProcessGroup() for _ in range(size)]
    for rank, each in enumerate(group):
        each.rank, each.size = rank, size
    return group


@modest
@given(n=st.integers(0, 40), size=st.integers(1, 9))
def test_shards_are_even_and_together_everything_in_order(n, size):
    shards = [list(range(n))[each.shard(n)] for each in group_of(size)]
    assert sum(shards, []) == list(range(n))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("size", [2, 3, 8])
def test_shards_of_a_batch_are_augmented_as_by_one_process(size):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(23, 6, 6, 2), dtype=np.uint8), rng.integers(4, size=23)
    data = Dataset("noise", 4, images[:17], labels[:17], images[17:], labels[17:])

    def feed(group):
        return MemoryFeed(data, CPU, 7, 0, Augmentation(crop=2, flip=True, rotate=20), group)

    together = [list(feed(each).train_batches(epoch=1)) for each in group_of(size)]
    for batches, whole in zip(zip(*together), feed(SINGLE).train_batches(epoch=1)):
        for parts, array in zip(zip(*batches), whole):
            assert np.array_equal(np.concatenate(parts), array)
    tested = [labels for each in group_of(size) for _, labels in feed(each).test_batches(2)]
    assert np.array_equal(np.concatenate(tested), labels[17:])


@pytest.mark.parametrize("size", [2, 5])
def test_shards_of_an_image_folder(tmp_path, size):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(rng.integers(256, size=(9, 12, 3), dtype=np.uint8)).save(tmp_path / split / name / f"{i}.png")

    def feed(group):
        return FolderFeed(tmp_path, CPU, 3, 0, image_size=8, workers=1, group=group)

    for kind in (lambda f: f.train_batches(epoch=1), lambda f: f.test_batches(3)):
        together = [labelled for each in group_of(size) for labelled in kind(feed(each))]
        alone = list(kind(feed(SINGLE)))
        assert sum(len(labels) for _, labels in together) == 8
        ours, theirs = (sorted(image.tobytes() for images, _ in batches for image in images) for batches in (together, alone))
        assert ours == theirs


@pytest.mark.parametrize("ops", [plain, equipped().ops or plain], ids=["plain", "auto"])
def test_an_empty_shard_passes_every_op_and_adds_nothing(ops):
    y, above, same = np.zeros((0, 5, 5, 3)), np.zeros((0, 5, 5, 4)), ((3, 3), (1, 1), (1, 1))
    W = np.ones((4, 27))
    stale = [np.full((4, 27), np.nan) for _ in range(50)]
    del stale  # freed memory with NaN, which a sum over nothing must overwrite
    assert ops.convolve(y, W, *same).shape == above.shape
    assert np.array_equal(ops.convolve_gradient(above, y, *same), 0 * W)
    assert ops.convolve_back(above, W.T, *same, (5, 5)).shape == y.shape
    assert np.array_equal(ops.product(np.zeros((4, 0)), np.zeros((0, 27))), 0 * W)
    assert np.array_equal(ops.norm_sums(y, y, np.zeros(3), np.zeros(3)), np.zeros((2, 3)))
    largest, winner = ops.max_pool(y, (2, 2), (2, 2), (0, 0))
    assert ops.max_pool_back(largest, winner, (2, 2), (2, 2), (0, 0), (5, 5)).shape == y.shape


def joined(parts, base):
    """The moments of arrays (rows, channels), some of them empty, from sums over them."""
    base = np.array(base, float)
    return plain.moments_about(base, *sum(plain.sums_about(base, len(part), *plain.moments(part)) for part in parts if len(part)))


@modest
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(any), seed=st.integers(0, 2**32 - 1))
def test_moments_of_shards_are_those_of_the_whole(sizes, seed):
    """A standard deviation of 1 about means of 1000 before the first step, of 1e7 later, and about means that differ between shards."""
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal((n, 3)) + [1000, 1e7, -1000 * rng.random()] for n in sizes]
    mean, variance = joined(parts, base=[0, 1e7 - 1000, 0])
    whole = np.concatenate(parts)
    assert mean == pytest.approx(whole.mean(axis=0), rel=1e-12, abs=1e-12)
    assert variance == pytest.approx(whole.var(axis=0), rel=1e-7, abs=1e-9)


@modest
@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=9), seed=st.integers(0, 2**32 - 1))
def test_shards_of_a_constant_channel_have_no_variance(sizes, seed):
    constant, zero = np.array([1_251_480.0, *10 ** np.random.default_rng(seed).uniform(-150, 150, 2), -1 / 3]), np.zeros(4)
    for base in (constant, zero, 0.3 * constant):
        mean, variance = plain.moments_about(base, *sum(plain.sums_about(base, size, constant, zero) for size in sizes))
        assert mean == pytest.approx(constant, rel=1e-14, abs=0) and not variance.any()


class OneOfMany(ProcessGroup):
    """A process of a large group whose other processes have no images; it notes the shapes of what is sent."""

    size = 1024

    def __init__(self):
        self.sent = []

    def all_reduce(self, x):
        self.sent.append((x.shape, x.dtype))
        return x


def test_the_sums_of_batch_norm_do_not_grow_with_the_number_of_processes():
    """They are those of which bench scaling predicts the time."""
    device, group = equipped(np.float32), OneOfMany()
    y, norm = np.random.default_rng(0).standard_normal((5, 2, 2, 3)).astype(np.float32), BatchNorm("norm", 3)
    norm.initialise(device, None)
    synced = FastSyncBatchNorm(fast.BatchNorm(norm, device.ops or plain), group)
    group.begin_batch(len(y))
    synced.backward(synced.forward(y))
    assert group.sent == [((3, 3), np.float64), ((2, 3), np.float32)]
    wanted = {"small_sums": len(group.sent), "small_bytes": sum(math.prod(shape) * dtype.itemsize for shape, dtype in group.sent)}
    assert small_sums([norm], sync_bn=True) == wanted


def test_a_process_alone_imports_nothing_of_mpi(monkeypatch):
    code = (
        "import sys; from wtref.cli.main import main; code = main('train --model mlp --hidden 3 --epochs 1 --device cpu'.split()); "
        "assert not {'mpi4py', 'wtref.distributed.mpi', 'wtref.distributed.nccl'} & sys.modules.keys(), 'imported'; sys.exit(code)"
    )
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PMI_SIZE", "1")  # mpiexec -n 1
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name, rank", LAUNCHERS.items())
def test_several_processes_without_mpi4py_are_one_clear_line(monkeypatch, name, rank):
    monkeypatch.setenv(name, "3")
    monkeypatch.setenv(rank, "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.delitem(sys.modules, "wtref.distributed.mpi", raising=False)
    with pytest.raises(InputError, match=r"^started as 3 processes, which needs mpi4py: pip install 'wtref\[mpi\]'"):
        open_group()


@pytest.mark.slow
def test_a_launcher_of_another_mpi_is_one_clear_line():
    pytest.importorskip("mpi4py")
    environment = {**os.environ, "FLUX_JOB_SIZE": "2", "FLUX_TASK_RANK": "1"}
    for command, code in (("train", 2), ("reproduce digits", 2), ("data", 0), ("--version", 0)):
        argv = [sys.executable, "run.py", *command.split()]
        done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == code
        if code:
            assert done.stderr.startswith("wtref: started as 2 processes, but MPI finds one in each: mpi4py uses ")
            assert done.stderr.endswith("; if no launcher started this process, unset FLUX_JOB_SIZE\n") and done.stderr.count("\n") == 1


LEFT_OVER = {
    "empty": {"PMI_SIZE": ""},
    "no number": {"PMI_SIZE": "abc", "PMI_RANK": "0"},
    "negative": {"SLURM_STEP_NUM_TASKS": "-3", "SLURM_PROCID": "0"},
    "absurd": {"PMI_SIZE": "9" * 5000, "PMI_RANK": "0"},
    "no rank": {"OMPI_COMM_WORLD_SIZE": "2"},
    "a rank beyond them": {"PMI_SIZE": "2", "PMI_RANK": "2"},
    "nothing open": {"PMI_SIZE": "2", "PMI_RANK": "0", "PMI_FD": "987654"},
    "no descriptor": {"PMI_SIZE": "2", "PMI_RANK": "0", "PMI_FD": "x"},
    "no socket": {"PMI_SIZE": "2", "PMI_RANK": "0", "PMI_FD": "1"},
}


@pytest.mark.parametrize("variables", LEFT_OVER.values(), ids=LEFT_OVER)
def test_variables_that_no_launcher_set_are_ignored(monkeypatch, variables):
    monkeypatch.setitem(sys.modules, "mpi4py", None)  # to be imported where several processes are found
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert open_group() is SINGLE
