"""Patches of an image, written plainly: what every faster version must equal.

A convolution is a matrix acting on patches.  `gather` lays the patches out as rows, values in the
order (k_h, k_w, C); `scatter` is its transpose and adds rows back into the image they came from.
Kernel, stride and padding are pairs (vertical, horizontal).
"""

from wtref.backend import array_module


def output_size(size, kernel, stride, padding):
    """(H', W'): how many patches fit down and across an image of size (H, W)."""
    return tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding))


def gather(image, kernel, stride, padding, fill=0):
    """All patches of an image batch.

    Parameters: image (N, H, W, C); fill, the value outside the image.
    Returns: patches (N, H', W', k_h, k_w, C), contiguous.
    """
    xp = array_module(image)
    windows = xp.lib.stride_tricks.sliding_window_view(_pad(image, padding, fill), kernel, axis=(1, 2))
    here = windows[:, :: stride[0], :: stride[1]]  # (N, H', W', C, k_h, k_w), a view
    return xp.ascontiguousarray(here.transpose(0, 1, 2, 4, 5, 3))


def scatter(patches, size, stride, padding):
    """Add patches (N, H', W', k_h, k_w, C) into an image (N, H, W, C) of zeros, size = (H, W)."""
    xp = array_module(patches)
    n, rows, columns, k_h, k_w, channels = patches.shape
    (height, width), (p_h, p_w) = size, padding
    image = xp.zeros((n, height + 2 * p_h, width + 2 * p_w, channels), dtype=patches.dtype)
    for i in range(k_h):
        for j in range(k_w):  # place (i, j) of every patch at once
            down = slice(i, i + stride[0] * (rows - 1) + 1, stride[0])
            across = slice(j, j + stride[1] * (columns - 1) + 1, stride[1])
            image[:, down, across] += patches[:, :, :, i, j]
    return image[:, p_h : p_h + height, p_w : p_w + width]


def _pad(image, padding, fill):
    (p_h, p_w) = padding
    if p_h == p_w == 0:
        return image
    xp = array_module(image)
    n, height, width, channels = image.shape
    padded = xp.full((n, height + 2 * p_h, width + 2 * p_w, channels), fill, dtype=image.dtype)
    padded[:, p_h : p_h + height, p_w : p_w + width] = image
    return padded
