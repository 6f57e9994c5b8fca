"""The reader of image files for training, evaluation and `predict`: every file gives an RGB image or raises BadImage.

Files are not trusted.  Only regular files are read, only the formats named here are opened, and sizes are checked before
anything is decoded.  Every image is converted to RGB with 8 bits per channel: of 16 bits the upper 8 are kept, transparency
and EXIF orientation are ignored, as in torchvision's ImageFolder, and of several frames the first is used.  Images whose
pixels are floats or 32-bit integers are refused.
"""

import contextlib
import errno
import functools
import io
import os
import stat
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from wtref.errors import InputError

# Pillow's names.  Excluded are formats that start other programs (EPS), contain files in other formats (ICO, ICNS),
# or have no use in a data set.
FORMATS = (
    "JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "PPM", "WEBP", "AVIF", "JPEG2000", "QOI", "PCX", "SGI", "TGA"
)  # fmt: skip
MAX_SIDE = 65_535  # pixels, as in JPEG; Pillow allocates memory for each row, however short
MAX_BYTES = 1 << 29  # of a file: about Image.MAX_IMAGE_PIXELS at 6 bytes each
BYTE_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
DEEP_MODES = {"I;16", "I;16L", "I;16B", "I;16N"}
WHITE_IS_ZERO, PHOTOMETRIC, BITS, SAMPLE_FORMAT = 0, 262, 258, 339  # a value of TIFF's tag PHOTOMETRIC, and three tags
OF_THE_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENXIO}


class BadImage(InputError):
    """An image file that is missing, damaged, too large or in no format that is read; the message names it."""


def read_image(path):
    """The Pillow image in a file, in mode RGB.  Raises BadImage, and InputError for errors of the file system."""
    return to_rgb(open_file(path), path)


def open_file(path):
    """The Pillow image in a file, not decoded yet.  Raises the errors of read_image."""
    return open_image(read_file(path), path)


def read_file(path):
    """The bytes of a regular file.  Raises the errors of read_image."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise BadImage(f"{path} is no image: not a file, but a folder, device, pipe or socket")
        if status.st_size > MAX_BYTES:
            raise BadImage(f"{path} is too large: {status.st_size:,} bytes, over {MAX_BYTES:,}")
        with open(path, "rb") as file:
            return file.read(MAX_BYTES)
    except OSError as error:
        kind = BadImage if error.errno in OF_THE_FILE else InputError
        raise kind(f"{path} cannot be read: {error.strerror}") from None


def open_image(data, name):
    """The Pillow image in the bytes `data`, not decoded yet; name: for messages.  Raises BadImage."""
    formats, _ = pillow()
    with _naming(name):
        image = Image.open(io.BytesIO(data), formats=formats)
        known = _has_known_range(image)
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels (Pillow's MAX_IMAGE_PIXELS)"
        raise BadImage(f"{name} is too large: {width}x{height}, over {limit}")
    if max(width, height) > MAX_SIDE:
        raise BadImage(f"{name} is too large: {width}x{height}, over {MAX_SIDE:,} pixels on a side")
    if not known:
        raise BadImage(f"{name} has pixels of no known range (Pillow's mode {image.mode}); right would be 8 or 16 bits")
    return image


def _has_known_range(image):
    """True if black and white have known values, which floats, signed numbers and 32-bit integers have not."""
    if image.format == "TIFF":
        tags = image.tag_v2
        unsigned, bits = set(tags.get(SAMPLE_FORMAT, (1,))) == {1}, tags.get(BITS, (1,))[0]
        if not unsigned or image.mode in DEEP_MODES and (bits != 16 or tags.get(PHOTOMETRIC) == WHITE_IS_ZERO):
            return False  # Pillow reads signed bytes as unsigned, does not scale 12 bits and does not invert 16
    return image.mode in BYTE_MODES or _is_deep(image)


def _is_deep(image):
    """True for grey of 16 bits, which has mode I in PPM and, with older versions of Pillow, in PNG."""
    return image.mode in DEEP_MODES or image.mode == "I" and image.format in ("PNG", "PPM")


def to_rgb(image, name):
    """Decode an opened image and convert it to mode RGB; name: for messages.  Raises BadImage."""
    with _naming(name):
        image.load()
        if _is_deep(image):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # as Pillow itself converts 16-bit colours
        elif image.mode == "P":
            image = image.convert("RGBA")  # otherwise Pillow warns about palettes with transparency
        elif image.mode == "La":
            image = image.convert("LA")
        return image.convert("RGB")


@contextlib.contextmanager
def _naming(name):
    """A context that turns every error into a BadImage: Pillow raises errors of many types for damaged data."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "no format that wtref reads"
        raise BadImage(f"{name} is no image or a damaged one: {reason}") from None


@functools.cache
def pillow():
    """(formats, file endings) that are read: those of FORMATS that the installed Pillow supports.

    This loads all of Pillow's plugins, before threads use it.
    """
    Image.init()
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # open_image raises BadImage
    formats = [name for name in FORMATS if name in Image.OPEN]
    return formats, {ending for ending, name in Image.registered_extensions().items() if name in formats}
