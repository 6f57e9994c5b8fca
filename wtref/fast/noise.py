"""The noise of noise.py with its products computed by a device's ops."""

from functools import partial

from wtref import noise


class Patterns(noise.Patterns):
    def __init__(self, ops, left, right, order):
        self.ops, self.left, self.right, self.order = ops, left, right, order

    def product(self, v, before, after, order):
        return self.ops.hadamard_product(v, before, after, order)

    @property
    def T(self):
        return Patterns(self.ops, self.right, self.left, self.order)


def accelerate_noise(rule, device):
    """Have the products of a weight mirror's decorrelated noise computed by the device's ops; other rules have none."""
    drawn = getattr(rule, "noise", None)
    if device.ops is not None and isinstance(drawn, noise.DecorrelatedNoise):
        drawn.patterns = partial(Patterns, device.ops)
