"""One image file: decoded by Pillow, and the views of it that ImageNet is trained and tested on.

Every image becomes RGB; transparency and EXIF orientation are ignored, as by torchvision's ImageFolder;
of an animation the first frame counts.
"""

import contextlib
import functools
import io
import math
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, UnidentifiedImageError

from wtref.errors import InputError


class BadImage(InputError):
    """A file that holds no image, a damaged one or one too large; the message names it."""


def read_image(path):
    """The image in a file, in mode RGB.  Raises BadImage, or InputError where there is no file to read."""
    return to_rgb(open_image(_read(path), path), path)


def open_image(data, name):
    """The Pillow image in `data`, its pixels not decoded yet.  Raises BadImage."""
    formats, _ = pillow()
    with _naming(name):
        image = Image.open(io.BytesIO(data), formats=formats)
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels (Pillow's MAX_IMAGE_PIXELS)"
        raise BadImage(f"{name} is too large: {width}x{height}, over {limit}")
    return image


def to_rgb(image, name):
    """Decode an opened image, to mode RGB.  Of 16-bit grey the upper 8 bits are kept.  Raises BadImage."""
    with _naming(name):
        image.load()
        if image.mode.startswith("I"):
            image = Image.fromarray(np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8))
        elif image.mode == "P":
            image = image.convert("RGBA")  # without this Pillow warns of palettes with transparency
        return image.convert("RGB")


@contextlib.contextmanager
def _naming(name):
    """Turn whatever goes wrong inside Pillow into a BadImage: damaged data makes it raise nearly anything."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "no format that Pillow reads"
        raise BadImage(f"{name} is no image or a damaged one: {reason}") from None


def _read(path):
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


@functools.cache
def pillow():
    """(formats, file endings) that are read: Pillow's but EPS, which it gives to another program to run.

    All of Pillow is loaded here, before threads could meet it half loaded.
    """
    Image.init()
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # open_image raises BadImage
    formats = [name for name in Image.ID if name != "EPS"]
    formats.sort(key=lambda name: Image.OPEN[name][1] is None)  # last: those that claim no first bytes
    return formats, {ending for ending, name in Image.registered_extensions().items() if name in formats}


def random_view(path, size, jitter, rng):
    """A random crop of the image in a file, resized, mirrored or not, jittered: (size, size, 3) of bytes.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the crop still has `size` pixels each way.
    """
    image = open_image(_read(path), path)
    width, height = image.size
    left, top, right, bottom = random_box(width, height, rng)
    image.draft(None, (-(-width * size // (right - left)), -(-height * size // (bottom - top))))
    image = to_rgb(image, path)
    across, down = image.size  # after the draft; the box grows to whole pixels of it
    left, right = left * across // width, -(-right * across // width)
    top, bottom = top * down // height, -(-bottom * down // height)
    image = image.crop((left, top, right, bottom)).resize((size, size), Image.Resampling.BILINEAR)
    mirrored = rng.random() < 0.5
    if jitter:
        image = colour_jitter(image, jitter, rng)
    return np.asarray(image)[:, ::-1] if mirrored else np.asarray(image)


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


def _centre(image, width, height):
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
