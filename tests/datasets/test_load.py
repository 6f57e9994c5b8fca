"""The data sets: the digits as they were published, their split, and the made-up images."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from wtref import datasets
from wtref.datasets import Dataset
from wtref.datasets.digits import split_fifth
from wtref.datasets.synthetic import load_synthetic
from wtref.errors import InputError
from wtref.installation import EMBEDDED

DIGITS = EMBEDDED / "digits" / "digits.npz"
SHA256 = "b2dab7b501728c22e9119ad76740b2e17c77a231e42d1e592380d90886f1a05e"


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


def each(images, labels):
    """Every example as a pair of bytes and class, counted."""
    return Counter((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def parts(data):
    return each(data.train_images, data.train_labels), each(data.test_images, data.test_labels)


# --- digits -----------------------------------------------------------------------------------------------


def test_the_embedded_file_is_the_published_one():
    assert hashlib.sha256(DIGITS.read_bytes()).hexdigest() == SHA256


def test_digits_have_their_published_counts(digits):
    assert digits.train_images.shape == (1437, 8, 8, 1) and digits.train_labels.shape == (1437,)
    assert digits.test_images.shape == (360, 8, 8, 1) and digits.test_labels.shape == (360,)
    assert (digits.shape, digits.classes, digits.name) == ((8, 8, 1), 10, "digits")
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    by_class = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as UCI's own documentation has it
    assert np.bincount(labels).tolist() == by_class
    assert digits.train_images.min() == 0 and digits.train_images.max() == 16


def test_digits_are_what_the_labels_say(digits):
    """A zero has its hole in the middle, a one does not."""
    middle = [digits.train_images[digits.train_labels == c][:, 3:5, 3:5].mean() for c in (0, 1)]
    assert middle[0] < 4 and middle[1] > 10


def test_digits_train_and_test_together_are_the_whole_file(digits):
    with np.load(DIGITS) as file:
        whole = each(file["images"], file["labels"])
    train, test = parts(digits)
    assert not train & test
    assert train + test == whole


def test_digits_test_images_are_a_fifth_of_every_class(digits):
    whole = np.bincount(digits.train_labels) + np.bincount(digits.test_labels)
    assert np.all(abs(np.bincount(digits.test_labels) - whole / 5) < 1)


def test_digits_are_the_same_each_time_and_from_any_folder(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for again in (datasets.load("digits"), datasets.load("digits", str(EMBEDDED))):
        assert np.array_equal(again.train_images, digits.train_images)
        assert np.array_equal(again.test_labels, digits.test_labels)


def test_unknown_data_set_lists_the_known_ones():
    with pytest.raises(InputError, match="unknown dataset 'mnits'.*digits.*synthetic"):
        datasets.load("mnits")


# --- holding out ------------------------------------------------------------------------------------------


def test_split_fifth_by_hand():
    labels = np.array([1, 0, 1, 0, 0, 0, 0, 1, 0, 1, 1, 0])  # by class: 1 3 4 5 6 8 11, then 0 2 7 9 10
    train, held_out = split_fifth(labels)
    assert held_out.tolist() == [1, 8, 9]
    assert sorted([*train, *held_out]) == list(range(12))


# --- any data set -----------------------------------------------------------------------------------------


def tiny(images):
    labels = np.zeros(len(images), dtype=np.uint8)
    return Dataset("tiny", 1, images, labels, 255 - images, labels)


def test_mean_and_deviation_are_the_training_images_own_per_channel():
    images = np.array([[[[0, 10]], [[2, 10]]], [[[4, 10]], [[6, 10]]]], dtype=np.uint8)  # (2, 2, 1, 2)
    data = tiny(images)
    assert data.mean == pytest.approx([3, 10])
    assert data.std[0] == pytest.approx(5**0.5)
    assert 0 < data.std[1] < 1e-6  # constant, and still fit to divide by


# --- synthetic --------------------------------------------------------------------------------------------


def test_synthetic_shapes_and_range():
    data = load_synthetic(None, shape=(7, 5, 2), classes=4, train=300, test=70)
    assert data.train_images.shape == (300, 7, 5, 2) and data.test_images.shape == (70, 7, 5, 2)
    assert data.train_images.dtype == np.uint8
    assert set(data.train_labels) == set(data.test_labels) == {0, 1, 2, 3}
    assert len(data.train_labels) == 300 and len(data.test_labels) == 70
    assert np.mean((data.train_images == 0) | (data.train_images == 255)) < 0.1  # few are clipped


def test_synthetic_is_the_same_for_the_same_seed_whatever_else_is_random():
    a = load_synthetic(None, train=50, test=20, seed=3)
    np.random.seed(1)
    b = load_synthetic("elsewhere", train=50, test=20, seed=3)
    assert parts(a) == parts(b)
    assert np.array_equal(a.train_labels, b.train_labels)
    c = load_synthetic(None, train=50, test=20, seed=4)
    assert not np.array_equal(a.train_images, c.train_images)


def test_synthetic_test_images_are_new():
    train, test = parts(load_synthetic(None, train=50, test=20))
    assert not train & test


@pytest.mark.parametrize("shape", [(32, 32, 3), (8, 8, 1)])
def test_the_nearest_mean_learns_synthetic_classes(shape):
    data = load_synthetic(None, shape=shape, train=600, test=200)
    x, answers = data.train_images.astype(float), data.train_labels
    means = np.stack([x[answers == c].mean(axis=0) for c in range(10)])
    distance = ((data.test_images[:, None] - means) ** 2).sum(axis=(2, 3, 4))
    assert np.mean(distance.argmin(axis=1) == data.test_labels) > 0.9
