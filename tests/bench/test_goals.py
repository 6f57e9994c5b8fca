"""The goals of speed: what is judged, and by what arithmetic."""

import pytest

from wtref.bench import goals, report
from wtref.bench.goals import BATCHES, NETWORKS, Goal


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
    assert [judged["met"] for judged in goals.judge_growth(rows)] == [True, True]
    next(row for row in rows if row["batch"] == 512)["ms"] *= 1.2
    next(row for row in rows if row["model"] == "resnet18")["gflops"] = 40.0
    flat, linear = goals.judge_growth(rows)
    assert not flat["met"] and flat["found"] == pytest.approx(0.2)
    assert not linear["met"] and linear["found"] == pytest.approx(50 / 40 - 1)


def test_the_goals_and_the_growth_can_be_built():
    works = [work for work, _ in goals.all_works()]
    assert len({str(work) for work in works}) == len(works)
    imagenet = next(work for work in works if work.config.model == "resnet50" and work.shape == (224, 224, 3))
    assert imagenet.classes == 1000 and imagenet.config.batch_size == 8
    assert all(work.classes == 10 for work in works if work is not imagenet)
