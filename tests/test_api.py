"""wtref from Python: arrays in, a run out; and what cannot be is one line."""

import re

import numpy as np
import pytest

import wtref
from wtref.datasets import load
from wtref.errors import InputError
from wtref.runs import run_files

RNG = np.random.default_rng(0)
Y = RNG.integers(3, size=130)
X = RNG.standard_normal((130, 6)) + 3 * np.eye(6)[Y]
FLOATS = {"train": (X[:100], Y[:100]), "test": (X[100:], Y[100:]), "device": "cpu", "threads": 1, "batch_size": 10}
LAYERS = [wtref.Linear("first", 6, 12), wtref.ReLU(), wtref.Linear("second", 12, 3)]

SQUARE = wtref.Linear("square", 6, 6)


class Slow(wtref.KolenPollack):
    """A rule of one's own with an option."""

    def __init__(self, rng=None, every=2):
        super().__init__(rng)
        self.every, self.learned = every, 0

    def learn(self, s, sgd):
        self.learned += 1
        super().learn(s, sgd)


class Width(wtref.Rule):
    def __init__(self, width=3):
        super().__init__()


class NoSuper(wtref.Rule):
    def __init__(self, rng=None):
        self.rng = rng


def test_bytes_by_name_learn_and_predict():
    data = load("digits")
    train, test = (data.train_images * 16, data.train_labels), (data.test_images * 16, data.test_labels)
    run = wtref.fit("mlp", train, test, rule="kp", epochs=2, hidden=[30], device="cpu", threads=1)
    assert [record["epoch"] for record in run.records] == [1, 2]
    predicted = run.predict(test[0])
    assert 100 * np.mean(predicted != test[1]) == pytest.approx(run.records[-1]["test_error"])
    assert run.records[-1]["test_error"] < 15
    p = run.probabilities(test[0])
    assert p.shape == (len(test[1]), 10) and np.allclose(p.sum(axis=1), 1) and (p.argmax(axis=1) == predicted).all()
    run_files.check_record(run.records[-1])  # the records are those of the command line


def test_images_of_any_size_train_a_residual_network():
    images = np.repeat(np.clip(128 + 20 * X[:, :, None], 0, 255).astype(np.uint8), 6, axis=2)[..., None]
    run = wtref.fit("resnet8", (images[:60], Y[:60]), (images[60:], Y[60:]), "fa", epochs=1, device="cpu", threads=1)
    assert run.predict(images[:7]).shape == (7,) and len(run.records[0]["matrix_angles"]) == len(run.network.with_feedback)


def test_a_list_of_layers_is_copied_and_a_rule_object_too():
    rule = Slow()
    run = wtref.fit(LAYERS, **FLOATS, rule=rule, epochs=3)
    assert run.records[-1]["test_error"] < 20 and run.predict(X[:5]).dtype.kind == "i"
    assert LAYERS[0].synapses.W is None and rule.learned == 0 and run.rule.learned == 2 * 10 * 3  # layers, steps an epoch, epochs
    again = wtref.fit(LAYERS, **FLOATS, rule=Slow, epochs=3)
    assert [record["test_loss"] for record in again.records] == [record["test_loss"] for record in run.records]
    assert run.name == "Slow" and "Slow, epoch 3, test error" in repr(run)


def test_a_function_may_return_layers_or_a_network():
    def layers(shape, classes, options):
        assert shape == (1, 6, 1) and classes == 3 and options.hidden == (4,)
        return wtref.Flatten(), wtref.Linear("only", 6, 5), wtref.Tanh(), wtref.Linear("last", 5, classes)

    runs = [wtref.fit(make, **FLOATS, epochs=1, hidden=(4,)) for make in (layers, lambda *given: wtref.Network(*layers(*given)))]
    assert runs[0].records[0]["test_loss"] == runs[1].records[0]["test_loss"]
    assert [s.name for s in runs[0].network.synapses] == ["only", "last"]


def test_floats_are_taken_as_they_are_and_results_repeat():
    seen = []

    class Seeing(wtref.Flatten):
        def forward(self, y, train=True):
            seen.append(y)
            return super().forward(y, train)

    run = wtref.fit([Seeing(), *LAYERS], **FLOATS, epochs=1)
    seen.clear()
    run.predict(X[:9].astype(np.float16))
    (inputs,) = seen
    assert np.array_equal(inputs.reshape(9, 6), X[:9].astype(np.float16).astype(np.float32))


def test_figures_are_drawn_where_the_user_says(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("svg")  # a notebook has one of its own
    run = wtref.fit(LAYERS, **FLOATS, epochs=2, rule=Slow)
    paths = run.figures(tmp_path / "new" / "pictures")
    assert matplotlib.get_backend().lower() == "svg"
    assert {path.name for path in paths} == {"test-error.png", "depth.png", "angles.png", "sizes.png"} and all(
        map(lambda p: p.exists(), paths)
    )


def test_an_audit_is_plain_values():
    assert wtref.audit("kp") == {"rule": "kp", "declares": False, "found": None, "honest": True}
    assert wtref.audit(Slow)["rule"] == "Slow" and wtref.audit(Slow(every=3))["honest"]

    class Copies(wtref.Rule):
        def between_steps(self, s, sgd, step):
            s.B[...] = s.W.T

    found = wtref.audit(Copies)
    assert found["found"] and not found["honest"] and not found["declares"]


def test_a_check_is_plain_values():
    pytest.importorskip("torch")
    (row,) = wtref.check("kp", models=["mlp"])
    assert row["rule"] == "kp" and row["passed"] and 0 < row["delta_B"] <= row["worst"] < 1e-9
    assert wtref.check("kp", models="mlp") == [row]
    with pytest.raises(InputError, match="check takes the name of a rule, found <class"):
        wtref.check(Slow)


def test_decorated_names_are_known_to_fit():
    from wtref.models import MODELS

    try:
        assert wtref.rule("slow")(Slow) is Slow
        wtref.model("tiny")(lambda shape, classes, options: [wtref.Flatten(), wtref.Linear("a", 6, 4), wtref.Linear("b", 4, classes)])
        run = wtref.fit("tiny", **FLOATS, rule="slow", epochs=1, rule_option=("every=5",))
        assert run.name == "slow" and run.rule.every == 5 and wtref.audit("slow")["rule"] == "slow"
        wtref.rule("slow")(Slow)  # a notebook's cell is run again
    finally:
        wtref.RULES.pop("slow"), MODELS.pop("tiny")


def test_a_rule_given_as_a_class_has_the_settings_that_one_given_by_name_has():
    class Mine(wtref.WeightMirror):
        def __init__(self, rng=None, **options):
            super().__init__(rng, **options)

    settings = {**FLOATS, "model": "mlp", "hidden": (4,), "epochs": 1, "seed": 3, "mirror_rows": 7, "mirror_window": 5.0}
    for rule in ("wm", wtref.WeightMirror, Mine):
        made = wtref.fit(rule=rule, **settings).rule
        assert (made.rows, made.window, made.seed) == (7, 5.0, 3) and type(made) in (wtref.WeightMirror, Mine)
    run = wtref.fit("mlp", **FLOATS, epochs=1, hidden=(4,), rule=wtref.RULES["pfa"], rule_option=("width=2",))
    assert run.rule.width == 2 and run.config.rule == "pfa"


def changed(part, at, value, where=0):
    """FLOATS with one value of X (where 0) or y (where 1) changed."""
    pair = [array.copy() for array in FLOATS[part]]
    pair[where][at] = value
    return {part: tuple(pair)}


WRONG = {
    "label too large": (changed("test", 4, 7, where=1), "data, test images: label 7 at image 4, right would be 0 to 2"),
    "label below 0": (changed("train", 4, -1, where=1), "data, training images: label -1 at image 4, right would be 0 to 2"),
    "one class": ({"train": (X, 0 * Y + 2)}, "data: all training labels are 2, right would be two classes or more"),
    "label far too large": (
        changed("train", 4, 10**12, where=1),
        "data: a training label is 1000000000000, but there are 100 training images",
    ),
    "NaN": (changed("train", 8, np.nan), "data, training images: nan at image 8, right would be finite numbers of at most 3.4e+38"),
    "infinity": (changed("test", 8, -np.inf), "data, test images: -inf at image 8, right would be finite numbers of at most 3.4e+38"),
    "no examples": ({"train": (X[:0], Y[:0])}, "data, training images: there are none in an array of shape (0, 1, 6, 1)"),
    "no tests": ({"test": (X[:0], Y[:0])}, "data, test images: there are none in an array of shape (0, 1, 6, 1)"),
    "no labels": ({"train": X}, "data: train must be a pair of inputs and labels, (X, y), found ndarray"),
    "words": ({"train": (X, np.array(["a"] * 130))}, "data, training images: labels are <U1 of shape (130,), right would be integers"),
    "integers": ({"train": (X.astype(int), Y)}, "data, training images: are int64 of shape (130, 1, 6, 1), right would be uint8 or floats"),
    "bytes and floats": ({"train": (np.uint8(abs(X)), Y)}, "data: has training images of uint8 and test images of float64; give one type"),
    "another width": ({"test": (X[:, :5], Y)}, "data: has training images of shape (1, 6, 1) and test images of shape (1, 5, 1)"),
    "unknown rule": ({"rule": "kpp"}, "unknown rule 'kpp', did you mean 'kp'?"),
    "no rule": ({"rule": 3}, "rule must be a name, a subclass of wtref.Rule or one of its objects, found 3"),
    "unknown model": ({"model": "resnet9"}, "unknown model 'resnet9'"),
    "no model": ({"model": None}, "model must be a name, a list of layers or a function that returns layers, found None"),
    "unknown setting": ({"batch": 3}, "unknown setting of fit 'batch'"),
    "impossible setting": ({"lr": -1.0}, "--lr must be more than 0, found -1.0"),
    "vectors cropped": (
        {"crop": 2, "rotate": 5.0},
        "crop, rotate would change images, but X is (N, D); leave them out, or give X as (N, H,",
    ),
    "idle setting": ({"hidden": (3,)}, "without effect on a list of layers: hidden; leave it out"),
    "too few outputs": (
        {"model": LAYERS[:1]},
        "the network's output has the shape (12,) for an image, right would be (3,), one number per class",
    ),
    "a ragged list": ({"train": ([[1.0, 2.0], [3.0]], [0, 1])}, "X is a list of rows of different lengths, right would be uint8 or floats"),
    "a layer's class": (
        {"model": [*LAYERS, wtref.ReLU]},
        "the network holds <class 'wtref.activations.ReLU'>, right would be layers, objects",
    ),
    "a layer's name": ({"model": ["mlp"]}, "the network holds 'mlp', right would be layers, objects such as wtref.ReLU()"),
    "an inner class": (
        {"model": [*LAYERS, wtref.Sequential(wtref.ReLU)]},
        "the network holds <class 'wtref.activations.ReLU'>, right would be",
    ),
    "a function's class": (
        {"model": lambda *given: [*LAYERS, wtref.ReLU]},
        "the network holds <class 'wtref.activations.ReLU'>, right would",
    ),
    "an object's rows": (
        {"rule": wtref.WeightMirror(), "mirror_rows": 7, "mirror_window": 5.0},
        "mirror_rows, mirror_window would not reach the rule; give them to the constructor, rule=WeightMirror(...)",
    ),
    "an object's option": (
        {"rule": Slow(), "rule_option": ("every=3",)},
        "rule_option would not reach the rule; give it to the constructor, rule=Slow(...)",
    ),
    "a class's option": ({"rule": Slow, "rule_option": ("every=3",)}, "rule_option would not reach the rule; give it to the constructor"),
    "a class's rows": ({"rule": Slow, "mirror_rows": 7}, "without effect in this run: --mirror-rows (it is for rules wm, aa and ia)"),
    "no rng": ({"rule": Width}, "the constructor of rule 'Width' takes (width=3), right would be def __init__(self, rng=None, c=0.1), rng"),
    "no super": ({"rule": NoSuper}, "the constructor of NoSuper must call super().__init__(rng)"),
    "no super, an object": ({"rule": NoSuper(), "output_backprop": True}, "the constructor of NoSuper must call super().__init__(rng)"),
    "one layer": ({"model": lambda *given: LAYERS[0]}, "the function of a model must return a list of layers or a Network, found Linear"),
    "no layers": ({"model": lambda *given: None}, "the function of a model must return a list of layers or a Network, found NoneType"),
    "one ReLU twice": ({"model": [*LAYERS, LAYERS[1]]}, "the network has one object, ReLU, in two places; make one for each place"),
    "one layer twice": (
        {"model": [SQUARE, wtref.Sequential(wtref.ReLU(), SQUARE), *LAYERS]},
        "the network has one object, Linear square, in two places; make one for each place",
    ),
    "no weights": ({"model": [wtref.ReLU()]}, "the network has no layer with weights; put a Linear or a Conv2d into it"),
    "same names": ({"model": [wtref.Linear("a", 6, 3), wtref.Linear("a", 3, 3)]}, "the network has two layers named 'a'; give each a name"),
}


@pytest.mark.parametrize(
    "wrong, found",
    [
        (lambda s: s.draw_feedback(np.random.default_rng(0)).T, "float32 of shape (3, 12)"),
        (lambda s: np.zeros((12, 3)), "float64 of shape (12, 3)"),
        (lambda s: None, "None"),
        (lambda s: [[0.0] * 3], "[[0.0, 0.0, 0.0]]"),
    ],
)
def test_feedback_weights_of_another_shape_or_type_are_one_line(wrong, found):
    class Wrong(wtref.Rule):
        def connect(self, s, classes):
            s.B = wrong(s)

    with pytest.raises(InputError) as caught:
        wtref.fit(LAYERS, **FLOATS, rule=Wrong)
    assert f"second: connect has set s.B to {found}, right would be float32 of shape (12, 3)" in str(caught.value)


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_one_line(case):
    given, words = WRONG[case]
    with pytest.raises(InputError) as caught:
        wtref.fit(**{"model": LAYERS, **FLOATS, **given})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_other_inputs_than_in_training_are_refused():
    run = wtref.fit(LAYERS, **FLOATS, epochs=1)
    for other in (X[:, :5], np.uint8(abs(X)), X[0]):
        found = re.escape(f"X is {other.dtype} of shape {other.shape}, right would be floats of shape (N, 6), as in training")
        with pytest.raises(InputError, match=found):
            run.predict(other)
    assert run.predict(X[:0]).shape == (0,)
    with pytest.raises(InputError, match="X: nan at image 1, right would be finite numbers"):
        run.predict([[0.0] * 6, [np.nan] * 6])


def test_settings_may_be_numbers_and_arrays_of_numpy():
    run = wtref.fit("mlp", **FLOATS, epochs=np.int64(1), hidden=np.array([8, 9]), seed=np.int32(3), lr=np.float32(0.5))
    assert (run.config.hidden, run.config.seed, run.config.lr, run.config.epochs) == ((8, 9), 3, 0.5, 1)


def test_the_help_shows_fit_and_every_public_name_exists():
    import pydoc

    text = pydoc.plain(pydoc.render_doc(wtref))
    assert "fit(" in text and "train, test : pairs (X, y)" in text
    assert all(hasattr(wtref, name) for name in wtref.__all__) and set(wtref.LATER) <= set(wtref.__all__)
    for name in ("fit", "audit", "check"):
        assert getattr(wtref, name).__annotations__.keys() >= {"rule", "return"}
