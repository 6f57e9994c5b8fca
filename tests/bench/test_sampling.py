"""The profile finds where the time is spent."""

import pkgutil
import threading
import time
from types import SimpleNamespace

from wtref.bench import sampling


def busy(seconds=0.01):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_the_profile_finds_a_busy_function(monkeypatch):
    """The times add up to the mean time of a step, which lies between those that a clock within and one outside shows."""
    monkeypatch.setitem(sampling.CATEGORIES, f"{__name__}.busy", "spinning")
    within = []

    def step():
        within.append(time.perf_counter())
        busy()
        within.append(time.perf_counter())

    start = time.perf_counter()
    found = sampling.thread_times(step, seconds=0.3)
    end, steps = time.perf_counter(), len(within) / 2
    assert found["spinning"] > 0.8 * sum(found.values())
    assert 1000 * (within[-1] - within[0]) / steps <= sum(found.values()) * (1 + 1e-9)
    assert sum(found.values()) * (1 - 1e-9) <= 1000 * (end - start) / steps


def test_the_profile_counts_workers_while_the_main_thread_waits(monkeypatch):
    monkeypatch.setitem(sampling.CATEGORIES, f"{__name__}.busy", "spinning")

    def step():
        worker = threading.Thread(target=busy, args=(0.2,))
        worker.start()
        worker.join()

    found = sampling.thread_times(step, seconds=0.6)
    assert found["spinning"] > 0.8 * sum(found.values())


def test_the_innermost_name_counts(monkeypatch):
    def frames(*names):
        """A stack, the innermost first."""
        below = None
        for name in reversed(names):
            module, _, function = name.partition(":")
            code = SimpleNamespace(co_qualname=function)
            below = SimpleNamespace(f_globals={"__name__": module}, f_code=code, f_back=below)
        return below

    conv = "wtref.layers:Conv2d.forward", "wtref.training:Training.step"
    fast = "wtref.fast.layers:Conv2d.forward", "wtref.training:Training.step"
    assert sampling.category(frames("wtref.layers:patches", *conv)) == "convolution gather"
    assert sampling.category(frames("wtref.fast.compiled:Compiled._call", *fast)) == "products"
    through_B = "wtref.fast.compiled:Compiled._call", "wtref.fast.compiled:Compiled.convolve_back"
    assert sampling.category(frames(*through_B, *fast)) == "convolution, through B"
    assert sampling.category(frames("wtref.fast.layers:ReLU.forward")) == "element-wise"
    assert sampling.category(frames("wtref.fast.noise:Patterns.product", "wtref.rules:WeightMirror.mirror")) == "mirror"
    assert sampling.category(frames("numpy._core._methods:_mean", *conv)) == "products"
    assert sampling.category(frames("wtref.optim:SGD.descend", "wtref.layers:BatchNorm.learn")) == "optimizer"
    assert sampling.category(frames("wtref.noise:_signs", "wtref.rules:WeightMirror.mirror")) == "mirror"
    assert sampling.category(frames("wtref.training:Training.step", "threading:Thread.run")) == "other"
    assert sampling.category(frames("threading:Condition.wait", *conv)) == "waiting"
    assert sampling.category(frames("somewhere:else")) is None


def test_every_category_is_of_something_that_there_is():
    def exists(name):
        try:
            pkgutil.resolve_name(name)
        except (AttributeError, ImportError):
            return False
        return True

    assert [name for name in sampling.CATEGORIES if not exists(name)] == []
    assert not exists("wtref.layers.Nothing")
