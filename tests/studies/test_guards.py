"""The guards catch every rule that uses W's values, and name the method that does."""

import numpy as np
import pytest

from cheats import (
    CHEATS,
    HOOKS,
    add_it,
    assert_found,
    assign_through_copyto,
    audited,
    copy_it,
    let_B_be_it,
    planted,
    read_its_memory,
    slice_it,
    write_B_into_it,
)  # fmt: skip
from wtref import layers
from wtref.relatives import RULES, DirectFeedbackAlignment
from wtref.rules import FeedbackAlignment, KolenPollack, Rule, WeightMirror


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("cheat", CHEATS)
def test_a_cheat_is_found_and_its_hook_is_named(cheat, hook):
    assert_found(planted(FeedbackAlignment, hook, cheat), hook)


@pytest.mark.parametrize("base", [KolenPollack, WeightMirror, DirectFeedbackAlignment, Rule])
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("cheat", [copy_it, assign_through_copyto, slice_it, read_its_memory])
def test_a_cheat_is_found_in_any_rule(base, cheat, hook):
    assert_found(planted(base, hook, cheat), hook)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("cheat", [let_B_be_it, add_it, slice_it, write_B_into_it])
def test_a_cheat_is_found_in_a_residual_network(cheat, hook):
    assert_found(planted(FeedbackAlignment, hook, cheat), hook, "resnet8")


@pytest.mark.parametrize("hook", ["before_backward", "learn"])
@pytest.mark.parametrize("layer", [1, 5, 9])
def test_a_cheat_in_one_layer_alone_is_found(hook, layer):
    def cheat(rule, s, *arguments):
        if s.layer == layer:
            s.B[-1, -1] = s.W[-1, -1]

    assert_found(planted(FeedbackAlignment, hook, cheat), hook, "resnet8")


@pytest.mark.parametrize("direction", [lambda s: s.W, lambda s: s.W.T])
def test_W_as_a_gradient_is_found(direction):
    """As the gradient of B, of W itself, or of a bias."""
    for array in ("B", "W", "b"):
        cheat = lambda rule, s, sgd: sgd.descend(getattr(s, array), direction(s), decay=False)  # noqa: B023, E731
        assert_found(planted(FeedbackAlignment, "learn", cheat), "learn")


def test_a_gradient_that_records_its_operands_is_found():
    """The optimizer would add the decayed W to such an array."""

    class Spy(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs, **options):
            kept.append([np.array(x) for x in inputs])
            return np.zeros(self.shape)

    kept = []
    assert_found(planted(FeedbackAlignment, "learn", lambda rule, s, sgd: sgd.descend(s.W, s.W_gradient.view(Spy), decay=True)), "learn")
    assert not kept


def test_the_optimizer_shows_no_arrays():
    for name in ("arrays", "velocity", "velocity_of", "name_of"):
        cheat = lambda rule, s, sgd: getattr(sgd, name)  # noqa: B023, E731
        assert_found(planted(FeedbackAlignment, "learn", cheat), "learn")


@pytest.mark.parametrize("cheat", [
    lambda rule, s, error: np.add(error, 1e-12 * s.W[0, 0], out=error),
    lambda rule, s, error: np.add(error, 1e-12 * s.W.sum(), out=error),
    lambda rule, s, error: np.copyto(error, error + 1e-12 * s.W.mean()),
])  # fmt: skip
def test_a_little_of_W_added_to_the_error_is_found(cheat):
    assert_found(planted(FeedbackAlignment, "before_backward", cheat), "before_backward")


@pytest.mark.parametrize("hook", HOOKS[1:])
def test_synapses_kept_from_connect_are_guarded_later(hook):
    class Keeping(FeedbackAlignment):
        def connect(self, s, classes):
            super().connect(s, classes)
            vars(self).setdefault("kept", {})[s.name] = s

    assert_found(planted(Keeping, hook, lambda rule, s, *arguments: np.copyto(s.B, rule.kept[s.name].W.T)), hook)


@pytest.mark.parametrize("hook", [hook for hook in HOOKS if hook not in ("before_training", "between_steps")])
def test_activity_passes_through_W_in_mirror_mode_alone(hook):
    for passing in (lambda s: np.eye(s.n_in) @ s.W.T, lambda s: (s.W @ np.eye(s.n_in)).T):
        cheat = lambda rule, s, *arguments: setattr(s, "B", passing(s))  # noqa: B023, E731
        assert_found(planted(FeedbackAlignment, hook, cheat), hook)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("backwards", [
    lambda s: np.eye(s.n_in) @ s.W.T.T.T, lambda s: np.eye(s.n_out) @ s.W, lambda s: s.W.T @ np.eye(s.n_out),
])  # fmt: skip
def test_nothing_passes_through_W_backwards(hook, backwards):
    assert_found(planted(FeedbackAlignment, hook, lambda rule, s, *arguments: backwards(s)), hook)


# --- around the guards -------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["connect", "before_backward", "learn"])
def test_what_is_read_from_W_s_own_memory_is_found(hook):
    """Python cannot hide the unguarded synapses; their W holds NaN."""
    assert_found(planted(FeedbackAlignment, hook, lambda rule, s, *arguments: np.copyto(s.B, vars(s)["_synapses"].W.T)), hook)


class Hiding(Rule):
    """A rule that swallows what the guards raise."""

    def learn(self, s, sgd):
        super().learn(s, sgd)
        try:
            s.B[...] = s.W.T
        except BaseException:
            pass


class Looking(Rule):
    """A rule that transports weights where W is an array."""

    def before_backward(self, s, error):
        if isinstance(s.W, np.ndarray):
            s.B = s.W.T


@pytest.mark.parametrize("rule", [Hiding, Looking])
def test_a_rule_that_evades_the_guards_is_found_as_its_steps_end_otherwise_without_them(rule):
    finding = audited(rule)
    assert not finding.honest and finding.found.endswith("ends with other values without guards")


def test_memory_that_passing_activity_has_seen_is_not_W_s():
    """An activity of the rule's own class is multiplied by a copy of W, so that it cannot keep W and read it later."""

    class Spy:
        def __matmul__(self, W):
            if not isinstance(W, np.ndarray):
                return NotImplemented
            self.kept = W
            return np.zeros((1, W.shape[1]))

    class Keeping(FeedbackAlignment):
        def before_training(self, s):
            vars(self).setdefault("spies", {})[s.name] = spy = Spy()
            spy @ s.W.T
            if "_synapses" in vars(s):  # the audit also takes the steps without guards
                seen.append((spy.kept, vars(s)["_synapses"].W))

    seen = []
    assert audited(Keeping).found is None
    assert seen and not any(np.shares_memory(a, b) for a, b in seen)


def reads_W(real):
    def backward(self, delta):
        real(self, delta)
        return delta @ self.synapses.W

    return backward


def reads_a_little_of_W(real):
    def backward(self, delta):
        below = real(self, delta)
        return None if below is None else below + 1e-9 * self.synapses.W.sum()

    return backward


def weighs_B_by_W(real):
    def backward(self, delta):
        s = self.synapses
        real(self, delta)
        return None if s.B is None else delta @ (s.B * s.W.T).T

    return backward


@pytest.mark.parametrize("rule", ["fa", "kp", "wm"])
@pytest.mark.parametrize("cheat", [reads_W, reads_a_little_of_W, weighs_B_by_W])
def test_a_layer_whose_backward_pass_reads_W_is_found(monkeypatch, cheat, rule):
    monkeypatch.setattr(layers.Linear, "backward", cheat(layers.Linear.backward))
    assert_found(RULES[rule], "the backward pass")


@pytest.mark.parametrize("rule", ["fa", "kp", "wm"])
def test_a_layer_that_keeps_W_from_the_forward_pass_is_found(monkeypatch, rule):
    forward, backward = layers.Linear.forward, layers.Linear.backward

    def keeping(self, y, train=True):
        self.kept = self.synapses.W.copy()
        return forward(self, y, train)

    def using(self, delta):
        backward(self, delta)
        return delta @ self.kept

    monkeypatch.setattr(layers.Linear, "forward", keeping)
    monkeypatch.setattr(layers.Linear, "backward", using)
    assert_found(RULES[rule], "the backward pass")


# --- errors -------------------------------------------------------------------------------------------------


def test_a_rule_that_handles_its_own_exceptions_hides_nothing():
    def cheat(rule, s, *arguments):
        try:
            s.B = s.W.T.copy()
        except Exception:
            pass

    for hook in HOOKS:
        assert_found(planted(FeedbackAlignment, hook, cheat), hook)


@pytest.mark.parametrize("error", [TypeError, KeyError, AttributeError, ValueError, ZeroDivisionError])
@pytest.mark.parametrize("hook", HOOKS)
def test_an_error_of_a_rule_s_own_is_no_transport(hook, error):
    """It keeps its type, its message and its traceback."""

    def fail(rule, s, *arguments):
        raise error("of its own")

    with pytest.raises(error, match="of its own") as raised:
        audited(planted(FeedbackAlignment, hook, fail))
    assert raised.traceback[-1].name == "fail"


def test_a_misspelt_attribute_is_no_transport():
    with pytest.raises(AttributeError, match="learning_rate"):
        audited(planted(FeedbackAlignment, "learn", lambda rule, s, sgd: sgd.learning_rate))


def test_an_error_that_the_guards_cause_is_transport():
    """Code that needs a real array raises an exception of its own."""

    def cheat(rule, s, *arguments):
        if not isinstance(s.W, np.ndarray):
            raise ValueError("W must be an array")

    assert (
        audited(planted(FeedbackAlignment, "learn", cheat)).found == "learn fails only where W is guarded: ValueError: W must be an array"
    )
