"""How many cores and threads are used where nothing is asked for."""

import os

import pytest

from helpers import CPU
from wtref import cores as used
from wtref.cores import cores, default_threads
from wtref.datasets import folder
from wtref.fast.ops import equip
from wtref.runs.config import Config

BOUND = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Return a function that puts this process into control groups: its lines of /proc/self/cgroup, and their files."""

    def put(lines, files):
        (tmp_path / "cgroup").write_text("".join(f"{line}\n" for line in lines))
        for name, text in files.items():
            (tmp_path / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "mount" / name).write_text(text)

    monkeypatch.setattr(used, "MEMBERSHIP", tmp_path / "cgroup")
    monkeypatch.setattr(used, "MOUNT", tmp_path / "mount")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    return put


@pytest.mark.parametrize("lines, files, wanted", [
    ([], {}, 16),
    (["0::/"], {"cpu.max": "max 100000\n"}, 16),
    (["0::/"], {"cpu.max": "300000 100000\n"}, 3),
    (["0::/"], {"cpu.max": "250000 100000\n"}, 3),
    (["0::/"], {"cpu.max": "10000 100000\n"}, 1),
    (["0::/"], {"cpu.max": "9900000 100000\n"}, 16),
    (["0::/user/job"], {"user/job/cpu.max": "max 100000\n", "user/cpu.max": "400000 100000\n"}, 4),
    (["0::/user/job"], {"user/job/cpu.max": "500000 100000\n", "user/cpu.max": "400000 50000\n"}, 5),
    (["0::/on/the/host"], {"cpu.max": "200000 100000\n"}, 2),
    (["3:cpuset:/", "2:cpu,cpuacct:/job"], {"cpu/job/cpu.cfs_quota_us": "50000\n", "cpu/job/cpu.cfs_period_us": "25000\n"}, 2),
    (["2:cpuacct,cpu:/"], {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
    (["2:cpuset:/", "1:name=systemd:/"], {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
])  # fmt: skip
def test_quotas_of_control_groups_lower_the_number_of_cores(lines, files, wanted, groups):
    groups(lines, files)
    assert cores() == default_threads() == folder._worker_count(None) == wanted


def test_without_control_groups_the_cores_are_those_the_process_is_bound_to(tmp_path, monkeypatch):
    monkeypatch.setattr(used, "MEMBERSHIP", tmp_path / "none")
    assert cores() == BOUND


@pytest.mark.parametrize("value, wanted", [
    ("3", 3), ("3,2", 3), (" 5 ", 5), ("99", 16), ("", 16), ("0", 16), ("-2", 16), ("many", 16), ("2.5", 16),
])  # fmt: skip
def test_omp_num_threads_lowers_the_number_of_the_kernels_threads(value, wanted, groups, monkeypatch):
    groups([], {})
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert default_threads() == wanted
    assert default_threads(4) == min(wanted, 4)  # one of four processes on 16 cores
    assert cores() == folder._worker_count(None) == 16


def test_threads_that_are_given_are_used(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert equip(CPU, "plain").kernels == Config(kernels="plain", device="cpu").open_device().kernels == "plain kernels, 1 thread"
    assert Config(kernels="plain", threads=2, device="cpu").open_device().kernels == "plain kernels, 2 threads"
