"""A side that is compiled first is timed in a process of its own, within a time limit."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import stand_in_sides
from wtref.bench.apart import Obstacle, times_beside
from wtref.bench.work import Work

WORK = Work.of("mlp", "bp", 2, hidden=(3,))


@pytest.mark.slow
def test_both_sides_are_timed_after_the_first_step():
    """The stand-in's first step takes 1.5 s, every later one 0.25 s."""
    ours, theirs = times_beside(WORK, 1, stand_in_sides.Compiled)
    assert 0 < ours < 250 <= theirs < 1500


@pytest.mark.slow
@pytest.mark.parametrize(
    "side, said",
    [
        (stand_in_sides.failing, "^ValueError: no compiler here$"),
        (stand_in_sides.ending, "^its process ended before it was timed$"),
    ],
)
def test_a_side_that_fails_is_an_obstacle(side, said):
    with pytest.raises(Obstacle, match=said):
        times_beside(WORK, 1, side)


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """The file in which the endless stand-in writes the id of its compiler's process."""
    path = tmp_path / "pid"
    monkeypatch.setenv("STAND_IN_PID", str(path))
    return path


@pytest.mark.slow
def test_a_side_that_is_not_ready_in_time_ends_with_its_compiler(compiler):
    for seconds in (2, 8, 32):  # long enough for it to begin, however busy the machine is
        with pytest.raises(Obstacle, match=f"^not compiled after {seconds} s$"):
            times_beside(WORK, 1, stand_in_sides.endless, seconds)
        if compiler.exists():
            break
    assert ended(compiler)


@pytest.mark.slow
def test_a_later_step_may_not_last_for_ever():
    for seconds in (4, 16, 64):  # long enough for the first step, however busy the machine is
        with pytest.raises(Obstacle) as obstacle:
            times_beside(WORK, 1, stand_in_sides.Hanging, seconds)
        if str(obstacle.value) == f"not timed after {seconds} s":
            return
    pytest.fail(str(obstacle.value))


@pytest.mark.slow
def test_a_side_ends_with_the_process_that_asked_for_it(compiler):
    """As when gpu-report kills a benchmark that takes too long."""
    script = "import sys, stand_in_sides; from wtref.bench import apart, work; " \
             "apart.times_beside(work.Work.of('mlp', 'bp', 2), 1, stand_in_sides.endless)"  # fmt: skip
    asking = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    while not compiler.exists() and asking.poll() is None:
        time.sleep(0.05)
    asking.kill()
    asking.wait()
    assert ended(compiler)


def ended(compiler):
    """Whether the process with the id in the file ends within 5 seconds; it may remain a zombie."""
    state = Path(f"/proc/{compiler.read_text()}/stat")
    for _ in range(50):
        try:
            if state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False
