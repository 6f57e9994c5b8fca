"""SGD of optim.py in one pass over memory, its learning rate on the device, where a CUDA graph can read it."""

from wtref import optim


class SGD(optim.SGD):
    def __init__(self, device, *arguments, **options):
        """device: with ops; the rest as of optim.SGD."""
        self.ops, self._lr = device.ops, device.array(0.0)
        super().__init__(*arguments, **options)

    @property
    def lr(self):
        return self._lr

    @lr.setter
    def lr(self, value):
        self._lr[...] = value

    def descend(self, w, gradient, decay):
        decay = self.weight_decay if decay else 0.0
        self.ops.descend(w, self.velocity_of(w), gradient, self._lr, self.momentum, decay, self.nesterov)
