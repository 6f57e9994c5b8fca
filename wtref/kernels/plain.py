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
    Returns: patches (N, H', W', k_h, k_w, C), a fresh array.
    """
    xp = array_module(image)
    n, height, width, channels = image.shape
    rows, columns = output_size((height, width), kernel, stride, padding)
    padded = _pad(image, padding, fill)
    patches = xp.empty((n, rows, columns, *kernel, channels), dtype=image.dtype)
    for i, j, window in _windows(kernel, stride, rows, columns):
        patches[:, :, :, i, j] = padded[window]
    return patches


def scatter(patches, size, stride, padding):
    """Add patches (N, H', W', k_h, k_w, C) into an image (N, H, W, C) of zeros, size = (H, W)."""
    xp = array_module(patches)
    n, rows, columns, k_h, k_w, channels = patches.shape
    (height, width), (p_h, p_w) = size, padding
    image = xp.zeros((n, height + 2 * p_h, width + 2 * p_w, channels), dtype=patches.dtype)
    for i, j, window in _windows((k_h, k_w), stride, rows, columns):
        image[window] += patches[:, :, :, i, j]
    return image[:, p_h : p_h + height, p_w : p_w + width]


def _windows(kernel, stride, rows, columns):
    """For each place (i, j) in the kernel, the pixels that lie there, one per patch."""
    (s_h, s_w) = stride
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            down = slice(i, i + s_h * (rows - 1) + 1, s_h)
            across = slice(j, j + s_w * (columns - 1) + 1, s_w)
            yield i, j, (slice(None), down, across)


def _pad(image, padding, fill):
    (p_h, p_w) = padding
    if p_h == p_w == 0:
        return image
    xp = array_module(image)
    n, height, width, channels = image.shape
    padded = xp.full((n, height + 2 * p_h, width + 2 * p_w, channels), fill, dtype=image.dtype)
    padded[:, p_h : p_h + height, p_w : p_w + width] = image
    return padded
