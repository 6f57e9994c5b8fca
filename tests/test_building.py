"""Compiling the C sources: for other processors, and the cache of what was compiled."""

import platform
import subprocess
import time

import numpy as np
import pytest
from kernel_suite import KernelSuite, compiled, normal

from wtref import kernels
from wtref.errors import InputError
from wtref.kernels import building, plain
from wtref.kernels.compiled import REALS, Compiled, Shelf

compiled()


def compiled_with(folder, *flags):
    """Kernels whose sources were compiled with other flags."""
    other = Compiled.__new__(Compiled)
    other.libraries, other.shelf = {}, Shelf()
    for dtype, (real, _) in REALS.items():
        path = folder / f"{real}.so"
        words = [*building.FLAGS, *flags, f"-DREAL={real}", str(building.SOURCES / "all.c"), "-o", str(path)]
        subprocess.run(["cc", *words], check=True)
        other.libraries[dtype] = building.ctypes.CDLL(str(path))
        other.libraries[dtype].use_threads(2)
    return other


@pytest.fixture(scope="module", params=["x86-64", "x86-64-v3"])
def narrower(request, tmp_path_factory):
    """Kernels for processors with narrower vectors than this one may have."""
    if platform.machine() != "x86_64":
        pytest.skip("the flags are those of x86-64")
    return compiled_with(tmp_path_factory.mktemp(request.param), f"-march={request.param}", "-w")


def test_processors_with_narrower_vectors(narrower):
    suite = KernelSuite()
    suite.fast = narrower
    for dtype in suite.limits:
        draw = normal(3, dtype)
        for kernel, stride, padding in [(3, 1, 1), (3, 2, 1), (1, 1, 0), (5, 1, 2)]:
            geometry = [(kernel, kernel), (stride, stride), (padding, padding)]
            suite.convolutions(draw, (9, 8), geometry, 16, 24, 3)
            suite.convolutions(draw, (9, 8), geometry, 3, 10, 3)
        suite.both("product", draw(70, 50), draw(50, 33))


def best_time(function, *arguments):
    def once():
        start = time.perf_counter()
        function(*arguments)
        return time.perf_counter() - start

    return min(once() for _ in range(30))


def test_passes_over_arrays_do_not_lose_their_vectors_to_the_stack(narrower):
    """They take 2 to 4 times as long as NumPy's addition; where each vector went through the stack, 20 to 40 times as long."""
    draw = normal(3, np.float32)
    x, delta, vector = draw(2000, 64), draw(2000, 64), draw(64)
    for functions in narrower.libraries.values():
        functions.use_threads(1)
    usual = best_time(np.add, x, delta)
    assert best_time(narrower.moments, x) < 10 * usual
    assert best_time(narrower.norm_sums, delta, x, vector, vector, vector) < 10 * usual


def test_sources_compile_without_a_warning(tmp_path):
    compiled_with(tmp_path, "-Wall", "-Wextra", "-Werror")


def test_words_and_refusals_without_a_compiler(monkeypatch):
    for compiler, reason in [("no-such-compiler", "no-such-compiler is not there"), ("false", "false fails")]:
        monkeypatch.setenv("CC", compiler)
        assert reason in kernels.use("auto", 1) and kernels.use("auto", 1).startswith("plain kernels")
        assert kernels.primitives(np.zeros(1)) is plain
        with pytest.raises(InputError, match=f"--kernels compiled: .*{reason}"):
            kernels.use("compiled")
    monkeypatch.undo()
    assert kernels.use() == f"compiled kernels, {kernels.cores()} thread{'s' * (kernels.cores() > 1)}"


def test_a_library_that_others_could_have_written_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    building._library.cache_clear()
    building.library("float")
    (tmp_path / "wtref").chmod(0o777)
    building._library.cache_clear()
    with pytest.raises(building.NoCompiler, match="can be written by others"):
        building.library("float")
    building._library.cache_clear()


def test_a_source_that_does_not_compile_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(building, "FLAGS", [*building.FLAGS, "-DV=broken("])
    building._library.cache_clear()
    with pytest.raises(building.NoCompiler, match="cc fails"):
        building.library("double")
    assert list((tmp_path / "wtref").iterdir()) == []
    building._library.cache_clear()
