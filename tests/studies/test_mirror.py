"""B approaches W^T as theory predicts, and the theory follows from the noise."""

import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from wtref.cli.main import main
from wtref.noise import hadamard, power_of_two
from wtref.studies import mirror


@pytest.mark.parametrize("n_in, seeds", [(64, 4), (100, 1), pytest.param(576, 1, marks=pytest.mark.slow)])
def test_independent_noise_shows_w_as_fast_as_theory_says(n_in, seeds):
    lessons = [mirror.noise_lesson("independent", n_in, n_out=200, seed=seed) for seed in range(seeds)]
    assert lessons[0][0].count == 32 and lessons[0][-1].count == 32 * n_in
    for points in zip(*lessons):
        count, _, theory = points[0]
        assert math.tan(math.radians(theory)) ** 2 == pytest.approx(n_in / count)
        assert np.mean([point.measured for point in points]) == pytest.approx(theory, rel=0.03)


@pytest.mark.parametrize("n_in", [64, 100, 576])
def test_decorrelated_noise_shows_w_within_one_block(n_in):
    points = mirror.noise_lesson("decorrelated", n_in, n_out=200)
    assert points[-1].count == power_of_two(n_in) and points[-1].measured < 1e-6
    for point in points[:-1]:
        assert point.measured == pytest.approx(point.theory, rel=0.03)
        assert point.measured < mirror.independent_angle(n_in, point.count)


@pytest.mark.parametrize("n, S", [(1, 1), (5, 2), (64, 16), (100, 64), (100, 128), (576, 512)])
def test_decorrelated_theory_is_the_block_s_own_covariance(n, S):
    """tan^2(theta) is the ratio of the squared correlations with other inputs to the squared variance of each."""
    x = hadamard(power_of_two(n))[:S, :n]
    covariance = x.T @ x / S
    others = (covariance**2).sum() - n
    assert math.tan(math.radians(mirror.decorrelated_angle(n, S))) ** 2 == pytest.approx(others / n)


@pytest.mark.parametrize("weight_decay, momentum", mirror.DECAYS)
def test_kolen_pollack_decays_as_theory_says(weight_decay, momentum):
    points = mirror.decay_lesson(weight_decay, steps=60, momentum=momentum)
    assert [point.count for point in points] == list(range(61))
    for point in points:
        assert point.measured == pytest.approx(point.theory, rel=1e-9)
    assert points[-1].measured < 0.9


def test_without_momentum_theory_is_the_paper_s():
    found = list(islice(mirror.decay_theory(lr=0.1, weight_decay=0.03, momentum=0.0), 50))
    np.testing.assert_allclose(found, (1 - 0.003) ** np.arange(1, 51), rtol=1e-12)


def test_the_command_prints_and_draws_both(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["mirror", "--inputs", "64"]) == 0
    out = capsys.readouterr().out
    assert out.count("weight mirror,") == 2 and out.count("Kolen-Pollack, lambda") == 3
    assert Path("runs/mirror-1/mirror.png").stat().st_size > 10_000
    assert main(["mirror", "--inputs", "63"]) == 2
    assert capsys.readouterr().err == "wtref: --inputs must be at least 64, found 63\n"
