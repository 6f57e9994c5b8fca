"""Every layer's backward pass against finite differences, PyTorch, and loops over single connections."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import (
    assert_gradient,
    close,
    distinct,
    geometries,
    modest,
    norms_of,
    patch_count,
    ready,
    synapses_of,
)  # fmt: skip
from layer_forms import batches, both, channels, fast, seeds
from wtref.activations import Identity, ReLU, Sigmoid, Tanh
from wtref.errors import InputError
from wtref.layers import BatchNorm, Conv2d, Flatten, GlobalAvgPool, Linear, MaxPool, Residual, Sequential


def assert_derivatives(layer, y, rng, train=True):
    """The error at the input and every array's gradient are the slopes of sum(p * forward(y)).

    Of the plain layer, and of its fast form, which has a backward pass in training only.
    """
    for form in (layer, fast(layer)) if train else (layer,):
        p = rng.standard_normal(form.forward(y, train).shape)
        gradients = [(y, form.backward(p))]
        for s in synapses_of(layer):
            gradients.append((s.W, s.W_gradient))
            if s.b is not None:
                gradients.append((s.b, s.b_gradient))
        for norm in norms_of(layer):
            gradients += [(norm.gamma, norm.gamma_gradient), (norm.beta, norm.beta_gradient)]
        gradients = [(array, np.array(gradient)) for array, gradient in gradients]  # f() runs the layer again

        def f(form=form, p=p):
            return (form.forward(y, train) * p).sum()

        for array, gradient in gradients:
            assert_gradient(f, array, gradient, rng)


# --- finite differences ------------------------------------------------------------------------------------


@given(batches, st.integers(1, 6), st.integers(1, 6), seeds)
@modest
def test_linear_derivatives(n, n_in, n_out, seed):
    rng = np.random.default_rng(seed)
    assert_derivatives(ready(Linear("l", n_in, n_out), rng), rng.standard_normal((n, n_in)), rng)


@given(geometries(), batches, channels, channels, st.booleans(), seeds)
@modest
def test_convolution_derivatives(geometry, n, c_in, c_out, bias, seed):
    rng = np.random.default_rng(seed)
    size, kernel, stride, padding = geometry
    layer = ready(Conv2d("c", c_in, c_out, kernel, stride, padding, bias), rng)
    y = rng.standard_normal((n, *size, c_in))
    assert layer.forward(y).shape == (n, *patch_count(*geometry), c_out)
    assert_derivatives(layer, y, rng)


@pytest.mark.parametrize("train", [True, False])
@given(st.sampled_from([(4,), (7,), (2, 3, 2), (1, 2, 3), (3, 1, 4)]), channels, seeds)
@modest
def test_batch_norm_derivatives(train, shape, c, seed):
    """In training the batch's mean and variance move with every entry; in evaluation they are given."""
    rng = np.random.default_rng(seed)
    layer = ready(BatchNorm("n", c), rng)
    y = 3 * distinct(rng, (*shape, c)) + 5  # spread out: the variance is never near 0
    assert_derivatives(layer, y, rng, train)


@pytest.mark.parametrize("layer", [Identity, ReLU, Sigmoid, Tanh])
@given(st.sampled_from([(5,), (2, 3), (2, 3, 2, 2)]), seeds)
@modest
def test_activation_derivatives(layer, shape, seed):
    rng = np.random.default_rng(seed)
    assert_derivatives(layer(), distinct(rng, shape), rng)


@given(geometries(half_padding=True), batches, channels, seeds)
@modest
def test_pooling_derivatives(geometry, n, c, seed):
    rng = np.random.default_rng(seed)
    size, kernel, stride, padding = geometry
    y = distinct(rng, (n, *size, c))
    pool = MaxPool("p", kernel, stride, padding)
    assert pool.forward(y).shape == (n, *patch_count(*geometry), c)
    assert_derivatives(pool, y, rng)


@pytest.mark.parametrize("layer", [GlobalAvgPool, Flatten])
@given(st.tuples(batches, batches, batches, channels), seeds)
@modest
def test_global_pool_and_flatten_derivatives(layer, shape, seed):
    rng = np.random.default_rng(seed)
    assert_derivatives(layer(), rng.standard_normal(shape), rng)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("projected", [True, False])
@given(seeds)
@modest
def test_residual_derivatives(projected, train, seed):
    """Through a whole block, with the identity and with a projection as its shortcut."""
    rng = np.random.default_rng(seed)
    c_out, stride = (3, 2) if projected else (2, 1)
    body = Sequential(
        Conv2d("a", 2, 4, 3, stride, padding=1), BatchNorm("a.norm", 4), Tanh(),
        Conv2d("b", 4, c_out, 3, padding=1),
    )  # fmt: skip
    shortcut = Conv2d("s", 2, c_out, 1, stride) if projected else Sequential()
    block = ready(Residual(body, shortcut, Sigmoid()), rng)
    assert_derivatives(block, rng.standard_normal((3, 4, 4, 2)), rng, train)


@given(seeds)
@modest
def test_sequential_derivatives(seed):
    rng = np.random.default_rng(seed)
    layers = Sequential(
        Conv2d("a", 2, 3, (3, 2), (2, 1), (1, 0)), Tanh(), Conv2d("p", 3, 3, 2), Flatten(), Linear("b", 18, 4),
        BatchNorm("n", 4), Sigmoid(), Linear("c", 4, 2),
    )  # fmt: skip
    assert_derivatives(ready(layers, rng), rng.standard_normal((6, 5, 5, 2)), rng)


def test_an_empty_sequential_is_the_identity():
    y = np.ones((2, 3))
    assert Sequential().forward(y) is y and Sequential().backward(y) is y


def test_relu_is_flat_at_zero():
    """phi'(y) is written in terms of y and is 0 where y = 0, as in PyTorch."""
    layer = ReLU()
    assert layer.forward(np.array([-1.0, 0.0, 2.0])).tolist() == [0, 0, 2]
    assert layer.backward(np.array([5.0, 5.0, 5.0])).tolist() == [0, 0, 5]


def test_sigmoid_of_huge_inputs():
    layer = Sigmoid()
    with np.errstate(all="raise"):
        y = layer.forward(np.array([-1e4, 0, 1e4], np.float32))
        assert y.tolist() == [0, 0.5, 1]
        assert layer.backward(np.ones(3, np.float32)).tolist() == [0, 0.25, 0]


# --- PyTorch -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


def to_torch(torch, images):
    """(N, H, W, C) -> a leaf tensor (N, C, H, W)."""
    return torch.tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), requires_grad=True)


def to_numpy(tensor):
    """(N, C, H, W) -> (N, H, W, C)."""
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def assert_like_torch(torch, layer, y, reference, rng):
    """Outputs and input errors agree; `reference` is torch's function.  Returns delta as a tensor."""
    out, y_torch = layer.forward(y), to_torch(torch, y)
    wanted = reference(y_torch)
    assert close(out, to_numpy(wanted))
    delta = rng.standard_normal(out.shape)
    wanted.backward(to_torch(torch, delta).detach())
    assert close(layer.backward(delta), to_numpy(y_torch.grad))


@both
@given(geometries(), batches, channels, channels, seeds)
@modest
def test_convolution_against_torch(torch, form, geometry, n, c_in, c_out, seed):
    rng = np.random.default_rng(seed)
    size, kernel, stride, padding = geometry
    layer = ready(Conv2d("c", c_in, c_out, kernel, stride, padding), rng)
    s = layer.synapses
    weight, bias = to_torch(torch, s.W.reshape(c_out, *kernel, c_in)), torch.tensor(s.b, requires_grad=True)

    def reference(y):
        return torch.nn.functional.conv2d(y, weight, bias, stride, padding)

    assert_like_torch(torch, form(layer), rng.standard_normal((n, *size, c_in)), reference, rng)
    assert close(s.W_gradient, to_numpy(weight.grad).reshape(s.W.shape))
    assert close(s.b_gradient, bias.grad.numpy())


@both
def test_linear_against_torch(torch, form):
    rng = np.random.default_rng(0)
    layer = ready(Linear("l", 5, 3), rng)
    s, y, delta = layer.synapses, rng.standard_normal((4, 5)), rng.standard_normal((4, 3))
    y_torch, weight, bias = (torch.tensor(x, requires_grad=True) for x in (y, s.W, s.b))
    out = torch.nn.functional.linear(y_torch, weight, bias)
    out.backward(torch.tensor(delta))
    ours = form(layer)
    assert close(ours.forward(y), out.detach().numpy())
    assert close(ours.backward(delta), y_torch.grad.numpy())
    assert close(s.W_gradient, weight.grad.numpy()) and close(s.b_gradient, bias.grad.numpy())


@both
@given(geometries(half_padding=True), batches, channels, seeds)
@modest
def test_max_pool_against_torch_where_many_are_equal(torch, form, geometry, n, c, seed):
    """Of equal values the first in scan order gets the error."""
    rng = np.random.default_rng(seed)
    size, kernel, stride, padding = geometry
    y = rng.integers(3, size=(n, *size, c)) - 2.0  # -2, -1 and 0: never above the padding's 0

    def reference(x):
        return torch.nn.functional.max_pool2d(x, kernel, stride, padding)

    assert_like_torch(torch, form(MaxPool("p", kernel, stride, padding)), y, reference, rng)


@both
def test_global_average_pool_against_torch(torch, form):
    rng = np.random.default_rng(0)
    y = rng.standard_normal((2, 3, 5, 4))
    wanted = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(y.transpose(0, 3, 1, 2)), 1)
    assert close(form(GlobalAvgPool()).forward(y), wanted[:, :, 0, 0].numpy())


@both
@pytest.mark.parametrize("name, layer", [("relu", ReLU), ("sigmoid", Sigmoid), ("tanh", Tanh)])
def test_activations_against_torch(torch, form, name, layer):
    rng = np.random.default_rng(0)
    assert_like_torch(torch, form(layer()), 4 * rng.standard_normal((2, 3, 4, 2)), getattr(torch, name), rng)


@both
def test_batch_norm_against_torch(torch, form):
    """Several batches of training, running statistics after each, then evaluation."""
    rng = np.random.default_rng(0)
    layer, theirs = ready(BatchNorm("n", 3), rng), torch.nn.BatchNorm2d(3).double()
    with torch.no_grad():
        for name, array in zip(("weight", "bias", "running_mean", "running_var"), layer.arrays().values()):
            getattr(theirs, name).copy_(torch.tensor(array))
    ours = form(layer)
    for n in (4, 1, 6):
        theirs.zero_grad()
        assert_like_torch(torch, ours, 2 * rng.standard_normal((n, 3, 2, 3)) + 1, theirs, rng)
        assert close(layer.gamma_gradient, theirs.weight.grad.numpy())
        assert close(layer.beta_gradient, theirs.bias.grad.numpy())
        assert close(layer.running_mean, theirs.running_mean.numpy())
        assert close(layer.running_var, theirs.running_var.numpy())

    before = [array.copy() for array in layer.arrays().values()]
    y = rng.standard_normal((5, 3, 2, 3))
    wanted = theirs.eval()(to_torch(torch, y))
    assert close(ours.forward(y, train=False), to_numpy(wanted))
    assert all(np.array_equal(a, b) for a, b in zip(before, layer.arrays().values()))


@both
def test_batch_norm_of_one_row(form):
    """It has no variance: the running statistics normalise it, stay what they are, and let the error through."""
    rng = np.random.default_rng(0)
    layer = ready(BatchNorm("n", 3), rng)
    y, delta, before = rng.standard_normal((1, 3)), rng.standard_normal((1, 3)), (layer.running_mean.copy(), layer.running_var.copy())
    normal = (y - before[0]) / np.sqrt(before[1] + layer.epsilon)
    ours = form(layer)
    assert close(ours.forward(y), layer.gamma * normal + layer.beta)
    assert close(ours.backward(delta), layer.gamma * delta / np.sqrt(before[1] + layer.epsilon))
    assert close(layer.gamma_gradient, (delta * normal)[0]) and close(layer.beta_gradient, delta[0])
    assert np.array_equal(layer.running_mean, before[0]) and np.array_equal(layer.running_var, before[1])


@pytest.mark.parametrize(
    "make, wanted",
    [
        (lambda: MaxPool("p", 2, stride=0), "p: stride must be an integer of at least 1, found 0"),
        (lambda: MaxPool("p", 2, padding=2), "p: padding must be at most half the kernel, 2, found 2"),
        (lambda: MaxPool("p", (4, 2), padding=(2, 2)), "p: padding must be at most half the kernel, (4, 2), found (2, 2)"),
        (lambda: MaxPool("p", 2, padding=-1), "p: padding must be an integer of at least 0, found -1"),
        (lambda: Conv2d("c", 1, 2, 3, stride=(1, 0)), "c: stride must be an integer of at least 1, found 0"),
        (lambda: Conv2d("c", 1, 2, 1.5), "c: kernel must be an integer of at least 1, found 1.5"),
        (lambda: Conv2d("c", 1, 2, (3, 3, 3)), "c: kernel must be an integer or a pair of them, found (3, 3, 3)"),
    ],
)
def test_impossible_kernels_strides_and_paddings_are_one_line(make, wanted):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == wanted


def test_numpy_s_integers_are_sizes_too():
    assert Conv2d("c", 1, 2, np.int64(3), padding=[np.int8(1), 0]).geometry == ((3, 3), (1, 1), (1, 0))
    assert MaxPool("p", np.int64(2)).geometry == ((2, 2), (2, 2), (0, 0))
