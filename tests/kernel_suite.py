"""Tests that hold a fast version of the ops to the plain one, computed in float64, on random shapes."""

import os
import shutil
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helpers import geometries
from roundings import GIVE_ACTIVITIES, as_stored, normal
from wtref.fast import plain
from wtref.fast.compiled import Compiled
from wtref.fast.compilers import NoCompiler, command_and_macros
from wtref.geometry import output_size

seeds = st.integers(0, 2**32 - 1)
channels, vectors = st.sampled_from([1, 3, 8, 10, 16, 17, 32, 40]), st.sampled_from([16, 32, 48, 80])
modest = settings(
    deadline=None, max_examples=25, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.differing_executors],  # one test, several classes
)  # fmt: skip


MARCH = {"SSE2": "x86-64", "AVX2": "x86-64-v3", "AVX-512": "x86-64-v4"}  # instruction sets, each with all of those before it


def compiled(threads=2):
    """Return the compiled kernels; skip the calling test module where they are not available."""
    try:
        return Compiled(threads)
    except NoCompiler as reason:
        pytest.skip(f"no compiled kernels: {reason}", allow_module_level=True)


def instruction_sets():
    """The names of the instruction sets that this machine has: first the one that the kernels are usually compiled for."""
    own, names = compiled(1).instruction_set, list(MARCH)
    return [own, *names[: names.index(own)]] if own in names else [own]


def compiler_for(instruction_set):
    """The command of the compiler that compiles for an instruction set of x86-64."""
    return f"{os.environ.get('CC', 'cc')} -march={MARCH[instruction_set]}"


def compiled_for(instruction_set):
    """Return the compiled kernels of one of the instruction_sets()."""
    fast = compiled()
    if fast.instruction_set != instruction_set:
        with mock.patch.dict(os.environ, CC=compiler_for(instruction_set)):
            fast = compiled()
    assert fast.instruction_set == instruction_set
    return fast


def need_clang():
    """Skip the calling test without clang and its OpenMP."""
    if not shutil.which("clang") or "-fopenmp" not in command_and_macros("clang")[0]:
        pytest.skip("needs clang and its OpenMP")


def assert_equal(found, wanted, limit, rounding=0.0):
    """Assert that all errors are at most limit * the largest wanted entry + rounding * the wanted entry; NaN fails."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    scale = np.abs(wanted).max(initial=0)
    assert (np.abs(found - wanted) <= limit * max(scale, 1e-30) + rounding * np.abs(wanted)).all()


def in_double(*arguments):
    """The same arguments, arrays in float64."""
    return [x.astype(np.float64) if isinstance(x, np.ndarray) else x for x in arguments]


class KernelSuite:
    """Tests of `fast`, an object with the ops for NumPy arrays.

    limits: {dtype: largest relative error};  factors: the rounding of factors before they are multiplied;  stored: the
    rounding of activities and errors in memory;  rounding: its largest relative error;  side, depth: of the largest matrices.
    """

    limits = {np.float64: 1e-10, np.float32: 1e-4}
    side, depth, rounding = 300, 2100, 0.0
    fast = None

    def factors(self, x):
        return x

    def stored(self, x):
        return x

    def both(self, name, *arguments):
        """Assert that the fast function equals the plain one computed in float64."""
        dtype = next(x.dtype.type for x in arguments if isinstance(x, np.ndarray))
        exact = as_stored(name, in_double(*arguments), self.factors, self.stored)
        rounding = self.rounding if name in GIVE_ACTIVITIES else 0.0
        found, wanted = getattr(self.fast, name)(*arguments), getattr(plain, name)(*exact)
        for one, other in zip(found, wanted) if isinstance(wanted, tuple) else [(found, wanted)]:
            assert_equal(one, other, self.limits[dtype], rounding)

    def draws(self, seed):
        """(dtype, a function that draws standard normal arrays of it) for one of the dtypes."""
        dtype = list(self.limits)[seed % len(self.limits)]
        return dtype, normal(seed, dtype)

    def assume_decided(self, x, *others):
        """Assume that no value before the ReLU is so close to 0 that rounding could change its sign."""
        assume(np.abs(plain.norm_forward(*in_double(self.stored(x), *others))).min() > 1e-5)

    def convolutions(self, draw, size, geometry, c_in, c_out, batch):
        kernel, stride, padding = geometry
        n_in = kernel[0] * kernel[1] * c_in
        y, W, B = draw(batch, *size, c_in), draw(c_out, n_in), draw(c_out, n_in).T
        delta = draw(batch, *output_size(size, *geometry), c_out)
        self.both("convolve", y, W, *geometry)
        self.both("convolve_gradient", delta, y, *geometry)
        self.both("convolve_back", delta, B, *geometry, size)
        self.both("convolve_back", delta, np.ascontiguousarray(B), *geometry, size)

    @given(geometries(), channels, channels, st.integers(1, 3), seeds)
    @modest
    def test_convolutions(self, geometry, c_in, c_out, batch, seed):
        size, *rest = geometry
        self.convolutions(self.draws(seed)[1], size, rest, c_in, c_out, batch)

    @given(st.tuples(*[st.integers(3, 14)] * 2), vectors, vectors, seeds)
    @modest
    def test_convolutions_by_winograd(self, size, c_in, c_out, seed):
        """3x3, stride 1, padding 1 and whole vectors of channels; images of whole tiles and of broken ones."""
        self.convolutions(self.draws(seed)[1], size, [(3, 3), (1, 1), (1, 1)], c_in, c_out, 3)

    @given(geometries(half_padding=True), channels, seeds)
    @modest
    def test_max_pool(self, geometry, c, seed):
        size, *window = geometry
        dtype, draw = self.draws(seed)
        y = self.stored(np.round(draw(2, *size, c), 1)).astype(dtype)  # with ties
        largest, winner = self.fast.max_pool(y, *window)
        wanted, places = plain.max_pool(y, *window)
        assert np.array_equal(largest, wanted) and np.array_equal(winner, places)
        delta = draw(*winner.shape)
        self.both("max_pool_back", delta, winner, *window, size)

    @given(seeds, seeds, seeds, seeds)
    @modest
    def test_products_of_any_strides(self, m, n, k, seed):
        m, n, k = 1 + m % self.side, 1 + n % self.side, 1 + k % self.depth
        _, draw = self.draws(seed)
        a, b, at, bt = draw(m, k), draw(k, n), draw(k, m).T, draw(n, k).T
        self.both("product", a, b)
        self.both("product", at, b)
        self.both("product", a, bt)
        self.both("product", np.broadcast_to(draw(k), (m, k)), b)

    @given(st.lists(st.integers(1, 9), min_size=1, max_size=3), channels, st.sampled_from([0, 1000]), seeds)
    @modest
    def test_batch_norm(self, leading, c, mean, seed):
        dtype, draw = self.draws(seed)
        x, delta, scale, shift, slope = draw(*leading, c) + dtype(mean), draw(*leading, c), draw(c), draw(c), draw(c)
        centre, beta = x.reshape(-1, c)[0], draw(c)
        self.assume_decided(x, centre, scale, beta)
        for out, wanted in zip(self.fast.moments(x), plain.moments(self.stored(x.astype(np.float64)))):
            assert_equal(out, wanted, self.limits[dtype] if mean == 0 else 10 * self.limits[dtype])
        for rectifier in (None, beta):
            self.both("norm_sums", delta, x, centre, scale, rectifier)
            self.both("norm_back", delta, x, centre, scale, slope, shift, rectifier)
        for rectify in (False, True):
            self.both("norm_forward", x, centre, scale, beta, rectify)
            self.both("norm_forward", x, centre, scale, beta, rectify, delta)
        self.both("biased", delta.copy(), scale)
        self.both("total", delta)

    @given(st.lists(st.integers(1, 9), min_size=1, max_size=3), channels, seeds)
    @modest
    def test_batch_norm_s_vectors(self, leading, c, seed):
        dtype, draw = self.draws(seed)
        x, delta, gamma, inverse_std = draw(*leading, c), draw(*leading, c), draw(c), draw(c)
        mean, beta = draw(c), draw(c)
        self.assume_decided(x, mean, gamma, beta)
        self.both("norm_scale", np.abs(gamma), inverse_std, 0.1)
        for rectifier in (None, beta):
            self.both("norm_gradients", delta, x, mean, inverse_std, gamma, rectifier)
        running, exact = [draw(c), draw(c)], self.stored(x.astype(np.float64))
        wanted = in_double(*running)
        found = self.fast.norm_statistics(x, gamma, *running, 0.3, 0.1)
        for out, right in zip(found, plain.norm_statistics(exact, gamma.astype(np.float64), *wanted, 0.3, 0.1)):
            assert_equal(out, right, self.limits[dtype])
        for out, right in zip(running, wanted):
            assert_equal(out, right, self.limits[dtype])

    @given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), channels, seeds)
    @modest
    def test_average(self, n, height, width, c, seed):
        self.both("average", self.draws(seed)[1](n, height, width, c))

    @given(st.integers(1, 5000), seeds)
    @modest
    def test_element_by_element(self, n, seed):
        _, draw = self.draws(seed)
        a, b = draw(n), draw(n)
        self.both("relu", a)
        self.both("relu_back", a, b)
        for rectify in (False, True):
            self.both("add", a, b, rectify)

    @given(st.integers(1, 4), st.integers(1, 70), st.integers(1, 70), seeds)
    @modest
    def test_hadamard_product(self, m, n, k, seed):
        _, draw = self.draws(seed)
        self.both("hadamard_product", draw(m, n), draw(n), draw(k))

    def test_hadamard_product_of_large_orders(self):
        draw = normal(0, np.float32)
        for order in (128, 1024, 8192):
            self.both("hadamard_product", draw(2, order - 1), draw(order - 1), draw(order))

    @given(st.integers(1, 30), st.integers(1, 30), st.booleans(), st.booleans(), seeds)
    @modest
    def test_descend(self, rows, columns, transposed, nesterov, seed):
        dtype, draw = self.draws(seed)
        w, v, gradient = draw(rows, columns), draw(rows, columns), draw(rows, columns)
        if transposed:  # as B lies in memory
            w, v = np.asfortranarray(w), np.asfortranarray(v)
        plain_w, plain_v = in_double(w, v)
        start = w
        self.fast.descend(w, v, gradient, 0.1, 0.9, 0.01, nesterov)
        plain.descend(plain_w, plain_v, gradient, 0.1, 0.9, 0.01, nesterov)
        assert w is start
        assert_equal(w, plain_w, self.limits[dtype])
        assert_equal(v, plain_v, self.limits[dtype])

    def test_nan_and_infinity_are_not_hidden(self):
        for dtype in self.limits:
            self.nan_and_infinity(dtype)

    def nan_and_infinity(self, dtype):
        a = np.array([np.nan, np.inf, -np.inf, -1, 2], dtype)
        zero, one = np.zeros(1, dtype), np.ones(1, dtype)
        normed = self.fast.norm_forward(a[:, None], zero, one, zero, True)[:, 0]
        for found in (self.fast.relu(a), self.fast.add(a, np.zeros_like(a), True), normed):
            np.testing.assert_array_equal(found, np.maximum(a, 0))
        windows = np.array([[np.nan, 1], [1, np.nan], [-np.inf, -2]], dtype)[:, :, None, None]
        largest, winner = self.fast.max_pool(windows, (2, 1), (1, 1), (0, 0))
        np.testing.assert_array_equal(largest.ravel(), [np.nan, np.nan, -2])
        assert winner.ravel().tolist() == [0, 1, 1]
        assert np.isnan(self.fast.moments(a[:, None])).all()
        delta, y = (x.ravel() for x in np.meshgrid(a, a))
        by_channel = [x[:, None] for x in (delta, y)]
        with np.errstate(invalid="ignore"):
            back, through = delta * (y > 0), delta * (y > 0) + 0 * y
        np.testing.assert_array_equal(self.fast.relu_back(delta, y), back)
        np.testing.assert_array_equal(self.fast.norm_back(*by_channel, zero, one, zero, zero, zero)[:, 0], through)
        assert np.isnan(self.fast.norm_sums(by_channel[0][y < 0], by_channel[1][y < 0], zero, one, zero)).all()
        errors = self.fast.max_pool_back(np.full((3, 1, 1, 1), np.nan, dtype), winner, (2, 1), (1, 1), (0, 0), (2, 1))
        np.testing.assert_array_equal(errors.reshape(3, 2), [[np.nan, 0], [0, np.nan], [0, np.nan]])

    def test_what_does_not_fit_is_refused(self):
        draw, same = normal(0, np.float32), [(3, 3), (1, 1), (1, 1)]
        y, W, x = draw(2, 5, 5, 3), draw(4, 27), draw(6)
        fast = self.fast
        for call in [
            lambda: fast.product(W, W), lambda: fast.convolve(y, W[:, 1:], *same), lambda: fast.add(x, x[1:]),
            lambda: fast.convolve_gradient(draw(2, 4, 5, 4), y, *same), lambda: fast.relu_back(x, x[1:]),
            lambda: fast.convolve_back(draw(2, 5, 5, 3), W.T, *same, (5, 5)), lambda: fast.norm_sums(y, y[1:], draw(3), draw(3)),
            lambda: fast.norm_back(y, y[1:], *[draw(3)] * 4), lambda: fast.descend(W, W.copy(), W.T, 1, 0, 0, False),
            lambda: fast.product(W, W.T.astype(np.float64)), lambda: fast.norm_forward(y, draw(2), draw(3), draw(3)),
            lambda: fast.norm_back(y, y, *[draw(3)] * 4, draw(2)), lambda: fast.norm_sums(y, y, draw(3), draw(4)),
            lambda: fast.norm_statistics(y, draw(3), draw(2), draw(3), 0.1, 0.1),
            lambda: fast.convolve(y, W, (3, 3), (1, 1), (-1, 1)), lambda: fast.convolve(y, W, (3, 3), (0, 1), (1, 1)),
            lambda: fast.max_pool(y, (6, 6), (1, 1), (0, 0)), lambda: fast.hadamard_product(W, draw(26), draw(5)),
        ]:  # fmt: skip
            with pytest.raises(ValueError):
                call()
