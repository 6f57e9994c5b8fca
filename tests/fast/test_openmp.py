"""The compiled kernels give the same results with any number of threads and any of OpenMP's environment variables."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from helpers import CPU
from kernel_suite import assert_equal, compiled, need_clang, normal
from wtref.errors import InputError
from wtref.fast.compiled import Compiled
from wtref.fast.ops import equip
from wtref.runs.config import Config

compiled()
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["the usual one", pytest.param("clang", marks=pytest.mark.slow)])
def compiler(request, monkeypatch):
    """gcc and clang have an OpenMP of their own each."""
    if request.param == "clang":
        need_clang()
        monkeypatch.setenv("CC", "clang")


def results(threads):
    return results_of(Compiled(threads))


def results_of(many):
    """([arrays of products], [arrays of sums over a batch])."""
    draw = normal(7, np.float64)
    y, delta, W = draw(5, 13, 13, 32), draw(5, 13, 13, 48), draw(48, 288)
    same, strided = [(3, 3), (1, 1), (1, 1)], [(3, 3), (2, 2), (1, 1)]
    half, wide = draw(5, 7, 7, 48), draw(5, 7, 7, 192)
    products, sums = [many.product(W, W.T)], [many.moments(y), many.norm_sums(y, y, y[0, 0, 0], y[0, 0, 1])]
    for error, geometry in ((delta, same), (half, strided)):
        products.append(many.convolve(y, W, *geometry))
        products.append(many.convolve_back(error, W.T, *geometry, (13, 13)))
        sums.append(many.convolve_gradient(error, y, *geometry))
    products.append(many.convolve(wide, draw(192, 9 * 192), *same))
    sums.append(many.convolve_gradient(wide, wide, *same))
    return products, sums


def assert_same(found, wanted):
    """Products are equal bit for bit with any number of threads; sums over a batch are equal up to rounding."""
    for one, other in zip(found[0], wanted[0]):
        assert np.array_equal(one, other)
    for one, other in zip(found[1], wanted[1]):
        assert_equal(one, other, 1e-14)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_change_nothing_but_rounding(threads):
    found = results(threads)
    for one, again in zip(sum(found, []), sum(results(threads), [])):
        assert np.array_equal(one, again)
    assert_same(found, results(1))


@pytest.mark.parametrize("name, value", [("omp_set_max_active_levels", 0), ("omp_set_dynamic", 1)])
def test_fewer_threads_than_there_were_before(name, value):
    """The parts of threads that did not run must not be added."""
    alone = results(1)
    many = Compiled(7)
    openmp = many.libraries[np.dtype(np.float64)]
    usual = getattr(openmp, name.replace("set", "get"))()
    getattr(openmp, name)(value)
    found = results_of(many)
    getattr(openmp, name)(usual)
    assert_same(found, alone)


# Loads OpenMP, which reads its variables then, before conftest.py removes them.
PYTEST = "import sys, pytest; from wtref.fast.compiled import Compiled; Compiled(1); sys.exit(pytest.main(sys.argv[1:]))"


@pytest.mark.slow
@pytest.mark.parametrize("name, value", [("OMP_DYNAMIC", "true"), ("OMP_THREAD_LIMIT", "1"), ("OMP_MAX_ACTIVE_LEVELS", "0")])
def test_kernels_equal_the_plain_ones_under_openmp_s_variables(name, value):
    tests = ["tests/fast/test_compiled.py", "tests/fast/test_openmp.py", "-k", "TestCompiled or threads_change", "-m", "not slow"]
    environment = os.environ | {name: value, "OMP_DISPLAY_ENV": "true"}
    command = [sys.executable, "-c", PYTEST, "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout
    assert not Compiled(1).has_openmp or re.search(f"{name} ?= ?'{value}'", done.stderr, re.IGNORECASE), done.stderr


def test_the_number_of_threads_is_that_of_openmp():
    program = "from helpers import CPU; from wtref.fast.ops import equip; print(equip(CPU, 'compiled', 2).kernels)"
    command, path = [sys.executable, "-c", program], {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    for variable, words in [
        ("OMP_THREAD_LIMIT=1", "1 thread (OpenMP allows no more)"),
        ("OMP_THREAD_LIMIT=2", "2 threads"), ("OMP_DYNAMIC=true", "2 threads"),
    ]:  # fmt: skip
        environment = os.environ | path | dict([variable.split("=")])
        assert subprocess.check_output(command, text=True, cwd=ROOT, env=environment).endswith(f"), {words}\n")


BOUND = """
import os
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from wtref.cores import cores
from wtref.datasets import folder
from wtref.device import open_device
from wtref.distributed.group import SINGLE
from wtref.fast.ops import equip
from wtref.runs import compare
from wtref.runs.config import Config
allowed, usual = os.sched_getaffinity(0), cores()
device = equip(open_device("cpu"), "compiled")
x = np.ones((300, 300))
assert (device.ops.product(x, x) == 300).all()
assert os.sched_getaffinity(0) == ThreadPoolExecutor(1).submit(os.sched_getaffinity, 0).result() == allowed
assert device.kernels == equip(open_device("cpu"), "compiled").kernels
assert device.kernels.endswith(f"), {usual} thread" + "s" * (usual > 1))
assert cores() == folder._worker_count(None) == compare._number_of_jobs(None, Config(device="cpu"), 1000, SINGLE) == usual
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no process to cores")
@pytest.mark.parametrize("variable", ["OMP_PROC_BIND=true", "OMP_PLACES=cores", "GOMP_CPU_AFFINITY", "KMP_AFFINITY=compact"])
def test_openmp_binds_only_its_own_threads(variable, compiler):
    if variable == "GOMP_CPU_AFFINITY":
        variable += "=" + " ".join(map(str, sorted(os.sched_getaffinity(0))))
    environment = os.environ | dict([variable.split("=")])
    done = subprocess.run([sys.executable, "-c", BOUND], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("threads", [2**32 + 1, 2**32, 100_000, 1025, 0, -1])
def test_numbers_of_threads_that_cannot_be(threads):
    right = "at least 1" if threads < 1 else "at most 1,024"
    for use in (partial(equip, CPU), Config):
        with pytest.raises(InputError, match=f"^--threads must be {right}, found {threads}$"):
            use(threads=threads)


def test_a_forked_process_computes_on(compiler):
    """OpenMP's threads do not exist in a forked child, which must compute with one thread instead of waiting."""
    wanted = results(1)
    results(2)
    child = os.fork()
    if child == 0:
        same = all(np.array_equal(a, b) for a, b in zip(sum(results(2), []), sum(wanted, [])))
        said = equip(CPU, "compiled", 2).kernels.endswith(", 1 thread (a forked process has one)")
        os._exit(0 if same and said else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
