"""The nonlinearities phi, each with its derivative written in terms of its own output y = phi(a).

`forward(a, train)` and `backward(delta)` work element by element on arrays of any shape.
"""

from wtref.device import array_module


class Identity:
    """y = a;  phi'(y) = 1."""

    def forward(self, a, train=True):
        return a

    def backward(self, delta):
        return delta


class ReLU:
    """y = max(a, 0);  phi'(y) = 1 where y > 0, else 0."""

    def forward(self, a, train=True):
        self.y = array_module(a).maximum(a, 0)
        return self.y

    def backward(self, delta):
        return delta * (self.y > 0)


class Sigmoid:
    """y = 1 / (1 + exp(-a));  phi'(y) = y (1 - y)."""

    def forward(self, a, train=True):
        self.y = 0.5 + 0.5 * array_module(a).tanh(0.5 * a)  # the same function, and it never overflows
        return self.y

    def backward(self, delta):
        return delta * self.y * (1 - self.y)


class Tanh:
    """y = tanh(a);  phi'(y) = 1 - y^2."""

    def forward(self, a, train=True):
        self.y = array_module(a).tanh(a)
        return self.y

    def backward(self, delta):
        return delta * (1 - self.y * self.y)


ACTIVATIONS = {"relu": ReLU, "sigmoid": Sigmoid, "tanh": Tanh}
