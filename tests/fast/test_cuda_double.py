"""The CUDA double itself: what it must compute, and the faults that it must detect."""

import numpy as np
import pytest

from cuda_double import ORDERS, EmulatedModule, emulator_obstacle
from device_double import xp

if emulator_obstacle():
    pytest.skip(emulator_obstacle(), allow_module_level=True)


def launched(code, grid, block, *arguments, order="forward", name="kernel", shared=0):
    EmulatedModule(code=code, order=order).get_function(name)(grid, block, arguments, shared_mem=shared)


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
    assert (out.get() == -1).any(), "words of shared memory that were not written yet"


def test_threads_that_never_meet_are_reported():
    code = 'extern "C" __global__ void kernel(int n) { if ((int) threadIdx.x < n) __syncthreads(); }'
    with pytest.raises(RuntimeError, match=r"block \(0, 0, 0\) is stuck: 3 threads wait at a barrier, 0 .* 5 have ended"):
        launched(code, (1,), (8,), np.int32(3))
    launched(code, (1,), (8,), np.int32(8))  # and the next launch is as good as new


@pytest.mark.parametrize("argument", [3, np.int64(3), np.float32(3), 3.0, None, xp.zeros(1, dtype=np.int32)])
def test_a_scalar_of_another_type_is_refused(argument):
    with pytest.raises(TypeError, match="argument 0 must be int32, found"):
        launched('extern "C" __global__ void kernel(int n) {}', (1,), (1,), argument)


@pytest.mark.parametrize("argument", [np.int32(0), 1, None, xp.zeros(1, dtype=np.float64), np.zeros(1, np.float32)])
def test_an_array_of_another_type_is_refused(argument):
    with pytest.raises(TypeError, match=r"argument 0 must be \*float32, found"):
        launched('extern "C" __global__ void kernel(const float *x) {}', (1,), (1,), argument)


def test_a_count_of_arguments_that_is_not_the_kernel_s_is_refused():
    with pytest.raises(TypeError, match="takes 1 arguments, found 2"):
        launched('extern "C" __global__ void kernel(int n) {}', (1,), (1,), np.int32(1), np.int32(1))


def test_0_is_the_null_pointer():
    out = xp.zeros(1, dtype=np.int32)
    code = 'extern "C" __global__ void kernel(const float *x, int *out) { out[0] = x == 0; }'
    launched(code, (1,), (1,), 0, out)
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
        ("#define VALUES 1\n#define WORD(x) to_tf32(*(const unsigned *) (x))\n#define MMA mma_tf32", 1),
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


LOADED = """
extern "C" __global__ void kernel(const int *x, int *out)
{
    extern __shared__ __align__(16) char shared[];
    for (int i = threadIdx.x; i < 128; i += 32)
        ((int *) shared)[i] = x[i];
    __syncthreads();
    unsigned words[4];
    LOAD(words, shared + 16 * threadIdx.x);
    for (int i = 0; i < 4; i++)
        out[32 * i + threadIdx.x] = words[i];
}
"""


@pytest.mark.parametrize("order", ORDERS)
def test_a_warp_loads_matrices_as_the_ptx_manual_lays_them_out(order):
    """Four 8 x 8 matrices of halves of words: lane 4 g + t gets (g, 2t) and (g, 2t + 1), or (2t, g) and (2t + 1, g)."""
    halves = np.arange(256, dtype=np.int16).reshape(4, 8, 8)
    for name, matrices in (("load_matrices", halves), ("load_transposed", halves.swapaxes(1, 2))):
        out = xp.zeros(128, dtype=np.int32)
        x = xp.array(halves.view(np.int32).ravel())
        launched(LOADED.replace("LOAD", name), (1,), (32,), x, out, order=order, shared=512)
        assert np.array_equal(out.get(), np.ascontiguousarray(matrices).view(np.int32).ravel())


COPIED = """
extern "C" __global__ void kernel(const int *x, int *out)
{
    extern __shared__ __align__(16) char shared[];
    int *words = (int *) shared;
    for (int batch = 0; batch < 2; batch++) {
        start_copy(words + 64 * batch + 4 * threadIdx.x, x, threadIdx.x == 3 ? -1 : 64 * batch + 4 * threadIdx.x);
        end_batch_of_copies();
    }
    wait_for_copies<RUNNING>();
    __syncthreads();
    for (int i = 0; i < 128; i++)
        out[i] = words[i];
}
"""


@pytest.mark.parametrize("running, wanted", [(0, 128), (1, 64), (2, 0)])
def test_a_copy_is_there_when_its_thread_has_waited_for_it(running, wanted):
    x, out = np.arange(128, dtype=np.int32), xp.zeros(128, dtype=np.int32)
    launched(COPIED.replace("RUNNING", str(running)), (1,), (16,), xp.array(x), out, shared=512)
    x[12:16] = x[76:80] = 0
    assert np.array_equal(out.get(), np.where(np.arange(128) < wanted, x, -1))


def test_more_shared_memory_than_was_asked_for_shows():
    code = 'extern "C" __global__ void kernel(int n) { extern __shared__ __align__(16) char shared[]; shared[n] = 1; }'
    launched(code, (1,), (1,), np.int32(63), shared=64)
    with pytest.raises(RuntimeError, match="behind its dynamic shared memory"):
        launched(code, (1,), (1,), np.int32(64), shared=64)
    with pytest.raises(ValueError, match="no launch"):
        launched(code, (1,), (1,), np.int32(0), shared=49_153)
