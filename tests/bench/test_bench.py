"""The benchmark: an honest opponent, fair turns, right arithmetic, a profile that finds where the time is spent."""

import importlib.util
import json
import re
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import wtref.oracle
from wtref.bench import goals as bench
from wtref.bench import measure as timing
from wtref.bench import profile as sampling
from wtref.bench.goals import BATCHES, NETWORKS, Goal, Work
from wtref.cli.main import main

torch = pytest.importorskip("torch")

from wtref.oracle import bench as torch_bench
from wtref.oracle.bench import Feedback, Setting, Theirs, settings
from wtref.oracle.networks import NORMS, Linear, Unit

SETTINGS = settings(on_gpu=False)


@pytest.fixture
def quick(monkeypatch):
    """No turn is longer than a step."""
    monkeypatch.setattr(timing, "TURN", 1e-9)


# --- the opponent -----------------------------------------------------------------------------------------


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
    """Two steps, so that the momentum of the first one counts."""
    ours, theirs = timing.Ours(work), Theirs(work, setting)
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
@pytest.mark.parametrize("model", MODELS)
def test_both_sides_take_the_same_steps(model, rule, channels_last):
    work = Work.of(model, rule, dtype="float64", **MODELS[model], **LEARNING)
    assert_same_steps(work, Setting(channels_last, onednn=True), tolerance=1e-9)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_both_sides_take_the_same_steps_in_float32(setting):
    """Only float32 reaches oneDNN."""
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
    layer = Feedback(Linear(8, 4))
    for _ in range(1000):
        layer.mirror(512)
    W, B = layer.layer.weight, layer.B
    assert (W - B).norm() < 0.2 * W.norm()
    assert B.grad is None and not torch.equal(W, B)


def test_their_mirror_runs_as_often_as_ours(monkeypatch):
    calls = []
    monkeypatch.setattr(Feedback, "mirror", lambda layer, rows: calls.append(rows))
    theirs = Theirs(Work.of("mlp", "wm", 2, mirror_every=3, mirror_rows=64), SETTINGS[0])
    for steps in range(1, 7):
        theirs.step()
        assert calls == [64] * (steps // 3)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_matrix_lies_on_the_weight_s_own_memory(channels_last):
    weight = torch.randn(3, 4, 2, 5)
    weight = weight.to(memory_format=torch.channels_last) if channels_last else weight
    matrix = torch_bench._matrix(weight)
    assert matrix.shape == (3, 40) and matrix.data_ptr() == weight.data_ptr()
    assert torch.equal(matrix.sort(dim=1).values, weight.flatten(1).sort(dim=1).values)


# --- taking turns -----------------------------------------------------------------------------------------


class Clock:
    """Stands still but for the tasks, which take the seconds they are told, call by call."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now

    def task(self, name, *seconds):
        remaining = iter(seconds)

        def call():
            self.calls.append(name)
            self.now += next(remaining)

        return call


def test_sides_take_turns_after_their_warm_up():
    clock = Clock()
    a = clock.task("a", 50, 1, 3, 1, 2)
    b = clock.task("b", 70, 9, 8, 6, 7)
    assert timing.median_seconds([a, b], repeats=3, clock=clock) == [2, 7]
    assert "".join(clock.calls) == "aabb" + "ababab"


def test_a_quick_side_s_turn_is_many_steps():
    clock = Clock()
    quick, slow = clock.task("a", *[0.0625] * 100), clock.task("b", *[3.0] * 100)
    assert timing.median_seconds([quick, slow], repeats=2, clock=clock) == [0.0625, 3]
    assert "".join(clock.calls) == "aabb" + 2 * ("aaaa" + "b")  # 4 x 0.0625 >= 0.2 s


def test_a_turn_ends_when_the_device_is_done():
    """A GPU answers at once and computes later: 7 seconds a step here."""
    clock, left = Clock(), []

    def wait():
        clock.now += 7 * len(left)
        left.clear()

    assert timing.median_seconds([lambda: left.append(1)], 3, wait=wait, clock=clock) == [7]


def test_a_turn_holds_whole_rounds_of_the_mirror():
    clock = Clock()
    assert timing.median_seconds([clock.task("a", *[1, 1, 1, 1, 4] * 2)], 2, multiples=[3], clock=clock) == [1.5]
    assert len(clock.calls) == 2 + 2 * 3


def test_the_fastest_setting_is_chosen(monkeypatch, quick):
    pauses = dict(zip(SETTINGS, (0.02, 0.01, 0.001, 0.02)))
    sides = SimpleNamespace(
        settings=lambda on_gpu: SETTINGS,
        Theirs=lambda work, setting: SimpleNamespace(step=lambda: time.sleep(pauses[setting])),
    )
    assert timing._fastest(Work.of("mlp", "bp", 1), sides, lambda: None) == SETTINGS[2]


# --- arithmetic -------------------------------------------------------------------------------------------


def measured(monkeypatch, work, seconds):
    """The row of a work whose sides take `seconds`, wtref 30 MiB and PyTorch 40."""
    monkeypatch.setattr(timing, "median_seconds", lambda tasks, *_: seconds[: len(list(tasks))])
    monkeypatch.setattr(timing, "_fastest", lambda *_: SETTINGS[0])
    monkeypatch.setattr(timing, "_memory", lambda work, side, setting=None: {"memory_mib": 40.0 if setting else 30.0})
    monkeypatch.setattr(timing.Ours, "gflop", lambda ours: 6.0)
    return timing.measure(work, 1)


def test_a_row_s_arithmetic(monkeypatch):
    row = measured(monkeypatch, Work.of("mlp", "kp", 50), [0.5, 0.75])
    assert (row["ms"], row["torch_ms"], row["ratio"]) == (500, 750, 1.5)
    assert (row["images_per_second"], row["gflop_per_image"], row["gflops"]) == (100, 0.12, 12)
    assert row["torch_gflops"] == 8 and row["memory_ratio"] == 0.75
    assert row["mnist_epoch_seconds"] == 1200 * 0.5
    assert "of_bp" not in row
    assert measured(monkeypatch, Work.of("resnet8", "kp", 50), [0.5, 0.75])["cifar_epoch_seconds"] == 1000 * 0.5


def test_a_torch_compile_that_fails_costs_no_row(monkeypatch):
    class Failing(Theirs):
        def __init__(self, work, setting):
            if setting.compiled:
                raise ValueError("no Triton here\nand much more")
            super().__init__(work, setting)

    sides = SimpleNamespace(Theirs=Failing)
    assert timing._compiled(Work.of("mlp", "bp", 1), sides, SETTINGS[0]) == (None, "ValueError: no Triton here")
    row = {"work": "w", "goals": [], "torch_compiled_obstacle": "ValueError: no Triton here"}
    assert bench.line(row).endswith("no torch.compile (ValueError: no Triton here)")


def test_wm_is_held_against_bp_too(monkeypatch):
    row = measured(monkeypatch, Work.of("mlp", "wm", 50), [0.5, 0.4, 0.75])
    assert row["of_bp"] == 1.25 and row["ratio"] == 1.5


@pytest.mark.parametrize("sign, limit, met", [(">=", 1.5, True), (">=", 2, False), ("<=", 1.5, True), ("<=", 1, False)])
def test_a_goal(sign, limit, met):
    judged = Goal("ratio", sign, limit).judge({"ratio": 1.5})
    assert judged == {"goal": f"ratio {sign} {limit}", "found": 1.5, "met": met}
    assert ("met" if met else "MISSED") in bench.verdict(judged)


def test_a_goal_that_could_not_be_measured():
    assert "not measured" in bench.verdict(Goal("ratio", ">=", 1.0).judge({}))


def test_growth():
    works = [work for work, _ in bench.plan("growth", {}, {})]
    rows = [{**work.about(), "ms": 2.0 * work.config.batch_size, "gflops": 50.0} for work in works]
    assert len(rows) == len(BATCHES) + len(NETWORKS) - 1  # both hold resnet8 at batch 32
    assert [judged["met"] for judged in bench.judge_growth(rows)] == [True, True]
    next(row for row in rows if row["batch"] == 512)["ms"] *= 1.2
    next(row for row in rows if row["model"] == "resnet18")["gflops"] = 40.0
    flat, linear = bench.judge_growth(rows)
    assert not flat["met"] and flat["found"] == pytest.approx(0.2)
    assert not linear["met"] and linear["found"] == pytest.approx(50 / 40 - 1)


def test_gflop_of_resnet18():
    """0.5556 GMAC forward, counted by hand; a step has three such products, but no error below the stem."""
    stem, stage1 = 3 * 9 * 64 * 32**2, 4 * 64 * 64 * 9 * 32**2
    later = sum(
        (c // 2 * c * 9 + 3 * c * c * 9 + c // 2 * c) * side**2 for c, side in ((128, 16), (256, 8), (512, 4))
    )  # fmt: skip
    forward = stem + stage1 + later + 512 * 10
    assert forward / 1e9 == pytest.approx(0.5554, abs=3e-4)
    ours = timing.Ours(Work.of("resnet18", "kp", 2))
    ours.step()
    assert ours.gflop() / 2 == pytest.approx(2 * (3 * forward - stem) / 1e9)


def test_the_goals_and_the_growth_can_be_built():
    works = [work for work, _ in bench.plan("goals", {}, {})]
    assert len({str(work) for work in works}) == len(works)
    imagenet = next(work for work in works if work.config.model == "resnet50" and work.shape == (224, 224, 3))
    assert imagenet.classes == 1000 and imagenet.config.batch_size == 8
    assert all(work.classes == 10 for work in works if work is not imagenet)


# --- where the time goes ----------------------------------------------------------------------------------


def busy(seconds=0.01):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_the_profile_finds_a_busy_function(monkeypatch):
    monkeypatch.setitem(sampling.CATEGORIES, "test_bench.busy", "spinning")
    found = sampling.profile(busy, seconds=0.3)
    assert found["spinning"] > 0.8 * sum(found.values())
    assert 10 <= sum(found.values()) < 20


def test_the_profile_counts_workers_while_the_main_thread_waits(monkeypatch):
    monkeypatch.setitem(sampling.CATEGORIES, "test_bench.busy", "spinning")

    def step():
        worker = threading.Thread(target=busy, args=(0.2,))
        worker.start()
        worker.join()

    found = sampling.profile(step, seconds=0.6)
    assert found["spinning"] > 0.8 * sum(found.values())


def test_the_innermost_name_counts(monkeypatch):
    def frames(*names):
        """A stack, the innermost first."""
        below = None
        for name in reversed(names):
            module, _, function = name.partition(":")
            code = SimpleNamespace(co_qualname=function)
            below = SimpleNamespace(f_globals={"__name__": module}, f_code=code, f_back=below)
        return below

    conv = "wtref.layers:Conv2d.forward", "wtref.training:Training.step"
    fast = "wtref.fast.layers:Conv2d.forward", "wtref.training:Training.step"
    assert sampling.category(frames("wtref.layers:patches", *conv)) == "convolution gather"
    assert sampling.category(frames("wtref.fast.compiled:Compiled._call", *fast)) == "products"
    through_B = "wtref.fast.compiled:Compiled._call", "wtref.fast.compiled:Compiled.convolve_back"
    assert sampling.category(frames(*through_B, *fast)) == "convolution, through B"
    assert sampling.category(frames("wtref.fast.layers:ReLU.forward")) == "element-wise"
    assert sampling.category(frames("wtref.fast.noise:Patterns.product", "wtref.rules:WeightMirror.mirror")) == "mirror"
    assert sampling.category(frames("numpy._core._methods:_mean", *conv)) == "products"
    assert sampling.category(frames("wtref.optim:SGD.descend", "wtref.layers:BatchNorm.learn")) == "optimizer"
    assert sampling.category(frames("wtref.noise:_signs", "wtref.rules:WeightMirror.mirror")) == "mirror"
    assert sampling.category(frames("wtref.training:Training.step", "threading:Thread.run")) == "other"
    assert sampling.category(frames("threading:Condition.wait", *conv)) == "waiting"
    assert sampling.category(frames("somewhere:else")) is None


def test_every_category_is_of_something_that_there_is():
    def exists(name):
        module, *inner = name.split(".")
        found = [importlib.import_module(f"wtref.{package}{module}") for package in ("", "fast.")
                 if importlib.util.find_spec(f"wtref.{package}{module}")]  # fmt: skip
        for part in inner:
            found = [getattr(thing, part) for thing in found if hasattr(thing, part)]
        return bool(found)

    assert [name for name in sampling.CATEGORIES if not exists(name)] == []
    assert not exists("layers.Nothing")


# --- the command line -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--crop 3", "--crop goes with bench's loader, not with its goals"),
        ("--models mlp --crop 3", "--crop goes with bench's loader, not with its grid"),
        ("--lr 0.1", "--lr goes with bench's grid or bench's scaling or bench's loader, not with its goals"),
        ("--growth --models mlp", "--models goes with bench's grid"),
        ("--loader --profile", "--profile goes with"),
        ("--loader --growth", "not allowed with"),
        ("--scaling --device cuda", "--device goes with bench's goals"),
        ("--scaling --profile", "--profile goes with"),
        ("--models vgg", "unknown model 'vgg'; choose from: mlp"),
        ("--rules bq", "unknown rule 'bq'; choose from: bp"),
        ("--batches 8 0", "--batches must be at least 1, found 0"),
        ("--batches many", "--batches"),
        ("--repeats 0", "--repeats must be at least 1, found 0"),
        ("--shape 8 8 0", "--shape must be at least 1, found 0"),
        ("--shape 8 8", "--shape"),
        ("--models lenet --shape 8 8 1", "conv2"),
        ("--json nowhere/x.json", "nowhere/x.json"),
        ("--json .", "--json ."),
        ("--learning-rate 3", "--learning-rate"),
    ],
)
def test_bad_flags_are_one_line(capsys, tmp_path, monkeypatch, flags, said):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *flags.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("wtref: ") and err.count("\n") == 1 and said in err
    assert not list(tmp_path.iterdir())


def test_json_and_the_table_agree(capsys, tmp_path, quick):
    """The one run with all its parts, memory in processes of their own included."""
    path = tmp_path / "bench.json"
    flags = "--models mlp --hidden 20 --batches 8 --rules kp --repeats 1".split()
    assert main(["bench", *flags, "--json", str(path)]) == 0
    out, err = capsys.readouterr()
    head, line = out.splitlines()
    found = json.loads(path.read_text())
    (row,) = found["rows"]
    assert err == "" and head.startswith("work") and line.startswith("mlp 28x28x1 kp batch 8 ")
    numbers = line.removeprefix(row["work"]).split(row["torch_setting"])[0].replace(",", "").split()
    ours, theirs = ("ms", "images_per_second", "gflops", "memory_mib"), ("torch_ms", "torch_gflops", "torch_memory_mib")
    keys, digits = (*ours, *theirs, "ratio"), (2, 0, 1, 0, 2, 1, 0, 2)
    assert numbers == [f"{row[key]:.{d}f}" for key, d in zip(keys, digits)]
    assert row["ratio"] == row["torch_ms"] / row["ms"]
    for total, part in (("memory_total_mib", "memory_mib"), ("torch_memory_total_mib", "torch_memory_mib")):
        assert row[total] > 20 and 0 < row[part] < 0.5 * row[total]
    assert found["repeats"] == 1 and found["machine"]["cores"] >= 1
    assert found["versions"]["torch"] == torch.__version__ and found["versions"]["numpy"] == np.__version__
    assert re.match(r"\d{4}-\d\d-\d\dT", found["date"])


def test_without_pytorch_wtref_is_timed_alone(capsys, monkeypatch, quick):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "wtref.oracle.bench")
    monkeypatch.delattr(wtref.oracle, "bench")
    monkeypatch.setattr(timing, "_memory", lambda work, side, setting=None: {})
    assert main("bench --models mlp --hidden 5 --batches 2 --repeats 1 --profile".split()) == 0
    _, line, *parts = capsys.readouterr().out.splitlines()
    assert line.endswith("no PyTorch")
    assert sum(float(part.split(" %")[0].split()[-1]) for part in parts) == pytest.approx(100, abs=1)


def test_a_rule_that_pytorch_s_side_does_not_have(quick):
    assert timing._pytorch(Work.of("mlp", "dfa", 1)) is None
    assert timing._pytorch(Work.of("mlp", "usf", 1)) is torch_bench


def test_the_loader(capsys, tmp_path):
    path = tmp_path / "x.json"
    flags = "--loader --models mlp --rules bp kp --hidden 4 --dataset digits --device cpu --repeats 2".split()
    assert main(["bench", *flags, "--json", str(path)]) == 0
    out, rows = capsys.readouterr().out, json.loads(path.read_text())["rows"]
    assert out.count("digits at batch 32: the loader alone gives ") == 2
    assert [row["rule"] for row in rows] == ["bp", "kp"]
    assert f"mlp under kp on cpu: the training step takes {rows[1]['step_images_per_second']:,.0f} images/s" in out


def test_a_profile_of_a_gpu_is_of_its_kernels(capsys):
    assert main(["bench", "--profile", "--device", "cuda", "--kernels", "plain"]) == 2
    assert "--profile" in capsys.readouterr().err
