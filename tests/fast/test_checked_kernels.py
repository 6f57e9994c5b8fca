"""The CUDA kernels touch nothing beside their arrays and do nothing that C++ leaves undefined: either would end the process."""

import ctypes
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import cuda_double

TESTS = Path(cuda_double.__file__).parent
PATHS = f"import sys; sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]\n"
PROGRAM = """
import numpy as np
from cuda_double import EmulatedModule
from device_double import xp
code = 'extern "C" __global__ void kernel(const int *x, int n, int *out) { %s; }'
x, out = xp.array(np.arange(4, dtype=np.int32)), xp.zeros(3, dtype=np.int32)
EmulatedModule(code=code, checked=%s).get_function("kernel")((1,), (1,), (x, np.int32(%d), out))
"""


def obstacle(folder):
    """The reason why there is no sanitizer here; None if there is."""
    if cuda_double.emulator_obstacle():
        return cuda_double.emulator_obstacle()
    command = [cuda_double.compiler(), *cuda_double.SANITIZER, "-shared", "-fPIC", "-x", "c++", "-", "-o", folder / "library.so"]
    try:
        subprocess.run(command, input="int next(int n) { return n + 1; }", text=True, check=True, capture_output=True)
        ctypes.CDLL(str(folder / "library.so"))
    except (subprocess.CalledProcessError, OSError) as reason:
        return f"the C++ compiler has no undefined-behaviour sanitizer for libraries: {reason}"


@pytest.fixture(autouse=True)
def need_sanitizer(tmp_path):
    reason = obstacle(tmp_path)
    if reason:
        pytest.skip(reason)


def ended(statement, n, checked=True):
    """The finished process of a kernel (const int x[4], int n, int out[3]) that consists of a statement."""
    return subprocess.run([sys.executable, "-c", PATHS + PROGRAM % (statement, checked, n)], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, -8192])
def test_a_read_beside_an_array_ends_the_process(n):
    assert ended("out[0] = x[n]", 3).returncode == 0
    assert ended("out[0] = x[n]", n).returncode in (-signal.SIGSEGV, -signal.SIGBUS)


@pytest.mark.slow
def test_a_write_close_to_an_array_is_an_error():
    assert ended("out[n] = 1", 2).returncode == 0
    done = ended("out[n] = 1", 3)
    assert done.returncode == 1 and "kernel: it writes beside an array" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement, n, fault",
    [("out[0] = n + 1", 2**31 - 1, "signed integer overflow"), ("out[0] = 1 << n", 32, "shift exponent 32 is too large")],
)
def test_what_cpp_leaves_undefined_ends_the_process(statement, n, fault):
    assert ended(statement, 1).returncode == 0
    done = ended(statement, n)
    assert done.returncode != 0 and fault in done.stderr
    assert ended(statement, n, checked=False).returncode == 0


@pytest.mark.slow
def test_no_kernel_has_such_a_fault():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-s", TESTS / "checked_kernels.py"]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
