"""Training steps through CuPy's own dispatch, memory pool and graphs, on the fake GPU of fake_gpu.py.

They are skipped where CuPy is not installed; its wheel (`pip install cupy-cuda12x`, 137 MB) needs no GPU for them.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fake_gpu

if fake_gpu.obstacle():
    pytest.skip(fake_gpu.obstacle(), allow_module_level=True)

pytestmark = pytest.mark.slow
TESTS = Path(fake_gpu.__file__).parent


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return fake_gpu.environment(tmp_path_factory.mktemp("fake_gpu"))


def python(environment, *arguments):
    """What a Python on the fake GPU prints."""
    done = subprocess.run([sys.executable, *arguments], env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "a warning, or a function of CUDA that the fake lacks"
    return done.stdout


def count(launches, *starts):
    return sum(number for name, number in launches.items() if name.startswith(starts))


@pytest.fixture(scope="module")
def results(environment):
    """{(model, rule): what fake_gpu_program.py found}, of one process, which compiles each kernel once."""
    which = [(model, rule) for model in ("mlp", "resnet8") for rule in ("bp", "kp", "wm")]
    flags = [json.dumps({"model": model, "rule": rule}) for model, rule in which]
    lines = python(environment, TESTS / "fake_gpu_program.py", *flags).splitlines()
    return dict(zip(which, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("model", ["mlp", "resnet8"])
@pytest.mark.parametrize("rule", ["bp", "kp", "wm"])
def test_training_is_the_cpu_s(results, model, rule):
    found, wanted = results[model, rule]["losses"]
    assert found == pytest.approx(wanted, rel=1e-4)
    assert results[model, rule]["error"] < 1e-3


@pytest.mark.parametrize("model, products, convolutions", [("mlp", 2, 0), ("resnet8", 1, 9)])
@pytest.mark.parametrize("rule", ["bp", "kp", "wm"])
def test_the_first_steps_launch_every_kernel_and_the_later_ones_a_graph(results, model, rule, products, convolutions):
    """Forward and gradient once for each layer, the error for each but the first, of which each mirrors W without the graph."""
    steps, mirrored = results[model, rule]["launches"], (products + convolutions - 1) * (rule == "wm")
    for launches in steps[:3]:
        assert count(launches, "graph") == 0
        assert count(launches, "convolve_64", "convolve_128") == count(launches, "convolve_gradient") == convolutions
        assert count(launches, "convolve_back") == max(convolutions - 1, 0)
        assert count(launches, "product_kk") == products + mirrored
        assert count(launches, "descend") > 2 * (products + convolutions) - 2
    for launches in steps[4:]:
        assert count(launches, "graph") == 1
        assert count(launches, "convolve", "descend", "norm_forward") == 0
        assert count(launches, "product_kk") == mirrored


PROGRAM = """
import cupy
from wtref.device import open_device
from wtref.fast.graphs import Captured
device = open_device("cuda")
x = device.array([[1, 2], [3, 4]])
%s
"""


def test_a_copy_of_a_transpose_leaves_the_stream_of_the_device(environment):
    assert (
        python(environment, "-c", PROGRAM % "s = cupy.cuda.get_current_stream(); x.T.get(); print(s == cupy.cuda.get_current_stream())")
        == "True\n"
    )


def test_a_function_that_waits_for_the_device_is_not_captured(environment):
    program = PROGRAM % "step = Captured(cupy, lambda x: (x * float(x.sum()),))\nfor _ in range(5): print(step(x)[0].get().ravel())"
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=TESTS.parent, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[10. 20. 30. 40.]"] * 5
    assert "cannot be captured as a CUDA graph" in done.stderr


def test_the_program_trains_on_it(environment, tmp_path):
    flags = ["--model", "mlp", "--rule", "kp", "--epochs", "1", "--batch-size", "256"]
    rows = []
    for device in ("cuda", "cpu"):
        done = subprocess.run(
            [sys.executable, TESTS.parent / "run.py", "train", *flags, "--device", device, "--log-name", device],
            env=environment, cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("epoch 1/1")]
        rows.append([float(word.rstrip("°")) for word in line.split()[2:-1] if word != "%"])  # without the images per second
    assert len(rows[0]) == 6 and rows[0] == pytest.approx(rows[1], rel=0.01)


def test_several_runs_of_a_comparison_share_it(environment, tmp_path):
    command = "compare --model mlp --hidden 8 --epochs 1 --batch-size 512 --seeds 1 --rules bp kp --device cuda:0 --jobs 2"
    done = subprocess.run(
        [sys.executable, TESTS.parent / "run.py", *command.split()], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr
    assert "2 at a time; cuda:0, float32, CUDA kernels" in " ".join(done.stdout.split()) and "[3/3]" in done.stdout


def test_the_report_describes_it(environment):
    program = "from wtref.bench.gpu_report import _machine; print(_machine('cuda:0')['gpu'])"
    assert python(environment, "-c", program) == "a fake GPU\n"
