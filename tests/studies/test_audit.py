"""The audit tells which of the program's rules transport weights, and lets a rule do what is allowed."""

import numpy as np
import pytest

from cheats import audited, copy_it, let_B_be_it, planted, take_its_signs
from wtref.cli.main import main
from wtref.relatives import RULES
from wtref.rules import Backprop, FeedbackAlignment, KolenPollack, Rule, WeightMirror
from wtref.studies.audit import Finding, audit, table
from wtref.synapses import Synapses

TRANSPORT = {"bp": "connect", "ss": "before_backward", "usf": "before_backward", "frsf": "before_backward", "brsf": "before_backward", "sa": "before_backward",
             "frozen": "connect"}  # fmt: skip


@pytest.fixture(scope="module")
def findings():
    return {finding.rule: finding for finding in audit()}


# --- the program's own rules -------------------------------------------------------------------------------


def test_every_rule_is_audited(findings):
    assert findings.keys() == RULES.keys()


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_declares_its_transport(findings, rule):
    finding = findings[rule]
    assert finding.declares == (finding.found is not None) == (rule in TRANSPORT)
    assert finding.honest


@pytest.mark.parametrize("rule, hook", TRANSPORT.items())
def test_the_hook_that_transports_is_named(findings, rule, hook):
    assert findings[rule].found.startswith(f"{hook} ")


@pytest.mark.parametrize(
    "options",
    [{"rows": 16}, {"window": 1}, {"rows": 5, "window": 200}],
)
@pytest.mark.parametrize("model", ["mlp", pytest.param("resnet8", marks=pytest.mark.slow)])
def test_the_mirror_is_honest_in_all_its_forms(options, model):
    assert audited(lambda: WeightMirror(**options), model).found is None


# --- what is allowed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["before_training", "between_steps"])
def test_identity_activity_through_W_in_mirror_mode_is_allowed_by_design(hook):
    def mirror(rule, s, *arguments):
        s.B = (np.eye(s.n_in) @ s.W.T).copy()

    assert audited(planted(FeedbackAlignment, hook, mirror)).found is None
    assert audited(planted(FeedbackAlignment, hook, lambda rule, s, *step: setattr(s, "B", (s.W @ np.eye(s.n_in)).T))).found is None


def test_shapes_draws_and_what_the_cells_did_are_open_to_all():
    class Own(Rule):
        def connect(self, s, classes):
            assert s.W.shape == (s.n_out, s.n_in) and s.W.T.shape == (s.n_in, s.n_out) and s.W.ndim == 2
            assert isinstance(s, Synapses) and s.W.dtype == s.device.dtype
            s.mine, s.B = s.draw_feedback(self.rng), s.draw_feedback(self.rng)

        def learn(self, s, sgd):
            super().learn(s, sgd)
            if s.B is not None:
                s.B -= sgd.lr * (s.W_gradient.T + sgd.weight_decay * s.B) + 0 * s.mine

    assert audited(Own).found is None
    assert audited(Own, "resnet8").found is None


def test_guarded_training_is_training(findings):
    """The W of an audited rule is descended as without guards: Kolen-Pollack's B approaches it."""
    seen = []

    class Watching(KolenPollack):
        def between_steps(self, s, sgd, step):
            seen.append((s.name, step, np.eye(s.n_in) @ s.W.T - s.B))

    assert audited(Watching).found is None
    gaps = {(name, step): gap for name, step, gap in seen}
    (name, _, _), *_ = seen
    lr, decay, momentum = 0.01, 0.01, 0.9
    first = gaps[name, 0] / (1 - lr * decay)
    velocity = momentum * decay * first + decay * gaps[name, 0]
    np.testing.assert_allclose(gaps[name, 1], gaps[name, 0] - lr * velocity, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("cheat", [let_B_be_it, copy_it, take_its_signs])
def test_a_rule_that_declares_its_transport_may_and_is_named_with_how(cheat):
    rule = planted(FeedbackAlignment, "before_backward", cheat)
    rule.transports_weights = True
    finding = audited(rule)
    assert finding.declares and finding.honest and finding.found.startswith("before_backward ")
    assert finding.found in " ".join(table([finding]).split()) and "as declared" in table([finding])


def test_a_rule_is_whatever_makes_one():
    made = audited(lambda: Backprop())
    assert made.declares and made.honest and made.found == "connect lets B be W"


@pytest.mark.parametrize("found, declares, honest", [(None, False, True), (None, True, True), ("how", True, True), ("how", False, False)])
def test_a_rule_that_declares_its_transport_is_honest(found, declares, honest):
    assert Finding("fa", declares, found).honest == honest
    assert ("NOT AS DECLARED" in table([Finding("fa", declares, found)])) == (not honest)


# --- the command -------------------------------------------------------------------------------------------


def test_the_command_finds_all_in_order(capsys):
    assert main(["audit"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == list(RULES) and max(map(len, rows)) <= 80
    assert {row.split()[0] for row in rows if row.split()[1] == "yes"} == TRANSPORT.keys()
    assert all("as declared" in row for row in rows) and not any("NOT" in row for row in rows)


@pytest.mark.slow
def test_the_command_exits_1_on_a_cheat(monkeypatch, capsys):
    monkeypatch.setattr(FeedbackAlignment, "before_backward", let_B_be_it)
    assert main(["audit"]) == 1
    rows = {row.split()[0]: row for row in capsys.readouterr().out.splitlines()}
    assert rows["fa"].endswith("NOT AS DECLARED  before_backward lets B be W")
    assert rows["kp"].endswith("as declared")


def test_a_long_name_shifts_no_column():
    long = Finding("a-rule-whose-name-has-30-chars", True, "learn reads W in add")
    rows = table([Finding("fa", False, None), long]).splitlines()
    assert max(map(len, rows)) <= 80
    assert len({row.index(word) for row, word in zip(rows, ("transports", "no", "yes"))}) == 1
    assert len({row.index(word) for row, word in zip(rows, ("verdict", "as declared", "as declared"))}) == 1
