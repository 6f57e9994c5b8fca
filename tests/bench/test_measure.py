"""A row of results: fair turns and right arithmetic."""

import time
from types import SimpleNamespace

import pytest

from wtref.bench import measure, report, sides, turns
from wtref.bench.apart import Obstacle
from wtref.bench.sides import Ours
from wtref.bench.work import Work

torch = pytest.importorskip("torch")

from wtref.oracle.bench import settings

SETTINGS = settings(on_gpu=False)


@pytest.fixture
def quick(monkeypatch):
    """No turn is longer than a step."""
    monkeypatch.setattr(turns, "TURN", 1e-9)


class Clock:
    """A clock that only its tasks advance, by the given seconds of each call."""

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
    assert turns.median_seconds([a, b], repeats=3, clock=clock) == [2, 7]
    assert "".join(clock.calls) == "aabb" + "ababab"


def test_a_quick_side_s_turn_is_many_steps():
    clock = Clock()
    quick, slow = clock.task("a", *[0.0625] * 100), clock.task("b", *[3.0] * 100)
    assert turns.median_seconds([quick, slow], repeats=2, clock=clock) == [0.0625, 3]
    assert "".join(clock.calls) == "aabb" + 2 * ("aaaa" + "b")  # 4 x 0.0625 >= 0.2 s


def test_a_turn_ends_when_the_device_is_done():
    """A GPU returns from a step at once and computes later, here for 7 seconds a step."""
    clock, left = Clock(), []

    def wait():
        clock.now += 7 * len(left)
        left.clear()

    assert turns.median_seconds([lambda: left.append(1)], 3, wait=wait, clock=clock) == [7]


def test_the_fastest_setting_is_chosen(monkeypatch, quick):
    pauses = dict(zip(SETTINGS, (0.02, 0.01, 0.001, 0.02)))
    sides = SimpleNamespace(
        settings=lambda on_gpu: SETTINGS,
        Theirs=lambda work, setting: SimpleNamespace(step=lambda: time.sleep(pauses[setting])),
    )
    assert measure._fastest(Work.of("mlp", "bp", 1), sides, lambda: None) == SETTINGS[2]


def measured(monkeypatch, work, seconds, compiled=None, **options):
    """The rows, before and after compilation, of a Work whose sides take `seconds`; wtref takes 30 MiB and PyTorch 40.

    compiled: {side: its milliseconds beside 500 of wtref's, or its obstacle}
    """
    monkeypatch.setattr(measure, "median_seconds", lambda tasks, *_: seconds[: len(list(tasks))])
    monkeypatch.setattr(measure, "_fastest", lambda *_: SETTINGS[0])
    monkeypatch.setattr(measure, "peak_memory", lambda work, side, setting=None: {"memory_mib": 40.0 if setting else 30.0})
    monkeypatch.setattr(sides.Ours, "gflop", lambda ours: 6.0)
    monkeypatch.setattr(measure, "compiled_sides", lambda work, setting: {name: name for name in compiled or {}})

    def times_beside(work, repeats, name):
        if isinstance(compiled[name], str):
            raise Obstacle(compiled[name])
        return 500.0, compiled[name]

    monkeypatch.setattr(measure, "times_beside", times_beside)
    return (dict(row) for row in measure.measure(work, 1, **options))


def test_a_row_s_arithmetic(monkeypatch):
    row, _ = measured(monkeypatch, Work.of("mlp", "kp", 50), [0.5, 0.75])
    assert (row["ms"], row["torch_ms"], row["ratio"]) == (500, 750, 1.5)
    assert (row["images_per_second"], row["gflop_per_image"], row["gflops"]) == (100, 0.12, 12)
    assert row["torch_gflops"] == 8 and row["memory_ratio"] == 0.75
    assert row["mnist_epoch_seconds"] == 1200 * 0.5
    assert "of_bp" not in row
    assert next(measured(monkeypatch, Work.of("resnet8", "kp", 50), [0.5, 0.75]))["cifar_epoch_seconds"] == 1000 * 0.5


@pytest.mark.parametrize(
    "compiled, ratio",
    [
        ({"torch_compiled": 600.0}, 1.2),
        ({"torch_compiled": 900.0}, 1.5),
        ({"torch_compiled": 600.0, "jax": 550.0}, 1.1),
        ({"torch_compiled": "ValueError: no compiler", "jax": 700.0}, 1.4),
        ({"torch_compiled": "not compiled after 240 s"}, 1.5),
    ],
)
def test_the_ratio_is_that_of_the_fastest_side(monkeypatch, compiled, ratio):
    """PyTorch without torch.compile has 1.5; a row with that is complete before compilation begins."""
    before, after = measured(monkeypatch, Work.of("mlp", "bp", 50), [0.5, 0.75], compiled)
    assert before["ratio"] == before["torch_ratio"] == after["torch_ratio"] == 1.5 and after["ratio"] == ratio
    for name, found in compiled.items():
        assert f"{name}_ms" not in before
        assert after[f"{name}_obstacle" if isinstance(found, str) else f"{name}_ms"] == found
    assert after.items() >= {name: value for name, value in before.items() if name != "ratio"}.items()


def test_what_a_row_says_of_compiled_sides():
    row = {"work": "w", "goals": [], "torch_compiled_ms": 2.6, "torch_compiled_ratio": 1.25, "jax_obstacle": "ImportError: jaxlib"}
    notes = ["no PyTorch", "torch.compile 2.60 ms, ratio 1.25", "no JAX (ImportError: jaxlib)"]
    assert report.line(row).splitlines()[2:] == [f"    {note}" for note in notes]


def test_the_header_names_the_instruction_sets(monkeypatch):
    for name in report.SWITCHES:
        monkeypatch.delenv(name, raising=False)
    row = {"kernels": "compiled kernels (AVX2), 2 threads", "torch_setting": "contiguous", "torch_instruction_set": "AVX2"}
    said = f"wtref: compiled kernels (AVX2), 2 threads; PyTorch {torch.__version__}: AVX2"
    assert report.header(row).splitlines()[0] == said
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert report.header(row).replace("\n    ", " ").splitlines()[0] == f"{said}; ATEN_CPU_CAPABILITY=avx2"


def test_on_a_gpu_nothing_is_said_of_the_cpu_s_instructions(monkeypatch):
    for name in report.SWITCHES:
        monkeypatch.delenv(name, raising=False)
    setting = pytest.importorskip("wtref.oracle.bench").settings(on_gpu=True)[1]
    row = {"work": "w", "goals": [], "kernels": "CUDA kernels, tf32 products", "torch_setting": str(setting), "profile": {"add x8": 1.0}}
    assert report.header(row).splitlines()[0] == f"wtref: CUDA kernels, tf32 products; PyTorch {torch.__version__}"
    _, _, note, titles, part = report.line(row).splitlines()
    assert note == "    PyTorch: channels-last" and len(titles) == len(part)
    assert titles.split() == "kernel, launches in a step without a graph share time".split()


@pytest.mark.parametrize("where", ["Theirs", "peak_memory", "turns"])
def test_what_fails_in_pytorch_costs_nothing_of_wtref_s(monkeypatch, quick, capsys, where):
    def fail(*_, **__):
        raise RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`")

    work, slow = Work.of("mlp", "kp", 2, hidden=(3,)), SimpleNamespace(step=fail if where == "turns" else lambda: None)
    pytorch = SimpleNamespace(Theirs=fail if where == "Theirs" else lambda work, setting: slow, settings=lambda on_gpu: SETTINGS)
    monkeypatch.setattr(measure, "pytorch_side", lambda work: pytorch)
    monkeypatch.setattr(measure, "peak_memory", lambda work, side, setting=None: fail() if setting and where == "peak_memory" else {})
    *_, row = measure.measure(work, 1)
    assert row["ms"] > 0 and "ratio" not in row
    assert "    no PyTorch (RuntimeError: CUDA error: out of memory)" in report.line(row | {"goals": []}).splitlines()


def test_on_a_gpu_wtref_s_own_row_comes_before_pytorch(monkeypatch, quick):
    """There an error of PyTorch's may end the process, or its search for algorithms the time of gpu-report."""
    rows, on_cpu = [], Ours(Work.of("mlp", "kp", 2, hidden=(3,)))

    def their_side(work, setting):
        rows.append("PyTorch")
        raise RuntimeError

    work = Work.of("mlp", "kp", 2, hidden=(3,), device="cuda")
    monkeypatch.setattr(measure, "Ours", lambda work: on_cpu)
    monkeypatch.setattr(measure, "peak_memory", lambda *_: {})
    pytorch = SimpleNamespace(Theirs=their_side, settings=lambda on_gpu: SETTINGS)
    monkeypatch.setattr(measure, "pytorch_side", lambda work: pytorch)
    for row in measure.measure(work, 1):
        rows.append(row["ms"] > 0)
    assert rows == [True, "PyTorch", True, True]


def test_the_row_comes_before_its_profile(monkeypatch):
    def fail(*_):
        raise RuntimeError("no events")

    monkeypatch.setattr(measure, "thread_times", fail)
    rows = measured(monkeypatch, Work.of("mlp", "kp", 50), [0.5, 0.75], profiled=True)
    assert next(rows)["ratio"] == 1.5
    with pytest.raises(RuntimeError, match="no events"):
        next(rows)


def test_wm_is_held_against_bp_too(monkeypatch):
    row, _ = measured(monkeypatch, Work.of("mlp", "wm", 50), [0.5, 0.4, 0.75])
    assert row["of_bp"] == 1.25 and row["ratio"] == 1.5


def test_which_sides_are_compiled(monkeypatch):
    monkeypatch.setattr(sides, "find_spec", lambda name: name == "jax")
    assert set(sides.compiled_sides(Work.of("mlp", "bp", 2), SETTINGS[0])) == {"torch_compiled", "jax"}
    assert set(sides.compiled_sides(Work.of("mlp", "bp", 2), None)) == {"jax"}
    for work in (
        Work.of("mlp", "kp", 2),
        Work.of("lenet", "bp", 2),
        Work.of("mlp", "bp", 2, evaluation=True),
        Work.of("mlp", "bp", 2, dtype="float64"),
        Work.of("mlp", "bp", 2, norm="before"),
    ):
        assert set(sides.compiled_sides(work, SETTINGS[0])) == {"torch_compiled"}
    monkeypatch.setattr(sides, "find_spec", lambda name: None)
    assert set(sides.compiled_sides(Work.of("mlp", "bp", 2), SETTINGS[0])) == {"torch_compiled"}


@pytest.mark.slow
def test_gflop_of_resnet18():
    """The forward pass has 0.5554 GMAC, counted by hand; a step has three such products, but no error below the stem."""
    stem, stage1 = 3 * 9 * 64 * 32**2, 4 * 64 * 64 * 9 * 32**2
    later = sum(
        (c // 2 * c * 9 + 3 * c * c * 9 + c // 2 * c) * side**2 for c, side in ((128, 16), (256, 8), (512, 4))
    )  # fmt: skip
    forward = stem + stage1 + later + 512 * 10
    assert forward / 1e9 == pytest.approx(0.5554, abs=3e-4)
    ours = sides.Ours(Work.of("resnet18", "kp", 2))
    ours.step()
    assert ours.gflop() / 2 == pytest.approx(2 * (3 * forward - stem) / 1e9)
