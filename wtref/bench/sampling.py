"""Where a step's time goes on a CPU: the stacks of all threads are sampled a thousand times a second.

A sample is divided equally among the threads at work in it; it counts as "waiting" if there are none.
The times of all categories therefore add up to the step's.
"""

import sys
import threading
import time
from collections import Counter

# The category of the time spent in a function, a class or a module.  Of the frames of a stack, the innermost that is here counts.
LAYERS = {
    "Conv2d": "products",
    "Linear": "products",
    "BatchNorm": "batch norm",
    "Residual": "element-wise",
    "MaxPool": "pooling",
    "GlobalAvgPool": "pooling",
}
CATEGORIES = {
    **{f"{module}.{layer}": category for module in ("wtref.layers", "wtref.fast.layers") for layer, category in LAYERS.items()},
    "wtref.layers.patches": "convolution gather",
    "wtref.layers.image": "convolution gather",
    "wtref.fast.compiled.Compiled.convolve": "convolution, forward",
    "wtref.fast.compiled.Compiled.convolve_with_moments": "convolution, forward",
    "wtref.fast.compiled.Compiled.convolve_gradient": "convolution, for W",
    "wtref.fast.compiled.Compiled.convolve_back": "convolution, through B",
    "wtref.fast.layers.ReLU": "element-wise",
    "wtref.activations": "element-wise",
    "wtref.losses": "element-wise",
    "wtref.optim.SGD": "optimizer",
    "wtref.fast.optim.SGD": "optimizer",
    "wtref.rules.WeightMirror": "mirror",
    "wtref.relatives.OrthogonalMirror": "mirror",
    "wtref.relatives.ActivationAlignment": "mirror",
    "wtref.relatives.InformationAlignment": "mirror",
    "wtref.noise": "mirror",
}

# A thread whose innermost frame is in one of these modules has no work.
WAITING = {"threading", "queue", "concurrent.futures.thread"}


def thread_times(step, seconds=2.0, interval=0.001):
    """Take steps for so many seconds; returns {category: ms of a step}, the largest first."""
    samples, done, count = Counter(), threading.Event(), 0
    sampler = threading.Thread(target=_sample, args=(samples, done, interval), daemon=True)
    start = time.perf_counter()
    sampler.start()
    try:
        while time.perf_counter() - start < seconds:
            step()
            count += 1
        each = 1000 * (time.perf_counter() - start) / count
    finally:
        done.set()
        sampler.join()
    return {name: each * share / samples.total() for name, share in samples.most_common()}


def category(frame):
    """The category of a thread by its innermost frame; None for a thread that runs no code of wtref's."""
    if not WAITING.isdisjoint(_names(frame)):
        return "waiting"
    ours = False
    while frame is not None:
        for name in _names(frame):
            if name in CATEGORIES:
                return CATEGORIES[name]
        ours = ours or _module(frame).startswith("wtref.")
        frame = frame.f_back
    return "other" if ours else None


def _names(frame):
    """The frame's function, its class and its module: wtref.layers.Conv2d.forward, wtref.layers.Conv2d, wtref.layers, wtref."""
    name = f"{_module(frame)}.{frame.f_code.co_qualname}"
    while name:
        yield name
        name = name.rpartition(".")[0]


def _module(frame):
    return frame.f_globals.get("__name__", "")


def _sample(samples, done, interval):
    """Sample the stacks of the other threads every `interval` seconds until `done` is set."""
    me = threading.get_ident()
    while not done.wait(interval):
        doing = [category(frame) for thread, frame in sys._current_frames().items() if thread != me]
        at_work = [what for what in doing if what not in (None, "waiting")]
        for what in at_work or ["waiting"]:
            samples[what] += 1 / len(at_work or [what])
