"""The SGD of optim.py in one pass over memory.

The learning rate has a copy on the device, so that a CUDA graph reads its current value at each replay.
"""

from wtref import optim


class SGD(optim.SGD):
    def __init__(self, device, *arguments, **options):
        """device: a Device with ops; the other arguments are those of optim.SGD."""
        self.ops, self._lr_on_device = device.ops, device.array(0.0)
        super().__init__(*arguments, **options)

    @property
    def lr(self):
        return self._lr

    @lr.setter
    def lr(self, value):
        self._lr, self._lr_on_device[...] = value, value

    def descend(self, w, gradient, decay):
        decay = self.weight_decay if decay else 0.0
        self.ops.descend(w, self.velocity_of(w), gradient, self._lr_on_device, self.momentum, decay, self.nesterov)
