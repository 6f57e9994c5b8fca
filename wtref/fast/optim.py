"""The SGD of optim.py in one pass over memory.

The learning rate has a copy on the device, so that a CUDA graph reads its current value at each replay.
"""

import copy

from wtref import optim
from wtref.training import train_step


class SGD(optim.SGD):
    """optim.SGD, each of whose descents is one call of the ops."""

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

    def joined_descent(self, arrays):
        """A function that takes the gradients of these arrays and descends all of them, without decay, in one call."""
        descend_all = self.ops.joined_descent(arrays, [self.velocity_of(w) for w in arrays])
        return lambda gradients: descend_all(gradients, self.lr, self.momentum, self.nesterov)


class JoinedStep:
    """train_step on a CPU: all gammas and betas of the batch norms descend in one call, whose results are the same."""

    def __init__(self):
        self.network = None

    def __call__(self, network, *arguments):
        if self.network is None:
            self.network = copy.copy(network)
            self.network.norms = [JoinedNorms(network.norms)]
        return train_step(self.network, *arguments)


class JoinedNorms:
    """Batch norms that learn together."""

    def __init__(self, norms):
        self.norms, self.descend_all = norms, None

    def learn(self, sgd):
        """As BatchNorm.learn of each."""
        if self.descend_all is None:
            self.descend_all = sgd.joined_descent([x for norm in self.norms for x in (norm.gamma, norm.beta)])
        self.descend_all([x for norm in self.norms for x in (norm.gamma_gradient, norm.beta_gradient)])
