"""The study of Kolen-Pollack's weight decay: its theory against a simulation, and its criterion of alignment."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from wtref.angles import angle
from wtref.cli.main import main
from wtref.optim import SGD, Schedule
from wtref.runs.config import Config
from wtref.studies import decays

TINY = Config(model="mlp", rule="kp", hidden=(8,), epochs=1, threads=1)


@pytest.mark.parametrize("kind, momentum, decay", [
    pytest.param("constant", 0.0, 0.03, marks=pytest.mark.slow),
    pytest.param("cosine", 0.9, 0.002, marks=pytest.mark.slow),
    ("step", 0.9, 0.003),
])  # fmt: skip
def test_theory_is_what_becomes_of_a_w_that_keeps_its_length(kind, momentum, decay):
    """(16) and (17) step by step: W turns under a gradient common to W and B, and both are brought back to their length."""
    schedule, rng = Schedule(kind, 0.1, 3000, warmup=0.05), np.random.default_rng(0)
    wanted = decays.theory(SimpleNamespace(schedule=schedule, sgd=SGD({}, 0.1, momentum, weight_decay=decay)))
    W, B = rng.standard_normal((2, 20_000))
    gap, velocity, size = B - W, np.zeros(20_000), np.linalg.norm(W)
    for step in range(3000):
        velocity = momentum * velocity + decay * gap
        gap = gap - schedule(step) * velocity
        if step % 10 == 0:
            W = W + 0.05 * math.sqrt(10) * rng.standard_normal(20_000)
            W *= size / np.linalg.norm(W)
        B = W + gap
        B *= size / np.linalg.norm(B)
        if angle(B, W) < decays.ALIGNED:
            break
    assert step + 1 == pytest.approx(wanted, rel=0.03)


def test_too_little_decay_never_aligns():
    training = SimpleNamespace(schedule=Schedule("cosine", 0.1, 500), sgd=SGD({}, 0.1, 0.9, weight_decay=5e-4))
    assert decays.theory(training) == math.inf


def test_aligned_is_the_first_step_with_all_layers_under_the_limit(monkeypatch):
    seen = iter([{"a": 50.0, "b": 5.0}, {"a": 5.0, "b": 12.0}, {"a": 11.9, "b": 3.0}, *[{"a": 60.0, "b": 60.0}] * 99])
    monkeypatch.setattr(decays, "matrix_angles", lambda network: next(seen))
    training, error, first = decays.follow(TINY)
    assert first == 3 and training.epoch == 1 and 0 <= error <= 100


def test_accuracies_have_the_deviation_of_a_sample_and_none_for_a_single_seed():
    row = decays.Row(0.03, True, [3, 5], 4, [97.0, 99.0], [95.0])
    assert decays.line(row).split()[-4:] == ["98.00", "±", "1.41", "95.00"]


def test_the_command(capsys):
    assert main(["decays", "--model", "mlp", "--hidden", "8", "--epochs", "1", "--seeds", "1", "--threads", "1"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == decays.HEADER and len(rows) == len(decays.DECAYS) and "never" in rows[0] and "(default)" in rows[-1]
    assert not any("±" in row for row in rows)
    assert main(["decays", "--seeds", "0"]) == 2
    assert capsys.readouterr().err == "wtref: --seeds must be at least 1, found 0\n"
