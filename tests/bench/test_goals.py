"""The goals of speed: what is judged, and by what arithmetic."""

from types import SimpleNamespace

import pytest

from wtref.bench import goals, report
from wtref.bench.goals import BATCHES, NETWORKS, Goal
from wtref.runs.config import Config


@pytest.mark.parametrize("sign, limit, met", [(">=", 1.5, True), (">=", 2, False), ("<=", 1.5, True), ("<=", 1, False)])
def test_a_goal(sign, limit, met):
    judged = Goal("ratio", sign, limit).judge({"ratio": 1.5})
    assert judged == {"goal": f"ratio {sign} {limit}", "found": 1.5, "met": met}
    assert ("met" if met else "MISSED") in report.verdict(judged)


def test_a_goal_that_could_not_be_measured():
    assert "not measured" in report.verdict(Goal("ratio", ">=", 1.0).judge({}))


def test_growth():
    works = [work for work, _ in goals.growth_works()]
    rows = [{**work.description(), "ms": 2.0 * work.config.batch_size, "gflops": 50.0} for work in works]
    assert len(rows) == len(BATCHES) + len(NETWORKS) - 1  # both hold resnet8 at batch 32
    assert [judged["met"] for judged in goals.judge_growth(rows)] == [True, True, True]
    next(row for row in rows if row["batch"] == 8)["ms"] *= 1.2
    next(row for row in rows if row["model"] == "resnet18")["gflops"] = 40.0
    flat, small, linear = goals.judge_growth(rows)
    assert flat["met"] and flat["found"] == pytest.approx(0), "the smallest batch has a goal of its own"
    assert not small["met"] and small["found"] == pytest.approx(0.2)
    assert not linear["met"] and linear["found"] == pytest.approx(50 / 40 - 1)
    next(row for row in rows if row["batch"] == 128)["ms"] *= 1.2
    flat, small, _ = goals.judge_growth(rows)
    assert not flat["met"] and flat["found"] == pytest.approx(0.2)
    assert small["met"]


def test_the_goals_and_the_growth_can_be_built():
    works = [work for work, _ in goals.all_works()]
    assert len({str(work) for work in works}) == len(works)
    imagenet = next(work for work in works if work.config.model == "resnet50" and work.shape == (224, 224, 3))
    assert imagenet.classes == 1000 and imagenet.config.batch_size == 8
    assert all(work.classes == 10 for work in works if work is not imagenet)


@pytest.mark.parametrize("instructions, ratio", [("AVX-512", 2.09), ("AVX2", 1.9), ("SSE2", 1.9), (None, 1.9)])
def test_the_goals_are_those_of_the_instruction_set(monkeypatch, instructions, ratio):
    """Without compiled kernels they are those of AVX2."""
    ops = instructions and SimpleNamespace(instruction_set=instructions)
    monkeypatch.setattr(Config, "open_device", lambda config: SimpleNamespace(ops=ops))
    limits = {str(work): [f"{g.quantity} {g.sign} {g.limit}" for g in limits] for work, limits in goals.all_works()}
    assert limits["resnet18 32x32x3 kp batch 128"] == [f"ratio >= {ratio}", "memory_ratio <= 1.0"]
    assert limits["resnet18 32x32x3 evaluation batch 256"][1] == "memory_ratio <= 1.0"
    assert ("mnist_epoch_seconds <= 1.0" in limits["mlp 28x28x1 bp batch 128"]) == (instructions == "AVX-512")
