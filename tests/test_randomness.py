"""The random streams of a run: every generator begins where no other does."""

import itertools

import numpy as np
import pytest

from wtref import randomness
from wtref.datasets import open_feed
from wtref.runs.config import Config
from wtref.runs.prepare import prepare

INDICES = {"WEIGHTS": 0, "FEEDBACK": 0, "ORDER": 1, "VARIATION": 2, "NOISE": 2, "ORTHOGONAL_NOISE": 2, "PRETRAINING": 0}
EDGES = [*range(20), 255, 256, 65535, 65536, 2**31, 2**32 - 1]


def beginning(rng):
    state = rng.bit_generator.state["state"]
    return state["state"], state["inc"]


def test_no_two_names_are_one_stream():
    named = {name: number for name, number in vars(randomness).items() if name.isupper()}
    assert named.keys() == INDICES.keys() and len(set(named.values())) == len(named)
    for seed in (0, 1, 2**32):
        found = [beginning(np.random.default_rng(seed))]
        for name, number in named.items():
            for indices in itertools.product(EDGES, repeat=INDICES[name]):
                found.append(beginning(randomness.generator(seed, number, *indices)))
        assert len(set(found)) == len(found) == 1 + 3 + len(EDGES) + 3 * len(EDGES) ** 2


@pytest.mark.parametrize("rule", ["wm", "om"])
@pytest.mark.parametrize("seed", [0, 1])
def test_all_generators_of_a_run_begin_in_different_places(rule, seed, monkeypatch):
    """The mirror noise of layers 1 and 2 was once drawn from the streams of the order and the augmentation."""
    drawn, default_rng = [], np.random.default_rng

    def recorded(*arguments):
        rng = default_rng(*arguments)
        drawn.append(beginning(rng))
        return rng

    config = Config(
        model="mlp", hidden=(8, 6, 4), rule=rule, dataset="digits", crop=1, flip=True, epochs=2, batch_size=500, device="cpu",
        kernels="plain", threads=1, seed=seed,
    )  # fmt: skip
    device = config.open_device()
    feed = open_feed(config, device)
    fixed = feed.fixed_batch()  # the first batch of the first epoch once more, on purpose
    monkeypatch.setattr(feed, "fixed_batch", lambda: fixed)
    monkeypatch.setattr(np.random, "default_rng", recorded)
    training = prepare(config, device, feed=feed)
    for _ in training.run():
        pass
    mirror_steps = sum(training.rule.state.values())
    assert len(drawn) == 2 + 2 + 2 * feed.steps + mirror_steps and mirror_steps >= 3 * 2 * feed.steps
    assert len(set(drawn)) == len(drawn)


def test_a_stream_is_independent_of_what_was_drawn_before():
    def draw():
        return randomness.generator(7, randomness.ORDER, 3).random(5)

    first = draw()
    randomness.generator(7, randomness.WEIGHTS).random(100)
    np.random.seed(1)
    assert np.array_equal(draw(), first)
    right = np.random.Generator(np.random.PCG64(np.random.SeedSequence(7, spawn_key=(2, 3)))).random(5)
    assert np.array_equal(first, right)
