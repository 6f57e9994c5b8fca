"""What a checkpoint holds of a Training: taken from it, checked, and put back.

A training that is left between two steps and restored goes on as if it had never stopped.  The checks come before anything
is put back; they raise ValueError, whose message says what was found and what would be right.
"""

import contextlib

import numpy as np

from wtref.angles import Recorder, unchanged
from wtref.device import array_module, to_host
from wtref.errors import InputError
from wtref.files import nan_for_null
from wtref.runs.run_files import check_record
from wtref.values import check_entries

COUNTS = {  # attributes of a Training and their types
    "epoch": int, "position": int, "loss_sum": float, "wrong": int, "seen": int, "seconds": float, "waited": float,
    "best": dict | None,
}  # fmt: skip
PLAIN = COUNTS | {"generator": dict, "rule": dict[str, int]}
BEST = {"epoch": int, "test_error": float}


def state(training):
    """(host arrays by name, plain values for JSON) of a Training, the same in every process of a group."""
    training.flush()
    velocity = {f"velocity.{name}": v for name, v in training.sgd.velocity.items()}
    arrays = {name: to_host(x) for name, x in {**training.network.arrays(), **velocity}.items()}
    counts = {name: getattr(training, name) for name in COUNTS}
    return arrays, {**counts, "generator": training.rule.rng.bit_generator.state, "rule": training.rule.state}


def restore(training, arrays, plain):
    """Bring a new Training of the same Config to what `state` returned."""
    learned = training.network.arrays()
    for name, x in learned.items():
        x[...] = training.device.array(arrays[name])
    for name, v in _velocities(arrays).items():
        training.sgd.velocity_of(learned[name])[...] = training.device.array(v)
    for name in COUNTS:
        setattr(training, name, plain[name])
    training.rule.rng.bit_generator.state = plain["generator"]
    training.rule.state.update(plain["rule"])


def load(network, device, arrays, plain):
    """Check a checkpoint, bring a network to which no rule is connected to its arrays, and give it the checkpoint's B."""
    check_plain(plain)
    learned, wanted = _learned(arrays), network.arrays()
    layers = {s.name for s in network.synapses}
    forward = [name for name in learned if not _is_rule_s(name, layers)]
    check_arrays({name: learned[name] for name in forward}, wanted)
    for name, array in wanted.items():
        array[...] = device.array(arrays[name])
    for s in network.with_feedback:
        if (B := learned.get(f"{s.name}.B")) is not None:
            s.B = device.array(B)


def check_training(arrays, plain, training):
    """Raise ValueError unless a checkpoint holds all that `restore` takes for this Training."""
    check_plain(plain)
    epochs, steps = training.config.epochs, training.feed.steps
    if plain["epoch"] > epochs or plain["position"] >= steps:
        found = f"epoch {plain['epoch']} and {plain['position']} steps more"
        raise ValueError(f"it must hold at most epoch {epochs}, of {steps} steps each, found {found}")
    wanted = training.network.arrays()
    check_arrays(_learned(arrays), wanted)
    begun = plain["epoch"] or plain["position"]
    check_arrays(_velocities(arrays), _with_velocity(training) if begun else {})


def check_plain(plain):
    """Raise ValueError unless a checkpoint's plain values are such as `state` returns."""
    check_entries(plain, PLAIN)
    if plain["best"] is not None:
        check_entries(plain["best"], BEST)
    if plain.get("record") is not None:
        check_record(nan_for_null(plain["record"]))
    counts = {name: plain[name] for name in ("epoch", "position", "wrong", "seen")} | plain["rule"]
    for name, count in counts.items():
        if not 0 <= count < 2**63:
            raise ValueError(f"{name} must be a count, found {count}")
    try:
        np.random.PCG64().state = plain["generator"]
    except Exception as error:  # NumPy raises errors of many types here, according to the values
        raise ValueError(f"generator is not the state of a random generator ({error!r})") from None


def check_arrays(found, wanted):
    """Raise ValueError unless the arrays `found` have the names, shapes and dtypes of those `wanted`; both {name: array}."""
    for name in sorted(found.keys() ^ wanted.keys()):
        raise ValueError(f"{name} is {'missing' if name in wanted else 'no array of this network'}")
    for name, array in wanted.items():
        theirs, ours = (f"{x.dtype} of shape {x.shape}" for x in (found[name], array))
        if theirs != ours:
            raise ValueError(f"{name} must be {ours}, found {theirs}")


@contextlib.contextmanager
def naming(path):
    """A context that turns the ValueError of a check into an InputError that names the checkpoint's file."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"{path} does not fit the run's network: {error}") from None


def _is_rule_s(name, layers):
    """Whether an array belongs to a layer's feedback path: its B, or an array of the rule's own."""
    layer, _, array = name.rpartition(".")
    return layer in layers and array not in ("W", "b")


def _learned(arrays):
    return {name: array for name, array in arrays.items() if not name.startswith("velocity.")}


def _velocities(arrays):
    """The velocities, by the names of the arrays to which they belong."""
    return {name.removeprefix("velocity."): v for name, v in arrays.items() if name.startswith("velocity.")}


def _with_velocity(training):
    """{name: array} of those that a training step descends, found by one whose activities, errors and gradients are all 1."""
    network, rule, recorder = training.network, training.rule, Recorder(training.sgd)
    ones = array_module(network.synapses[0].W).ones_like
    with unchanged(network, rule):  # several processes would sum up gradients that only one of them has
        for s in network.with_feedback:
            rule.before_backward(s, s.device.array(np.ones((1, training.feed.classes))))
        for s in network.synapses:
            s.W_gradient, s.b_gradient, s.B_gradient = (None if x is None else ones(x) for x in (s.W, s.b, s.B))
            s.y, s.y_next = (ones(s.W[:1]), ones(s.W[:, :1].T)) if s.keep_activity else (None, None)
            s.delta = ones(s.W[:, :1].T) if s.keep_delta else None
            rule.learn(s, recorder)
        for norm in network.norms:
            norm.beta_gradient = norm.gamma_gradient = ones(norm.beta)
            norm.learn(recorder)
        descended = {id(w) for w, _ in recorder.descents}
        return {name: array for name, array in network.arrays().items() if id(array) in descended}
