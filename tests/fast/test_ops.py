"""Patches, images and the plain functions equal loops over single pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import geometries, modest, naive_gather, naive_scatter, patch_count
from wtref.fast import plain
from wtref.geometry import output_size
from wtref.layers import image, patches

batches, seeds = st.integers(1, 3), st.integers(0, 2**32 - 1)


def draw(seed, batch, geometry, channels=2):
    """A random image batch and random patches of the geometry, of shape (N, H', W', k_h, k_w, C)."""
    size, kernel, stride, padding = geometry
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((batch, *size, channels))
    return y, rng.standard_normal(naive_gather(y, kernel, stride, padding).shape)


def flat(found):
    """Patches in the shape of layers.py, (N, H', W', k_h k_w C)."""
    return found.reshape(*found.shape[:3], -1)


@given(geometries())
@modest
def test_output_size_counts_the_patches(geometry):
    assert output_size(*geometry) == patch_count(*geometry)


@given(geometries(), batches, seeds, st.sampled_from([0, -np.inf, 2.5]))
@modest
def test_patches_against_single_pixels(geometry, batch, seed, fill):
    y, _ = draw(seed, batch, geometry)
    before = y.copy()
    found = patches(y, *geometry[1:], fill=fill)
    assert np.array_equal(found, flat(naive_gather(y, *geometry[1:], fill)))
    assert found.flags.c_contiguous
    assert np.array_equal(y, before)


@given(geometries(), batches, seeds)
@modest
def test_an_image_against_single_pixels(geometry, batch, seed):
    size, *rest = geometry
    y, given = draw(seed, batch, geometry)
    before = given.copy()
    found = image(flat(given), y.shape, *rest)
    np.testing.assert_allclose(found, naive_scatter(given, size, *rest[1:]), rtol=1e-13, atol=1e-13)
    assert np.array_equal(given, before)


@given(geometries(), batches, seeds)
@modest
def test_image_is_the_adjoint_of_patches(geometry, batch, seed):
    """<patches(x), p> = <x, image(p)>; small integers make the comparison exact."""
    y, given = (np.rint(4 * x) for x in draw(seed, batch, geometry))
    up = (patches(y, *geometry[1:]) * flat(given)).sum()
    assert up == (y * image(flat(given), y.shape, *geometry[1:])).sum()


@given(geometries())
@modest
def test_an_image_of_ones_counts_the_patches_over_each_pixel(geometry):
    size, *rest = geometry
    ones = np.ones((1, *size, 1))
    down, across = ([sum(top <= y < top + k for top in range(-p, n + p - k + 1, s)) for y in range(n)] for n, k, s, p in zip(*geometry))
    found = image(np.ones_like(patches(ones, *rest)), ones.shape, *rest)
    assert np.array_equal(found[0, :, :, 0], np.outer(down, across))


@pytest.mark.parametrize("padding", [(0, 0), (1, 2)])
def test_patches_keep_single_precision(padding):
    y, geometry = np.ones((1, 4, 4, 1), np.float32), ((3, 3), (1, 1), padding)
    found = patches(y, *geometry)
    assert found.dtype == image(found, y.shape, *geometry).dtype == np.float32


def test_an_image_of_a_broadcast_view():
    """One value is broadcast over a whole window."""
    share = np.broadcast_to(np.arange(4.0).reshape(1, 2, 2, 1), (1, 2, 2, 4))
    found = image(share, (1, 4, 4, 1), (2, 2), (2, 2), (0, 0))
    assert np.array_equal(found[0, :, :, 0], np.kron([[0, 1], [2, 3]], np.ones((2, 2))))


@given(geometries(), batches, seeds)
@modest
def test_products_with_patches_against_single_pixels(geometry, batch, seed):
    size, *rest = geometry
    y, _ = draw(seed, batch, geometry)
    rng, seen = np.random.default_rng(seed + 1), flat(naive_gather(y, *rest))
    W, delta = rng.standard_normal((3, seen.shape[-1])), rng.standard_normal((*seen.shape[:3], 3))
    sent = (delta @ W).reshape(*seen.shape[:3], *rest[0], 2)
    for found, wanted in [
        (plain.convolve(y, W, *rest), seen @ W.T),
        (plain.convolve_gradient(delta, y, *rest), np.einsum("nhwo,nhwi->oi", delta, seen)),
        (plain.convolve_back(delta, W.T, *rest, size), naive_scatter(sent, size, *rest[1:])),
    ]:
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@given(geometries(half_padding=True), batches, seeds)
@modest
def test_max_pool_against_single_pixels(geometry, batch, seed):
    """Of equal values the first is the maximum; the error of all others is 0, even beside a NaN."""
    size, *rest = geometry
    y, _ = draw(seed, batch, geometry)
    windows = naive_gather(np.rint(y), *rest, fill=-np.inf)
    windows = windows.reshape(*windows.shape[:3], -1, 2)
    largest, winner = plain.max_pool(np.rint(y), *rest)
    assert np.array_equal(largest, windows.max(axis=3)) and np.array_equal(winner, windows.argmax(axis=3))
    delta = np.where(largest > 1, np.nan, largest)
    won = np.zeros(windows.shape)
    np.put_along_axis(won, winner[:, :, :, None], delta[:, :, :, None], axis=3)
    found = plain.max_pool_back(delta, winner, *rest, size)
    np.testing.assert_allclose(found, naive_scatter(won.reshape(*won.shape[:3], *rest[0], 2), size, *rest[1:]), rtol=1e-13)


@given(st.integers(1, 5), st.integers(1, 300), st.integers(1, 300), seeds)
@modest
def test_hadamard_product_against_the_matrix_laid_out(m, n, k, seed):
    """Entry (i, j) of Sylvester's matrix is the parity of i & j; small integers make the comparison exact."""
    rng = np.random.default_rng(seed)
    v, before, after = (rng.integers(-3, 4, shape).astype(float) for shape in ((m, n), n, k))
    h = np.array([[(-1) ** (i & j).bit_count() for j in range(k)] for i in range(n)])
    assert np.array_equal(plain.hadamard_product(v, before, after), (v * before) @ h * after)
