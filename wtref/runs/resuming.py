"""All it takes to leave a training between two steps and go on as if nothing had happened."""

from wtref.device import to_host

COUNTS = ("epoch", "position", "loss_sum", "wrong", "seen", "seconds", "waited", "best")  # a Training's attributes


def state(training):
    """(host arrays by name, plain values for JSON), the same in every process of a group."""
    training.flush()
    velocity = {f"velocity.{name}": v for name, v in training.sgd.velocity.items()}
    arrays = {name: to_host(x) for name, x in {**training.network.arrays(), **velocity}.items()}
    counts = {name: getattr(training, name) for name in COUNTS}
    return arrays, {**counts, "generator": training.rule.rng.bit_generator.state, "rule": training.rule.state}


def restore(training, arrays, plain):
    """Bring a fresh Training of the same Config to what `state` gave."""
    learned = training.network.arrays()
    for name, x in learned.items():
        x[...] = training.device.array(arrays[name])
    for name, x in arrays.items():
        if name.startswith("velocity."):
            training.sgd.velocity_of(learned[name.removeprefix("velocity.")])[...] = training.device.array(x)
    for name in COUNTS:
        setattr(training, name, plain[name])
    training.rule.rng.bit_generator.state = plain["generator"]
    training.rule.state.update(plain["rule"])
