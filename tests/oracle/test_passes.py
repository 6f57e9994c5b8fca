"""The passes of a user's own rule are those of PyTorch's autograd with the B that the rule had; a fault in them is found."""

import pytest

pytest.importorskip("torch")

import wtref  # noqa: E402
from wtref import layers
from wtref.cli.main import main
from wtref.models import Options
from wtref.oracle import check

NARROW = Options(hidden=(20, 12), width=4)


class Signs(wtref.Rule):
    """A rule of one's own, which changes B in every step."""

    def learn(self, s, sgd):
        super().learn(s, sgd)
        if s.B is not None:
            s.B -= 0.01 * s.device.xp.sign(s.B)


class Direct(Signs, wtref.RULES["dfa"]):
    """The same of a B that receives the network's output error."""


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(wtref.RULES, "signs", Signs)
    monkeypatch.setitem(wtref.RULES, "direct", Direct)


@pytest.mark.parametrize("rule", ["signs", "direct"])
def test_the_passes_of_a_rule_of_one_s_own_are_those_of_autograd(rule):
    rows = check.check(["mlp", "resnet8"], [rule], steps=2, options=NARROW)
    for row in rows:
        assert row.passed and row.delta_B is None and 0 < row.delta_W <= row.after, row
    said = " ".join(check.table(rows).split())
    assert said.endswith(
        f"{rule}: the forward and backward passes of every step, with the B it had in each; what it learns is not compared"
    )


def test_a_backward_pass_through_another_matrix_than_b_is_found(monkeypatch):
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
