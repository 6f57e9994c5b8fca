"""The audit tells which rules transport weights, and catches every rule that says it does not, by the hook that does."""

import copy

import numpy as np
import pytest

from device_double import xp
from wtref import layers
from wtref.cli.main import main
from wtref.device import Device, open_device
from wtref.relatives import RULES, DirectFeedbackAlignment
from wtref.rules import Backprop, FeedbackAlignment, KolenPollack, Rule, WeightMirror
from wtref.studies.audit import Finding, audit, table
from wtref.synapses import Synapses

CPU = open_device("cpu", "float64")
TRANSPORT = {"bp": "connect", "ss": "before_backward", "usf": "before_backward", "frsf": "before_backward", "brsf": "before_backward"}
HOOKS = ("connect", "before_training", "before_backward", "learn", "between_steps")


@pytest.fixture(scope="module")
def findings():
    return {finding.rule: finding for finding in audit(CPU)}


def audited(rule, model="mlp"):
    (finding,) = audit(CPU, {"mine": rule}, model)
    return finding


# --- the program's own rules -------------------------------------------------------------------------------


def test_every_rule_is_audited(findings):
    assert findings.keys() == RULES.keys()


@pytest.mark.parametrize("rule", RULES)
def test_who_transports_weights_and_who_says_so(findings, rule):
    finding = findings[rule]
    assert finding.declares == (finding.found is not None) == (rule in TRANSPORT)
    assert finding.honest


@pytest.mark.parametrize("rule, hook", TRANSPORT.items())
def test_the_hook_that_transports_is_named(findings, rule, hook):
    assert findings[rule].found.startswith(f"{hook} ")


@pytest.mark.parametrize("options", [{"noise": "independent"}, {"rows": 16}, {"bound": "scaling"}, {"activation": "relu"}, {"every": 2}])
@pytest.mark.parametrize("model", ["mlp", "resnet8"])
def test_the_mirror_is_honest_in_all_its_forms(options, model):
    assert audited(lambda: WeightMirror(**options), model).found is None


# --- planted cheats ----------------------------------------------------------------------------------------


def planted(base, hook, cheat):
    """The rule `base`, which in one hook does also `cheat(rule, s, *arguments)`."""

    def method(self, s, *arguments):
        getattr(base, hook)(self, s, *arguments)
        if s.B is not None:
            cheat(self, s, *arguments)

    return type("Cheat", (base,), {hook: method})


CHEATS = []


def a_cheat(cheat):
    CHEATS.append(cheat)
    return cheat


@a_cheat
def let_B_be_it(rule, s, *arguments):
    s.B = s.W.T


@a_cheat
def copy_it(rule, s, *arguments):
    s.B = s.W.T.copy()


@a_cheat
def array_of_it(rule, s, *arguments):
    s.B = np.array(s.W).T


@a_cheat
def as_an_array(rule, s, *arguments):
    s.B[...] = np.asarray(s.W.T)


@a_cheat
def assign_it(rule, s, *arguments):
    s.B[...] = s.W.T


@a_cheat
def assign_through_copyto(rule, s, *arguments):
    np.copyto(s.B, s.W.T)


@a_cheat
def slice_it(rule, s, *arguments):
    s.B[0, 0] = s.W[0, 0]


@a_cheat
def add_it(rule, s, *arguments):
    s.B += s.W.T


@a_cheat
def add_into_it(rule, s, *arguments):
    s.B = s.W.T + 0 * s.B


@a_cheat
def add_through_out(rule, s, *arguments):
    np.add(s.B, 1e-9 * s.W.T, out=s.B)


@a_cheat
def take_its_signs(rule, s, *arguments):
    s.B = abs(s.B) * np.sign(s.W.T)


@a_cheat
def take_its_sum(rule, s, *arguments):
    if s.name == "output":
        s.B = s.B + s.W.sum()


@a_cheat
def take_its_norm(rule, s, *arguments):
    s.B *= np.linalg.norm(s.W)


@a_cheat
def ask_where_it_is_positive(rule, s, *arguments):
    s.B = np.where(s.W.T > 0, 0.1, -0.1)


@a_cheat
def multiply_by_it(rule, s, *arguments):
    s.B = s.B @ s.W @ s.B


@a_cheat
def multiply_through_einsum(rule, s, *arguments):
    s.B = np.einsum("oi->io", s.W)


@a_cheat
def iterate_over_it(rule, s, *arguments):
    s.B = np.stack(list(s.W), axis=1)


@a_cheat
def view_it(rule, s, *arguments):
    s.B = s.W.view().T


@a_cheat
def look_into_its_base(rule, s, *arguments):
    s.B = s.W.base.T


@a_cheat
def read_its_buffer(rule, s, *arguments):
    s.B = np.frombuffer(s.W).reshape(s.W.shape).T


@a_cheat
def read_its_memory(rule, s, *arguments):
    s.B = np.frombuffer(memoryview(s.W)).reshape(s.W.shape).T


@a_cheat
def read_its_data(rule, s, *arguments):
    s.B = np.frombuffer(s.W.data).reshape(s.W.shape).T


@a_cheat
def read_its_interface(rule, s, *arguments):
    s.B = np.asarray(type("Memory", (), {"__array_interface__": s.W.__array_interface__})()).T


@a_cheat
def read_its_bytes(rule, s, *arguments):
    s.B = np.frombuffer(s.W.tobytes()).reshape(s.W.shape).T


@a_cheat
def ask_for_all_arrays(rule, s, *arguments):
    s.B = s.arrays()["W"].T


@a_cheat
def copy_the_synapses(rule, s, *arguments):
    s.B = copy.copy(s).W.T + 0


@a_cheat
def write_B_into_it(rule, s, *arguments):
    s.W[...] = s.B.T


@a_cheat
def replace_it_by_B(rule, s, *arguments):
    s.W = s.B.T


@a_cheat
def write_B_into_it_through_copyto(rule, s, *arguments):
    np.copyto(s.W, s.B.T)


@a_cheat
def scale_it(rule, s, *arguments):
    s.W *= 0.5


@a_cheat
def draw_it_oneself(rule, s, *arguments):
    s.initialise(s.device, np.random.default_rng(5))
    s.B = np.random.default_rng(5).standard_normal((s.n_out, s.n_in)).T * s.std


def assert_found(rule, hook, model="mlp"):
    finding = audited(rule, model)
    assert finding.found.startswith(f"{hook} "), finding
    assert not finding.declares and not finding.honest
    assert table([finding]).splitlines()[1].split()[:5] == ["mine", "yes", "NOT", "AS", "IT"]


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
    """Of B, of W itself, or of a bias."""
    for array in ("B", "W", "b"):
        cheat = lambda rule, s, sgd: sgd.descend(getattr(s, array), direction(s), decay=False)  # noqa: B023, E731
        assert_found(planted(FeedbackAlignment, "learn", cheat), "learn")


def test_a_gradient_that_listens_to_the_optimizer_is_found():
    """The optimizer adds the decayed W to it."""

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
    """By a reference that Python cannot hide."""
    assert_found(planted(FeedbackAlignment, hook, lambda rule, s, *arguments: np.copyto(s.B, vars(s)["_synapses"].W.T)), hook)


def test_memory_that_passing_activity_has_seen_is_not_W_s():
    """An activity of one's own making is multiplied by a copy: it cannot keep W and read it later."""

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
    """W of an audited rule moves as without a guard: Kolen-Pollack's B, which never sees W, draws nearer to it."""
    seen = []

    class Watching(KolenPollack):
        def between_steps(self, s, step):
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
    assert finding.found in table([finding]) and "as it says" in table([finding])


def test_a_rule_is_whatever_makes_one():
    made = audited(lambda: Backprop())
    assert made.declares and made.honest and made.found == "connect lets B be W"


@pytest.mark.parametrize("found, declares, honest", [(None, False, True), (None, True, True), ("how", True, True), ("how", False, False)])
def test_honest_is_who_declares_what_was_found(found, declares, honest):
    assert Finding("fa", declares, found).honest == honest
    assert ("NOT AS IT SAYS" in table([Finding("fa", declares, found)])) == (not honest)


@pytest.mark.parametrize("rule", RULES)
def test_arrays_of_another_device_are_guarded_too(rule):
    """With arrays that know nothing of NumPy's protocols."""
    device = Device("double", xp, np.float64)
    (finding,) = audit(device, {rule: RULES[rule]}, "mlp")
    assert finding.honest and finding.declares == (finding.found is not None)
    for cheat in (let_B_be_it, copy_it, assign_it, slice_it, add_it, write_B_into_it):
        (finding,) = audit(device, {rule: planted(RULES[rule], "learn", cheat)}, "mlp")
        assert finding.found.startswith(f"{TRANSPORT.get(rule, 'learn')} ")


# --- the command -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_command_finds_all_in_order(capsys, dtype):
    assert main(["audit", "--device", "cpu", "--dtype", dtype]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == list(RULES)
    assert {row.split()[0] for row in rows if row.split()[1] == "yes"} == TRANSPORT.keys()
    assert all("as it says" in row for row in rows) and not any("NOT" in row for row in rows)


def test_the_command_exits_1_on_a_cheat(monkeypatch, capsys):
    monkeypatch.setattr(FeedbackAlignment, "before_backward", let_B_be_it)
    assert main(["audit", "--device", "cpu"]) == 1
    rows = {row.split()[0]: row for row in capsys.readouterr().out.splitlines()}
    assert rows["fa"].endswith("NOT AS IT SAYS  before_backward lets B be W")
    assert rows["kp"].endswith("as it says")
