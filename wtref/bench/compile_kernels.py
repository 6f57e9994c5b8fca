"""`python -m wtref.bench.compile_kernels DEVICE` compiles the kernels of a GPU and of the CPU, and verifies those of the GPU.

Each kind has a process of its own, as a compiler uses one core.  Later processes find the kernels in the caches of CuPy and
of fast/building.py.
"""

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

from wtref.device import open_device
from wtref.errors import InputError
from wtref.fast.cuda_launches import PRECISIONS
from wtref.fast.ops import equip


def main(device):
    """Print a line for each kind of kernels as it is finished; returns whether one of the GPU's is missing or wrong."""
    gpu = [(device, "float64", "float32"), *((device, "float32", precision) for precision in PRECISIONS)]
    kinds, failed = [*gpu, ("cpu", "float64", "float32"), ("cpu", "float32", "float32")], False
    with ProcessPoolExecutor(len(kinds), multiprocessing.get_context("spawn")) as pool:
        for done in as_completed(pool.submit(compiled, *kind) for kind in kinds):
            line, right = done.result()
            print(line, flush=True)
            failed |= not right
    return failed


def compiled(device, dtype, precision):
    """(a line about the kernels of this kind, whether they are those that the GPU should have; a CPU may have none)"""
    start = time.perf_counter()
    try:
        kernels = equip(open_device(device, dtype), threads=1, precision=precision).kernels
    except InputError as error:
        kernels = str(error)
    line = f"{device}, {dtype}, {precision} products, {time.perf_counter() - start:.0f} s: {kernels}"
    return line, device == "cpu" or kernels == f"CUDA kernels, {precision} products"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
