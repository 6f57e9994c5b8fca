"""The training step of a CPU, in which all batch norms learn in one call: the same bits as those of train_step."""

from dataclasses import replace
from types import FunctionType

import pytest

from kernel_suite import compiled
from small_trainings import MLP, RESNET, arrays, epochs, records, same, training
from wtref.activations import ReLU
from wtref.fast import JoinedStep
from wtref.layers import BatchNorm, Flatten, Linear
from wtref.models import Network
from wtref.runs import resuming
from wtref.runs.prepare import assemble, make_rule
from wtref.training import train_step

compiled()  # skips without a C compiler


@pytest.mark.parametrize("config", [MLP, RESNET, replace(RESNET, nesterov=True, dtype="float64", epochs=1)])
def test_a_training_has_the_bits_of_train_step(config):
    joined, plain = training(config, rule="kp"), training(config, rule="kp")
    assert isinstance(joined.train_step, JoinedStep)
    plain.train_step = train_step
    assert records(joined) == records(plain)
    assert same(arrays(joined), arrays(plain))


def test_a_training_goes_on_from_restored_arrays():
    """Those in which it has trained before: they are changed in place."""
    wanted, found = training(RESNET, rule="kp"), training(RESNET, rule="kp", seed=1)
    for run in (wanted, found):
        next(run.run())
    kept, plain = resuming.state(wanted)
    resuming.restore(found, {name: x.copy() for name, x in kept.items()}, plain)
    found.feed = wanted.feed
    for run in (wanted, found):
        list(epochs(run))
    assert same(arrays(wanted), arrays(found))


def test_norms_of_another_class_learn_by_their_own_method():
    class Still(BatchNorm):
        def learn(self, sgd):
            pass

    feed, device = training(MLP).feed, training(MLP).device
    for norm, step in ((BatchNorm("norm", 9), JoinedStep), (Still("norm", 9), FunctionType)):
        network = Network(Flatten(), Linear("hidden", 64, 9), norm, ReLU(), Linear("output", 9, 10))
        made = assemble(MLP, network, make_rule(MLP), feed, device)
        next(made.run())
        assert type(made.train_step) is step and (norm.gamma == 1).all() == (type(norm) is Still)
