"""The CUDA double itself: what it must do, and the faults it must notice."""

import numpy as np
import pytest
from cuda_double import ORDERS, EmulatedModule, emulator_obstacle
from device_double import xp

if emulator_obstacle():
    pytest.skip(emulator_obstacle(), allow_module_level=True)


def launched(code, grid, block, *arguments, order="forward", name="kernel"):
    EmulatedModule(code=code, order=order).get_function(name)(grid, block, arguments)


REVERSE = """
extern "C" __global__ void kernel(const int *x, int *out)
{
    __shared__ int words[64];
    words[threadIdx.x] = x[blockIdx.x * 64 + threadIdx.x];
    %s
    out[blockIdx.x * 64 + threadIdx.x] = words[63 - threadIdx.x];
}
"""


@pytest.mark.parametrize("order", ORDERS)
def test_a_barrier_makes_threads_wait_for_each_other(order):
    x, out = xp.arange(128, dtype=np.int32), xp.zeros(128, dtype=np.int32)
    launched(REVERSE % "__syncthreads();", (2,), (64,), x, out, order=order)
    assert np.array_equal(out.get(), np.arange(128).reshape(2, 64)[:, ::-1].ravel())


@pytest.mark.parametrize("order", ORDERS)
def test_a_missing_barrier_shows_in_the_result(order):
    x, out = xp.arange(128, dtype=np.int32), xp.zeros(128, dtype=np.int32)
    launched(REVERSE % "", (2,), (64,), x, out, order=order)
    assert (out.get() == -1).any(), "words of shared memory that nobody wrote yet"


def test_threads_that_never_meet_are_reported():
    code = 'extern "C" __global__ void kernel(int n) { if ((int) threadIdx.x < n) __syncthreads(); }'
    with pytest.raises(RuntimeError, match=r"block \(0, 0, 0\) is stuck: 3 threads wait at a barrier, 0 .* 5 have ended"):
        launched(code, (1,), (8,), np.int32(3))
    launched(code, (1,), (8,), np.int32(8))  # and the next launch is as good as new


@pytest.mark.parametrize("argument", [3, np.int64(3), np.float32(3), 3.0, None, xp.zeros(1, dtype=np.int32)])
def test_a_scalar_of_another_type_is_refused(argument):
    with pytest.raises(TypeError, match="argument 0: the kernel's is int32, found"):
        launched('extern "C" __global__ void kernel(int n) {}', (1,), (1,), argument)


@pytest.mark.parametrize("argument", [np.int32(0), xp.zeros(1, dtype=np.float64), np.zeros(1, np.float32)])
def test_an_array_of_another_type_is_refused(argument):
    with pytest.raises(TypeError, match=r"argument 0: the kernel's is \*float32, found"):
        launched('extern "C" __global__ void kernel(const float *x) {}', (1,), (1,), argument)


def test_a_count_of_arguments_that_is_not_the_kernel_s_is_refused():
    with pytest.raises(TypeError, match="takes 1 arguments, found 2"):
        launched('extern "C" __global__ void kernel(int n) {}', (1,), (1,), np.int32(1), np.int32(1))


def test_none_is_the_null_pointer():
    out = xp.zeros(1, dtype=np.int32)
    code = 'extern "C" __global__ void kernel(const float *x, int *out) { out[0] = x == 0; }'
    launched(code, (1,), (1,), None, out)
    assert out.get()[0] == 1


MMA = """
extern "C" __global__ void kernel(const float *a, const float *b, float *d)
{
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    float sums[4] = {};
    unsigned words_a[4], words_b[2];
    for (int i = 0; i < 4; i++)
        words_a[i] = WORD(a + (g + 8 * (i % 2)) * 8 * VALUES + (t + 4 * (i / 2)) * VALUES);
    for (int i = 0; i < 2; i++)
        words_b[i] = WORD(b + g * 8 * VALUES + (t + 4 * i) * VALUES);
    MMA(sums, words_a, words_b);
    for (int i = 0; i < 4; i++)
        d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = sums[i];
}
"""


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "head, values",
    [
        ("#define VALUES 1\n#define WORD(x) to_tf32(*(x))\n#define MMA mma_tf32", 1),
        ("#define VALUES 2\n#define WORD(x) to_bf16x2((x)[0], (x)[1])\n#define MMA mma_bf16", 2),
    ],
)
def test_a_warp_multiplies_as_the_ptx_manual_lays_it_out(head, values, order):
    """Small whole numbers: exact in every precision."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 9, (rows, 8 * values)).astype(np.float32) for rows in (16, 8))
    d = xp.zeros((16, 8), dtype=np.float32)
    launched(head + MMA, (1,), (32,), xp.array(a), xp.array(b), d, order=order)
    assert np.array_equal(d.get(), a @ b.T)
