"""PyTorch's side of the benchmark is an honest opponent: it takes the same steps as wtref."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from wtref.bench import sides
from wtref.bench.work import Work
from wtref.oracle import bench
from wtref.oracle.bench import Feedback, Setting, Theirs, settings
from wtref.oracle.networks import NORMS, Linear, Unit
from wtref.runs.config import Config

SETTINGS = settings(on_gpu=False)


def units(net):
    """{name: (layer, its Feedback or None)}."""
    found = {name: part.weights for name, part in net.named_modules() if isinstance(part, Unit)}
    return {name: (w.layer, w) if isinstance(w, Feedback) else (w, None) for name, w in found.items()}


@torch.no_grad()
def start_alike(ours, theirs):
    arrays = {name: torch.tensor(np.ascontiguousarray(x)) for name, x in ours.training.network.arrays().items()}
    for name, (layer, feedback) in units(theirs.net).items():
        layer.start(arrays[f"{name}.W"], arrays.get(f"{name}.b"))
        if feedback:
            feedback.B.copy_(layer.theirs(arrays[f"{name}.B"].T).view_as(layer.weight))


def their_arrays(theirs, keep_B):
    found = {}
    for name, (layer, feedback) in units(theirs.net).items():
        found |= {f"{name}.W": layer.ours(layer.weight.flatten(1)), f"{name}.b": layer.bias}
        if feedback and keep_B:
            found[f"{name}.B"] = layer.ours(feedback.B.flatten(1)).T
    for name, norm in theirs.net.named_modules():
        if isinstance(norm, NORMS):
            found |= {f"{name}.gamma": norm.weight, f"{name}.beta": norm.bias}
            found |= {f"{name}.running_mean": norm.running_mean, f"{name}.running_var": norm.running_var}
    return {name: x.detach().numpy() for name, x in found.items() if x is not None}


def assert_same_steps(work, setting, tolerance):
    """Both sides take two steps, so that momentum has an effect."""
    ours, theirs = sides.Ours(work), Theirs(work, setting)
    start_alike(ours, theirs)
    before = {name: x.copy() for name, x in ours.training.network.arrays().items()}
    for _ in range(2):
        ours.step()
        theirs.step()
    after, found = ours.training.network.arrays(), their_arrays(theirs, keep_B=work.config.rule != "bp")
    assert found.keys() == {name for name in after if work.config.rule != "bp" or not name.endswith(".B")}
    for name, x in found.items():
        still = name.endswith(".B") and work.config.rule == "fa"
        moved = np.abs(after[name] - before[name]).max()
        assert (moved == 0) == still, name
        np.testing.assert_allclose(x, after[name], rtol=0, atol=tolerance * np.abs(after[name]).max(), err_msg=name)
    logits = theirs.evaluate().numpy()
    np.testing.assert_allclose(logits, ours.evaluate(), rtol=0, atol=tolerance * np.abs(logits).max())


MODELS = {"resnet8": {"batch": 4, "shape": (8, 8, 3)}, "mlp": {"batch": 4, "hidden": (20,), "activation": "sigmoid"}}
LEARNING = {"lr": 0.05, "weight_decay": 0.1}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("rule", ["bp", "fa", "ss", "kp"])
@pytest.mark.parametrize("model", ["mlp", pytest.param("resnet8", marks=pytest.mark.slow)])
def test_both_sides_take_the_same_steps(model, rule, channels_last):
    work = Work.of(model, rule, dtype="float64", **MODELS[model], **LEARNING)
    assert_same_steps(work, Setting(channels_last, onednn=True), tolerance=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_both_sides_take_the_same_steps_in_float32(setting):
    """oneDNN computes in float32 only."""
    assert_same_steps(Work.of("resnet8", "kp", **MODELS["resnet8"], **LEARNING), setting, tolerance=1e-4)
    assert torch.backends.mkldnn.enabled


def test_in_bf16_their_errors_still_travel_through_B():
    """Weights and gradients stay float32; products are rounded, by 2^-8 each."""
    work = Work.of("resnet8", "kp", **MODELS["resnet8"], **LEARNING)
    rounded = replace(work, config=replace(work.config, precision="bf16"))
    gradients = []
    for which in (work, rounded):
        torch.manual_seed(0)
        theirs = Theirs(which, SETTINGS[0])
        theirs.step()
        gradients.append([p.grad for p in theirs.net.parameters() if p.grad is not None and p.ndim > 1])
    for exact, found in zip(*gradients):
        assert found.dtype == torch.float32 and not torch.equal(found, exact)
        assert (found - exact).norm() < 0.3 * exact.norm()


def test_their_mirror_finds_W():
    torch.manual_seed(0)
    layer, config = Feedback(Linear(8, 4)), Config(mirror_rows=512, mirror_window=400)
    for _ in range(1000):
        layer.mirror(config)
    W, B = layer.layer.weight, layer.B
    assert (W - B).norm() < 0.2 * W.norm()
    assert B.grad is None and not torch.equal(W, B)


def test_their_mirror_runs_as_often_as_ours_with_as_many_rows(monkeypatch):
    calls = []
    monkeypatch.setattr(Feedback, "mirror", lambda layer, config: calls.append(config.mirror_rows))
    theirs = Theirs(Work.of("mlp", "wm", 2, mirror_rows=64), SETTINGS[0])
    for steps in range(1, 4):
        theirs.step()
        assert calls == [64] * steps


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_matrix_lies_on_the_weight_s_own_memory(channels_last):
    weight = torch.randn(3, 4, 2, 5)
    weight = weight.to(memory_format=torch.channels_last) if channels_last else weight
    matrix = bench._matrix(weight)
    assert matrix.shape == (3, 40) and matrix.data_ptr() == weight.data_ptr()
    assert torch.equal(matrix.sort(dim=1).values, weight.flatten(1).sort(dim=1).values)


def test_on_a_gpu_cuda_is_initialised_before_the_peak_of_memory_is_reset(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "init", lambda: calls.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", calls.append)
    with pytest.raises((AssertionError, RuntimeError)):  # there is no GPU to which the network could be moved
        Theirs(Work.of("mlp", "kp", 2, hidden=(3,), device="cuda:99"), SETTINGS[0])
    assert calls == ["init", "cuda:99"]


def test_a_rule_that_pytorch_s_side_does_not_have():
    assert sides.pytorch_side(Work.of("mlp", "dfa", 1)) is None
    assert sides.pytorch_side(Work.of("mlp", "usf", 1)) is bench


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler")
def test_compiled_steps_and_evaluations_are_the_same():
    """One network: compilation takes seconds."""
    work = Work.of("mlp", "kp", dtype="float64", **MODELS["mlp"], **LEARNING)
    assert_same_steps(work, Setting(False, True, compiled=True), tolerance=1e-9)
