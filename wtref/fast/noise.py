"""Orthogonal noise with its products computed by a device's ops."""

from wtref.noise import OrthogonalSigns, orthogonal_signs
from wtref.relatives import OrthogonalMirror


def accelerate_noise(rule, device):
    """Have the products of an orthogonal mirror's noise computed by the device's ops; other rules have none."""
    rule = getattr(rule, "rule", rule)  # of OutputByBackprop
    if device.ops is None or not isinstance(rule, OrthogonalMirror):
        return

    def draw(device, rng, n):
        signs = orthogonal_signs(device, rng, n)
        return OrthogonalSigns(signs.left, signs.right, device.ops.hadamard_product)

    rule.draw = draw
