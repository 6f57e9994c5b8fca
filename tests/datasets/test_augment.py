"""Augmentation of whole batches on the device, against Pillow and the definitions of torchvision."""


import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from device_double import xp
from helpers import CPU, modest
from wtref.datasets.augment import Augmentation, Normalise, crop, flip, pick, rotate
from wtref.device import Device
from wtref.errors import InputError

seeds = st.integers(0, 2**32 - 1)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3]))
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
