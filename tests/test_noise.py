"""The noise of mirror mode: its moments, its generators, and orthogonal signs as the matrix that they are."""

import itertools
import math

import numpy as np
import pytest

from helpers import CPU, close, equipped
from wtref.device import Device
from wtref.noise import OrthogonalSigns, hadamard, independent_signs, orthogonal_signs, power_of_two


def rng(*seed):
    return np.random.default_rng(seed)


def laid_out(signs):
    """OrthogonalSigns as an ordinary array, by their definition: left[i] H[i, j] right[j]."""
    P, n = len(signs.left), len(signs.right)
    h = hadamard(power_of_two(max(P, n)))[:P, :n]
    return signs.left[:, None] * h * signs.right


# --- independent signs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows, n", [(1, 1), (3, 5), (7, 8), (2, 60), (50, 33)])
def test_independent_signs_are_1_and_minus_1(rows, n):
    y = independent_signs(CPU, rng(0), rows, n)
    assert y.shape == (rows, n) and y.dtype == np.float64 and (abs(y) == 1).all()


def test_one_random_bit_each():
    """The bits of the generator's own bytes, none dropped and none twice."""
    bits = np.unpackbits(np.frombuffer(rng(0).bytes(-(-7 * 9 // 8)), np.uint8))[: 7 * 9]
    assert np.array_equal(independent_signs(CPU, rng(0), 7, 9).ravel(), 1 - 2.0 * bits)


def test_the_moments_of_independent_signs():
    """The means of single values and of products of 2, 3 and 4 different ones are 0, within rows and across them."""
    draws, wanted = 20_000, 5 / math.sqrt(20_000)
    y = np.stack([independent_signs(CPU, rng(seed), 2, 4) for seed in range(draws)]).reshape(draws, 8)
    for size in (1, 2, 3, 4):
        for chosen in itertools.combinations(range(8), size):
            assert abs(y[:, chosen].prod(axis=1).mean()) < wanted
    long = independent_signs(CPU, rng(0), 200_000, 5)
    assert np.abs(long.mean(axis=0)).max() < 5 / math.sqrt(len(long))
    assert np.abs(long.T @ long / len(long) - np.eye(5)).max() < 5 / math.sqrt(len(long))
    assert np.abs(long[1:].T @ long[:-1]).max() < 5 * math.sqrt(len(long))  # no row says anything of the next


# --- orthogonal signs ------------------------------------------------------------------------------------------


def test_power_of_two():
    assert [power_of_two(n) for n in (1, 2, 3, 4, 5, 8, 9, 784, 4608)] == [1, 2, 4, 4, 8, 8, 16, 1024, 8192]


@pytest.mark.parametrize("order", [1, 2, 8, 64])
def test_hadamard_matrices(order):
    h = hadamard(order)
    assert set(np.unique(h)) <= {-1, 1} and np.array_equal(h @ h.T, order * np.eye(order))


@pytest.mark.parametrize("n", [1, 2, 5, 10, 60, 64, 100, 300])
def test_orthogonal_signs_have_exactly_the_covariance_I(n):
    P = power_of_two(n)
    for seed in range(3):
        y = laid_out(orthogonal_signs(CPU, rng(seed), n))
        assert y.shape == (P, n) and set(np.unique(y)) <= {-1, 1}
        assert np.array_equal(y.T @ y, P * np.eye(n))


def test_orthogonal_signs_have_mean_0_and_covariance_I_row_by_row():
    """Over many draws: each moment of a row, and its products with another row, within 5 standard errors."""
    draws, n = 5000, 6
    y = np.stack([laid_out(orthogonal_signs(CPU, rng(seed), n)) for seed in range(draws)])
    assert np.abs(y.mean(axis=0)).max() < 5 / math.sqrt(draws)
    covariance = np.einsum("dri,drj->rij", y, y) / draws - np.eye(n)
    assert np.abs(covariance).max() < 5 / math.sqrt(draws)
    assert np.abs(y[:, 0].T @ y[:, 1]).max() < 5 * math.sqrt(draws)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("n, m", [(1, 3), (2, 1), (5, 7), (10, 4), (60, 16), (64, 64), (100, 33), (300, 2), (1100, 2)])
def test_orthogonal_signs_multiply_like_the_matrix_they_are(n, m, fast):
    ops = equipped().ops if fast else None
    if fast and ops is None:
        pytest.skip("there is no C compiler")
    x = orthogonal_signs(CPU, rng(0), n)
    x = OrthogonalSigns(x.left, x.right, ops.hadamard_product if fast else None)
    v, y = rng(1).standard_normal((n, m)), rng(2).standard_normal((power_of_two(n), m))
    assert close(x @ v, laid_out(x) @ v) and close(x.T @ y, laid_out(x).T @ y)
    assert close(x.T.T @ v, x @ v)
    assert np.array_equal(laid_out(x.T), laid_out(x).T)


# --- both ------------------------------------------------------------------------------------------------------


def independent(device, generator):
    return independent_signs(device, generator, 4, 30)


def orthogonal(device, generator):
    return laid_out(orthogonal_signs(device, generator, 30))


@pytest.mark.parametrize("draw", [independent, orthogonal])
def test_noise_is_a_function_of_its_generator(draw):
    first = draw(CPU, rng(7, 2))
    assert np.array_equal(draw(CPU, rng(7, 2)), first)
    for other in ((7, 3), (8, 2)):
        assert not np.array_equal(draw(CPU, rng(*other)), first)
    same = rng(7, 2)
    assert np.array_equal(draw(CPU, same), first) and not np.array_equal(draw(CPU, same), first)


@pytest.mark.parametrize("draw", [independent, orthogonal])
def test_noise_is_the_same_in_either_precision(draw):
    single = draw(Device("cpu", np, np.float32), rng(7, 2))
    assert np.array_equal(single, draw(CPU, rng(7, 2)))


def test_noise_comes_in_the_precision_of_its_device():
    single = Device("cpu", np, np.float32)
    signs = orthogonal_signs(single, rng(0), 30)
    assert independent_signs(single, rng(0), 4, 30).dtype == np.float32
    assert signs.left.dtype == signs.right.dtype == np.float32
    assert (signs @ np.ones((30, 2), np.float32)).dtype == np.float32
