"""Image files in every mode and format, and mutated ten thousand times."""

import math
import struct
import time
import warnings

import numpy as np
import pytest
from PIL import Image, features

from pictures import encode, picture
from wtref.datasets import reading
from wtref.datasets.reading import BadImage, open_image, read_image, to_rgb
from wtref.datasets.views import central_view, random_view

Image.init()  # fills Image.SAVE


def decode(data, name="x.png"):
    return np.asarray(to_rgb(open_image(data, name), name))


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
        with pytest.raises(BadImage, match="mode F"):
            decode(encode(floats, "TIFF"))
        with pytest.raises(BadImage, match="mode F|no format that wtref reads"):  # the second by a Pillow before 10.3
            decode(b"Pf 2 2 -1.0\n" + np.asarray(floats).tobytes())


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ten_thousand_mutated_files_give_an_array_or_bad_image(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    rng, current = np.random.default_rng(0), []
    monkeypatch.setattr(reading, "read_file", lambda path: current[0])
    files, read, bad, slowest = seeds_for_fuzzing(), 0, 0, 0.0
    for k in range(10_500):
        current[:] = [mutate(files[k % len(files)], rng)]
        start = time.process_time()
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
        slowest = max(slowest, time.process_time() - start)
    assert min(read, bad) > 1000
    assert slowest < 5  # no hang, on however busy a machine
