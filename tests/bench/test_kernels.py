"""The command `bench kernels`: what it times, its arithmetic, and what it prints and writes."""

import json

import numpy as np
import pytest

from kernel_suite import compiled
from wtref.bench import kernels, turns
from wtref.bench.kernels import Case
from wtref.cli.main import main
from wtref.fast import plain
from wtref.fast.compiled import Compiled

fast = compiled()
x, vector = np.ones((6, 4, 2, 8), np.float32), np.ones(8, np.float32)


@pytest.mark.slow
def test_every_compiled_function_is_timed():
    names = {name for name in vars(Compiled) if not name.startswith("_")}
    shared = {name for name in names if getattr(Compiled, name) is getattr(plain, name, None)}
    others = {"convolve_with_moments"}  # on a CPU it is convolve
    assert {case.op for case in kernels.cases()} == names - shared - others


def row(monkeypatch, case, ms=2.0, plain_ms=3.0):
    """The row of a Case whose two versions take so long."""
    monkeypatch.setattr(kernels, "median_seconds", lambda tasks, repeats: [ms / 1000, plain_ms / 1000])
    return kernels.measure(fast, case, repeats=1)


@pytest.mark.parametrize("case, amount, unit", [
    (Case("relu", "", (x,)), 4 * 2 * 384, "GB/s"),
    (Case("add", "", (x, x)), 4 * 3 * 384, "GB/s"),
    (Case("norm_sums", "", (x, x, vector, vector)), 4 * (2 * 384 + 4 * 8), "GB/s"),
    (Case("descend", "", (x.copy(), x.copy(), x, 0.1, 0.9, 0.0, False)), 4 * 5 * 384, "GB/s"),
    (Case("joined_descent", "", ([x.copy(), vector.copy()], [x.copy(), vector.copy()], [x, vector], 0.1, 0.9, False)), 4 * 5 * 392, "GB/s"),
    (Case("max_pool", "", (x, (2, 1), (2, 1), (0, 0))), 4 * (384 + 2 * 192), "GB/s"),
    (Case("product", "", (x.reshape(6, 64), x.reshape(64, 6)), 4608), 4608, "GFLOP/s"),
])  # fmt: skip
def test_rates(monkeypatch, case, amount, unit):
    found = row(monkeypatch, case)
    assert (found["ms"], found["plain_ms"], found["ratio"], found["unit"]) == (2, 3, 1.5, unit)
    assert found["rate"] == pytest.approx(amount / 0.002 / 1e9) and found["plain_rate"] == pytest.approx(amount / 0.003 / 1e9)


def test_the_flop_of_a_convolution():
    draw = np.random.default_rng(0).random
    forward, gradient, back = kernels._convolutions(lambda *shape: draw(shape), "", (2, 9, 9, 3), 5, 3, 2, 1)
    assert forward.flop == gradient.flop == back.flop == 2 * (2 * 5 * 5 * 5) * (3 * 3 * 3)
    assert plain.convolve(*forward.arguments).shape == (2, 5, 5, 5)
    assert plain.convolve_gradient(*gradient.arguments).shape == (5, 27)
    assert plain.convolve_back(*back.arguments).shape == (2, 9, 9, 3)


def test_what_is_slower_than_numpy_is_marked(monkeypatch):
    rows = [row(monkeypatch, Case("relu", "here", (x,)), ms) for ms in (2.0, 3.0, 4.0)]
    assert ["*" in kernels.line(each) for each in rows] == [False, False, True]
    assert kernels.line(rows[2]).split() == ["relu", "6x4x2x8", "4.000", "3.000", "0.75*", "0.0"]
    assert kernels.verdict(rows) == "1 of 3 are slower than NumPy (*)"


def test_the_command(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(turns, "TURN", 1e-9)
    monkeypatch.setattr(kernels, "cases", lambda: iter([Case("relu", "one", (x,)), Case("add", "two", (x, x))]))
    path = tmp_path / "kernels.json"
    assert main(["bench", "kernels", "--threads", "1", "--repeats", "1", "--json", str(path)]) == 0
    first, title, *lines, last = capsys.readouterr().out.splitlines()
    found = json.loads(path.read_text())
    assert found["kernels"] == f"compiled kernels ({fast.instruction_set}), 1 thread" and first == found["kernels"] + ", float32"
    relu, add = map(kernels.line, found["rows"])
    assert title.split()[:2] == ["kernel", "shapes"] and last == kernels.verdict(found["rows"])
    assert lines == ["one, rates in GB/s", relu, "two, rates in GB/s", add]


def test_without_a_compiler_there_is_nothing_to_time(capsys, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert main(["bench", "kernels"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "'no-such-compiler' was not found" in err
