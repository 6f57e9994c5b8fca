"""Augmentation of whole batches of sets in memory, by array operations on the device.

All random draws come from a generator on the host, so one seed means the same images on every device.
"""

from dataclasses import dataclass

import numpy as np

from wtref.device import array_module
from wtref.errors import InputError


@dataclass(frozen=True)
class Augmentation:
    """Random crop, flip and rotation, in this order, of each image in a batch; the defaults change nothing.

    Attributes
    ----------
    crop : int
        The number of zero pixels added on each side before a random window of the image's size is cut out.
    flip : bool
        Mirror half of the images left to right.
    rotate : float
        The largest angle in degrees; each image is turned by an angle drawn uniformly from -rotate to rotate.

    The same as torchvision's RandomCrop(size, padding=crop), RandomHorizontalFlip() and RandomRotation(rotate) with its
    defaults: about the centre, nearest pixel, zeros outside.  Raises InputError for values out of range.
    """

    crop: int = 0
    flip: bool = False
    rotate: float = 0.0

    def __post_init__(self):
        if self.crop < 0:
            raise InputError(f"--crop must be at least 0 pixels, found {self.crop}")
        if not 0 <= self.rotate <= 180:
            raise InputError(f"--rotate must be from 0 to 180 degrees, found {self.rotate}")

    def __call__(self, images, rng, n=None, shard=slice(None)):
        """Augment images (N, H, W, C); returns an array of the same shape, dtype and device.  rng: a NumPy generator.

        n, shard: the images are the slice `shard` of a batch of n, and each is changed as it would be in the whole batch.
        """
        n = len(images) if n is None else n
        if self.crop:
            images = crop(images, self.crop, rng.integers(2 * self.crop + 1, size=(n, 2))[shard])
        if self.flip:
            images = flip(images, rng.random(n)[shard] < 0.5)
        if self.rotate:
            images = rotate(images, rng.uniform(-self.rotate, self.rotate, size=n)[shard])
        return images


def crop(images, padding, corners):
    """Cut a window of the image's size out of each image with `padding` zeros around it.

    images (N, H, W, C); corners (N, 2), on the host: the top and left of each window, from 0 to 2 * padding.
    """
    xp = array_module(images)
    _, height, width, _ = images.shape
    top, left = xp.array(corners - padding).T[:, :, None, None]
    return pick(images, top + xp.arange(height)[:, None], left + xp.arange(width))


def flip(images, chosen):
    """Mirror the chosen images left to right.  images (N, H, W, C); chosen (N,), bool, on the host."""
    xp = array_module(images)
    _, height, width, _ = images.shape
    y, x = xp.arange(height)[:, None], xp.arange(width)
    return pick(images, y, xp.where(xp.array(chosen)[:, None, None], x[::-1], x))


def rotate(images, degrees):
    """Turn each image counter-clockwise about its centre; pixels from outside the image are zero.

    images (N, H, W, C); degrees (N,), on the host.  Nearest-neighbour interpolation with coordinates in 16.16 fixed point,
    which gives the same pixels as Pillow's Image.rotate on every device.
    """
    xp = array_module(images)
    _, height, width, _ = images.shape
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2  # from the first pixel's centre to the middle
    start_x = width / 2 - cos * middle_x + sin * middle_y
    start_y = height / 2 - sin * middle_x - cos * middle_y
    fixed = xp.array(np.floor(np.stack([cos, sin, start_x, start_y]) * 65536 + 0.5).astype(np.int64))
    cos, sin, start_x, start_y = fixed[:, :, None, None]
    x, y = xp.arange(width), xp.arange(height)[:, None]
    return pick(images, (start_y + sin * x + cos * y) >> 16, (start_x + cos * x - sin * y) >> 16)


def pick(images, rows, columns):
    """The pixels images[k, rows[k], columns[k]], and zeros for places outside the image.

    images (N, H, W, C); rows, columns: integer arrays that broadcast to (N, H', W').  Returns an array (N, H', W', C).
    """
    xp = array_module(images)
    n, height, width, channels = images.shape
    framed = xp.zeros((n, height + 2, width + 2, channels), dtype=images.dtype)
    framed[:, 1:-1, 1:-1] = images
    rows, columns = xp.clip(rows, -1, height) + 1, xp.clip(columns, -1, width) + 1
    rows = rows + xp.arange(n)[:, None, None] * (height + 2)
    return framed.reshape(-1, channels).take(rows * (width + 2) + columns, axis=0)


class Normalise:
    """Turns bytes into the network's input: (x - mean) / std in each channel."""

    def __init__(self, device, shape, mean, std):
        """shape: (H, W, C) of an image; mean, std: (C,), of the training images, in pixel values."""
        self.dtype = device.dtype
        # Repeated for every pixel: NumPy subtracts whole images six times as fast as vectors (C,).
        self.mean, self.std = (device.array(np.ones(shape) * per_channel) for per_channel in (mean, std))

    def __call__(self, images):
        """Normalise images (N, H, W, C) of integers; returns an array of the same shape in the device's dtype."""
        images = images.astype(self.dtype)
        images -= self.mean
        images /= self.std
        return images
