"""The networks: their sizes as published, their layers in order, and what the options change."""

import numpy as np
import pytest

from wtref import models
from wtref.activations import ReLU
from wtref.device import open_device
from wtref.errors import InputError
from wtref.layers import BatchNorm, Conv2d, GlobalAvgPool, Linear, MaxPool, walk
from wtref.losses import softmax_cross_entropy
from wtref.models import ALIASES, MODELS, Options, build
from wtref.relatives import RULES

CPU = open_device("cpu", "float64")
RESNETS = [name for name in MODELS if name.startswith("resnet")]
IMAGENET, CIFAR, MNIST = ((224, 224, 3), 1000), ((32, 32, 3), 10), ((28, 28, 1), 10)


def parameters(network):
    """W, b, gamma and beta, counted without allocating them."""
    weights = sum(s.n_in * s.n_out + s.n_out * s.bias for s in network.synapses)
    return weights + sum(2 * norm.channels for norm in network.norms)


def drawn(name, shape=(8, 8, 1), classes=10, **options):
    network = build(name, shape, classes, Options(**options))
    network.initialise(CPU, np.random.default_rng(0))
    return network


def images(shape, n=2):
    return np.random.default_rng(1).standard_normal((n, *shape))


def names(network):
    return [s.name for s in network.synapses]


def kinds(layer):
    """The kinds of all layers inside, in forward order; containers left out."""
    return " ".join(type(part).__name__ for part in walk(layer) if not hasattr(part, "layers"))


# --- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, data, published",
    [
        ("lenet", MNIST, 61_706),
        # torchvision, ImageNet
        ("resnet18", IMAGENET, 11_689_512),
        ("resnet34", IMAGENET, 21_797_672),
        ("resnet50", IMAGENET, 25_557_032),
        ("resnet101", IMAGENET, 44_549_160),
        ("resnet152", IMAGENET, 60_192_808),
        # the usual CIFAR variants, 3x3 stem and projection shortcuts
        ("resnet18", CIFAR, 11_173_962),
        ("resnet34", CIFAR, 21_282_122),
        ("resnet50", CIFAR, 23_520_842),
        ("resnet101", CIFAR, 42_512_970),
        ("resnet152", CIFAR, 58_156_618),
        # He et al., table 6: 0.27 M and 0.85 M with shortcuts that have no weights, of 2,752 parameters here
        ("resnet20", CIFAR, 269_722 + 2_752),
        ("resnet56", CIFAR, 853_018 + 2_752),
    ],
)
def test_parameters_are_as_many_as_published(name, data, published):
    assert parameters(build(name, *data)) == published


@pytest.mark.parametrize("hidden, count", [((500,), 784 * 500 + 500 + 5010), ((7, 5), 784 * 7 + 7 + 40 + 60)])
def test_parameters_of_an_mlp(hidden, count):
    assert parameters(build("mlp", *MNIST, Options(hidden=hidden))) == count


@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet20"])
def test_arrays_are_as_large_as_counted(name):
    network = drawn(name, (28, 28, 1))
    learned = {k: a for k, a in network.arrays().items() if not k.endswith((".running_mean", ".running_var"))}
    assert sum(array.size for array in learned.values()) == parameters(network)


# --- structure --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESNETS)
def test_a_resnet_is_as_deep_as_its_name_says(name):
    path = [s for s in names(build(name, *CIFAR)) if "shortcut" not in s]
    assert len(path) == int(name.removeprefix("resnet"))


def test_resnet20_layer_by_layer():
    wanted = ["stem"]
    for stage in (1, 2, 3):
        for block in (1, 2, 3):
            wanted += [f"stage{stage}.block{block}.conv{i}" for i in (1, 2)]
            wanted += [f"stage{stage}.block{block}.shortcut"] * (stage > 1 and block == 1)
    network = build("resnet20", *CIFAR)
    assert names(network) == [*wanted, "output"]
    sizes = {s.name: (s.n_in, s.n_out) for s in network.synapses}
    assert sizes["stem"] == (27, 16)
    assert sizes["stage1.block3.conv2"] == (9 * 16, 16)
    assert sizes["stage2.block1.conv1"] == (9 * 16, 32)
    assert sizes["stage2.block1.shortcut"] == (16, 32)
    assert sizes["stage3.block1.conv2"] == (9 * 64, 64)
    assert sizes["output"] == (64, 10)


def test_a_bottleneck_layer_by_layer():
    network = build("resnet50", *CIFAR)
    convs = {p.synapses.name: p for p in walk(network) if isinstance(p, Conv2d)}
    block = [convs[f"stage2.block1.{part}"] for part in ("conv1", "conv2", "conv3", "shortcut")]
    assert [(c.kernel[0], c.stride[0], c.c_in, c.synapses.n_out) for c in block] == [
        (1, 1, 256, 128), (3, 2, 128, 128), (1, 1, 128, 512), (1, 2, 256, 512),
    ]  # fmt: skip
    first = convs["stage1.block1.shortcut"]  # more channels, though the size stays
    assert (first.stride, first.c_in, first.synapses.n_out) == ((1, 1), 64, 256)


@pytest.mark.parametrize("name", MODELS)
def test_names_are_unique(name):
    network = build(name, (64, 64, 3), 10, Options(norm="before", hidden=(5, 5, 5)))
    found = names(network) + [norm.name for norm in network.norms]
    found += [part.name for part in walk(network) if isinstance(part, MaxPool)]
    assert len(set(found)) == len(found)
    assert [s.layer for s in network.synapses] == list(range(len(network.synapses)))


@pytest.mark.parametrize("alias, name", ALIASES.items())
def test_an_alias_is_the_same_network(alias, name):
    a, b = (build(n, *CIFAR) for n in (alias, name))
    assert [(s.name, s.n_in, s.n_out) for s in a.synapses] == [(s.name, s.n_in, s.n_out) for s in b.synapses]


def test_the_aliases_of_the_papers_networks():
    assert {"res18": "resnet18", "res50": "resnet50"}.items() <= ALIASES.items()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("model", ["mlp", "lenet", "resnet8"])
def test_only_the_first_layer_has_no_feedback(model, rule):
    shape, learner = (12, 12, 1), RULES[rule]()
    network = drawn(model, shape, hidden=(6, 5), width=4)
    for s in network.with_feedback:
        learner.connect(s, 10)
    first, *others = network.synapses
    assert first.B is None and others == network.with_feedback
    assert all(s.B.shape == (s.n_in, 10 if rule in ("dfa", "dkp") else s.n_out) for s in others)
    _, error = softmax_cross_entropy(network.forward(images(shape)), np.array([3, 4]))
    for s in others:
        learner.before_backward(s, error)
    assert network.backward(error) is None
    assert all(s.W_gradient.shape == s.W.shape and s.W_gradient.any() for s in network.synapses)


# --- signals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_score_for_each_class(name):
    shape = (14, 12, 2) if name == "lenet" else (8, 6, 2)
    network = drawn(name, shape, classes=7, width=4, hidden=(5,))
    scores = network.forward(images(shape, 3), train=False)
    assert scores.shape == (3, 7) and scores.dtype == np.float64
    assert len(set(scores.ravel())) == 21


@pytest.mark.parametrize("name", MODELS)
def test_images_of_a_batch_do_not_meet_in_evaluation(name):
    shape = (14, 12, 2) if name == "lenet" else (8, 6, 2)
    network, x = drawn(name, shape, width=4, hidden=(5,)), images(shape, 3)
    alone = [network.forward(x[i : i + 1], train=False)[0] for i in range(3)]
    np.testing.assert_allclose(network.forward(x, train=False), alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name, side, last",
    [
        ("resnet20", 32, (8, 8, 16)),
        ("resnet20", 64, (16, 16, 16)),
        ("resnet18", 32, (4, 4, 32)),
        ("resnet18", 64, (2, 2, 32)),
        ("resnet50", 32, (4, 4, 128)),
        ("resnet50", 64, (2, 2, 128)),
    ],
)
def test_stages_halve_images_and_double_channels(name, side, last):
    network = drawn(name, (side, side, 3), width=4)
    network.forward(images((side, side, 3), 1))
    (pool,) = [part for part in walk(network) if isinstance(part, GlobalAvgPool)]
    assert pool.shape == (1, *last)


@pytest.mark.parametrize("side", [28, 32, 13])
def test_lenet_fits_its_hidden_layer_to_the_image(side):
    assert drawn("lenet", (side, side + 2, 3)).forward(images((side, side + 2, 3))).shape == (2, 10)


@pytest.mark.parametrize("side, layer", [(8, "conv2"), (11, "pool2"), (1, "pool1")])
def test_lenet_names_the_layer_that_does_not_fit(side, layer):
    with pytest.raises(InputError, match=layer):
        drawn("lenet", (side, side, 1)).forward(images((side, side, 1)))


# --- options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, shape, stem, wanted",
    [
        ("resnet18", (64, 64, 3), None, "imagenet"),
        ("resnet18", (63, 64, 3), None, "cifar"),
        ("resnet18", (64, 63, 3), None, "cifar"),
        ("resnet152", (224, 224, 3), None, "imagenet"),
        ("resnet152", (32, 32, 3), None, "cifar"),
        ("resnet20", (224, 224, 3), None, "cifar"),
        ("resnet50", (32, 32, 3), "imagenet", "imagenet"),
        ("resnet50", (224, 224, 3), "cifar", "cifar"),
    ],
)
def test_the_stem_goes_by_the_image(name, shape, stem, wanted):
    network = build(name, shape, 10, Options(stem=stem))
    first = next(part for part in walk(network) if isinstance(part, Conv2d))
    pools = [(p.kernel, p.stride, p.padding) for p in walk(network) if isinstance(p, MaxPool)]
    if wanted == "imagenet":
        assert (first.kernel, first.stride, first.padding) == ((7, 7), (2, 2), (3, 3))
        assert pools == [((3, 3), (2, 2), (1, 1))]
    else:
        assert (first.kernel, first.stride, first.padding, pools) == ((3, 3), (1, 1), (1, 1), [])


BLOCKS = {  # body, shortcut, after the sum
    "before": ["Conv2d BatchNorm ReLU Conv2d BatchNorm", "Conv2d BatchNorm", "ReLU"],
    "after": ["Conv2d ReLU BatchNorm Conv2d ReLU BatchNorm", "Conv2d BatchNorm", "Identity"],
    "none": ["Conv2d ReLU Conv2d", "Conv2d", "ReLU"],
}


@pytest.mark.parametrize("norm", BLOCKS)
def test_where_the_norm_stands_in_a_residual_block(norm):
    network = build("resnet8", *CIFAR, Options(norm=norm))
    plain, widening = network.layers[1:3]
    body, shortcut, end = BLOCKS[norm]
    assert [kinds(part) for part in widening.layers] == [body, shortcut, end]
    assert [kinds(part) for part in plain.layers] == [body, "", end]


BOTTLENECKS = {
    "before": "Conv2d BatchNorm ReLU Conv2d BatchNorm ReLU Conv2d BatchNorm",
    "after": "Conv2d ReLU BatchNorm Conv2d ReLU BatchNorm Conv2d ReLU BatchNorm",
    "none": "Conv2d ReLU Conv2d ReLU Conv2d",
}


@pytest.mark.parametrize("norm", BOTTLENECKS)
def test_where_the_norm_stands_in_a_bottleneck(norm):
    assert kinds(build("resnet50", *CIFAR, Options(norm=norm)).layers[1].layers[0]) == BOTTLENECKS[norm]


UNITS = {"before": "Linear BatchNorm ReLU", "after": "Linear ReLU BatchNorm", "none": "Linear ReLU"}


@pytest.mark.parametrize("norm", UNITS)
def test_where_the_norm_stands_in_an_mlp(norm):
    assert kinds(build("mlp", *MNIST, Options(norm=norm))) == f"Flatten {UNITS[norm]} Linear"


@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet8"])
@pytest.mark.parametrize("norm", UNITS)
def test_the_first_unit(name, norm):
    first = next(part for part in build(name, *MNIST, Options(norm=norm)).layers if kinds(part) != "Flatten")
    assert kinds(first) == UNITS[norm].replace("Linear", "Linear" if name == "mlp" else "Conv2d")


def test_what_a_norm_does_to_a_unit():
    """After the activation each channel leaves with mean 0; before it, half of them are cut off."""
    x = images((8, 8, 1), 64)
    outs = {}
    for norm in ("before", "after"):
        network = drawn("mlp", norm=norm, hidden=(20,))
        outs[norm] = network.layers[1].forward(x.reshape(64, -1))
    assert abs(outs["after"].mean(axis=0)).max() < 1e-12 and outs["after"].min() < -0.1
    assert outs["before"].min() == 0 and 0.3 < (outs["before"] > 0).mean() < 0.7


@pytest.mark.parametrize("name, default", [("mlp", "none"), ("lenet", "none"), ("resnet8", "before"), ("resnet50", "before")])
def test_where_the_norm_stands_by_default(name, default):
    assert kinds(build(name, *MNIST)) == kinds(build(name, *MNIST, Options(norm=default)))


@pytest.mark.parametrize("name", ["resnet8", "resnet50"])
@pytest.mark.parametrize("norm", ["before", "after", "none"])
def test_biases_where_no_beta_follows_and_always_at_the_output(name, norm):
    *inner, output = build(name, *MNIST, Options(norm=norm)).synapses
    assert output.bias
    assert all(s.bias == (norm != "before") for s in inner)


@pytest.mark.parametrize("activation, kind", [("relu", "ReLU"), ("sigmoid", "Sigmoid"), ("tanh", "Tanh")])
@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet8", "resnet50"])
def test_the_activation_is_the_one_asked_for_everywhere(name, activation, kind):
    parts = kinds(build(name, *MNIST, Options(activation=activation))).split()
    assert {phi for phi in ("ReLU", "Sigmoid", "Tanh") for part in parts if part.endswith(phi)} == {kind}


def test_width_scales_every_stage():
    network = build("resnet20", *CIFAR, Options(width=4))
    sizes = {s.name: s.n_out for s in network.synapses}
    assert [sizes[f"stage{stage}.block3.conv2"] for stage in (1, 2, 3)] == [4, 8, 16]


@pytest.mark.parametrize(
    "name, options, wanted",
    [
        ("resnet19", {}, "unknown model 'resnet19'.*mlp.*resnet18"),
        ("mlp", {"norm": "batch"}, "unknown norm 'batch'.*before.*after.*none"),
        ("resnet8", {"activation": "gelu"}, "unknown activation 'gelu'.*relu.*sigmoid.*tanh"),
        ("resnet18", {"stem": "7x7"}, "unknown stem '7x7'.*cifar.*imagenet"),
    ],
)
def test_unknown_names_list_the_known_ones(name, options, wanted):
    with pytest.raises(InputError, match=wanted):
        build(name, *CIFAR, Options(**options))


def test_first_weights_come_from_the_generator_alone():
    first, again = drawn("resnet8"), drawn("resnet8")
    assert all(np.array_equal(a.W, b.W) for a, b in zip(first.synapses, again.synapses))
    other = models.build("resnet8", (8, 8, 1), 10)
    other.initialise(CPU, np.random.default_rng(1))
    assert not any(np.array_equal(a.W, b.W) for a, b in zip(first.synapses, other.synapses))


@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet20"])
def test_first_weights_have_their_scale(name):
    network = drawn(name, (28, 28, 3))
    for part in walk(network):
        if isinstance(part, (Linear, Conv2d)) and part.synapses.W.size > 2000:
            s = part.synapses
            wanted = (2 / s.n_in) ** 0.5 if isinstance(part, Conv2d) else s.n_in**-0.5
            assert s.W.std() == pytest.approx(wanted, rel=0.08)
            assert s.b is None or not s.b.any()
        if isinstance(part, BatchNorm):
            assert np.all(part.gamma == 1) and not part.beta.any()


@pytest.mark.parametrize("name", [3, None, ["mlp"], models.mlp])
def test_a_network_s_name_of_another_type_is_one_line(name):
    with pytest.raises(InputError, match="^unknown model .*choose from: mlp, lenet, resnet8"):
        models.build(name, (8, 8, 1), 10)


def test_a_network_refuses_a_batch_norm_that_no_error_could_reach():
    """The first weights have no B; behind them, or without weights above, batch norms learn."""
    norm, weights = BatchNorm("norm", 3), Linear("a", 3, 3)
    for layers in ([norm, weights], [models.Residual(models.Sequential(norm, weights), models.Sequential(), ReLU())]):
        with pytest.raises(InputError, match="^batch norm 'norm' stands before the first weights, which send no error down; put it behind"):
            models.Network(*layers)
    assert models.Network(weights, norm).norms == models.Network(norm).norms == [norm]


@pytest.mark.parametrize("shape", [(8, 8), 64, None, (8, 8, 1, 1)])
def test_the_shape_of_what_is_no_image_is_one_line(shape):
    with pytest.raises(InputError, match=r"^shape must be \(H, W, C\), that of an image, found "):
        models.build("mlp", shape, 10)
    with pytest.raises(InputError, match="^hidden must be a tuple of integers, one for each hidden layer, found 500$"):
        models.Options(hidden=500)


def test_a_network_refuses_what_is_no_layer_and_one_layer_in_two_places():
    """Whose backward passes would both use what its last forward pass kept."""
    phi = ReLU()
    with pytest.raises(InputError, match="^the network has one object, ReLU, in two places; make one for each place$"):
        models.Network(Linear("a", 3, 3), phi, models.Residual(Linear("b", 3, 3), models.Sequential(), phi))
    with pytest.raises(InputError, match="^the network holds None, right would be layers, objects such as"):
        models.Network(Linear("a", 3, 3), None)
