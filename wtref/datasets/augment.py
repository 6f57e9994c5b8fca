"""Images made ready for the network, varied at random for training.

First for sets in memory: whole batches, by array operations on the device.  Then for image folders and for
`predict`: one image at a time, by Pillow.

All draws come from a generator on the host, so that one seed means the same images everywhere.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from wtref.datasets.reading import open_file, to_rgb
from wtref.device import array_module
from wtref.errors import InputError

# --- whole batches on the device --------------------------------------------------------------------------


@dataclass(frozen=True)
class Augmentation:
    """Crop, then flip, then rotate each image of a batch; the defaults change nothing.

    crop: zeros around the image, in pixels, from which a window of the image's size is cut
    flip: mirror half of the images, left to right
    rotate: the largest angle in degrees; each image is turned by a uniform one up to it either way

    They are torchvision's RandomCrop(size, padding=crop), RandomHorizontalFlip() and
    RandomRotation(rotate) with its defaults: about the centre, nearest pixel, zeros outside.
    Raises InputError for values that cannot be.
    """

    crop: int = 0
    flip: bool = False
    rotate: float = 0.0

    def __post_init__(self):
        if self.crop < 0:
            raise InputError(f"--crop must be at least 0 pixels, found {self.crop}")
        if not 0 <= self.rotate <= 180:
            raise InputError(f"--rotate must be from 0 to 180 degrees, found {self.rotate}")

    def __call__(self, images, rng, n=None, share=slice(None)):
        """images (N, H, W, C) -> the same shape, type and device, varied.  rng: a NumPy generator.

        n, share: of how many images these are the slice; each is varied as it would be among all of them.
        """
        n = len(images) if n is None else n
        if self.crop:
            images = crop(images, self.crop, rng.integers(2 * self.crop + 1, size=(n, 2))[share])
        if self.flip:
            images = flip(images, rng.random(n)[share] < 0.5)
        if self.rotate:
            images = rotate(images, rng.uniform(-self.rotate, self.rotate, size=n)[share])
        return images


def crop(images, padding, corners):
    """Cut a window of the image's size out of each image with `padding` zeros around it.

    images (N, H, W, C); corners (N, 2), on the host: top and left of each window, 0 to 2 padding.
    """
    xp = array_module(images)
    _, height, width, _ = images.shape
    top, left = xp.array(corners - padding).T[:, :, None, None]
    return pick(images, top + xp.arange(height)[:, None], left + xp.arange(width))


def flip(images, chosen):
    """Mirror the chosen images left to right.  images (N, H, W, C); chosen (N,) of bool, on the host."""
    xp = array_module(images)
    _, height, width, _ = images.shape
    y, x = xp.arange(height)[:, None], xp.arange(width)
    return pick(images, y, xp.where(xp.array(chosen)[:, None, None], x[::-1], x))


def rotate(images, degrees):
    """Turn each image counter-clockwise about its centre; zeros where nothing was.

    images (N, H, W, C); degrees (N,), on the host.  Each pixel is the nearest one to where it comes
    from, found in 16.16 fixed-point numbers: the same pixels as Pillow's Image.rotate, on any device.
    """
    xp = array_module(images)
    _, height, width, _ = images.shape
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2  # offsets between centres of pixels
    start_x = width / 2 - cos * middle_x + sin * middle_y
    start_y = height / 2 - sin * middle_x - cos * middle_y
    fixed = xp.array(np.floor(np.stack([cos, sin, start_x, start_y]) * 65536 + 0.5).astype(np.int64))
    cos, sin, start_x, start_y = fixed[:, :, None, None]
    x, y = xp.arange(width), xp.arange(height)[:, None]
    return pick(images, (start_y + sin * x + cos * y) >> 16, (start_x + cos * x - sin * y) >> 16)


def pick(images, rows, columns):
    """The pixels images[k, rows[k], columns[k]]; zeros where those lie outside the image.

    images (N, H, W, C); rows, columns: integers that broadcast to (N, H', W').  Returns (N, H', W', C).
    """
    xp = array_module(images)
    n, height, width, channels = images.shape
    framed = xp.zeros((n, height + 2, width + 2, channels), dtype=images.dtype)
    framed[:, 1:-1, 1:-1] = images
    rows, columns = xp.clip(rows, -1, height) + 1, xp.clip(columns, -1, width) + 1
    rows = rows + xp.arange(n)[:, None, None] * (height + 2)
    return framed.reshape(-1, channels).take(rows * (width + 2) + columns, axis=0)


class Normalise:
    """Bytes to the network's input: mean 0 and variance 1 in each channel."""

    def __init__(self, device, shape, mean, std):
        """shape: (H, W, C) of an image; mean, std: (C,), of the training images, in pixel values."""
        self.dtype = device.dtype
        # Spelled out for every pixel: NumPy is six times as fast with whole images as with C numbers.
        self.mean, self.std = (device.array(np.ones(shape) * per_channel) for per_channel in (mean, std))

    def __call__(self, images):
        """images (N, H, W, C) of integers -> the same in the device's dtype."""
        images = images.astype(self.dtype)
        images -= self.mean
        images /= self.std
        return images


# --- one image file ---------------------------------------------------------------------------------------


def random_view(path, size, flip, jitter, rng):
    """A random crop of the image in a file, resized, with `flip` mirrored or not, jittered: (size, size, 3) of bytes.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the crop still has `size` pixels each way.
    """
    image = open_file(path)
    width, height = image.size
    left, top, right, bottom = random_box(width, height, rng)
    drafted = image.draft(None, (-(-width * size // (right - left)), -(-height * size // (bottom - top))))
    image = to_rgb(image, path)
    across, down = drafted[1][2:] if drafted else image.size  # 803 pixels at 1/8 are 100.375
    box = left * across / width, top * down / height, right * across / width, bottom * down / height
    image = _resized_crop(image, box, size)
    mirrored = flip and rng.random() < 0.5
    if jitter:
        image = colour_jitter(image, jitter, rng)
    return np.asarray(image)[:, ::-1] if mirrored else np.asarray(image)


def _resized_crop(image, box, size):
    """The box, whose corners may lie between pixels, resized to (size, size) with nothing seen around it."""
    left, top, right, bottom = box
    x, y = math.floor(left), math.floor(top)
    image = image.crop((x, y, math.ceil(right), math.ceil(bottom)))
    box = left - x, top - y, right - x, bottom - y
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def random_box(width, height, rng, area=(0.08, 1), ratio=(3 / 4, 4 / 3)):
    """(left, top, right, bottom) of a random crop: the box of torchvision's RandomResizedCrop.

    Its share of the image's area is drawn uniformly, and so is the logarithm of its width to height ratio.
    After ten draws that do not fit: the largest box about the centre whose ratio is allowed.
    """
    for _ in range(10):
        pixels = width * height * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def colour_jitter(image, strength, rng):
    """Change brightness, contrast and saturation of a Pillow image, in random order.

    Each by a factor uniform in 1 - strength to 1 + strength: torchvision's ColorJitter without hue.
    """
    changes = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for k in rng.permutation(len(changes)):
        image = changes[k](image).enhance(rng.uniform(max(0, 1 - strength), 1 + strength))
    return image


def central_view(image, size):
    """The middle of a Pillow image for evaluation: torchvision's Resize(size * 256/224) and CenterCrop(size).

    An image more than ten times as long as wide first loses its ends: resized whole it could fill the memory.
    Returns (size, size, 3) of bytes.
    """
    image = _centre(image, min(image.width, 10 * image.height), min(image.height, 10 * image.width))
    shorter, now = round(size * 256 / 224), min(image.size)
    image = image.resize([int(shorter * side / now) for side in image.size], Image.Resampling.BILINEAR)
    return np.asarray(_centre(image, size, size))


def fitted_view(image, shape):
    """The largest part about the centre of a Pillow image that has the shape's proportions, resized to it.

    shape: (H, W, C) of an image of a set in memory, C = 1 for grey or 3.  An image of that size stays as it
    is.  Returns (H, W, C) of bytes.
    """
    height, width, channels = shape
    image = ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(shape)


def _centre(image, width, height):
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
