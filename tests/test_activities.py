"""A rule of one's own that sees y_l, y_{l+1} and delta_{l+1} themselves."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import CPU, close

import wtref
from wtref import plugins
from wtref.cli.main import main
from wtref.fast import accelerate
from wtref.fast.ops import equip
from wtref.layers import rows
from wtref.runs import prepare
from wtref.runs.config import Config
from wtref.runs.run import Run

PREDICTING = """
import wtref

@wtref.rule("predicting")
class Predicting(wtref.Rule):  # each feedback cell predicts from y_l what arrives at y_{l+1}
    def connect(self, s, classes):
        super().connect(s, classes)
        s.keep_activity = True

    def learn(self, s, sgd):
        super().learn(s, sgd)  # (4)
        if s.B is not None:
            s.B += s.y.T @ (s.y_next - s.y @ s.B) / (s.y * s.y).sum()
"""


class Watching(wtref.KolenPollack):
    def connect(self, s, classes):
        super().connect(s, classes)
        s.keep_activity = s.keep_delta = True


def test_a_rule_of_ten_lines_learns_B_from_the_activities(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PREDICTING)
    monkeypatch.setattr(plugins, "loaded", {})
    flags = "--plugin mine.py --model mlp --hidden 30 --epochs 3 --lr 0.01 --device cpu --weight-decay 0".split()
    angle = {}
    try:
        for rule in ("predicting", "fa"):
            assert main(["train", *flags, "--rule", rule, "--log-name", rule]) == 0
            angle[rule] = Run(rule).lines()[-1]["matrix_angles"]["output"]
        assert main(["audit", "--plugin", "mine.py", "--rules", "predicting"]) == 0
    finally:
        wtref.RULES.pop("predicting", None)
    assert angle["predicting"] < 50 < 60 < angle["fa"]


@pytest.mark.parametrize("fused", [False, True])
def test_activities_are_rows_of_the_layers_inputs_and_outputs(fused):
    device, rng = (equip(CPU) if fused else CPU), np.random.default_rng(0)
    network, rule = wtref.build("resnet8", (8, 8, 3), 5, wtref.Options(width=4)), Watching(rng)
    network.initialise(device, rng)
    for s in network.with_feedback:
        rule.connect(s, 5)
    passes = accelerate(network, device) if fused else network
    error = rng.standard_normal((6, 5))
    passes.forward(rng.standard_normal((6, 8, 8, 3)))
    seen = {s.name: (s.y.copy(), s.y_next.copy()) for s in network.with_feedback}
    passes.backward(error)
    for s in network.with_feedback:
        assert s.y.shape[1] == s.n_in and len(s.y) == len(s.y_next)
        assert close(s.y_next, s.y @ s.W.T + (0 if s.b is None else s.b))
        assert close(s.W_gradient, rows(s.delta).T @ s.y)
        assert all(np.array_equal(now, before) for now, before in zip((s.y, s.y_next), seen[s.name]))
    first = network.synapses[0]
    assert first.y is first.y_next is first.delta is None
    passes.forward(rng.standard_normal((2, 8, 8, 3)), train=False)
    assert all(s.y is None for s in network.synapses)


def test_measuring_angles_leaves_a_rule_what_it_asked_for():
    config = Config(model="mlp", hidden=(7,), device="cpu", epochs=1, batch_size=500)
    training = prepare.prepare(config)
    for s in training.network.with_feedback:
        s.keep_delta = True
    records = [record for record in training.run() if record]
    assert records and all(s.keep_delta for s in training.network.with_feedback)


def test_several_processes_are_refused():
    network, rule = wtref.build("mlp", (8, 8, 1), 10), Watching()
    network.initialise(CPU, np.random.default_rng(0))
    for s in network.with_feedback:
        rule.connect(s, 10)
    with pytest.raises(wtref.InputError, match="sees the activities and errors of a whole batch; train it in one process"):
        prepare._faster(Config(), CPU, SimpleNamespace(size=2), network, rule)
