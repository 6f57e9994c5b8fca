"""CUDA kernels between two events each: where a step's time goes on a GPU."""

from collections import defaultdict

# Keeps the device busy while Python launches a step behind it: between two events there is then a kernel and no wait.
SPIN = """extern "C" __global__ void spin(long long cycles)
{
    for (const long long start = clock64(); clock64() - start < cycles;);
}"""
CYCLES = 400_000_000  # about a quarter of a second


class TimedModule:
    """cupy.RawModule, whose launches leave (kernel's name, first event, second event, its arguments) in a list."""

    def __init__(self, cupy, launches, **source):
        """cupy: the module; launches: the list."""
        self.cupy, self.launches, self.module = cupy, launches, cupy.RawModule(**source)

    def get_function(self, name):
        return TimedKernel(self, name, self.module.get_function(name))


class TimedKernel:
    """cupy.RawKernel, as far as cuda.py uses it."""

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


def profile(cupy, launches, step):
    """{a kernel, how often and how fast: ms of one step}, the largest first."""
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
    """Of a convolution's kernel, by its arrays: numbers, the two factors, parts of the result or none, the result."""
    if not name.startswith("convolve"):
        return 0
    _, a, b, *_, out = arrays
    weights = out if "outer" in name else b  # W, B's transpose or their gradient: (C_out, patch)
    above = a if "outer" in name or "back" in name else out  # delta, or the result: (..., C_out)
    return 2 * above.size // len(weights) * weights.size


def _title(name, count, ms, nbytes, flops):
    rates = f"{nbytes / ms / 1e6:,.0f} GB/s" + (f", {flops / ms / 1e9:,.0f} TFLOP/s" if flops else "")
    return f"{name} x{count}, {rates}"
