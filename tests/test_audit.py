"""The audit tells which rules read W on the way back, and catches a rule that says it does not."""

import numpy as np
import pytest

from wtref.audit import Finding, audit, table
from wtref.backend import open_device
from wtref.cli import main
from wtref.rules import RULES, Backprop, FeedbackAlignment, WeightMirror

CPU = open_device("cpu", "float64")
READ_W = {"bp", "ss", "usf", "frsf", "brsf"}


@pytest.fixture(scope="module")
def findings():
    return {finding.rule: finding for finding in audit(CPU)}


def test_every_rule_is_audited(findings):
    assert findings.keys() == RULES.keys()


@pytest.mark.parametrize("rule", RULES)
def test_who_reads_W_and_who_says_so(findings, rule):
    finding = findings[rule]
    assert finding.reads_W == finding.claims == (rule in READ_W)
    assert finding.honest


@pytest.mark.parametrize("rule", RULES)
def test_in_how_many_layers(findings, rule):
    """Only the output layer's delta comes from the loss alone."""
    finding = findings[rule]
    changed = finding.layers - 1 if rule in READ_W else 0
    assert (finding.deltas, finding.products, finding.layers) == (changed, changed, 10)


def transpose(self, s, rng, error):
    s.B = s.W.T


def signs(self, s, rng, error):
    s.B = abs(s.B) * np.sign(s.W.T)


def one_weight(self, s, rng, error):
    if s.layer == 1:
        s.B[0, 0] = s.W[0, 0]


def sum_only(self, s, rng, error):
    if s.name == "output":
        s.B = s.B + s.W.sum()


def a_little_of_the_error(self, s, rng, error):
    if s.layer == 1:
        error += 1e-12 * s.W[0, 0]


CHEATS = [transpose, signs, one_weight, sum_only, a_little_of_the_error]


@pytest.mark.parametrize("model", ["mlp", "resnet8"])
@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_is_found(monkeypatch, cheat, model):
    monkeypatch.setattr(FeedbackAlignment, "before_backward", cheat)
    (finding,) = audit(CPU, ["fa"], model)
    assert finding.reads_W and not finding.claims and not finding.honest


def test_a_view_of_W_kept_since_the_start_is_found(monkeypatch):
    monkeypatch.setattr(WeightMirror, "connect", Backprop.connect)
    (finding,) = audit(CPU, ["wm"], "mlp")
    assert not finding.honest


def test_a_rule_that_says_it_reads_W_may(monkeypatch):
    monkeypatch.setattr(FeedbackAlignment, "before_backward", transpose)
    monkeypatch.setattr(FeedbackAlignment, "transports_weights", True)
    (finding,) = audit(CPU, ["fa"], "mlp")
    assert finding.reads_W and finding.honest


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_command_finds_all_in_order(capsys, dtype):
    assert main(["audit", "--device", "cpu", "--dtype", dtype]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == list(RULES)
    assert {row.split()[0] for row in rows if row.split()[1] == "yes"} == READ_W
    assert all(row.endswith("as it says") for row in rows)


def test_the_command_exits_1_on_a_cheat(monkeypatch, capsys):
    monkeypatch.setattr(FeedbackAlignment, "before_backward", transpose)
    assert main(["audit", "--device", "cpu"]) == 1
    rows = {row.split()[0]: row for row in capsys.readouterr().out.splitlines()}
    assert rows["fa"].endswith("CLAIMS TO BE FREE OF WEIGHT TRANSPORT AND IS NOT")
    assert rows["kp"].endswith("as it says")


@pytest.mark.parametrize("deltas, products", [(1, 0), (0, 1)])
def test_a_change_in_either_place_counts(deltas, products):
    assert not Finding("fa", False, deltas, products, 10).honest
    assert "CLAIMS" in table([Finding("fa", False, deltas, products, 10)])
