"""The study of the mirror's constants reports the worst angles, and fails where they are too wide."""

import math
from types import SimpleNamespace

import pytest

from wtref.cli.main import main
from wtref.rules import WeightMirror
from wtref.runs.config import Config
from wtref.studies import mirror_constants
from wtref.training import Training

TINY = {"model": "mlp", "dataset": "digits", "hidden": (32,), "rule": "wm", "norm": "before", "batch_size": 64}


def test_the_defaults_hold_on_a_small_network(capsys):
    assert main(["constants", "--models", "mlp", "--steps", "12", "--dataset", "digits"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 13 and rows[-2].startswith("matrix angles under 12°, delta angles under 25°: held by all")
    assert all(row.startswith("mlp ") for row in rows[1:-2])


@pytest.mark.slow
def test_a_mirror_that_sees_too_little_is_found_out(capsys):
    flags = ["--mirror-window", "1", "--mirror-rows", "64", "--dataset", "digits"]
    assert main(["constants", "--models", "mlp", "--steps", "6", *flags]) == 1
    out = capsys.readouterr().out
    assert out.count("    not held; the worst layers: matrix ") == 10 and "NOT held by all" in out


def test_the_worst_of_all_moments_counts(monkeypatch):
    angles = [{"a": 3.0, "b": 1.0, "output": 20.0}, {"a": 1.0, "b": 7.0, "output": 0.0}, {"a": 2.0, "b": 2.0, "output": 9.0}]
    seen = iter([dict(each) for each in angles * 2])
    monkeypatch.setattr(mirror_constants, "matrix_angles", lambda network: next(seen))
    finding = mirror_constants.measure(Config(**TINY), mirror_constants.LOOKS)
    assert (finding.matrix, finding.matrix_layer) == (7.0, "b") and 0 < finding.delta < mirror_constants.DELTA and finding.held


def test_the_share_of_mirroring_is_what_it_takes(monkeypatch):
    """On a clock on which each layer's mirror step takes 3 seconds and the rest of a step 1."""
    now, step = [0], Training.step

    def mirror(self, s, sgd, step):
        now[0] += 3

    def slowly(self, images, labels):
        now[0] += 1
        return step(self, images, labels)

    monkeypatch.setattr(mirror_constants, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(WeightMirror, "between_steps", mirror)
    monkeypatch.setattr(Training, "step", slowly)
    assert mirror_constants.measure(Config(**{**TINY, "hidden": (32, 16)}), 40).mirroring == 6 / 7  # two layers have a B


def test_a_loss_that_explodes_is_no_success():
    finding = mirror_constants.measure(Config(**TINY, lr=1e30), 12)
    assert not math.isfinite(finding.loss) and not finding.held and "the loss became" in mirror_constants.line(finding)


def test_errors_that_are_all_zero_are_no_success(monkeypatch):
    """And an angle that no layer has is not shown as 0 degrees."""
    monkeypatch.setattr(mirror_constants, "delta_angles", lambda *args: {"hidden1": math.nan})
    finding = mirror_constants.measure(Config(**TINY), mirror_constants.LOOKS)
    assert math.isfinite(finding.loss) and not finding.held
    row, reason = mirror_constants.line(finding).splitlines()
    assert row.split()[4:6] == ["-"] * 2 and reason.endswith("not held; the worst layers: matrix -, delta -")


@pytest.mark.parametrize(
    "flags, said", [(["--steps", "0"], "--steps must be at least 1, found 0"), (["--models", "x"], "unknown model 'x'")]
)
def test_what_cannot_be_is_one_line(flags, said, capsys):
    assert main(["constants", *flags]) == 2
    assert capsys.readouterr().err.startswith(f"wtref: {said}")
