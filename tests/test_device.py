"""Opening a device: the choice of auto, the error messages, and copies of arrays to and from it."""

import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fake_cupy import fake_cupy
from wtref.device import _stream, array_module, open_device, to_host
from wtref.errors import InputError
from wtref.fast import ops as kernels
from wtref.fast.cuda import Cuda
from wtref.fast.ops import equip


@pytest.fixture
def install(monkeypatch):
    """A function that replaces cupy by a fake module, or by None for a missing one."""
    _stream.cache_clear()

    def put(module):
        monkeypatch.setitem(sys.modules, "cupy", module)
        return module

    return put


NO_DRIVER = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
NO_GPU = {"no cupy": None, "no device": fake_cupy(0), "no driver": fake_cupy(0, NO_DRIVER)}


@pytest.mark.parametrize("cupy", NO_GPU.values(), ids=NO_GPU)
def test_auto_falls_back_to_the_cpu(install, cupy):
    install(cupy)
    device = open_device("auto")
    assert (device.name, device.xp) == ("cpu", np)


def test_auto_takes_the_first_gpu(install):
    cupy = install(fake_cupy(2))
    device = open_device("auto")
    assert (device.name, device.xp, cupy.used) == ("cuda:0", cupy, [0])


@pytest.mark.parametrize("name, index", [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_a_gpu_by_its_number(install, name, index):
    cupy = install(fake_cupy(2))
    device = open_device(name, "float64")
    assert (device.name, device.xp, device.dtype) == (f"cuda:{index}", cupy, np.float64)
    assert cupy.used == [index]
    assert array_module(cupy.ndarray()) is cupy
    assert cupy.accelerators == [], "no reduction is compiled from CUB's headers"


def test_a_gpu_computes_with_its_kernels_in_the_asked_precision(install):
    cupy = install(fake_cupy(1))
    device = equip(open_device("cuda"), "compiled", precision="tf32")
    assert device.kernels == "CUDA kernels, tf32 products"
    assert isinstance(device.ops, Cuda) and device.ops.processors == 4
    assert ["-DTF32" in options for options in cupy.compiled] == [True, False]  # float32's, float64's
    for plain in (open_device("cuda"), equip(open_device("cuda"), "plain")):
        assert (plain.kernels, plain.ops) == ("plain kernels", None)


def test_devices_own_their_kernels(install):
    install(fake_cupy(1))
    exact, fast = (equip(open_device("cuda"), "compiled", precision=precision) for precision in ("float32", "tf32"))
    assert exact.ops is not fast.ops
    assert (exact.kernels, fast.kernels) == ("CUDA kernels, float32 products", "CUDA kernels, tf32 products")


@pytest.mark.parametrize("device, options", [("cpu", {}), ("cuda", {"kernels": "plain"})])
def test_a_precision_that_cannot_be_had_is_refused(install, device, options):
    install(fake_cupy(1))
    with pytest.raises(InputError, match="--precision bf16 needs"):
        equip(open_device(device), precision="bf16", **options)


@pytest.mark.parametrize("error", [TypeError, ValueError])
@pytest.mark.parametrize("ml_dtypes, cupy_knows", [(False, True), (True, False), (True, True)])
def test_bf16_needs_a_cupy_that_knows_it(install, monkeypatch, ml_dtypes, cupy_knows, error):
    def empty(shape, dtype):
        if not cupy_knows:
            raise error(f"unsupported dtype {dtype}")
        return np.empty(shape, dtype)

    monkeypatch.setattr(kernels, "BFLOAT16", np.dtype("V2") if ml_dtypes else None)
    install(fake_cupy(1)).empty = empty
    if ml_dtypes and cupy_knows:
        assert equip(open_device("cuda"), "compiled", precision="bf16").kernels == "CUDA kernels, bf16 products"
    else:
        with pytest.raises(InputError, match="--precision bf16 needs ml_dtypes, CuPy 14"):
            equip(open_device("cuda"), precision="bf16")


def test_cpu_is_the_cpu_even_beside_a_gpu(install):
    install(fake_cupy(1))
    assert open_device("cpu").name == "cpu"


@pytest.mark.parametrize(
    "cupy, name, wanted",
    [
        (None, "cuda", ["--device cuda", "CuPy is not installed", "wtref[cuda12]", "cuda13", "--device cpu"]),
        (None, "cuda:3", ["CuPy is not installed"]),
        (fake_cupy(0), "cuda", ["--device cuda", "finds no GPU", "no device", "--device cpu"]),
        (fake_cupy(0, NO_DRIVER), "cuda", ["finds no GPU", "driver version is insufficient", "--device cpu"]),
        (fake_cupy(1), "cuda:7", ["cuda:7", "the last CUDA device here is cuda:0", "cuda:0"]),
        (fake_cupy(2), "cuda:2", ["cuda:2", "the last CUDA device here is cuda:1"]),
    ],
)
def test_a_gpu_that_is_not_there(install, cupy, name, wanted):
    install(cupy)
    with pytest.raises(InputError) as caught:
        open_device(name)
    message = str(caught.value)
    assert "\n" not in message
    for part in wanted:
        assert part in message


@pytest.mark.parametrize("extra", ["cuda12", "cuda13"])
def test_the_extras_bring_cuda_s_headers(extra):
    """CuPy 14 comes without them, and compiles nothing without them."""
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"cupy-{extra}x[ctk]>=14.1" in extras[extra]


@pytest.mark.parametrize("name", ["gpu", "", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:0:1", "cpu\n"])
def test_an_unknown_device_lists_the_known_ones(name):
    with pytest.raises(InputError, match=r"^unknown device .*auto, cpu, cuda, cuda:N$"):
        open_device(name)


@pytest.mark.parametrize("dtype", ["float16", "double", ""])
def test_an_unknown_dtype_lists_the_known_ones(dtype):
    with pytest.raises(InputError, match=r"^unknown dtype .*float32, float64$"):
        open_device("cpu", dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("host", [[1, 2, 3], np.arange(3, dtype=np.uint8), np.ones((2, 2), dtype=np.float64)])
def test_real_arrays_take_the_device_s_dtype(dtype, host):
    array = open_device("cpu", dtype).array(host)
    assert type(array) is np.ndarray and array.dtype == dtype
    assert np.array_equal(array, host)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64])
def test_raw_arrays_keep_their_own(dtype):
    host = np.arange(4, dtype=dtype)
    assert open_device("cpu", "float32").raw(host).dtype == dtype


def test_real_numbers_are_copied():
    host = np.ones(3)
    array = open_device("cpu", "float64").array(host)
    host[0] = 7
    assert array.tolist() == [1, 1, 1]


def test_bytes_stay_where_they_are_on_the_cpu():
    host = np.ones(3, np.uint8)
    assert open_device("cpu").raw(host) is host


def test_the_module_of_an_array():
    assert array_module(np.zeros(2)) is np


@pytest.mark.parametrize("x", [np.zeros(2)[:1], np.float32(2), np.array(1.0)])
def test_the_module_of_numpy_s_other_arrays_and_scalars(x):
    assert array_module(x) is np


def test_the_module_is_that_which_defines_the_arrays_type(install):
    cupy = install(fake_cupy(1))
    assert array_module(cupy.ndarray()) is cupy


@pytest.mark.parametrize("x", [[1.0], 1.0, "x", None])
def test_what_is_no_array_has_no_array_functions(x):
    with pytest.raises(AttributeError):
        array_module(x).zeros_like(x)


def test_to_host_fetches_what_lies_elsewhere_and_leaves_the_rest():
    here, there = np.arange(3), np.arange(3)
    assert to_host(here) is here
    assert to_host(SimpleNamespace(get=lambda: there)) is there
    assert to_host(2.5) == 2.5


@pytest.mark.parametrize("dtype", ["float64", np.float64, np.dtype("float64")])
def test_a_dtype_may_be_given_as_numpy_gives_it(dtype):
    assert open_device("cpu", dtype).dtype is np.float64


@pytest.mark.parametrize("arguments", [(None,), (3,), ("cpu", None), ("cpu", np.int32), ("cpu", float), ("cpu", ["float64"])])
def test_a_device_or_dtype_of_another_type_is_one_line(arguments):
    with pytest.raises(InputError, match="^unknown (device|dtype) .*(cuda:N|float32, float64)$"):
        open_device(*arguments)
