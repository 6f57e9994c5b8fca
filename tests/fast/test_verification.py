"""Kernels that are wrong on a new GPU, here the emulated one with planted faults, are noticed and left to plain.py."""

import json
import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import cuda_double
from cuda_double import EmulatedModule, emulator_obstacle
from device_double import DoubleArray, xp
from wtref.cli.main import main
from wtref.device import Device
from wtref.errors import InputError
from wtref.fast import building, ops, plain, verification
from wtref.fast.cuda import Cuda
from wtref.fast.cuda_launches import BFLOAT16, options, source
from wtref.fast.ops import equip
from wtref.runs.config import Config
from wtref.runs.prepare import prepare

if emulator_obstacle():
    pytest.skip(emulator_obstacle(), allow_module_level=True)


class Gpu(ModuleType):
    """CuPy on the emulated GPU.

    launched: the kernels in the order of their launches; spoil: a function of (kernel, arguments), called after each launch.
    """

    def __init__(self, driver=12_080):
        super().__init__(xp.__name__)
        vars(self).update(vars(xp), __version__="14.2.0", launched=[], spoil=lambda kernel, arguments: None, broken=False)
        runtime = SimpleNamespace(
            getDeviceCount=lambda: 1, getDeviceProperties=lambda index: {"name": b"Emulated GPU"}, driverGetVersion=lambda: driver,
            deviceSynchronize=self.wait,
        )  # fmt: skip
        device = SimpleNamespace(id=0, attributes={"MultiProcessorCount": 4}, use=lambda: None)
        self.cuda = SimpleNamespace(
            Device=lambda index=0: device, Stream=lambda non_blocking: nullcontext(), runtime=runtime,
            nvrtc=SimpleNamespace(getVersion=lambda: (12, 8)),
        )  # fmt: skip
        self._core = SimpleNamespace(set_reduction_accelerators=lambda names: None)

    def wait(self):
        if self.broken:
            raise RuntimeError("cudaErrorIllegalAddress")

    def RawModule(self, code, options):
        module = EmulatedModule(code, options)
        return SimpleNamespace(get_function=lambda name: Kernel(self, name, module.get_function(name)))


class Kernel:
    def __init__(self, gpu, name, kernel):
        self.gpu, self.name, self.kernel, self.max_dynamic_shared_size_bytes = gpu, name, kernel, 48 << 10

    def __call__(self, grid, block, arguments, shared_mem=0):
        self.kernel.max_dynamic_shared_size_bytes = self.max_dynamic_shared_size_bytes
        self.kernel(grid, block, arguments, shared_mem=shared_mem)
        self.gpu.launched.append(self.name)
        self.gpu.spoil(self.name, arguments)


def spoiling(*names):
    """For Gpu.spoil: the named kernels compute one wrong number."""

    def spoil(kernel, arguments):
        if kernel in names:
            arrays = [x for x in arguments if isinstance(x, DoubleArray)]
            result = arrays[0 if kernel == "descend" else -1]._hidden.reshape(-1)
            result[len(result) // 2] += 1

    return spoil


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """An emulated GPU, with a cache folder in which nothing is verified yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    building.say.cache_clear()
    return Gpu()


def opened(gpu, dtype=np.float64, **how):
    return equip(Device("cuda:0", gpu, dtype), **how)


PRECISIONS = [
    (np.float64, "float32"), pytest.param(np.float32, "float32", marks=pytest.mark.slow),
    pytest.param(np.float32, "tf32", marks=pytest.mark.slow),
    pytest.param(np.float32, "bf16", marks=[pytest.mark.slow, pytest.mark.skipif(BFLOAT16 is None, reason="no ml_dtypes")]),
]  # fmt: skip


@pytest.mark.parametrize("dtype, precision", PRECISIONS)
def test_every_kernel_is_called_and_right(gpu, monkeypatch, capsys, dtype, precision):
    monkeypatch.setattr(ops, "_supports_bfloat16", lambda cupy: True)
    device = opened(gpu, dtype, precision=precision)
    assert device.kernels == f"CUDA kernels, {precision} products" and capsys.readouterr().err == ""
    _, kernels = cuda_double._built(source(), options(dtype, precision))
    of_bf16 = {"stored", "add_slices_stored"}  # these convert to bfloat16
    assert set(gpu.launched) == set(kernels) - (set() if precision == "bf16" else of_bf16)


def test_one_wrong_number_of_any_kernel_is_noticed(gpu):
    device = opened(gpu, kernels="compiled")
    launching = {}
    for name in verification.CALLS:
        gpu.launched.clear()
        assert verification._fault(name, device.ops, device) is None
        for kernel in gpu.launched:
            launching.setdefault(kernel, set()).add(name)
    for kernel, functions in launching.items():
        gpu.spoil = spoiling(kernel)
        assert any(verification._fault(name, device.ops, device) == verification.DIFFERENT for name in functions), kernel


def test_what_is_wrong_is_left_to_plain_cupy_and_named_in_one_line(gpu, capsys):
    gpu.spoil = spoiling("relu", "max_pool")
    device = opened(gpu)
    assert device.kernels == "CUDA kernels without max_pool and relu, float32 products"
    (line,) = capsys.readouterr().err.splitlines()
    why = "other numbers than plain.py's"
    assert line == f"wtref: cuda:0: plain CuPy replaces the CUDA kernels of max_pool ({why}) and relu ({why})"
    assert device.ops.relu is plain.relu and device.ops.max_pool is plain.max_pool
    assert device.ops.relu_back != plain.relu_back and device.ops.max_pool_back != plain.max_pool_back


def test_a_run_with_a_wrong_kernel_says_so_and_learns_as_without_kernels(gpu, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "cupy", gpu)
    gpu.spoil = spoiling("product_kk_64x64")
    flags = "train --model mlp --hidden 5 --rule kp --epochs 1 --dtype float64 --no-graph".split()
    lines = {}
    for device, kernels in (("cuda", "auto"), ("cpu", "plain")):
        assert main([*flags, "--device", device, "--kernels", kernels]) == 0
        out, err = capsys.readouterr()
        lines[device] = next(line.split()[:-1] for line in out.splitlines() if line.startswith("epoch 1/1"))
        assert (err == "") == (device == "cpu") == ("CUDA kernels without product, float32" not in " ".join(out.split()))
    assert lines["cuda"] == lines["cpu"]


def test_what_was_found_is_remembered_for_the_same_gpu_and_software(gpu, tmp_path):
    gpu.spoil = spoiling("relu")
    first = opened(gpu)
    gpu.launched.clear()
    second = opened(gpu)
    assert gpu.launched == [] and second.kernels == first.kernels and second.ops.relu is plain.relu
    newer = Gpu(driver=13_000)
    assert opened(newer).kernels == "CUDA kernels, float32 products" and newer.launched
    for damaged in (lambda text: text[:40], lambda text: "[1, 2]"):  # a file that is damaged is as good as none
        for path in (tmp_path / "wtref").glob("verified-*.json"):
            assert json.loads(path.read_text()).keys() == verification.CALLS.keys()
            path.write_text(damaged(path.read_text()))
        opened(gpu)
        assert gpu.launched
        gpu.launched.clear()
        opened(newer)


@pytest.mark.slow
def test_without_a_folder_to_remember_they_are_verified_each_time(gpu, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    (tmp_path / "a file").touch()
    for _ in range(2):
        gpu.launched.clear()
        assert opened(gpu).kernels == "CUDA kernels, float32 products" and gpu.launched


@pytest.mark.parametrize("kernels, verified", [("auto", True), ("compiled", False), ("plain", False)])
def test_kernels_that_are_required_are_not_verified(gpu, kernels, verified):
    opened(gpu, kernels=kernels)
    assert bool(gpu.launched) == verified


def test_what_does_not_compile_leaves_everything_to_plain_cupy(gpu, capsys, tmp_path):
    def get_function(name):
        raise OSError("nvrtc: error: no such architecture\nand much more")

    gpu.RawModule = lambda code, options: SimpleNamespace(get_function=get_function)
    device = opened(gpu)
    why = "the kernels do not compile: OSError: nvrtc: error: no such architecture"
    assert device.ops is None and device.kernels == f"plain kernels ({why})"
    assert capsys.readouterr().err == f"wtref: cuda:0: plain CuPy computes everything: {why}\n"
    assert list(tmp_path.rglob("verified-*")) == [], "another compiler may be there tomorrow"
    with pytest.raises(InputError, match=f"^--kernels compiled: {why}; "):
        opened(gpu, kernels="compiled")


def test_a_cupy_that_can_compile_nothing_is_one_line(gpu):
    """Without CUDA's headers array expressions would fail, too."""

    def fail(*_, **__):
        raise RuntimeError("Failed to find CUDA headers\nPlease install")

    gpu.RawModule = lambda code, options: SimpleNamespace(get_function=fail)
    gpu.ones = fail
    said = r"^--device cuda:0: CuPy can compile nothing \(RuntimeError: Failed to find CUDA headers\); pip install 'wtref\[cuda12\]'"
    with pytest.raises(InputError, match=said):
        opened(gpu)


def test_a_kernel_that_does_not_start_is_replaced(gpu, capsys):
    def spoil(kernel, arguments):
        if kernel == "average":
            raise RuntimeError("cudaErrorInvalidValue: too much shared memory\n")

    gpu.spoil = spoil
    assert opened(gpu).ops.average is plain.average
    assert "average (RuntimeError: cudaErrorInvalidValue: too much shared memory)" in capsys.readouterr().err


def test_after_a_kernel_that_breaks_the_process_the_next_start_does_without_it(gpu):
    def spoil(kernel, arguments):
        gpu.broken = gpu.broken or kernel == "relu"
        gpu.wait()

    gpu.spoil = spoil
    with pytest.raises(InputError, match=r"^Emulated GPU: the CUDA kernels of relu fail \(RuntimeError: .*\); start again, and plain CuPy"):
        opened(gpu)
    gpu.broken = False
    assert opened(gpu).kernels == "CUDA kernels without relu, float32 products"
    assert gpu.launched[-1] == "descend" and gpu.launched.count("relu") == 1


def test_too_little_memory_says_nothing_about_kernels(gpu, tmp_path):
    def spoil(kernel, arguments):
        raise MemoryError("out of memory")

    gpu.spoil = spoil
    with pytest.raises(MemoryError):
        opened(gpu)
    assert list(tmp_path.rglob("verified-*")) == []


def test_bfloat16_is_not_mixed_with_array_expressions(gpu, monkeypatch):
    monkeypatch.setattr(ops, "_supports_bfloat16", lambda cupy: True)
    monkeypatch.setattr(verification, "verify", lambda *_: {"relu": "why"})
    assert opened(gpu, np.float32, precision="bf16").kernels == "plain kernels (relu (why))"


@pytest.mark.slow
def test_a_fault_in_the_source_is_noticed(gpu):
    """Of equal numbers in a window the last one is the maximum, and not the first."""
    right = "!((REAL) values[j] <= largest[j])"
    assert source().count(right) == 1
    wrong = source().replace(right, "!((REAL) values[j] < largest[j])")
    there = Cuda(gpu, lambda code, options: gpu.RawModule(wrong, options), processors=4)
    assert verification.verify(there, Device("cuda:0", gpu, np.float64), "float32") == {"max_pool": verification.DIFFERENT}


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 1])
def test_a_training_with_half_of_the_functions_replaced_is_the_same(gpu, first):
    arrays = []
    for device in (opened(gpu, kernels="compiled"), Device("cpu", np, np.float64)):
        for name in list(verification.CALLS)[first::2] if device.ops else []:
            setattr(device.ops, name, getattr(plain, name))
        training = prepare(Config(model="resnet8", rule="kp", batch_size=4, dtype="float64"), device)
        images, labels = next(iter(training.feed.train_batches(epoch=0)))
        training.step(images, labels)
        arrays.append(training.network.arrays())
    for name, wanted in arrays[1].items():
        assert abs(arrays[0][name].get() - wanted).max() <= 1e-9 * max(abs(wanted).max(), 1e-3), name
