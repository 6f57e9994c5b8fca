"""The passes of any rule, a user's own too, are those of PyTorch's autograd with the B that the rule had; a fault in them is found."""

import pytest

pytest.importorskip("torch")

import wtref  # noqa: E402
from wtref import layers
from wtref.cli.main import main
from wtref.models import Options
from wtref.oracle import CHECKED, check

OTHERS = [rule for rule in wtref.RULES if rule not in CHECKED]
NARROW = Options(hidden=(20, 12), width=4)


class Signs(wtref.Rule):
    """A rule of one's own, which changes B in every step."""

    def learn(self, s, sgd):
        super().learn(s, sgd)
        if s.B is not None:
            s.B -= 0.01 * s.device.xp.sign(s.W_gradient.T)


@pytest.fixture
def signs(monkeypatch):
    monkeypatch.setitem(wtref.RULES, "signs", Signs)


@pytest.mark.parametrize("rule", [*(pytest.param(rule, marks=pytest.mark.slow) if rule in ("om", "ia") else rule for rule in OTHERS), "signs"])
def test_the_passes_of_every_rule_are_those_of_autograd(signs, rule):
    for row in check.check(["mlp", "resnet8"], [rule], steps=2, options=NARROW):
        assert row.passed and row.delta_B is None and 0 < row.delta_W <= row.after, row


def test_a_backward_pass_through_another_matrix_than_b_is_found(signs, monkeypatch):
    own = layers.Linear.backward

    def through_W(layer, delta):
        below = own(layer, delta)
        return None if below is None else delta @ layer.synapses.W

    monkeypatch.setattr(layers.Linear, "backward", through_W)
    (row,) = check.check(["mlp"], ["signs"], steps=2, options=NARROW, kernels="plain")
    assert not row.passed and row.delta_W > 0.1 and row.forward < 1e-9


def test_a_b_that_the_rule_moves_before_the_backward_pass_is_the_one_compared(monkeypatch):
    class Moved(wtref.Rule):
        def before_backward(self, s, error):
            s.B = 2 * s.B

    monkeypatch.setitem(wtref.RULES, "moved", Moved)
    assert wtref.check("moved", models=["mlp"])[0]["passed"]


def test_the_command_checks_the_rule_of_a_plugin(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("import wtref\n@wtref.rule('plugged')\nclass Mine(wtref.Rule): pass\n")
    try:
        assert main("check --plugin mine.py --rules plugged --models mlp --device cpu".split()) == 0
    finally:
        wtref.RULES.pop("plugged", None)
    assert "mlp plugged: largest relative error" in capsys.readouterr().out.replace("  ", " ")
