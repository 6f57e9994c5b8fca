"""The nonlinearities phi, each with its derivative written in terms of its own output y = phi(a).

`forward(a, train)` and `backward(delta)` work element by element on arrays of any shape; `forward_sum`
and `backward_sum` are the passes of a sum.
"""

from wtref.backend import array_module
from wtref.kernels import primitives


class Activation:
    """What all have in common."""

    def forward_sum(self, a, b, train=True):
        """phi(a + b)."""
        return self.forward(primitives(a).add(a, b))

    def backward_sum(self, delta):
        """The errors at a and at b."""
        delta = self.backward(delta)
        return delta, delta


class Identity(Activation):
    """y = a;  phi'(y) = 1."""

    def forward(self, a, train=True):
        return a

    def backward(self, delta):
        return delta


class ReLU(Activation):
    """y = max(a, 0);  phi'(y) = 1 where y > 0, else 0."""

    def forward(self, a, train=True):
        self.y = primitives(a).relu(a)
        return self.y

    def forward_sum(self, a, b, train=True):
        self.y = primitives(a).add(a, b, rectify=True)
        return self.y

    def backward(self, delta):
        return primitives(delta).relu_back(delta, self.y)


class Sigmoid(Activation):
    """y = 1 / (1 + exp(-a));  phi'(y) = y (1 - y)."""

    def forward(self, a, train=True):
        self.y = 0.5 + 0.5 * array_module(a).tanh(0.5 * a)  # the same function, and never overflows
        return self.y

    def backward(self, delta):
        return delta * self.y * (1 - self.y)


class Tanh(Activation):
    """y = tanh(a);  phi'(y) = 1 - y^2."""

    def forward(self, a, train=True):
        self.y = array_module(a).tanh(a)
        return self.y

    def backward(self, delta):
        return delta * (1 - self.y * self.y)


ACTIVATIONS = {"relu": ReLU, "sigmoid": Sigmoid, "tanh": Tanh}
