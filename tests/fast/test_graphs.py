"""Captured functions on a stand-in for a CUDA stream: recording computes nothing, replaying uses fixed arrays."""

import contextlib
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from wtref.activations import ReLU
from wtref.device import Device
from wtref.fast import CapturedStep, can_capture, graphs, plain
from wtref.fast.graphs import WARM_UP, Captured
from wtref.layers import Residual, Sequential
from wtref.relatives import OutputByBackprop
from wtref.rules import KolenPollack, Rule, WeightMirror
from wtref.runs.config import Config
from wtref.runs.prepare import prepare
from wtref.training import train_step


class Stream:
    """A CUDA stream for one Captured function, whose `effect` a launch of the graph computes."""

    def __init__(self):
        self.capturing = self.invalid = False

    def begin_capture(self):
        self.capturing = True

    def end_capture(self):
        invalid, self.capturing, self.invalid = self.invalid, False, False
        if invalid:
            raise RuntimeError("cudaErrorStreamCaptureInvalidated")
        return SimpleNamespace(launch=self.launch)

    def launch(self):
        for out, value in zip(self.step.outputs, self.effect(*self.step.inputs)):
            out[...] = value


class Cupy:
    """The parts of cupy that Captured uses."""

    def __init__(self):
        self.stream, self.allocators = Stream(), []
        self.cuda = SimpleNamespace(
            MemoryPool=lambda: SimpleNamespace(malloc="the graph's own"),
            get_current_stream=lambda: self.stream,
            using_allocator=self.using,
        )

    def get_default_memory_pool(self):
        return SimpleNamespace(free_all_blocks=lambda: None)

    def using(self, allocator):
        self.allocators.append(allocator)
        return contextlib.nullcontext()


@pytest.fixture
def running_sum():
    """(step, cupy, the inputs of Python's calls, the total): the step adds the sum of x (n,) to the total and returns it."""
    device, total, python = Cupy(), np.zeros(1), []

    def effect(x):
        total[...] += x.sum()
        return (total.copy(),)

    def function(x):
        python.append(x)
        return (np.zeros(1),) if device.stream.capturing else effect(x)

    step = Captured(device, function)
    device.stream.step, device.stream.effect = step, effect
    return step, device, python, total


def test_every_call_counts_once_before_and_after_recording(running_sum):
    step, device, python, total = running_sum
    given = [np.full(2, float(i)) for i in range(1, 9)]
    found = [float(step(x)[0][0]) for x in given]
    assert found == list(np.cumsum([x.sum() for x in given]))
    assert len(python) == WARM_UP + 1, "the calls before recording, and the recorded one"
    assert device.allocators == ["the graph's own"]


def test_results_are_the_caller_s_to_keep(running_sum):
    step, *_ = running_sum
    results = [step(np.ones(1))[0] for _ in range(WARM_UP + 3)]
    assert [float(x[0]) for x in results] == list(range(1, WARM_UP + 4))


def test_a_batch_of_another_size_runs_as_usual(running_sum):
    step, device, python, total = running_sum
    for size in (2, 2, 2, 2, 2, 1, 2):
        step(np.ones(size))
    assert total[0] == 13 and [len(x) for x in python[WARM_UP + 1 :]] == [1]


def test_a_batch_of_another_size_is_not_what_is_recorded(running_sum):
    """Kernels may compile and constants be allocated in the first calls with its shape, which a capture does not allow."""
    step, device, python, total = running_sum
    for size in (2, 2, 2, 1, 2, 1, 2):
        step(np.ones(size))
    assert [len(x) for x in step.inputs] == [2] and not step.failed
    assert total[0] == 12 and [len(x) for x in python] == [2, 2, 2, 1, 2, 1]


def test_a_batch_of_nothing_is_not_what_is_recorded(running_sum):
    step, device, python, total = running_sum
    for size in (0, 2, 2, 2, 0, 2, 2, 0):
        step(np.ones(size))
    assert total[0] == 10 and [len(x) for x in python] == [0, 2, 2, 2, 0, 2, 0]


@pytest.mark.parametrize("error, invalid", [(RuntimeError, False), (RuntimeError, True), (MemoryError, False)])
def test_what_cannot_be_recorded_runs_without_and_says_so_once(running_sum, capsys, error, invalid):
    """CuPy raises for cuBLAS; waiting for the device raises, and then ending the invalid capture raises as well."""
    step, device, python, total = running_sum
    usual = step.function

    def stubborn(x):
        if device.stream.capturing:
            device.stream.invalid = invalid
            raise error("operation not permitted when stream is capturing")
        return usual(x)

    step.function = stubborn
    for _ in range(WARM_UP + 4):
        step(np.ones(1))
    assert total[0] == WARM_UP + 4 and not device.stream.capturing
    assert capsys.readouterr().err.count("cannot be captured as a CUDA graph (operation not permitted") == 1


@pytest.mark.parametrize("rule", ["kp", "wm", "dfa"])
def test_a_captured_step_that_cannot_be_recorded_is_train_step(capsys, rule):
    """Mirror mode gets the same step numbers."""
    device, found = Cupy(), []
    config = Config(model="mlp", rule=rule, hidden=(7,), device="cpu", dtype="float64", epochs=1, mirror_rows=4 if rule == "wm" else None)

    def before_backward(usual, *arguments):
        if device.stream.capturing:
            raise RuntimeError("no capture on a CPU")
        usual(*arguments)

    for step in (train_step, CapturedStep(device)):
        training = prepare(config)
        training.rule.before_backward = partial(before_backward, training.rule.before_backward)
        training.train_step = step
        for _ in zip(range(WARM_UP + 4), training.run()):
            pass
        found.append(training.network.arrays())
    assert found[0].keys() == found[1].keys()
    for name, array in found[0].items():
        assert np.array_equal(array, found[1][name]), name
    assert capsys.readouterr().err.count("cannot be captured as a CUDA graph (no capture on a CPU)") == 1


def test_the_synapses_hold_the_B_of_the_latest_step(monkeypatch):
    """Sign-symmetry makes a new B in every step, but a replay writes the one that was recorded."""
    device, s, recorded = Cupy(), SimpleNamespace(B=None), np.zeros(1)

    def signs(network, rule, sgd, loss, images, labels, step):
        s.B = recorded if device.stream.capturing else images.sum(keepdims=True)
        return np.zeros(1), np.zeros(1)

    def effect(images, labels):
        recorded[...] = images.sum()
        return np.zeros(1), np.zeros(1)

    monkeypatch.setattr(graphs, "train_step", signs)
    step, device.stream.effect = CapturedStep(device), effect
    network, rule = SimpleNamespace(with_feedback=[s]), Rule()
    for count, size in enumerate((2, 2, 2, 2, 3, 2, 2)):
        step(network, rule, None, None, np.ones(size), np.ones(size), count)
        device.stream.step = step.engaged
        assert float(s.B[0]) == size
    assert s.B is recorded


class ByRate(Rule):
    """A rule of a plug-in that computes with a number that Python changes."""

    def learn(self, s, sgd):
        super().learn(s, sgd)
        if s.B is not None:
            s.B -= sgd.lr * s.W_gradient.T


class Replacing(Rule):
    """A rule of a plug-in that replaces B, from which a graph would go on reading."""

    def between_steps(self, s, sgd, step):
        s.B = 0.9 * s.B


class Dropout:
    """A layer of a plug-in that would drop the same cells in every replay."""


@pytest.mark.parametrize(
    "layer, rule, captured",
    [
        (ReLU(), KolenPollack(), True), (ReLU(), OutputByBackprop(WeightMirror()), True), (ReLU(), ByRate(), False), (ReLU(), Replacing(), False),
        (ReLU(), OutputByBackprop(ByRate()), False), (Dropout(), KolenPollack(), False),
    ],
)  # fmt: skip
def test_only_steps_of_the_package_s_own_code_are_captured(layer, rule, captured):
    assert can_capture(Sequential(ReLU(), Residual(Sequential(layer), Sequential(), ReLU())), rule) == captured


def test_only_steps_of_cuda_kernels_are_captured():
    """Array expressions read the learning rate on the host, which a graph would fix; brSF draws on the host."""
    options = {"model": "mlp", "hidden": (7,), "dtype": "float64", "dataset": "digits"}
    for rule, ops, graph, captured in (
        ("kp", plain, True, True), ("kp", plain, False, False), ("kp", None, True, False), ("brsf", plain, True, False),
    ):  # fmt: skip
        pretended = Device("cuda:0", np, np.float64, ops=ops)
        step = prepare(Config(rule=rule, graph=graph, **options), pretended).train_step
        assert isinstance(step, CapturedStep) if captured else step is train_step
