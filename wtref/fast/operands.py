"""Checks made before a kernel is called: the kernels themselves check nothing."""

import functools

from wtref import geometry

LARGEST = 1 << 20  # of kernel, stride and padding, far below what would overflow the kernels' integers


class Shapes:
    """A mixin for the struct of sizes by which a convolution or pooling is described to the kernels."""

    NAMES = ("n", "h", "w", "c_in", "out_h", "out_w", "c_out", "k_h", "k_w", "s_h", "s_w", "p_h", "p_w")

    @classmethod
    @functools.cache
    def of(cls, function, images, c_out, kernel, stride, padding):
        """Return the sizes for images of shape (N, H, W, C_in); `function` is the caller's name for error messages."""
        size = output_size(function, images, kernel, stride, padding)
        return cls(*images, *size, c_out, *kernel, *stride, *padding)

    def below(self):
        return self.n, self.h, self.w, self.c_in

    def above(self):
        return self.n, self.out_h, self.out_w, self.c_out

    def taps(self):
        return self.k_h * self.k_w


def output_size(function, images, kernel, stride, padding):
    """Return (H', W') for images (N, H, W, C) as in geometry.py.  Raises ValueError where no patch fits."""
    pairs = (1, kernel), (1, stride), (0, padding)
    fits = len(images) == 4 and all(len(pair) == 2 and low <= min(pair) <= max(pair) <= LARGEST for low, pair in pairs)
    size = geometry.output_size(images[1:3], kernel, stride, padding) if fits else (0, 0)
    if min(size) < 1:
        raise ValueError(f"{function}: kernel {kernel}, stride {stride} and padding {padding} do not fit images {images}")
    return size
