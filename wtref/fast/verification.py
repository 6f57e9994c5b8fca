"""Each function of the CUDA kernels is called once on a new GPU, on small odd shapes, and compared with its plain version.

A function whose kernels fail or compute other numbers is left to plain.py.  What was found is kept in the folder of the
compiled libraries, for the GPU, its driver, the versions of CuPy and of its compiler, and the sources.
"""

import copy
import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from wtref import progress
from wtref.device import Device, to_host
from wtref.errors import InputError, Unsaved
from wtref.fast import cuda, cuda_launches, plain
from wtref.fast.building import cache_folder
from wtref.files import write_json
from wtref.geometry import output_size
from wtref.text import printable

LIMITS = {np.float64: 1e-12, np.float32: 1e-4}  # the largest error, relative to the largest number of a result
BF16_LIMIT = 0.01  # the same where results are stored as bfloat16
DIFFERENT = "other numbers than plain.py's"


def verify(ops, device, precision):
    """Replace the functions of ops whose kernels fail on this GPU by plain ones.

    Parameters: ops (cuda.Cuda); device, the Device whose ops they will be; precision, as equip takes it.
    Returns: {function: why it was replaced}.
    Raises: InputError where a kernel fails in such a way that the process can no longer use the GPU, or CuPy compiles nothing.
    """
    path = _path(device.xp, cuda_launches.options(device.dtype, precision))
    found = _read(path)
    new = [name for name in CALLS if name not in found]
    if new:
        progress.show("compiling and verifying the CUDA kernels, once for this GPU")
        why = compiler_s_fault(ops, device)
        if why:
            return dict.fromkeys(CALLS, why)
    for name in CALLS:
        if name in new:
            found[name] = _fault(name, ops, device)
            _check_device(name, found, device, path)
        if found[name]:
            setattr(ops, name, getattr(plain, name))  # also for the calls after it
    if new:
        _write(path, found)
    return {name: why for name, why in found.items() if why}


def compiler_s_fault(ops, device):
    """Why the kernels do not compile; None if they do.  Raises InputError where CuPy compiles nothing."""
    try:
        ops.compile(device.dtype)
    except Exception as error:  # of the compiler, the driver or CuPy, which have no class in common
        _check_compiler(device)
        return f"the kernels do not compile: {_line(error)}"


def describe(faults):
    """What `verify` found, in a few words: the functions with their reasons, or the reason if all functions share one."""
    reasons = set(faults.values())
    if len(faults) == len(CALLS) and len(reasons) == 1:
        return reasons.pop()
    return " and ".join(f"{name} ({why})" for name, why in faults.items())


def _check_compiler(device):
    """Raise InputError unless CuPy can compile kernels of its own, for which it needs NVRTC and CUDA's headers."""
    try:
        device.xp.ones(1)
    except Exception as error:  # as above
        right = "pip install 'wtref[cuda12]' (or cuda13), or use --device cpu"
        raise InputError(f"--device {device.name}: CuPy can compile nothing ({_line(error)}); {right}") from None


def _fault(name, ops, device):
    """Why the kernels of a function cannot be used; None if they compute what plain.py does."""
    limit = BF16_LIMIT if ops.bf16 else LIMITS[device.dtype]
    wanted = _results(name, plain, Numbers(Device("cpu", np, np.float64)))
    for each in _every_tiling(ops, device.dtype) if name in PRODUCTS else [ops]:
        try:
            found = _results(name, each, Numbers(device))
        except MemoryError:  # says nothing about the kernels
            raise
        except Exception as error:  # as above
            return _line(error)
        if not all(_agree(*pair, limit) for pair in zip(found, wanted, strict=True)):
            return DIFFERENT
    return None


def _results(name, ops, numbers):
    """What a function of ops returns in each of its calls, on the host in float64; several results as one array."""
    return [np.array([*map(to_host, x)] if isinstance(x, tuple) else to_host(x), np.float64) for x in CALLS[name](ops, numbers)]


def _every_tiling(ops, dtype):
    """Yield the ops with each tile of products, and with a sum over k in two slices."""
    tiles = cuda_launches.tiles(dtype)
    for cut in [*((*tile, 1) for tile in tiles), (*tiles[0], 2)]:
        tiled = copy.copy(ops)
        tiled._tiling = lambda *product, cut=cut: cut
        yield tiled


def _agree(found, wanted, limit):
    """Whether no number differs by more than the limit; NaN does."""
    return found.shape == wanted.shape and bool(abs(found - wanted).max() <= limit * abs(wanted).max())


def _check_device(name, found, device, path):
    """Raise InputError if the function has failed and nothing else will succeed, as after an illegal address."""
    if found[name] in (None, DIFFERENT):
        return
    try:
        device.wait()
    except RuntimeError:
        _write(path, found)
        again = "start again, and plain CuPy computes it, or use --kernels plain"
        raise InputError(f"{gpu_name(device.xp)}: the CUDA kernels of {name} fail ({found[name]}); {again}") from None


def _line(error):
    """An error on one line, without an end of many words."""
    return printable(f"{type(error).__name__}: {error}".splitlines()[0][:200])


def gpu_name(cupy):
    """The name of the current GPU."""
    return cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()


def _path(cupy, options):
    """The file of what was found; None where there is no folder for it."""
    sources = [Path(file).read_text(encoding="utf-8") for file in (__file__, cuda.__file__, cuda_launches.__file__, plain.__file__)]
    versions = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.nvrtc.getVersion(), cupy.__version__
    about = gpu_name(cupy), versions, options, cuda_launches.source(), sources
    try:
        return cache_folder() / f"verified-{hashlib.sha256(repr(about).encode()).hexdigest()[:16]}.json"
    except OSError:
        return None


def _read(path):
    """What was found earlier: {function: None or why it cannot be used}."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else {}
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _write(path, found):
    try:
        if path:
            write_json(path, found)
    except Unsaved as error:
        print(f"wtref: {error}; the CUDA kernels will be verified again", file=sys.stderr)


# --- the calls: (ops, numbers) -> the results --------------------------------------------------------------


class Numbers:
    """Draws arrays: always the same sequence, of numbers that bfloat16 holds exactly."""

    def __init__(self, device):
        self.device, self.rng = device, np.random.default_rng(0)

    def __call__(self, *shape):
        return self.device.array(self.rng.integers(-127, 128, shape) / 32)


SIZE, WINDOW = (9, 7), ((3, 2), (2, 1), (1, 1))  # of images; kernel, stride and padding
CONVOLUTIONS = [  # (channels below, channels above, window): odd sizes, and whole tiles of channels below or above
    (5, 7, WINDOW), (64, 72, ((3, 3), (1, 1), (1, 1))), (72, 64, ((3, 3), (2, 2), (1, 1))),
]  # fmt: skip


def _product(ops, x):
    wide = [ops.product(x(136, 72), x(72, 132)), ops.product(x(72, 136).T, x(132, 72).T)]
    return *wide, *(ops.product(a, b) for a in (x(131, 37), x(37, 131).T) for b in (x(37, 67), x(67, 37).T))


def _convolve(ops, x):
    return [ops.convolve(x(3, *SIZE, below), _weights(x, below, above, window), *window) for below, above, window in CONVOLUTIONS]


def _convolve_with_moments(ops, x):
    for below, above, window in CONVOLUTIONS:
        out, moments = ops.convolve_with_moments(x(3, *SIZE, below), _weights(x, below, above, window), *window)
        yield from (out, ops.norm_statistics(out, x(above), x(above), x(above), 0.25, 0.5, moments))


def _convolve_gradient(ops, x):
    for below, above, window in CONVOLUTIONS:
        yield ops.convolve_gradient(x(3, *output_size(SIZE, *window), above), x(3, *SIZE, below), *window)


def _convolve_back(ops, x):
    for below, above, window in CONVOLUTIONS:
        delta, B = x(3, *output_size(SIZE, *window), above), _weights(x, below, above, window).T
        yield ops.convolve_back(delta, B, *window, SIZE)


def _weights(x, below, above, window):
    kernel, _, _ = window
    return x(above, kernel[0] * kernel[1] * below)


def _max_pool(ops, x):
    return [ops.max_pool(x(3, *SIZE, channels), *WINDOW) for channels in (5, 72)]


def _max_pool_back(ops, x):
    for channels in (5, 72):
        _, winner = ops.max_pool(x(3, *SIZE, channels), *WINDOW)
        yield ops.max_pool_back(x(*winner.shape), winner, *WINDOW, SIZE)


def _norm_statistics(ops, x):
    for channels in (5, 72):
        running = x(channels), x(channels)
        yield from (ops.norm_statistics(x(3, 45, channels), x(channels), *running, 0.25, 0.5), running)


def _norm(name, vectors):
    """The calls of a function of (delta, x, vectors for each channel, beta), without and with the ReLU that follows."""

    def calls(ops, x):
        for channels in (5, 72):
            for beta in (None, x(channels)):
                delta, values = x(3, 45, channels), x(3, 45, channels)
                yield getattr(ops, name)(delta, values, *(x(channels) for _ in range(vectors)), beta)

    return calls


def _norm_forward(ops, x):
    for channels in (5, 72):
        values, vectors, plus = x(3, 45, channels), [x(channels) for _ in range(3)], x(3, 45, channels)
        yield from (ops.norm_forward(values, *vectors), ops.norm_forward(values, *vectors, True, plus))


def _of_rows(name):
    """The calls of a function of x (N, H, W, C) alone."""
    return lambda ops, x: [getattr(ops, name)(x(3, 9, 5, channels)) for channels in (5, 72)]


def _descend(ops, x):
    for shape in ((7, 11), (16, 72)):
        for nesterov in (False, True):
            w, v = x(*shape), x(*shape).T
            ops.descend(w.T, v, x(*shape).T, 0.5, 0.75, 0.125, nesterov)
            yield from (w, v)


CALLS = {
    "product": _product,
    "moments": _of_rows("moments"),
    "total": _of_rows("total"),
    "norm_statistics": _norm_statistics,
    "norm_scale": lambda ops, x: [ops.norm_scale(x(77), x(77), 16.0)],
    "norm_sums": _norm("norm_sums", 2),
    "norm_gradients": _norm("norm_gradients", 3),
    "norm_forward": _norm_forward,
    "norm_back": _norm("norm_back", 4),
    "convolve": _convolve,
    "convolve_with_moments": _convolve_with_moments,
    "convolve_gradient": _convolve_gradient,
    "convolve_back": _convolve_back,
    "max_pool": _max_pool,
    "max_pool_back": _max_pool_back,
    "average": _of_rows("average"),
    "biased": lambda ops, x: [ops.biased(x(3, 45, channels), x(channels)) for channels in (5, 72)],
    "relu": lambda ops, x: [ops.relu(x(335)), ops.relu(x(336))],
    "relu_back": lambda ops, x: [ops.relu_back(x(n), x(n)) for n in (335, 336)],
    "add": lambda ops, x: [ops.add(x(n), x(n), rectify) for n in (335, 336) for rectify in (False, True)],
    "independent_signs": lambda ops, x: [ops.independent_signs(x.device, np.random.default_rng(1), 300, 77)],
    "hadamard_product": lambda ops, x: [ops.hadamard_product(x(3, n), x(n), x(k)) for n, k in ((1, 1), (67, 300), (1024, 700))],
    "descend": _descend,
}
PRODUCTS = {name for name in CALLS if name == "product" or name.startswith("convolve")}
