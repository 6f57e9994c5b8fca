"""Ways to use W that the audit has to find, and rules in which one of them is planted."""

import copy

import numpy as np

from wtref.device import open_device
from wtref.studies.audit import audit, table

CPU = open_device("cpu", "float64")
HOOKS = ("connect", "before_training", "before_backward", "learn", "between_steps")


def audited(rule, model="mlp"):
    (finding,) = audit({"mine": rule}, model)
    return finding


def assert_found(rule, hook, model="mlp"):
    finding = audited(rule, model)
    assert finding.found.startswith(f"{hook} "), finding
    assert not finding.declares and not finding.honest
    assert table([finding]).splitlines()[1].split()[:5] == ["mine", "yes", "NOT", "AS", "DECLARED"]


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
