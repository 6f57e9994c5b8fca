"""The plain array primitives against loops over single pixels."""

import numpy as np
import pytest
from helpers import geometries, modest, naive_gather, naive_scatter, patch_count
from hypothesis import given
from hypothesis import strategies as st

from wtref.kernels import plain

batches, seeds = st.integers(1, 3), st.integers(0, 2**32 - 1)


def draw(seed, batch, geometry, channels=2):
    """A random image batch and random patches of the geometry."""
    size, kernel, stride, padding = geometry
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((batch, *size, channels))
    return image, rng.standard_normal(naive_gather(image, kernel, stride, padding).shape)


@given(geometries())
@modest
def test_output_size_counts_the_patches(geometry):
    assert plain.output_size(*geometry) == patch_count(*geometry)


@given(geometries(), batches, seeds, st.sampled_from([0, -np.inf, 2.5]))
@modest
def test_gather_against_single_pixels(geometry, batch, seed, fill):
    image, _ = draw(seed, batch, geometry)
    before = image.copy()
    patches = plain.gather(image, *geometry[1:], fill=fill)
    assert np.array_equal(patches, naive_gather(image, *geometry[1:], fill))
    assert patches.flags.c_contiguous
    assert np.array_equal(image, before)


@given(geometries(), batches, seeds)
@modest
def test_scatter_against_single_pixels(geometry, batch, seed):
    size, _, stride, padding = geometry
    _, patches = draw(seed, batch, geometry)
    before = patches.copy()
    image = plain.scatter(patches, size, stride, padding)
    np.testing.assert_allclose(image, naive_scatter(patches, size, stride, padding), rtol=1e-13, atol=1e-13)
    assert np.array_equal(patches, before)


@given(geometries(), batches, seeds)
@modest
def test_scatter_is_the_transpose_of_gather(geometry, batch, seed):
    """<gather(x), p> = <x, scatter(p)>; in small whole numbers, so exactly."""
    size, kernel, stride, padding = geometry
    image, patches = (np.rint(4 * x) for x in draw(seed, batch, geometry))
    up = (plain.gather(image, kernel, stride, padding) * patches).sum()
    assert up == (image * plain.scatter(patches, size, stride, padding)).sum()


@given(geometries())
@modest
def test_scatter_of_ones_counts_the_patches_over_each_pixel(geometry):
    size, kernel, stride, padding = geometry
    image = np.ones((1, *size, 1))
    patches = plain.gather(image, kernel, stride, padding)
    down, across = (
        [sum(top <= y < top + k for top in range(-p, n + p - k + 1, s)) for y in range(n)]
        for n, k, s, p in zip(*geometry)
    )
    counts = np.outer(down, across)
    assert np.array_equal(plain.scatter(np.ones_like(patches), size, stride, padding)[0, :, :, 0], counts)


@pytest.mark.parametrize("padding", [(0, 0), (1, 2)])
def test_primitives_keep_single_precision(padding):
    image = np.ones((1, 4, 4, 1), np.float32)
    patches = plain.gather(image, (3, 3), (1, 1), padding)
    assert patches.dtype == plain.scatter(patches, (4, 4), (1, 1), padding).dtype == np.float32


def test_scatter_reads_a_broadcast_view():
    """As average pooling hands it over: one value stands for a whole window."""
    share = np.broadcast_to(np.arange(4.0).reshape(1, 2, 2, 1, 1, 1), (1, 2, 2, 2, 2, 1))
    image = plain.scatter(share, (4, 4), (2, 2), (0, 0))
    assert np.array_equal(image[0, :, :, 0], np.kron([[0, 1], [2, 3]], np.ones((2, 2))))


@given(st.integers(1, 5), st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 2, 8, 64, 128, 256]), seeds)
@modest
def test_hadamard_product_against_the_matrix_laid_out(m, n, k, order, seed):
    """Entry (i, j) of Sylvester's matrix: the parity of the bits that i and j share; in small whole numbers, so exactly."""
    rng = np.random.default_rng(seed)
    v, before, after = (rng.integers(-3, 4, shape).astype(float) for shape in ((m, n), n, k))
    h = np.array([[(-1) ** ((i % order) & (j % order)).bit_count() for j in range(k)] for i in range(n)])
    assert np.array_equal(plain.hadamard_product(v, before, after, order), (v * before) @ h * after)
