"""The time of each CUDA kernel in a training step, measured by a pair of events around every launch."""

from collections import defaultdict
from copy import copy
from dataclasses import replace
from functools import partial

# Keeps the device busy while Python queues the launches of a step: the time between two events is then a kernel's alone.
SPIN = """extern "C" __global__ void spin(long long cycles)
{
    for (const long long start = clock64(); clock64() - start < cycles;);
}"""
CYCLES = 400_000_000  # about a quarter of a second


def timed_device(device, precision):
    """The same GPU with kernels of its own that are timed, and the list to which each launch is appended.

    An item of the list is (name of the kernel, event before, event after, arguments).
    """
    launches, ops = [], copy(device.ops)  # a copy keeps the functions that verification.py has replaced
    ops.__init__(device.xp, partial(TimedModule, device.xp, launches), precision, ops.processors)
    return replace(device, ops=ops), launches


class TimedModule:
    """A cupy.RawModule whose kernels are timed."""

    def __init__(self, cupy, launches, **source):
        """cupy: the module cupy; launches: the list of timed_device; source: the arguments of cupy.RawModule."""
        self.cupy, self.launches, self.module = cupy, launches, cupy.RawModule(**source)

    def get_function(self, name):
        return TimedKernel(self, name, self.module.get_function(name))


class TimedKernel:
    """A cupy.RawKernel, with the attributes that Cuda uses."""

    def __init__(self, module, name, kernel):
        self.module, self.name, self.kernel = module, name, kernel

    @property
    def max_dynamic_shared_size_bytes(self):
        return self.kernel.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size):
        self.kernel.max_dynamic_shared_size_bytes = size

    def __call__(self, grid, block, arguments, **options):
        stream = self.module.cupy.cuda.get_current_stream()
        first = stream.record()
        self.kernel(grid, block, arguments, **options)
        self.module.launches.append((self.name, first, stream.record(), arguments))


def kernel_times(cupy, launches, step):
    """{name of a kernel, its launches and rates: ms in one step}, the largest first.

    launches: the list of timed_device; step: a function that takes one step on that device.
    """
    step()
    launches.clear()
    cupy.RawModule(code=SPIN).get_function("spin")((1,), (1,), (CYCLES,))
    step()
    cupy.cuda.get_current_stream().synchronize()
    sums = defaultdict(lambda: [0, 0.0, 0, 0])
    for name, first, second, arguments in launches:
        arrays = [x for x in arguments if hasattr(x, "nbytes") and hasattr(x, "shape") and x.ndim]
        ms = cupy.cuda.get_elapsed_time(first, second)
        sums[name] = [a + b for a, b in zip(sums[name], (1, ms, sum(x.nbytes for x in arrays), flop(name, arrays)))]
    launches.clear()
    ordered = sorted(sums.items(), key=lambda pair: -pair[1][1])
    return {_title(name, *found): found[1] for name, found in ordered}


def flop(name, arrays):
    """The floating-point operations of a convolution's kernel; 0 for other kernels.

    arrays: those among its arguments, in order: the geometry, two factors, the slices of the result if any, the result.
    """
    if not name.startswith("convolve"):
        return 0
    _, a, b, *_, out = arrays
    weights = out if "gradient" in name else b  # W, B's transpose or their gradient: (C_out, patch)
    above = a if "gradient" in name or "back" in name else out  # delta, or the result: (..., C_out)
    return 2 * above.size // len(weights) * weights.size


def _title(name, count, ms, nbytes, flops):
    rates = f"{nbytes / ms / 1e6:,.0f} GB/s" + (f", {flops / ms / 1e9:,.0f} TFLOP/s" if flops else "")
    return f"{name} x{count}, {rates}"
