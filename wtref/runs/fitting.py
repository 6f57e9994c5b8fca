"""Does a checkpoint fit the network that is to take it over?  Checked before anything is taken over.

All raise ValueError where it does not; the message says what was found and what would be right.
"""

import numpy as np

from wtref.rules import KolenPollack
from wtref.runs.stored import check_record
from wtref.values import check_entries

PLAIN = {
    "epoch": int, "position": int, "loss_sum": float, "wrong": int, "seen": int, "seconds": float, "waited": float,
    "best": dict | None, "generator": dict, "rule": dict[str, int],
}  # fmt: skip
BEST = {"epoch": int, "test_error": float}
RUNNING = ("running_mean", "running_var")  # which no gradient moves


def load(network, device, arrays, plain):
    """Bring a network without feedback weights to a checkpoint's arrays."""
    check_plain(plain)
    forward, wanted = _learned(arrays), network.arrays()
    check_arrays({name: array for name, array in forward.items() if not name.endswith(".B")}, wanted)
    for name, array in wanted.items():
        array[...] = device.array(arrays[name])


def check_training(arrays, plain, training):
    """Does the checkpoint hold all that resuming.restore takes over?"""
    check_plain(plain)
    epochs, steps = training.config.epochs, training.feed.steps
    if plain["epoch"] > epochs or plain["position"] >= steps:
        found = f"epoch {plain['epoch']} and {plain['position']} steps more"
        raise ValueError(f"it must hold at most epoch {epochs}, of {steps} steps each, found {found}")
    wanted = training.network.arrays()
    check_arrays(_learned(arrays), wanted)
    begun = plain["epoch"] or plain["position"]
    check_arrays(_velocities(arrays), _moving(wanted, training.rule) if begun else {})


def check_plain(plain):
    """Does a checkpoint's plain.json hold what resuming.state writes?"""
    check_entries(plain, PLAIN)
    if plain["best"] is not None:
        check_entries(plain["best"], BEST)
    if plain.get("record") is not None:
        check_record(plain["record"])
    counts = {name: plain[name] for name in ("epoch", "position", "wrong", "seen")} | plain["rule"]
    for name, count in counts.items():
        if not 0 <= count < 2**63:
            raise ValueError(f"{name} must be a count, found {count}")
    try:
        np.random.PCG64().state = plain["generator"]
    except Exception as error:  # NumPy raises what the values make it raise
        raise ValueError(f"generator is not the state of a random generator ({error!r})") from None


def check_arrays(found, wanted):
    """Are the arrays `found` of the names, shapes and dtype of those wanted?"""
    for name in sorted(found.keys() ^ wanted.keys()):
        raise ValueError(f"{name} is {'missing' if name in wanted else 'no array of this network'}")
    for name, array in wanted.items():
        theirs, ours = (f"{x.dtype} of shape {x.shape}" for x in (found[name], array))
        if theirs != ours:
            raise ValueError(f"{name} must be {ours}, found {theirs}")


def _learned(arrays):
    return {name: array for name, array in arrays.items() if not name.startswith("velocity.")}


def _velocities(arrays):
    """The velocities, by the names of the arrays that they belong to."""
    return {name.removeprefix("velocity."): v for name, v in arrays.items() if name.startswith("velocity.")}


def _moving(wanted, rule):
    """Those of the arrays wanted that have a velocity once training has begun."""
    still = RUNNING if isinstance(rule, KolenPollack) else (*RUNNING, ".B")
    return {name: array for name, array in wanted.items() if not name.endswith(still)}
