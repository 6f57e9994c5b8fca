"""JAX's side of the benchmark takes the same steps as wtref."""

import numpy as np
import pytest

from wtref.bench import sides
from wtref.bench.work import Work

jax = pytest.importorskip("jax")

from wtref.oracle.jax_bench import Theirs


@pytest.mark.slow
@pytest.mark.parametrize("activation, nesterov", [("relu", False), ("sigmoid", True), ("tanh", False)])
def test_both_sides_take_the_same_steps(activation, nesterov):
    work = Work.of("mlp", "bp", 4, hidden=(20, 10), activation=activation, nesterov=nesterov, lr=0.05, weight_decay=0.1)
    ours, theirs = sides.Ours(work), Theirs(work)
    synapses = ours.training.network.synapses
    theirs.layers = [(jax.numpy.array(s.W.T), jax.numpy.array(s.b)) for s in synapses]
    before = [s.W.copy() for s in synapses]
    for _ in range(3):
        ours.step()
        theirs.step()
    for s, start, (W, b) in zip(synapses, before, theirs.layers):
        assert np.abs(s.W - start).max() > 1e-3
        np.testing.assert_allclose(W.T, s.W, rtol=0, atol=1e-5)
        np.testing.assert_allclose(b, s.b, rtol=0, atol=1e-5)
