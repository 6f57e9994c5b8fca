"""Where a step's time goes, by looking at what every thread is doing a thousand times a second.

A tick belongs to the threads that are at work in it, in equal parts; where none is, to "waiting".
So the categories' times add up to the step's.
"""

import sys
import threading
import time
from collections import Counter

# A function, a class or a module -> what its time is spent on.  The innermost name on a thread's stack counts.
# "layers" are both the plain ones and those of fast/.
CATEGORIES = {
    "layers.patches": "convolution gather",
    "layers.image": "convolution gather",
    "compiled.Compiled.convolve": "convolution, forward",
    "compiled.Compiled.convolve_with_moments": "convolution, forward",
    "compiled.Compiled.convolve_outer": "convolution, for W",
    "compiled.Compiled.convolve_back": "convolution, through B",
    "layers.Conv2d": "products",
    "layers.Linear": "products",
    "layers.BatchNorm": "batch norm",
    "layers.Residual": "element-wise",
    "layers.ReLU": "element-wise",
    "activations": "element-wise",
    "losses": "element-wise",
    "layers.MaxPool": "pooling",
    "layers.GlobalAvgPool": "pooling",
    "optim.SGD": "optimizer",
    "rules.WeightMirror": "mirror",
    "rules._decay": "mirror",
    "rules._scale": "mirror",
    "noise": "mirror",
}

# A thread whose innermost function is one of these, or in one of these modules, has nothing to do.
WAITING = {"threading", "queue", "thread"}  # the last is concurrent.futures.thread


def profile(step, seconds=2.0, interval=0.001):
    """Take steps for so many seconds; {category: ms per step}, the largest first."""
    ticks, done, count = Counter(), threading.Event(), 0
    sampler = threading.Thread(target=_sample, args=(ticks, done, interval), daemon=True)
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
    return {name: each * share / ticks.total() for name, share in ticks.most_common()}


def category(frame):
    """What the thread whose innermost frame this is spends its time on; None if it is nothing of wtref's."""
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
    """The frame's function, its class and its module: layers.Conv2d.forward, layers.Conv2d, layers."""
    name = f"{_module(frame).rpartition('.')[2]}.{frame.f_code.co_qualname}"
    while name:
        yield name
        name = name.rpartition(".")[0]


def _module(frame):
    return frame.f_globals.get("__name__", "")


def _sample(ticks, done, interval):
    """Look every `interval` seconds until `done` is set."""
    me = threading.get_ident()
    while not done.wait(interval):
        doing = [category(frame) for thread, frame in sys._current_frames().items() if thread != me]
        at_work = [what for what in doing if what not in (None, "waiting")]
        for what in at_work or ["waiting"]:
            ticks[what] += 1 / len(at_work or [what])
