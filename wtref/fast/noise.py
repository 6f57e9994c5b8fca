"""The mirrors' noise by a device's ops: they compute its matrix products, and on a GPU they also draw it."""

from functools import partial

import numpy as np

from wtref.noise import OrthogonalSigns, independent_signs, orthogonal_signs, random_bits
from wtref.relatives import OrthogonalMirror
from wtref.rules import WeightMirror


def accelerate_noise(rule, device):
    """Have a mirror's noise drawn, or its products computed, by the device's ops; a rule without noise is left as it is.

    A subclass of WeightMirror may draw another kind of noise, which is kept, or use it in another way, so its `mirror` is kept too.
    """
    rule = getattr(rule, "rule", rule)  # of OutputByBackprop
    if device.ops is None:
        return
    if isinstance(rule, OrthogonalMirror) and rule.draw is orthogonal_signs:

        def draw(device, rng, n):
            signs = orthogonal_signs(device, rng, n)
            return OrthogonalSigns(signs.left, signs.right, device.ops.hadamard_product)

        rule.draw = draw
    elif isinstance(rule, WeightMirror) and device.name == "cpu":
        noise = rule.noise
        rule.noise = lambda s: Noise.of(noise(s), device.ops)
        if type(rule) is WeightMirror:
            rule.mirror = partial(mirror, rule, device.ops, rule.mirror)
    elif isinstance(rule, WeightMirror):
        if rule.draw is independent_signs:
            rule.draw = device.ops.independent_signs  # a copy to the GPU would wait for all work queued there
        if type(rule) is WeightMirror:
            rule.mirror = partial(mirror_on_gpu, rule, device.ops)


def mirror(rule, ops, plain, s, eta_B):
    """WeightMirror.mirror with y^T (y W^T) computed as (y^T y) W^T where that is less work; plain: the method itself.

    Each entry of y^T y counts the rows in which two cells have the same sign, less the others.  That takes n^2 M / 2
    operations on bits, 64 or more at a time, and y itself is not laid out in memory.
    """
    M, n = rule.rows_of(s), s.n_in
    if M < n or n > 16 * s.n_out:
        return plain(s, eta_B)
    bits = random_bits(rule.next_generator(s), M * n)
    outer = ops.product(s.W, ops.sign_correlations(bits, M, n, s.W.dtype)).T
    s.B += eta_B * outer - eta_B * M * s.B  # (7)


def mirror_on_gpu(rule, ops, s, eta_B):
    """WeightMirror.mirror with its products and its last line computed by the ops."""
    y_l, M = ops.stored(rule.noise(s)), rule.rows_of(s)
    y_next = ops.product(y_l, s.W.T)
    outer = ops.product(y_next.T, y_l).T
    ops.descend(s.B, outer, outer, -eta_B, 0.0, -M, False)  # (7): lr -eta_B, decay -M; the velocity overwrites outer


class Noise(np.ndarray):
    """An array whose products by @ with matrices of its own dtype are computed by `ops`, and so are those of its views.

    All other ufuncs are NumPy's, and their results are plain arrays.  The threads of BLAS wait in a loop after each product,
    in which time they take cores away from the threads of the ops.
    """

    @classmethod
    def of(cls, y, ops):
        y = y.view(cls)
        y.ops = ops
        return y

    def __array_finalize__(self, source):
        self.ops = getattr(source, "ops", None)

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        inputs = [_plain(x) for x in inputs]
        if ufunc is np.matmul and not options and self.ops and all(self._suits(x) for x in inputs):
            return self.ops.product(*inputs)
        if "out" in options:
            options["out"] = tuple(map(_plain, options["out"]))
        return getattr(ufunc, method)(*inputs, **options)

    def _suits(self, x):
        """Whether x may be a factor of a product of the ops, which convert nothing."""
        return type(x) is np.ndarray and x.ndim == 2 and x.dtype == self.dtype


def _plain(x):
    return x.view(np.ndarray) if isinstance(x, Noise) else x
