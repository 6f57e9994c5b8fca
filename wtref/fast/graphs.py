"""A training step captured as a CUDA graph: it is recorded once, then replayed without Python.

While a stream is captured nothing is computed: the kernel launches are recorded with the addresses of their arrays.  A
replay uses the same addresses, so new inputs are copied into the recorded ones, and memory allocated while recording is
not used for anything else.  All other arrays that the function reads, such as W and B, must be changed in place.
"""

import contextlib
import sys
from collections import Counter
from functools import partial

from wtref.layers import walk
from wtref.training import train_step

WARM_UP = 3  # ordinary calls with inputs of the same shapes before recording: they compile kernels and allocate velocities and constants


class Captured:
    """A function from device arrays to device arrays that is recorded as a CUDA graph after WARM_UP calls with inputs of the same shapes.

    The function must launch the same kernels at every call.  Calls with inputs of other shapes than the recorded ones
    run without the graph, as do all calls if recording fails.
    """

    def __init__(self, cupy, function, replaced=()):
        """cupy: the module cupy; function: the function to record; replaced: the synapses whose B it may replace by another array."""
        self.cupy, self.function, self.replaced = cupy, function, replaced
        self.calls, self.graph, self.failed = Counter(), None, False  # calls: by the shapes of their inputs

    def __call__(self, *inputs):
        if not inputs[0].size:  # an empty batch
            return self.function(*inputs)
        shapes = _shapes(inputs)
        if self.graph is None and self.calls[shapes] == WARM_UP and not self.failed:
            self._record(inputs)
        self.calls[shapes] += 1
        if self.graph is None or shapes != _shapes(self.inputs):
            return self.function(*inputs)
        for kept, given in zip(self.inputs, inputs):
            kept[...] = given
        self.graph.launch()
        for s, B in zip(self.replaced, self.Bs):  # which the graph writes; a call without it may have left another
            s.B = B
        return tuple(x.copy() for x in self.outputs)

    def _record(self, inputs):
        self.cupy.get_default_memory_pool().free_all_blocks()  # the memory of the ordinary calls
        self.inputs = [x.copy() for x in inputs]
        self.pool = self.cupy.cuda.MemoryPool()
        stream = self.cupy.cuda.get_current_stream()
        with self.cupy.cuda.using_allocator(self.pool.malloc):
            try:
                stream.begin_capture()
                self.outputs = self.function(*self.inputs)
                self.graph = stream.end_capture()
                self.Bs = [s.B for s in self.replaced]
            except (RuntimeError, MemoryError) as error:  # CUDA's errors are RuntimeErrors
                self.failed = True
                with contextlib.suppress(RuntimeError):  # ending an invalid capture raises another
                    stream.end_capture()
                print(f"wtref: this step cannot be captured as a CUDA graph ({error}); it runs without one", file=sys.stderr)


def _shapes(arrays):
    return tuple(x.shape for x in arrays)


def can_capture(network, rule):
    """Whether a graph may stand for the step: at each replay it uses the numbers and the arrays that it was recorded with.

    A rule that draws random numbers for each batch is not captured.  Code of a plug-in may do so too, compute with sgd.lr or
    replace s.B, so only steps of this package's own code are captured.
    """
    rule = getattr(rule, "rule", rule)  # of OutputByBackprop
    own = all(type(part).__module__.startswith("wtref.") for part in (rule, *walk(network)))
    return own and not rule.draws_each_batch


class CapturedStep:
    """train_step with its engaged mode captured as a CUDA graph.

    Mirror mode is not captured, because each of its steps draws other noise, with the state of a generator on the host.
    """

    def __init__(self, cupy):
        """cupy: the module cupy."""
        self.cupy, self.engaged = cupy, None

    def __call__(self, network, rule, sgd, loss, images, labels, step):
        if self.engaged is None:
            engaged = partial(_engaged_step, network, _Engaged(rule), sgd, loss)
            self.engaged = Captured(self.cupy, engaged, network.with_feedback)
        value, logits = self.engaged(images, labels)
        for s in network.with_feedback:
            rule.between_steps(s, sgd, step)  # (7)
        return value, logits


def _engaged_step(network, rule, sgd, loss, images, labels):
    return train_step(network, rule, sgd, loss, images, labels, step=None)


class _Engaged:
    """A rule without what it does between steps."""

    def __init__(self, rule):
        self.before_backward, self.learn = rule.before_backward, rule.learn

    def between_steps(self, s, sgd, step):
        pass
