"""Layers send errors through feedback weights of their own, and refuse shapes that do not fit."""

import itertools

import numpy as np
import pytest
from hypothesis import given

from helpers import (
    CPU,
    close,
    equipped,
    geometries,
    inside,
    modest,
    patch_count,
    places,
    ready,
)  # fmt: skip
from layer_forms import batches, both, channels, fast, plain, seeds
from wtref import models
from wtref.activations import ReLU, Tanh
from wtref.errors import InputError
from wtref.layers import BatchNorm, Conv2d, Flatten, GlobalAvgPool, Linear, MaxPool, Residual, Sequential
from wtref.losses import softmax_cross_entropy
from wtref.relatives import RULES

FAST = equipped()


# --- feedback weights of their own -------------------------------------------------------------------------


def naive_errors(received, B, geometry, c_in):
    """The error of every pixel: for each connection, B's entry times what its output sends back."""
    size, kernel, stride, padding = geometry
    errors = np.zeros((len(received), *size, c_in))
    for row, column, i, j, y, x in places(size, kernel, stride, padding):
        for c, o in itertools.product(range(c_in), range(received.shape[-1])):
            if inside(size, y, x):
                errors[:, y, x, c] += B[(i * kernel[1] + j) * c_in + c, o] * received[:, row, column, o]
    return errors


@both
@given(geometries(), batches, channels, channels, seeds)
@modest
def test_a_convolution_sends_errors_through_its_B(form, geometry, n, c_in, c_out, seed):
    rng = np.random.default_rng(seed)
    size, kernel, stride, padding = geometry
    layer = ready(Conv2d("c", c_in, c_out, kernel, stride, padding), rng)
    B = layer.synapses.B = layer.synapses.draw_feedback(rng)
    ours = form(layer)
    out = ours.forward(rng.standard_normal((n, *size, c_in)))
    delta = rng.standard_normal(out.shape)
    assert close(ours.backward(delta), naive_errors(delta, B, geometry, c_in))


@both
@given(geometries(), batches, channels, channels, seeds)
@modest
def test_a_convolution_sends_the_output_error_from_every_position(form, geometry, n, c_in, c_out, seed):
    """Each of the P output positions sends e / P through the same B (n_in, classes)."""
    rng = np.random.default_rng(seed)
    classes, (size, kernel, stride, padding) = 5, geometry
    layer = ready(Conv2d("c", c_in, c_out, kernel, stride, padding), rng)
    s = layer.synapses
    s.B, s.output_error = s.draw_feedback(rng, width=classes), rng.standard_normal((n, classes))
    s.keep_delta = True
    ours = form(layer)
    out = ours.forward(rng.standard_normal((n, *size, c_in)))
    rows, columns = patch_count(*geometry)
    shares = np.tile(s.output_error[:, None, None, :], (1, rows, columns, 1)) / (rows * columns)
    delta = rng.standard_normal(out.shape)
    assert close(ours.backward(delta), naive_errors(shares, s.B, geometry, c_in))
    assert np.array_equal(s.delta, delta)  # what the layer itself learns from


@both
def test_a_linear_layer_sends_errors_or_the_output_error_through_its_B(form):
    rng = np.random.default_rng(0)
    layer = ready(Linear("l", 4, 3), rng)
    s, delta, e = layer.synapses, rng.standard_normal((2, 3)), rng.standard_normal((2, 5))
    s.B = s.draw_feedback(rng)
    ours, y = form(layer), rng.standard_normal((2, 4))
    ours.forward(y)
    wanted = [[sum(s.B[i, o] * delta[n, o] for o in range(3)) for i in range(4)] for n in range(2)]
    assert close(ours.backward(delta), wanted)
    s.B, s.output_error = s.draw_feedback(rng, width=5), e
    ours.forward(y)
    wanted = [[sum(s.B[i, k] * e[n, k] for k in range(5)) for i in range(4)] for n in range(2)]
    assert close(ours.backward(delta), wanted)


@both
@pytest.mark.parametrize("layer, shape", [(Linear("l", 4, 3), (2, 4)), (Conv2d("c", 4, 3, 2), (2, 3, 3, 4))])
def test_the_first_layer_sends_nothing_down_but_learns(form, layer, shape):
    rng = np.random.default_rng(0)
    s = ready(layer, rng).synapses
    s.B, ours = None, form(layer)
    delta = rng.standard_normal(ours.forward(rng.standard_normal(shape)).shape)
    assert ours.backward(delta) is None
    assert np.abs(s.W_gradient).min() > 0 and close(s.b_gradient, delta.reshape(-1, 3).sum(axis=0))


@both
def test_sequential_stops_at_the_first_weights(form):
    rng = np.random.default_rng(0)
    layers = ready(Sequential(Flatten(), ReLU(), Linear("l", 4, 3), Tanh()), rng)
    layers.layers[2].synapses.B = None
    ours = form(layers)
    ours.forward(rng.standard_normal((2, 2, 2, 1)))
    assert ours.backward(rng.standard_normal((2, 3))) is None


@both
@pytest.mark.parametrize("layer, shape", [(Linear("l", 4, 3), (2, 4)), (Conv2d("c", 4, 3, 2), (2, 3, 3, 4))])
def test_a_layer_never_reads_W_on_the_way_back(form, layer, shape):
    rng = np.random.default_rng(0)
    s, ours, y = ready(layer, rng).synapses, form(layer), rng.standard_normal(shape)
    s.B = s.draw_feedback(rng)
    delta = rng.standard_normal(ours.forward(y).shape)
    whole = [ours.backward(delta), s.W_gradient, s.b_gradient]
    ours.forward(y)
    s.W[...] = np.nan
    assert all(np.array_equal(a, b) for a, b in zip(whole, [ours.backward(delta), s.W_gradient, s.b_gradient]))


def backward_of(form, rule, model, poison, norm="before"):
    """Every array that a step's learning reads, with W intact or NaN between forward and backward."""
    rng = np.random.default_rng(0)
    network, rule = models.build(model, (12, 12, 2), 5, models.Options(width=4, norm=norm, hidden=(7, 6))), RULES[rule](rng)
    network.initialise(CPU, rng)
    for s in network.with_feedback:
        rule.connect(s, 5)
        rule.before_training(s)
        s.keep_delta = True
    ours = form(network)
    _, error = softmax_cross_entropy(ours.forward(rng.standard_normal((4, 12, 12, 2))), np.arange(4))
    for s in network.synapses:
        s.W[...] = np.nan if poison else s.W
    for s in network.with_feedback:
        rule.before_backward(s, error)
    ours.backward(error)
    products = [array for s in network.synapses for array in (s.delta, s.W_gradient, s.b_gradient)]
    products += [array for norm in network.norms for array in (norm.gamma_gradient, norm.beta_gradient)]
    return [array for array in products if array is not None]


@both
@pytest.mark.parametrize("model", ["mlp", "lenet", "resnet8"])
@pytest.mark.parametrize("rule", ["fa", "wm", "kp", "dfa"])
def test_without_weight_transport_a_NaN_in_W_changes_nothing(form, rule, model):
    whole, poisoned = (backward_of(form, rule, model, poison) for poison in (False, True))
    assert len(whole) >= 8
    assert all(np.array_equal(a, b) for a, b in zip(whole, poisoned))


@both
def test_backprop_does_read_W(form):
    """The test above can fail."""
    assert any(np.isnan(array).any() for array in backward_of(form, "bp", "mlp", poison=True))


# --- shapes ------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("make", [lambda *a: Conv2d(a[0], 2, 3, a[1]), MaxPool])
@pytest.mark.parametrize("size", ["4x9", "9x3", "1x1"])
def test_a_kernel_larger_than_its_input(form, make, size):
    layer = ready(make("big", (5, 4)), np.random.default_rng(0))
    height, width = map(int, size.split("x"))
    with pytest.raises(InputError, match=rf"^big: .*5x4.*{size}x2"):
        form(layer).forward(np.zeros((1, height, width, 2)))


def test_a_kernel_that_fits_only_with_its_padding():
    layer = ready(Conv2d("c", 1, 1, (5, 4), padding=(2, 1)), np.random.default_rng(0))
    assert layer.forward(np.zeros((1, 1, 2, 1))).shape == (1, 1, 1, 1)
    with pytest.raises(InputError, match=r"5x4.*1x1x1.*2x1"):
        layer.forward(np.zeros((1, 1, 1, 1)))


@both
@pytest.mark.parametrize("shape, found", [((2, 6, 6, 4), "6x6x4"), ((2, 6, 6), "6x6"), ((2, 3), "3")])
def test_a_convolution_given_other_channels(form, shape, found):
    layer = ready(Conv2d("conv7", 3, 4, 3), np.random.default_rng(0))
    with pytest.raises(InputError, match=rf"^conv7: .*\b3\b.*was given {found}$"):
        form(layer).forward(np.zeros(shape))


@both
@pytest.mark.parametrize("shape, found", [((2, 4), "4"), ((2, 4, 3), "4x3")])
def test_a_linear_layer_given_other_widths(form, shape, found):
    layer = ready(Linear("hidden7", 3, 4), np.random.default_rng(0))
    with pytest.raises(InputError, match=rf"^hidden7: .*\b3\b.*was given {found}$"):
        form(layer).forward(np.zeros(shape))


def test_pools_want_images():
    for form in (plain, fast):
        with pytest.raises(InputError, match="^pool7: .*was given 4$"):
            form(MaxPool("pool7", 2)).forward(np.zeros((2, 4)))
        with pytest.raises(InputError, match="^GlobalAvgPool: takes images of any number of channels, was given 4$"):
            form(GlobalAvgPool()).forward(np.zeros((2, 4)))


@both
@pytest.mark.parametrize("phi", [ReLU, Tanh])
def test_a_residual_block_wants_branches_of_one_shape(form, phi):
    """Shapes that NumPy would broadcast, too."""
    for shape, body, found in (((2, 6, 6, 1), 3, "6x6x3"), ((2, 6, 6, 3), 4, "6x6x4")):
        layers = [Conv2d("a", shape[3], body, 1), BatchNorm("norm", body)]
        for layer in layers:
            ready(layer, np.random.default_rng(0))
        with pytest.raises(InputError, match=f"^Residual: takes .* {found} from the body and 6x6x{shape[3]} from the shortcut$"):
            form(Residual(Sequential(*layers), Sequential(), phi())).forward(np.zeros(shape))


@pytest.mark.parametrize("size", [0, -1, 2.0, "3", None])
def test_sizes_that_no_layer_can_have(size):
    for make, what in ((lambda: Linear("a", size, 3), "n_in"), (lambda: Linear("a", 3, size), "n_out"), (lambda: BatchNorm("a", size), "channels"),
                       (lambda: Conv2d("a", size, 3, 1), "c_in"), (lambda: Conv2d("a", 3, size, 1), "c_out")):  # fmt: skip
        with pytest.raises(InputError, match=f"^a: {what} must be an integer of at least 1, found {size!r}$"):
            make()


def test_an_int_means_the_same_both_ways():
    """One number for the vertical and the horizontal; a pool's stride is its kernel where none is given."""
    y = np.random.default_rng(0).standard_normal((2, 6, 6, 2))
    sizes = (3, 2, 1), ((3, 3), (2, 2), (1, 1))
    one, pair = (ready(Conv2d("c", 2, 3, *size), np.random.default_rng(1)) for size in sizes)
    assert np.array_equal(one.forward(y), pair.forward(y))
    assert np.array_equal(MaxPool("p", 2).forward(y), MaxPool("p", (2, 2), (2, 2), (0, 0)).forward(y))
