"""Views of single images by Pillow, for image folders and for `predict`: random crops, central crops and resized images."""

import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from wtref.datasets.reading import open_file, to_rgb


def random_view(path, size, flip, jitter, rng):
    """A random crop of the image in a file, resized; an array (size, size, 3), uint8.

    flip: mirror the crop with probability 1/2; jitter: the strength of `colour_jitter`; rng: a NumPy generator.
    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if the crop still has `size` pixels in each direction.
    Raises BadImage if the file is no image.
    """
    image = open_file(path)
    width, height = image.size
    left, top, right, bottom = random_box(width, height, rng)
    drafted = image.draft(None, (-(-width * size // (right - left)), -(-height * size // (bottom - top))))
    image = to_rgb(image, path)
    across, down = drafted[1][2:] if drafted else image.size  # fractions: 803 pixels at 1/8 are 100.375
    box = left * across / width, top * down / height, right * across / width, bottom * down / height
    image = _resized_crop(image, box, size)
    mirrored = flip and rng.random() < 0.5
    if jitter:
        image = colour_jitter(image, jitter, rng)
    return np.asarray(image)[:, ::-1] if mirrored else np.asarray(image)


def _resized_crop(image, box, size):
    """The box, whose corners may lie between pixels, resized to (size, size); pixels outside of it have no influence."""
    left, top, right, bottom = box
    x, y = math.floor(left), math.floor(top)
    image = image.crop((x, y, math.ceil(right), math.ceil(bottom)))
    box = left - x, top - y, right - x, bottom - y
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def random_box(width, height, rng, area=(0.08, 1), ratio=(3 / 4, 4 / 3)):
    """(left, top, right, bottom) of a random crop, as in torchvision's RandomResizedCrop.

    The fraction of the image's area and the logarithm of the ratio of width to height are drawn uniformly.  After ten
    draws that do not fit, the box is the largest one about the centre with an allowed ratio.
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
    """Change the brightness, contrast and saturation of a Pillow image, in random order.

    Each factor is drawn uniformly from 1 - strength to 1 + strength, as in torchvision's ColorJitter without hue.
    """
    changes = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for k in rng.permutation(len(changes)):
        image = changes[k](image).enhance(rng.uniform(max(0, 1 - strength), 1 + strength))
    return image


def central_view(image, size):
    """The middle of a Pillow image for evaluation: torchvision's Resize(size * 256/224) and CenterCrop(size).

    An image more than ten times as long as wide is first cropped to that ratio, because resizing all of it could fill
    the memory.  Returns an array (size, size, 3), uint8.
    """
    image = _centre(image, min(image.width, 10 * image.height), min(image.height, 10 * image.width))
    shorter, now = round(size * 256 / 224), min(image.size)
    image = image.resize([int(shorter * side / now) for side in image.size], Image.Resampling.BILINEAR)
    return np.asarray(_centre(image, size, size))


def fitted_view(image, shape):
    """The largest central part of a Pillow image with the proportions of `shape`, resized to it.

    shape: (H, W, C) of the images of a set in memory, with C = 1 for grey or 3.  An image of that size is not changed.
    Returns an array (H, W, C), uint8.
    """
    height, width, channels = shape
    image = ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(shape)


def _centre(image, width, height):
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
