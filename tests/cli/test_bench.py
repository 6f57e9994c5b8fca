"""The command `bench`: its kinds, their flags, and what they print and write."""

import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from wtref.bench import goals, measure, turns
from wtref.cli import bench
from wtref.cli.main import main
from wtref.errors import Unsaved

torch = pytest.importorskip("torch")

import wtref.oracle.bench


@pytest.fixture
def quick(monkeypatch):
    """No turn is longer than a step."""
    monkeypatch.setattr(turns, "TURN", 1e-9)


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--models mlp", "unknown kind 'mlp'; choose from: goals"),
        ("goals --models mlp", "unrecognized arguments: --models mlp"),
        ("steps --crop 3", "unrecognized arguments: --crop 3"),
        ("steps --lr 0.1", "unrecognized arguments: --lr 0.1"),
        ("growth --shape 8 8 3", "unrecognized arguments: --shape 8 8 3"),
        ("loader --profile", "unrecognized arguments: --profile"),
        ("scaling --device cuda", "unrecognized arguments: --device cuda"),
        ("scaling --profile", "unrecognized arguments: --profile"),
        ("scaling --threads 1", "bench scaling halves --threads, so each must be even, found 1"),
        ("scaling --threads 2 --batches 64 1", "bench scaling halves --batches, so each must be even, found 1"),
        ("kernels --models mlp", "unrecognized arguments: --models mlp"),
        ("kernels --device cuda", "unrecognized arguments: --device cuda"),
        ("kernels --json nowhere/x.json", "nowhere/x.json"),
        ("speed", "unknown kind 'speed'; choose from: goals"),
        ("steps --models vgg", "unknown model 'vgg'; choose from: mlp"),
        ("steps --rules bq", "unknown rule 'bq'; choose from: bp"),
        ("steps --batches 8 0", "--batches must be at least 1, found 0"),
        ("steps --batches many", "--batches"),
        ("steps --repeats 0", "--repeats must be at least 1, found 0"),
        ("steps --shape 8 8 0", "--shape must be at least 1, found 0"),
        ("steps --shape 8 8", "--shape"),
        ("steps --models lenet --shape 8 8 1", "conv2"),
        ("steps --json nowhere/x.json", "nowhere/x.json"),
        ("steps --json .", "--json ."),
        ("steps --learning-rate 3", "--learning-rate"),
    ],
)
def test_bad_flags_are_one_line(capsys, tmp_path, monkeypatch, flags, said):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *flags.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("wtref: ") and err.count("\n") == 1 and said in err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_json_and_the_table_agree(capsys, tmp_path, quick):
    """The one run with all its parts, memory in processes of their own included."""
    path = tmp_path / "bench.json"
    flags = "steps --models mlp --hidden 20 --batches 8 --rules kp --repeats 1 --eager".split()
    assert main(["bench", *flags, "--json", str(path)]) == 0
    out, err = capsys.readouterr()
    sets, *_, head, name, line, setting = out.splitlines()
    found = json.loads(path.read_text())
    (row,) = found["rows"]
    assert err == "" and sets.startswith(f"wtref: {row['kernels']}; PyTorch {torch.__version__}: {row['torch_instruction_set']}")
    assert head.startswith("  wtref ms ") and name == row["work"] == "mlp 28x28x1 kp batch 8"
    assert setting.strip() == f"PyTorch: {row['torch_setting']}"
    numbers = line.replace(",", "").split()
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
    monkeypatch.setattr(measure, "peak_memory", lambda *_: {})
    assert main("bench steps --models mlp --hidden 5 --batches 2 --repeats 1 --profile".split()) == 0
    _, _, _, _, note, titles, *parts = capsys.readouterr().out.splitlines()
    assert note == "    no PyTorch" and titles.split() == ["function", "share", "time"] and len(titles) == len(parts[0])
    assert sum(float(part.split(" %")[0].split()[-1]) for part in parts) == pytest.approx(100, abs=1)


def test_the_loader(capsys, tmp_path):
    path = tmp_path / "x.json"
    flags = "loader --models mlp --rules bp kp --hidden 4 --dataset digits --device cpu --repeats 2".split()
    assert main(["bench", *flags, "--json", str(path)]) == 0
    out, rows = capsys.readouterr().out, json.loads(path.read_text())["rows"]
    assert out.count("digits at batch 32: the loader alone gives ") == 2
    assert [row["rule"] for row in rows] == ["bp", "kp"]
    assert f"mlp under kp on cpu: the training step takes {rows[1]['step_images_per_second']:,.0f} images/s" in out


def test_a_profile_of_a_gpu_is_of_its_kernels(capsys):
    assert main(["bench", "goals", "--profile", "--device", "cuda", "--kernels", "plain"]) == 2
    assert "--profile" in capsys.readouterr().err


def fake_measure(monkeypatch, **values):
    """Replace the measurement by one of those values; returns the list of its calls, (work, repeats, profiled, eager)."""
    calls = []

    def measured(work, repeats, profiled, eager):
        calls.append((str(work), repeats, profiled, eager))
        row = {**work.description(), "kernels": "none", "ms": float(work.config.batch_size), "gflops": 1.0, **values}
        yield row
        yield row | ({} if eager else {"ratio": 1.75})

    monkeypatch.setattr(measure, "measure", measured)
    return calls


def test_without_a_kind_the_goals_are_measured(capsys, monkeypatch, tmp_path):
    """Those of the ratio are judged after compilation, for which the other rows have no use."""
    calls = fake_measure(monkeypatch, ratio=2.0)
    assert main(["bench"]) == main(["bench", "goals", "--json", str(tmp_path / "found.json")]) == 0
    plan = [(str(work), any(goal.quantity == "ratio" for goal in limits)) for work, limits in goals.all_works()]
    assert calls == 2 * [(work, 7, False, not judged) for work, judged in plan]
    out = capsys.readouterr().out
    assert out.count("ratio >= 1.5: met, 1.75") >= 2 and out.count("networks: ms a FLOP grow by at most 0.1: met") == 2
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["work"] for row in found["rows"]] == [work for work, _ in plan] and len(found["growth"]) == 3


@pytest.mark.parametrize("kind, eager", [("goals", [True]), ("steps", [False]), ("steps --eager", [True])])
def test_eager_leaves_torch_compile_out(monkeypatch, kind, eager):
    calls = fake_measure(monkeypatch)
    assert main(f"bench {kind} {'--eager' * (kind == 'goals')}".split()) == 0
    assert {eager for *_, eager in calls} == set(eager)


def test_a_row_is_written_before_compilation(monkeypatch, tmp_path):
    path = tmp_path / "found.json"

    def measured(work, *_):
        yield {**work.description(), "kernels": "none", "ms": 1.0}
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "measure", measured)
    assert main(f"bench steps --models mlp --json {path}".split()) == 130
    assert [row["ms"] for row in json.loads(path.read_text())["rows"]] == [1.0]


def test_rows_that_cannot_be_written_are_printed(monkeypatch, capsys, tmp_path):
    def write(path, **found):
        raise Unsaved("the disk is full")

    fake_measure(monkeypatch)
    monkeypatch.setattr(bench.report, "write", write)
    assert main(f"bench steps --models mlp lenet --json {tmp_path / 'x.json'}".split()) == 1
    out, err = capsys.readouterr()
    assert "mlp 28x28x1" in out and "lenet 28x28x1" in out and err == "wtref: the disk is full\n"


def test_the_growth_alone(capsys, monkeypatch):
    calls = fake_measure(monkeypatch)
    assert main(["bench", "growth"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 + 3 * len(goals.growth_works()) + 3 and all(": met, 0.00" in line for line in out[-3:])
    assert all(eager for *_, eager in calls)


def test_device_auto_is_the_gpu_where_there_is_one(monkeypatch):
    works = []
    monkeypatch.setattr(bench, "open_device", lambda name: SimpleNamespace(name={"auto": "cuda"}[name]))
    monkeypatch.setattr(measure, "measure", lambda work, *_: works.append(work) or [{**work.description(), "kernels": "none", "ms": 1.0}])
    assert main("bench steps --device auto --models mlp".split()) == 0
    assert works[0].on_gpu
    monkeypatch.setattr(bench, "_measure_and_judge", lambda plan, args: works.append(plan[0][0]))
    assert main("bench goals --device auto".split()) == 0
    assert str(works[1]) == str(goals.gpu_goals()[0][0]) and works[1].on_gpu
