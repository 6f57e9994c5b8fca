"""A training step as one CUDA graph: recorded once, then replayed without Python, kernel by kernel as before.

While a stream is captured nothing is computed: launches are recorded with the addresses of their arrays.  A replay
uses the recorded addresses: new inputs are copied into the recorded ones, and memory allocated while recording is
never reused.  What else the function reads must keep its address: arrays that learn are changed in place.
"""

import contextlib
import sys
from functools import partial

from wtref.training import train_step

WARM_UP = 3  # ordinary calls: kernels get compiled, velocities and constants allocated


class Captured:
    """A function of device arrays that returns device arrays, and always does the same with them.

    Calls with arrays of another shape than the recorded ones run as usual; so do all calls if recording fails.
    """

    def __init__(self, cupy, function):
        """cupy: the module."""
        self.cupy, self.function = cupy, function
        self.calls, self.graph, self.failed = 0, None, False

    def __call__(self, *inputs):
        if not inputs[0].size:  # a batch without images
            return self.function(*inputs)
        self.calls += 1
        if self.graph is None and self.calls > WARM_UP and not self.failed:
            self._record(inputs)
        if self.graph is None or [x.shape for x in inputs] != [x.shape for x in self.inputs]:
            return self.function(*inputs)
        for kept, given in zip(self.inputs, inputs):
            kept[...] = given
        self.graph.launch()
        return tuple(x.copy() for x in self.outputs)

    def _record(self, inputs):
        self.cupy.get_default_memory_pool().free_all_blocks()  # what the ordinary calls needed
        self.inputs = [x.copy() for x in inputs]
        self.pool = self.cupy.cuda.MemoryPool()
        stream = self.cupy.cuda.get_current_stream()
        with self.cupy.cuda.using_allocator(self.pool.malloc):
            stream.begin_capture()
            try:
                self.outputs = self.function(*self.inputs)
                self.graph = stream.end_capture()
            except (RuntimeError, MemoryError) as error:  # those of CUDA are RuntimeErrors
                self.failed = True
                with contextlib.suppress(RuntimeError):  # a capture that became invalid ends with one more
                    stream.end_capture()
                print(f"wtref: this step cannot be a CUDA graph ({error}); it runs without", file=sys.stderr)


class CapturedStep:
    """train_step, whose engaged mode is a CUDA graph; mirror mode, whose noise comes from the host, follows as usual."""

    def __init__(self, cupy):
        """cupy: the module."""
        self.cupy, self.engaged = cupy, None

    def __call__(self, network, rule, sgd, loss, images, labels, step):
        if self.engaged is None:
            self.engaged = Captured(self.cupy, partial(_engaged_step, network, _Engaged(rule), sgd, loss))
        value, logits = self.engaged(images, labels)
        for s in network.with_feedback:
            rule.between_steps(s, step)  # (7)
        return value, logits


def _engaged_step(network, rule, sgd, loss, images, labels):
    return train_step(network, rule, sgd, loss, images, labels, step=None)


class _Engaged:
    """A rule without its mirror mode."""

    def __init__(self, rule):
        self.before_backward, self.learn = rule.before_backward, rule.learn

    def between_steps(self, s, step):
        pass
