"""Images made ready, against Pillow and torchvision's definitions: batches on the device, and single files.

Files come in every mode and format, and mutated ten thousand times.
"""

import math
import random
import struct
import time
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from device_double import xp
from helpers import CPU, modest
from pictures import encode, picture
from wtref.datasets import augment, reading
from wtref.datasets.augment import Augmentation, Normalise, central_view, colour_jitter, crop, flip, pick, random_box, random_view, rotate
from wtref.datasets.reading import BadImage, open_image, read_image, to_rgb
from wtref.device import Device
from wtref.errors import InputError

seeds = st.integers(0, 2**32 - 1)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3]))
Image.init()  # fills Image.SAVE
BILINEAR = Image.Resampling.BILINEAR
FULL = Augmentation(crop=4, flip=True, rotate=15.0)


def draw_images(seed, shape):
    """Bytes of which none is 0, so that zeros can only come from outside an image."""
    return np.random.default_rng(seed).integers(1, 256, shape, dtype=np.uint8)


def as_pillow(image):
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def as_array(picture, shape):
    return np.asarray(picture).reshape(shape)


# --- each step, image by image ----------------------------------------------------------------------------


@given(seeds, shapes, st.integers(1, 6))
@modest
def test_crop_is_pillows_crop(seed, shape, padding):
    images, rng = draw_images(seed, shape), np.random.default_rng(seed)
    corners = rng.integers(2 * padding + 1, size=(shape[0], 2))
    cropped = crop(images, padding, corners)
    for image, (top, left), found in zip(images, corners, cropped):
        x, y = left - padding, top - padding  # Pillow gives zeros outside the image
        right = as_pillow(image).crop((x, y, x + shape[2], y + shape[1]))
        assert np.array_equal(found, as_array(right, shape[1:]))


@given(seeds, shapes)
@modest
def test_flip_is_pillows_flip(seed, shape):
    images = draw_images(seed, shape)
    chosen = np.random.default_rng(seed).random(shape[0]) < 0.5
    for image, mirrored, found in zip(images, chosen, flip(images, chosen)):
        picture = as_pillow(image)
        if mirrored:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert np.array_equal(found, as_array(picture, shape[1:]))


@given(seeds, shapes, st.sampled_from([1.0, 15.0, 180.0]))
@modest
def test_rotate_is_pillows_rotate_to_the_pixel(seed, shape, most):
    images = draw_images(seed, shape)
    degrees = np.random.default_rng(seed).uniform(-most, most, shape[0])
    for image, angle, found in zip(images, degrees, rotate(images, degrees)):
        assert np.array_equal(found, as_array(as_pillow(image).rotate(angle), shape[1:]))


def test_rotate_is_pillows_rotate_on_larger_images():
    for size in ((32, 32), (33, 17), (96, 128)):
        images = draw_images(0, (200, *size, 3))
        degrees = np.random.default_rng(1).uniform(-15, 15, 200)
        right = [np.asarray(Image.fromarray(image).rotate(angle)) for image, angle in zip(images, degrees)]
        assert np.array_equal(rotate(images, degrees), right)


def test_rotating_by_nothing_changes_nothing():
    images = draw_images(0, (3, 9, 6, 3))
    assert np.array_equal(rotate(images, np.zeros(3)), images)


@given(seeds, shapes)
@modest
def test_pick_against_single_pixels(seed, shape):
    images, rng = draw_images(seed, shape), np.random.default_rng(seed)
    n, height, width, channels = shape
    rows, columns = rng.integers(-3, height + 3, (n, 4, 5)), rng.integers(-3, width + 3, (n, 4, 5))
    found = pick(images, rows, columns)
    assert found.shape == (n, 4, 5, channels)
    for k, i, j in np.ndindex(n, 4, 5):
        y, x = rows[k, i, j], columns[k, i, j]
        right = images[k, y, x] if 0 <= y < height and 0 <= x < width else np.zeros(channels)
        assert np.array_equal(found[k, i, j], right)


# --- all steps --------------------------------------------------------------------------------------------


@given(seeds, shapes)
@modest
def test_the_steps_are_torchvisions_in_order(seed, shape):
    images = draw_images(seed, shape)
    found = FULL(images, np.random.default_rng(seed))
    rng, n = np.random.default_rng(seed), shape[0]
    corners, chosen, degrees = rng.integers(9, size=(n, 2)), rng.random(n) < 0.5, rng.uniform(-15, 15, n)
    for k in range(n):
        x, y = corners[k, 1] - 4, corners[k, 0] - 4
        picture = as_pillow(images[k]).crop((x, y, x + shape[2], y + shape[1]))
        if chosen[k]:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert np.array_equal(found[k], as_array(picture.rotate(degrees[k]), shape[1:]))


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(2), Augmentation(flip=True), FULL])
def test_bytes_in_bytes_out_and_the_input_left_alone(augmentation):
    images = draw_images(0, (16, 10, 12, 3))
    before = images.copy()
    found = augmentation(images, np.random.default_rng(0))
    assert found.dtype == np.uint8 and found.shape == images.shape
    assert np.array_equal(images, before)
    assert np.array_equal(found, images) == (augmentation == Augmentation())
    assert np.array_equal(found, augmentation(images, np.random.default_rng(0)))


@pytest.mark.parametrize("wrong", [{"crop": -1}, {"rotate": -1.0}, {"rotate": 181.0}, {"rotate": np.nan}])
def test_values_that_cannot_be(wrong):
    with pytest.raises(InputError, match=f"--{next(iter(wrong))} must be .*, found"):
        Augmentation(**wrong)


# --- the draws, read off the images -----------------------------------------------------------------------


def positions(n, size):
    """n images whose two channels hold each pixel's row and column, from 1 up."""
    rows, columns = np.mgrid[1 : size + 1, 1 : size + 1]
    return np.broadcast_to(np.stack([rows, columns], axis=-1).astype(np.uint8), (n, size, size, 2))


def test_windows_are_uniform_over_all_places():
    n, padding, middle = 16_200, 4, 8
    found = Augmentation(crop=padding)(positions(n, 17), np.random.default_rng(0))[:, middle, middle]
    moved = found.astype(int) - 1 - middle + padding  # 0 to 8, down and across
    counts = np.bincount(moved[:, 0] * 9 + moved[:, 1], minlength=81)
    expected = n / 81
    assert counts.size == 81
    assert ((counts - expected) ** 2 / expected).sum() < 125.0  # chi-square, 80 degrees of freedom: p = 0.001


def test_half_of_the_images_are_mirrored():
    n = 10_000
    found = Augmentation(flip=True)(positions(n, 4), np.random.default_rng(0))
    mirrored = found[:, 0, 0, 1] == 4
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(n)
    neighbours = (mirrored[1:] == mirrored[:-1]).mean()
    assert abs(neighbours - 0.5) < 4 * 0.5 / np.sqrt(n)


def test_angles_are_uniform_up_to_the_largest():
    n, size = 1000, 101
    found = Augmentation(rotate=15.0)(positions(n, size), np.random.default_rng(0))
    source = found[:, size // 2, -10].astype(int) - 1  # a pixel 41 to the right of the centre
    angles = np.degrees(np.arctan2(source[:, 0] - 50, source[:, 1] - 50))
    assert np.abs(angles).max() < 15 + 1
    quantiles = np.quantile(angles, [0.1, 0.3, 0.5, 0.7, 0.9])
    assert np.abs(quantiles - [-12, -6, 0, 6, 12]).max() < 2.0  # a pixel is 1.4 degrees


# --- normalisation, and arrays that live elsewhere --------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normalise_is_the_plain_formula(dtype):
    images, device = draw_images(0, (4, 6, 5, 3)), Device("cpu", np, dtype)
    mean, std = images.mean(axis=(0, 1, 2)), images.std(axis=(0, 1, 2))
    found = Normalise(device, (6, 5, 3), mean, std)(images)
    assert found.dtype == dtype
    assert np.array_equal(found, (images.astype(dtype) - mean.astype(dtype)) / std.astype(dtype))


def test_padding_is_black_not_average():
    images = np.full((8, 4, 4, 1), 200, np.uint8)
    varied = Augmentation(crop=4)(images, np.random.default_rng(0))
    found = Normalise(CPU, (4, 4, 1), [100.0], [50.0])(varied)
    assert set(np.unique(found)) == {-2.0, 2.0}


def test_no_array_of_the_device_meets_one_of_the_host():
    images, statistics = draw_images(0, (16, 10, 12, 3)), ([1.0, 2, 3], [4.0, 5, 6])
    double, cpu = (Device(name, module, np.float32) for name, module in (("double", xp), ("cpu", np)))
    found = Normalise(double, (10, 12, 3), *statistics)(FULL(xp.array(images), np.random.default_rng(0)))
    right = Normalise(cpu, (10, 12, 3), *statistics)(FULL(images, np.random.default_rng(0)))
    assert found.dtype == np.float32
    assert np.array_equal(found.get(), right)


# --- files to read ----------------------------------------------------------------------------------------


def decode(data, name="x.png"):
    return np.asarray(to_rgb(open_image(data, name), name))


# --- views ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width, height", [(500, 375), (375, 500), (224, 224), (64, 48), (1000, 120), (3, 2), (300, 299)])
@pytest.mark.parametrize("size", [224, 32, 7])
def test_central_view_is_resize_and_centre_crop(width, height, size):
    image = picture(width + height, width, height)
    short = round(size * 256 / 224)
    if width <= height:
        wide, high = short, int(short * height / width)
    else:
        wide, high = int(short * width / height), short
    left, top = int(round((wide - size) / 2.0)), int(round((high - size) / 2.0))
    right = np.asarray(image.resize((wide, high), BILINEAR))[top : top + size, left : left + size]
    assert np.array_equal(central_view(image, size), right)


@pytest.mark.parametrize("width, height", [(1, 5000), (5000, 1), (1, 1), (2, 90)])
def test_extreme_shapes_neither_fail_nor_fill_the_memory(width, height, monkeypatch):
    sizes, image = [], picture(0, width, height)
    resize = Image.Image.resize

    def noted(image, size, *args, **kwargs):
        sizes.append(size)
        return resize(image, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", noted)
    assert central_view(image, 224).shape == (224, 224, 3)
    assert np.prod(sizes[0]) <= 256 * 2560
    monkeypatch.setattr(reading, "read_file", lambda path: encode(image, "PNG"))
    for seed in range(20):
        assert random_view("x.png", 32, True, 0.4, np.random.default_rng(seed)).shape == (32, 32, 3)


def test_random_view_is_crop_resize_flip(tmp_path):
    image, path, mirrored = picture(0, 90, 70), tmp_path / "x.png", set()
    image.save(path)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        box, flip = random_box(90, 70, rng), rng.random() < 0.5
        right = np.asarray(image.crop(box).resize((24, 24), BILINEAR))
        found = random_view(path, 24, True, 0.0, np.random.default_rng(seed))
        assert np.array_equal(found, right[:, ::-1] if flip else right)
        mirrored.add(flip)
    assert mirrored == {False, True}


def test_half_of_the_views_are_mirrored(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.tile(np.arange(0, 250, 10, dtype=np.uint8), (25, 1))).save(path)
    views = [random_view(path, 8, True, 0.0, np.random.default_rng((7, seed))) for seed in range(2000)]
    rate = np.mean([view[0, 0, 0] > view[0, -1, 0] for view in views])
    assert abs(rate - 0.5) < 4 * 0.5 / math.sqrt(2000)


def torchvisions_box(width, height, uniform, randint):
    """RandomResizedCrop.get_params, from its documentation."""
    for _ in range(10):
        area = width * height * uniform(0.08, 1.0)
        ratio = math.exp(uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = int(round(math.sqrt(area * ratio))), int(round(math.sqrt(area / ratio)))
        if 0 < w <= width and 0 < h <= height:
            return randint(0, width - w), randint(0, height - h), w, h
    return None


@pytest.mark.parametrize("width, height", [(500, 375), (60, 60), (100, 40)])
def test_boxes_are_distributed_like_torchvisions(width, height):
    rng, other, n = np.random.default_rng(0), random.Random(0), 4000
    boxes = np.array([random_box(width, height, rng) for _ in range(n)])
    left, top, right, bottom = boxes.T
    assert (left >= 0).all() and (top >= 0).all() and (right <= width).all() and (bottom <= height).all()
    assert (right > left).all() and (bottom > top).all()
    found = np.stack([left, top, right - left, bottom - top], axis=1)
    theirs = [torchvisions_box(width, height, other.uniform, other.randint) for _ in range(n)]
    theirs = np.array([box for box in theirs if box is not None])
    if len(theirs) < n:  # in the fallback: the largest box about the centre
        found = found[~((found[:, 3] == height) & (found[:, 2] == round(height * 4 / 3)))]
    assert abs(len(found) - len(theirs)) < 200
    for a, b in zip(measures(found), measures(theirs)):
        assert kolmogorov_smirnov(a, b) < 1.95 * math.sqrt(2 / len(found))  # p = 0.001


def measures(boxes):
    left, top, width, height = boxes.T
    return left, top, width * height, width / height


def kolmogorov_smirnov(a, b):
    grid = np.unique(np.concatenate([a, b]))
    below = [np.searchsorted(np.sort(x), grid, side="right") / len(x) for x in (a, b)]
    return np.abs(below[0] - below[1]).max()


@pytest.mark.parametrize("size, box", [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506)), ((50, 1), (24, 0, 25, 1))])
def test_the_box_where_none_fits(size, box):
    assert random_box(*size, np.random.default_rng(0)) == box


def test_a_jpeg_is_decoded_small_and_looks_the_same(tmp_path, monkeypatch):
    path, decoded = tmp_path / "x.jpg", []
    image = picture(0, 803, 601)
    image.save(path, quality=95)
    plain = to_rgb
    monkeypatch.setattr(augment, "to_rgb", lambda im, name: decoded.append(im.size) or plain(im, name))
    for seed in range(30):
        found = random_view(path, 32, True, 0.0, np.random.default_rng(seed)).astype(int)
        rng = np.random.default_rng(seed)
        box = random_box(803, 601, rng)
        right = np.asarray(image.crop(box).resize((32, 32), BILINEAR)).astype(int)
        if rng.random() < 0.5:
            right = right[:, ::-1]
        assert np.abs(found - right).mean() < 1.5 and np.abs(found - right).max() < 20
        scale = 803 / decoded[-1][0]
        assert scale < 1.01 or min(box[2] - box[0], box[3] - box[1]) / scale > 31
    assert (101, 76) in decoded and (201, 151) in decoded


def test_jitter_is_torchvisions_without_hue():
    image, changed = picture(0), set()
    for seed in range(10):
        found = np.asarray(colour_jitter(image, 0.4, np.random.default_rng(seed)))
        rng, right = np.random.default_rng(seed), np.asarray(image).astype(float)
        for change in rng.permutation(3):
            factor = rng.uniform(0.6, 1.4)
            grey = right @ [0.299, 0.587, 0.114]
            towards = [0.0, np.rint(grey.mean()), grey[..., None]][change]  # brightness, contrast, saturation
            right = np.clip(factor * right + (1 - factor) * towards, 0, 255)
        assert np.abs(found - right).max() < 5  # Pillow rounds after every change
        changed.add(found.tobytes())
    assert len(changed) == 10


# --- modes and formats ------------------------------------------------------------------------------------


LOSSLESS = ["PNG", "BMP", "TIFF", "PPM", "TGA", "QOI", "PCX", "SGI", "DIB"]


@pytest.mark.parametrize("format", LOSSLESS)
def test_lossless_formats(format):
    image = picture(1, 32, 32)
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {format}")
    assert np.array_equal(decode(encode(image, format)), np.asarray(image))


@pytest.mark.parametrize("format, feature", [("WEBP", "webp"), ("JPEG2000", "jpg_2000"), ("AVIF", "avif")])
def test_formats_that_pillow_may_lack(format, feature):
    if not features.check(feature):
        pytest.skip(f"this Pillow has no {format}")
    image = picture(1, 32, 32)
    options = {} if format == "JPEG2000" else {"quality": 95}
    assert np.abs(decode(encode(image, format, **options)).astype(int) - np.asarray(image)).mean() < 4


def test_grey_bilevel_and_palette():
    grey = picture(2, mode="L")
    assert np.array_equal(decode(encode(grey, "PNG")), np.repeat(np.asarray(grey)[..., None], 3, axis=2))
    bilevel = grey.convert("1")
    assert np.array_equal(decode(encode(bilevel, "PNG"))[..., 1], np.asarray(bilevel) * 255)
    palette = picture(2).convert("P", palette=Image.Palette.ADAPTIVE, colors=17)
    for format in ("PNG", "GIF", "BMP"):
        assert np.array_equal(decode(encode(palette, format)), np.asarray(palette.convert("RGB")))


def test_transparency_is_ignored_without_a_warning():
    colours = np.asarray(picture(3))
    veil = np.random.default_rng(0).integers(0, 256, colours.shape[:2], dtype=np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(decode(encode(Image.fromarray(np.dstack([colours, veil])), "PNG")), colours)
        grey = np.asarray(picture(3, mode="L"))
        found = decode(encode(Image.fromarray(np.dstack([grey, veil])), "PNG"))
        assert np.array_equal(found, np.repeat(grey[..., None], 3, axis=2))
        palette = picture(3).convert("P", palette=Image.Palette.ADAPTIVE, colors=9)
        for transparency in (4, bytes(range(0, 90, 10))):
            found = decode(encode(palette, "PNG", transparency=transparency))
            assert np.array_equal(found, np.asarray(palette.convert("RGB")))


def test_of_sixteen_bits_the_upper_eight_count():
    deep = np.random.default_rng(0).integers(0, 2**16, (30, 40), dtype=np.uint16)
    files = [encode(Image.fromarray(deep), format) for format in ("PNG", "TIFF")]
    for data in (*files, b"P5 40 30 65535\n" + deep.astype(">u2").tobytes()):
        found = decode(data)
        assert np.array_equal(found, np.repeat((deep // 256).astype(np.uint8)[..., None], 3, axis=2))


def test_cmyk_and_ycbcr_jpeg():
    for mode in ("CMYK", "YCbCr", "L"):
        image = picture(4, mode=mode)
        found = decode(encode(image, "JPEG", quality=98)).astype(int)
        assert np.abs(found - np.asarray(image.convert("RGB"))).mean() < 3


def test_of_an_animation_the_first_frame_counts():
    frames = [picture(seed).convert("P", palette=Image.Palette.ADAPTIVE, colors=9) for seed in range(3)]
    for format in ("GIF", "TIFF", "PNG"):
        found = decode(encode(frames[0], format, save_all=True, append_images=frames[1:]))
        assert np.array_equal(found, np.asarray(frames[0].convert("RGB")))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_changes_nothing_turned_or_broken():
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    plain, image = encode(picture(5), "JPEG"), picture(5)
    for block in (exif, b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0nonsense"):
        assert np.array_equal(decode(encode(image, "JPEG", exif=block)), decode(plain))


def test_the_ending_need_not_tell_the_format(tmp_path):
    path = tmp_path / "x.JPEG"
    path.write_bytes(encode(picture(6), "PNG"))
    assert np.array_equal(np.asarray(read_image(path)), np.asarray(picture(6)))


@pytest.mark.parametrize("format", ["EPS", "ICO", "ICNS", "PDF", "SPIDER"])
def test_other_formats_are_never_opened(format):
    data = encode(picture(0, 16, 16, mode="F" if format == "SPIDER" else "RGB"), format)
    with pytest.raises(BadImage, match="no format that wtref reads"):
        open_image(data, f"x.{format.lower()}")


def tiff(bits, photometric=1, sample_format=1):
    """A TIFF of one strip: 2x2 pixels of grey, whose bits are all 1."""
    strip = b"\xff" * (2 * -(-2 * bits // 8))
    tags = [(256, 2), (257, 2), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 2),
            (279, len(strip)), (339, sample_format)]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHIHH", tag, 3, 1, v, 0) for tag, v in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + directory + bytes(4)


def test_grey_tiffs_are_scaled_to_bytes_or_refused():
    """Signed, float, 12- and 32-bit ones, and 16 bits of which 0 is white, would be read as other greys than they hold."""
    for bits, photometric, white in ((1, 1, 255), (2, 1, 255), (4, 1, 255), (8, 1, 255), (16, 1, 255), (8, 0, 0), (1, 0, 0)):
        assert (decode(tiff(bits, photometric)) == white).all()
    for bits, photometric, sample_format in ((8, 1, 2), (16, 1, 2), (12, 1, 1), (16, 0, 1), (32, 1, 1), (32, 1, 2), (32, 1, 3)):
        with pytest.raises(BadImage, match=r"x.png has pixels of no known range \(Pillow's mode (L|I|I;16|F)\); right"):
            decode(tiff(bits, photometric, sample_format))


def test_floats_are_refused_whatever_they_hold():
    for value in (0.0, 0.5, 255.0, math.nan, math.inf):
        floats = Image.fromarray(np.full((2, 2), value, np.float32))
        for data in (encode(floats, "TIFF"), b"Pf 2 2 -1.0\n" + np.asarray(floats).tobytes()):
            with pytest.raises(BadImage, match="mode F"):
                decode(data)


# --- damaged files ----------------------------------------------------------------------------------------


def seeds_for_fuzzing():
    """Small files of many kinds, at most a few hundred bytes of them to hit."""
    image, deep = picture(0, 9, 7), Image.fromarray(np.arange(63, dtype=np.uint16).reshape(7, 9) * 1000)
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=9)
    formats = ("JPEG", "PNG", "BMP", "TIFF", "PPM", "TGA", "QOI", "ICO", "SGI", "PCX")
    files = [encode(image, format) for format in formats if format in Image.SAVE]
    files += [encode(palette, "GIF"), encode(palette, "PNG", transparency=bytes(9)), encode(deep, "PNG")]
    files += [encode(image.convert("CMYK"), "JPEG"), encode(image, "JPEG", progressive=True)]
    files += [encode(image, "TIFF", compression="tiff_lzw"), encode(deep, "TIFF")]
    return files + ([encode(image, "WEBP")] if features.check("webp") else [])


def mutate(data, rng):
    """A few bytes changed, cut out, doubled or cut off."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 9))
        kind = rng.integers(6)
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at : at + length] = rng.bytes(length)
        elif kind == 2:
            extremes = b"\xff" * length, bytes(length), b"\x7f\xff\xff\xff", b"\0\0\x10\0"
            data[at : at + length] = extremes[rng.integers(len(extremes))]
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + 8 * length]
        elif len(data) > 1:
            del data[max(at, 1) :]
        if not data:
            return b""
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
def test_ten_thousand_mutated_files_give_an_array_or_bad_image(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    rng, current = np.random.default_rng(0), []
    monkeypatch.setattr(reading, "read_file", lambda path: current[0])
    files, read, bad, slowest = seeds_for_fuzzing(), 0, 0, 0.0
    for k in range(10_500):
        current[:] = [mutate(files[k % len(files)], rng)]
        start = time.perf_counter()
        try:
            if k % 3:
                view = random_view("name", 8, True, 0.4 * (k % 2), np.random.default_rng(k))
            else:
                view = central_view(read_image("name"), 8)
        except BadImage as error:
            assert str(error).startswith("name ") and "\n" not in str(error)
            bad += 1
        else:
            assert view.shape == (8, 8, 3) and view.dtype == np.uint8
            read += 1
        slowest = max(slowest, time.perf_counter() - start)
    assert min(read, bad) > 1000
    assert slowest < 5  # no hang, on however busy a machine
