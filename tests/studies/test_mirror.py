"""B approaches W^T as theory predicts, where W is at rest and where it moves."""

import math
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from wtref.cli.main import main
from wtref.relatives import ActivationAlignment
from wtref.rules import WeightMirror
from wtref.studies import mirror

SIZES = [(64, 4), (100, 1), pytest.param(576, 1, marks=pytest.mark.slow)]


@pytest.mark.parametrize("rule", [WeightMirror, ActivationAlignment])
@pytest.mark.parametrize("n_in, seeds", SIZES)
def test_noise_shows_w_as_fast_as_theory_says(n_in, seeds, rule):
    lessons = [mirror.still_lesson(rule, n_in, n_out=200, seed=seed) for seed in range(seeds)]
    assert lessons[0][0].at == 32 and 10 * n_in < lessons[0][-1].at <= 20 * n_in
    for points in zip(*lessons):
        assert np.mean([point.measured for point in points]) == pytest.approx(points[0].theory, rel=0.05)


def test_the_average_s_theory_is_the_ratio_of_noise_to_signal():
    assert math.tan(mirror.average_angle(65, 32, 4)) ** 2 == pytest.approx(64 / 128)


@pytest.mark.slow
@pytest.mark.parametrize("window", [3, 25, 100])
def test_a_moving_w_is_followed_as_theory_says(window):
    point = mirror.moving_mirror(64, window)
    assert point.measured == pytest.approx(point.theory, rel=0.05)


def test_the_delta_rule_follows_a_moving_w_as_theory_says():
    point = mirror.moving_alignment(64)
    assert point.measured == pytest.approx(point.theory, rel=0.05) and point.theory < 3


@pytest.mark.parametrize("window", [3, 20, 200])
def test_noise_and_lag_are_the_parts_of_the_whole(window):
    """The whole exceeds each part and their sum exceeds it; there is a best memory between much noise and much lag."""
    noise, lag = mirror.noise_and_lag(576, window)
    whole = mirror.moving_angle(576, window)
    assert max(noise, lag) < whole < noise + lag
    assert mirror.moving_angle(576, 60) < min(mirror.moving_angle(576, each) for each in (10, 400))


@pytest.mark.parametrize("weight_decay, momentum", mirror.DECAYS)
def test_kolen_pollack_decays_as_theory_says(weight_decay, momentum):
    points = mirror.decay_lesson(weight_decay, steps=60, momentum=momentum)
    assert [point.at for point in points] == list(range(61))
    for point in points:
        assert point.measured == pytest.approx(point.theory, rel=1e-9)
    assert points[-1].measured < 0.9


def test_without_momentum_theory_is_the_paper_s():
    found = list(islice(mirror.decay_theory(lr=0.1, weight_decay=0.03, momentum=0.0), 50))
    np.testing.assert_allclose(found, (1 - 0.003) ** np.arange(1, 51), rtol=1e-12)


@pytest.mark.slow
def test_the_command_prints_and_draws_all(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["mirror", "--inputs", "64"]) == 0
    out = capsys.readouterr().out
    assert out.count("weight mirror, W") == out.count("activation alignment, W") == 2 and out.count("Kolen-Pollack, lambda") == 3
    assert Path("runs/mirror-1/mirror.png").stat().st_size > 10_000
    assert main(["mirror", "--inputs", "63"]) == 2
    assert capsys.readouterr().err == "wtref: --inputs must be at least 64, found 63\n"
