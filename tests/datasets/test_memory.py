"""Batches of a data set in memory: every image once, and each batch a pure function of (seed, epoch, i)."""

import itertools

import numpy as np
import pytest

from device_double import xp
from helpers import CPU
from wtref.datasets import Dataset
from wtref.datasets.augment import Augmentation
from wtref.datasets.memory import MemoryFeed, batch_count, images_per_second, training_order
from wtref.device import Device
from wtref.distributed.group import ProcessGroup

FULL = Augmentation(crop=1, flip=True, rotate=15.0)


def numbered(train=43, test=17):
    """A Dataset whose image k is the constant k, with label k % 7; test images count on from train's."""
    count = np.arange(train + test)
    images = np.broadcast_to(count[:, None, None, None], (train + test, 5, 4, 3)).astype(np.uint8)
    labels = count % 7
    return Dataset("numbered", 7, images[:train], labels[:train], images[train:], labels[train:])


def feed_of(data=None, device=CPU, batch_size=8, seed=3, augmentation=Augmentation()):
    return MemoryFeed(data or numbered(), device, batch_size, seed, augmentation)


def raw(feed, data, images):
    """The bytes that were normalised."""
    return np.rint(images * data.std + data.mean).astype(int)


def same(a, b):
    """Are two lists of (images, labels) the same to the bit?"""
    return len(a) == len(b) and all(np.array_equal(x, y) and x.dtype == y.dtype for one, other in zip(a, b) for x, y in zip(one, other))


def test_what_the_feed_says_of_itself():
    feed = feed_of()
    assert (feed.shape, feed.classes) == ((5, 4, 3), 7)
    assert (feed.train_count, feed.test_count, feed.steps) == (43, 17, 6)
    assert feed_of(batch_size=43).steps == 1
    assert feed_of(batch_size=100).steps == 1


@pytest.mark.parametrize("batch_size", [1, 8, 43, 100])
def test_every_training_image_once_an_epoch_with_its_label(batch_size):
    data = numbered()
    feed = feed_of(data, batch_size=batch_size)
    for epoch in range(3):
        batches = list(feed.train_batches(epoch))
        assert len(batches) == feed.steps
        assert all(len(images) == len(labels) == min(batch_size, 43) for images, labels in batches[:-1])
        numbers = np.concatenate([raw(feed, data, images)[:, 0, 0, 0] for images, _ in batches])
        labels = np.concatenate([labels for _, labels in batches])
        assert sorted(numbers) == list(range(43))
        assert np.array_equal(labels, numbers % 7)


def test_no_image_is_left_alone_at_the_end_of_an_epoch():
    """The batches are full, but for the last, which has one image more where that would be left over."""
    assert [[len(batch) for _, batch in training_order(0, 0, count, 4)] for count in (1, 4, 5, 6, 8, 9)] == [
        [1], [4], [5], [4, 2], [4, 4], [4, 5]
    ]  # fmt: skip
    for count, batch_size in itertools.product(range(2, 40), range(2, 12)):
        sizes = [len(batch) for _, batch in training_order(0, 0, count, batch_size)]
        assert sum(sizes) == count and len(sizes) == batch_count(count, batch_size)
        assert set(sizes[:-1]) <= {batch_size} and 2 <= sizes[-1] <= batch_size + 1
    assert [len(batch) for _, batch in training_order(0, 0, 3, 1)] == [1, 1, 1]
    numbers = np.arange(41)
    images = np.zeros((41, 5, 4, 3), np.uint8)
    feed = feed_of(Dataset("odd", 41, images, numbers, images, numbers), batch_size=8)
    batches = [labels for _, labels in feed.train_batches(0)]
    assert [len(labels) for labels in batches] == [8, 8, 8, 8, 9] and feed.steps == 5
    assert np.array_equal(np.sort(np.concatenate(batches)), numbers)
    assert same(list(feed.train_batches(0, first=4)), list(feed.train_batches(0))[4:])


@pytest.mark.parametrize("batch_size", [1, 5, 256])
def test_every_test_image_once_in_order_and_as_it_is(batch_size):
    data = numbered()
    feed = feed_of(data, augmentation=FULL)
    batches = list(feed.test_batches(batch_size))
    images = np.concatenate([images for images, _ in batches])
    assert np.array_equal(raw(feed, data, images), data.test_images)
    assert np.array_equal(np.concatenate([labels for _, labels in batches]), data.test_labels)
    assert all(len(labels) == batch_size for _, labels in batches[:-1])


@pytest.mark.parametrize("batch_size, count", [(8, 8), (42, 43), (100, 43)])
def test_the_fixed_batch_is_the_first_of_the_first_epoch_unvaried_whole_and_always_the_same(batch_size, count):
    data, share = numbered(), ProcessGroup()
    share.size, share.rank = 4, 2
    feed = MemoryFeed(data, CPU, batch_size, 3, FULL, group=share)
    images, labels = feed.fixed_batch()
    _, first = next(training_order(3, 0, 43, batch_size))
    assert len(first) == count
    assert np.array_equal(images, (data.train_images[first] - data.mean) / data.std) and np.array_equal(labels, first % 7)
    list(feed.train_batches(4))
    assert same([feed.fixed_batch()], [(images, labels)])


def test_order_changes_with_epoch_and_seed():
    orders = {
        (seed, epoch): tuple(np.concatenate([batch for _, batch in training_order(seed, epoch, 50, 8)]))
        for seed, epoch in itertools.product(range(4), range(4))
    }
    assert len(set(orders.values())) == 16


def test_order_does_not_depend_on_the_batch_size():
    whole = np.concatenate([batch for _, batch in training_order(0, 1, 50, 50)])
    assert np.array_equal(np.concatenate([batch for _, batch in training_order(0, 1, 50, 8)]), whole)


def test_first_places_are_uniform_over_the_images():
    firsts = [next(training_order(seed, epoch, 10, 1))[1][0] for seed in range(50) for epoch in range(50)]
    counts = np.bincount(firsts, minlength=10)
    assert ((counts - 250) ** 2 / 250).sum() < 27.9  # chi-square, 9 degrees of freedom: p = 0.001


@pytest.mark.parametrize("augmentation", [Augmentation(), FULL])
def test_going_on_in_mid_epoch_gives_the_same_batches(augmentation):
    whole = list(feed_of(augmentation=augmentation).train_batches(2))
    for first in range(len(whole) + 1):
        fresh = feed_of(augmentation=augmentation)
        assert same(list(fresh.train_batches(2, first)), whole[first:])


def test_batches_depend_on_nothing_else():
    feed = feed_of(augmentation=FULL)
    whole = list(feed.train_batches(1))
    other, again = feed.train_batches(0), feed.train_batches(1)
    interleaved = []
    for batch in again:
        next(other)
        list(feed.test_batches())
        interleaved.append(batch)
    assert same(interleaved, whole)


def test_variation_changes_with_seed_epoch_and_batch():
    image = np.random.default_rng(0).integers(1, 256, (1, 5, 4, 3), dtype=np.uint8)
    images, labels = np.repeat(image, 64, axis=0), np.zeros(64, int)
    one = Dataset("one", 7, images, labels, images, labels)
    varied = [
        images.tobytes()
        for seed, epoch in itertools.product(range(2), range(2))
        for images, _ in feed_of(one, seed=seed, batch_size=16, augmentation=FULL).train_batches(epoch)
    ]
    assert len(set(varied)) == 16


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_are_normalised_in_the_devices_precision(dtype):
    data = numbered()
    feed = feed_of(data, Device("cpu", np, dtype))
    images = np.concatenate([images for images, _ in feed.train_batches(0)])
    assert images.dtype == dtype
    assert np.allclose(images.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    assert np.allclose(images.std(axis=(0, 1, 2)), 1)
    for tested, _ in feed.test_batches():
        mean, std = data.mean.astype(dtype), data.std.astype(dtype)
        assert np.array_equal(tested, (data.test_images.astype(dtype) - mean) / std)


def test_the_same_batches_on_a_device_whose_arrays_do_not_meet_the_hosts():
    feed = feed_of(device=Device("double", xp, np.float64), augmentation=FULL)
    cpu = feed_of(augmentation=FULL)
    found = [(images.get(), labels.get()) for images, labels in feed.train_batches(1, first=2)]
    assert same(found, list(cpu.train_batches(1, first=2)))
    found = [(images.get(), labels.get()) for images, labels in feed.test_batches()]
    assert same(found, list(cpu.test_batches()))
    assert images_per_second(feed, batches=2) > 0


def test_images_per_second_counts_what_was_handed_out(monkeypatch):
    ticks = iter([10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr("wtref.datasets.memory.time.perf_counter", lambda: next(ticks))
    feed = feed_of()
    assert images_per_second(feed, batches=2) == 16 / 2.0
    assert images_per_second(feed, batches=100) == 43 / 4.0
