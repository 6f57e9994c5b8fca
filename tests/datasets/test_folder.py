"""Image folders: which batch holds what, what damaged files do, and what the threads do."""

import errno
import itertools
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from helpers import CPU
from pictures import CLASSES, encode, picture, write_folder
from wtref.datasets import open_feed
from wtref.datasets.folder import AHEAD, MEAN, PIECE, STD, FolderFeed, decode_ahead, load_folder_into_memory, load_folder_once
from wtref.datasets.listing import list_folder
from wtref.datasets.memory import MemoryFeed, images_per_second, training_order
from wtref.datasets.reading import BadImage, read_image
from wtref.datasets.views import central_view
from wtref.device import Device
from wtref.distributed.group import ProcessGroup
from wtref.errors import InputError
from wtref.runs.config import Config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Never written to by a test."""
    return write_folder(tmp_path_factory.mktemp("mixed"))


def feed_of(root, batch_size=6, seed=1, image_size=16, device=CPU, **options):
    return FolderFeed(root, device, batch_size, seed, image_size, **options)


def raw(images):
    return np.rint(images * STD + MEAN).astype(np.uint8)


def same(a, b):
    a, b = list(a), list(b)
    pairs = [pair for one, other in zip(a, b) for pair in zip(one, other)]
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in pairs)

def test_values_that_cannot_be(folder):
    for wrong in ({"bad_images": "ignore"}, {"workers": 0}):
        with pytest.raises(InputError, match="bad images|--workers must be at least 1, found 0"):
            feed_of(folder, **wrong)
        with pytest.raises(InputError, match="bad images|--workers must be at least 1, found 0"):
            load_folder_into_memory(folder, **wrong)


# --- batches ----------------------------------------------------------------------------------------------


def test_what_the_feed_says_of_itself(folder):
    feed = feed_of(folder)
    assert (feed.shape, feed.classes, feed.class_names) == ((16, 16, 3), 3, CLASSES)
    assert (feed.train_count, feed.test_count, feed.steps) == (21, 9, 4)
    assert feed.skipped == set()


def test_every_training_image_once_an_epoch_with_its_label(folder, monkeypatch):
    feed = feed_of(folder)
    monkeypatch.setattr(feed, "_varied", lambda epoch, index: np.full(feed.shape, index, np.uint8))
    orders = []
    for epoch in range(3):
        batches = list(feed.train_batches(epoch))
        assert [len(labels) for _, labels in batches] == [6, 6, 6, 3]
        numbers = np.concatenate([raw(images)[:, 0, 0, 0] for images, _ in batches])
        assert sorted(numbers) == list(range(21))
        assert np.array_equal(np.concatenate([labels for _, labels in batches]), numbers // 7)
        orders.append(tuple(numbers))
    assert len(set(orders)) == 3


@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_every_test_image_once_in_order(folder, batch_size):
    feed = feed_of(folder)
    batches = list(feed.test_batches(batch_size))
    right = [central_view(read_image(path), 16) for path in feed.test.paths]
    assert np.array_equal(np.concatenate([raw(images) for images, _ in batches]), right)
    assert np.array_equal(np.concatenate([labels for _, labels in batches]), feed.test.labels)
    assert all(len(labels) == batch_size for _, labels in batches[:-1])


def test_the_fixed_batch_is_the_first_of_the_first_epoch_seen_as_in_evaluation_and_whole(folder):
    share = ProcessGroup()
    share.size, share.rank = 4, 2
    feed = feed_of(folder, jitter=0.4, group=share)
    threads = threading.active_count()
    images, labels = feed.fixed_batch()
    assert threading.active_count() == threads
    _, first = next(training_order(1, 0, 21, 6))
    paths = [folder / "train" / CLASSES[k // 7] / f"{k % 7:02d}.png" for k in first]
    assert np.array_equal(raw(images), [central_view(read_image(path), 16) for path in paths])
    assert np.array_equal(labels, first // 7)
    list(feed.train_batches(4))
    assert same([feed.fixed_batch()], [(images, labels)])


@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_batches_are_the_same_for_any_number_of_workers(folder, jitter):
    alone = feed_of(folder, workers=1, jitter=jitter)
    train, test = list(alone.train_batches(1)), list(alone.test_batches(4))
    for workers in (2, 4):
        feed = feed_of(folder, workers=workers, jitter=jitter)
        assert same(feed.train_batches(1), train)
        assert same(feed.test_batches(4), test)


def test_going_on_in_mid_epoch_gives_the_same_batches(folder):
    whole = list(feed_of(folder, jitter=0.4).train_batches(2))
    for first in range(len(whole) + 1):
        assert same(feed_of(folder, jitter=0.4).train_batches(2, first), whole[first:])


def test_an_image_varies_with_seed_and_epoch_and_not_with_the_batch_size(folder):
    def view_of(index, seed, epoch, batch_size):
        feed = feed_of(folder, batch_size, seed, jitter=0.4)
        [(_, order)] = training_order(seed, epoch, feed.train_count, feed.train_count)
        images = np.concatenate([images for images, _ in feed.train_batches(epoch)])
        return images[order.tolist().index(index)].tobytes()

    views = {view_of(5, seed, epoch, 6) for seed in range(2) for epoch in range(2)}
    assert len(views) == 4
    assert views == {view_of(5, seed, epoch, 9) for seed in range(2) for epoch in range(2)}


def test_images_are_normalised_in_the_devices_precision(folder):
    images, _ = next(feed_of(folder, device=Device("cpu", np, np.float32)).test_batches())
    path = list_folder(folder)[2].paths[0]
    right = central_view(read_image(path), 16).astype(np.float32)
    assert images.dtype == np.float32
    assert np.array_equal(images[0], (right - np.float32(MEAN)) / np.float32(STD))


def test_images_per_second_of_a_folder(folder):
    assert images_per_second(feed_of(folder), batches=2) > 0
    assert no_threads_left()


# --- in memory --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_a_folder_of_one_size_in_memory(tmp_path, workers):
    write_folder(tmp_path, size=(12, 9))
    data = load_folder_into_memory(tmp_path, workers)
    names, train, test = list_folder(tmp_path)
    assert (data.classes, data.class_names, data.skipped, data.shape) == (3, CLASSES, (), (9, 12, 3))
    for files, images, labels in (
        (train, data.train_images, data.train_labels), (test, data.test_images, data.test_labels)
    ):  # fmt: skip
        assert images.dtype == np.uint8
        assert np.array_equal(images, [np.asarray(Image.open(path)) for path in files.paths])
        assert np.array_equal(labels, files.labels)
    assert sum(len(labels) for _, labels in MemoryFeed(data, CPU, 4, 0).train_batches(0)) == 21


def test_a_folder_is_decoded_again_only_if_something_in_it_has_changed(tmp_path):
    write_folder(tmp_path, size=(12, 9))
    first = load_folder_once(tmp_path)
    assert load_folder_once(tmp_path, workers=1) is first and load_folder_once(tmp_path, bad_images="skip") is not first
    config = Config(dataset="small-folder", data_dir=str(tmp_path))
    assert open_feed(config, CPU).dataset is open_feed(config, CPU).dataset is load_folder_once(tmp_path)
    changed, pixels = tmp_path / "train" / CLASSES[0] / "00.png", np.asarray(picture(99, 12, 9))
    assert not np.array_equal(first.train_images[0], pixels)
    Image.fromarray(pixels).save(changed)
    assert np.array_equal(load_folder_once(tmp_path).train_images[0], pixels)
    changed.with_name("notes.txt").write_text("")
    assert len(load_folder_once(tmp_path).left_out) == 1
    changed.unlink()
    assert len(load_folder_once(tmp_path).train_labels) == len(first.train_labels) - 1
    changed.symlink_to("nowhere.png")
    with pytest.raises(BadImage, match="nowhere|00.png"):
        load_folder_once(tmp_path)


def test_in_memory_all_images_need_one_size(tmp_path):
    write_folder(tmp_path, size=(12, 9))
    odd = tmp_path / "val/bee/00.png"
    picture(0, 9, 12).save(odd)
    for bad_images in ("error", "skip"):
        with pytest.raises(InputError, match=f"{odd} is 9x12, the first image 12x9;"):
            load_folder_into_memory(tmp_path, bad_images=bad_images)
    assert no_threads_left()


# --- damage -----------------------------------------------------------------------------------------------


DAMAGES = {
    "truncated png": (lambda: encode(picture(0), "PNG")[:-30], "image file is truncated"),
    "truncated jpeg": (lambda: encode(picture(0), "JPEG")[:-30], "image file is truncated"),
    "text": (lambda: b"<html>404 not found</html>", "no format that wtref reads"),
    "empty": (lambda: b"", "no format that wtref reads"),
    "zeros": (lambda: bytes(5000), "damaged one: "),
    "bomb": (lambda: encode(Image.new("1", (1200, 1000)), "PNG"), "too large: 1200x1000, over 1,000,000"),
    "large bomb": (lambda: encode(Image.new("1", (3000, 1000)), "PNG"), "exceeds limit of 2000000 pixels"),
}


@pytest.fixture
def damaged(tmp_path, monkeypatch):
    """A function that damages three files of a folder of one size, and returns it and the files."""

    def damage(what):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
        write_folder(tmp_path, size=(20, 20))
        files = [tmp_path / name for name in ("train/ant/03.png", "train/cat/06.png", "val/bee/01.png")]
        for file in files:
            file.write_bytes(DAMAGES[what][0]())
        return tmp_path, files

    return damage


def in_memory(root, **options):
    """load_folder_into_memory, when asked for."""
    yield load_folder_into_memory(root, **options)


@pytest.mark.parametrize("what", DAMAGES)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_image_is_one_line_that_names_it(damaged, what):
    root, files = damaged(what)
    feed, line = feed_of(root), DAMAGES[what][1]
    for run in (feed.train_batches(0), feed.test_batches(), in_memory(root)):
        with pytest.raises(InputError, match=line) as caught:
            list(run)
        message = str(caught.value)
        assert any(str(file) in message for file in files) and "\n" not in message and "at 0x" not in message
        assert no_threads_left()


@pytest.mark.parametrize("what", DAMAGES)
@pytest.mark.filterwarnings("ignore")
def test_or_it_is_skipped_and_counted(damaged, what):
    root, files = damaged(what)
    feed = feed_of(root, bad_images="skip", workers=2)
    for epoch in range(2):
        batches = list(feed.train_batches(epoch))
        assert sum(len(labels) for _, labels in batches) == 19
        assert all(len(images) == len(labels) for images, labels in batches)
        assert len(batches) == feed.steps
        assert same(feed_of(root, bad_images="skip", workers=1).train_batches(epoch), batches)
    assert len(feed.skipped) == 2
    assert sum(len(labels) for _, labels in feed.test_batches(4)) == 8
    assert all(any(str(file) in line for line in feed.skipped) for file in files)

    data = load_folder_into_memory(root, bad_images="skip")
    assert (len(data.train_labels), len(data.test_labels), len(data.skipped)) == (19, 8, 3)
    whole = [path for path in list_folder(root)[1].paths if path not in map(str, files)]
    assert np.array_equal(data.train_images, [np.asarray(Image.open(path)) for path in whole])


def test_the_first_damaged_image_in_order_is_the_one_named(damaged):
    root, files = damaged("text")
    for workers in (1, 2, 4):
        with pytest.raises(BadImage, match=str(files[0])):
            load_folder_into_memory(root, workers)


def test_nothing_left_to_train_on_is_an_error_even_when_skipping(tmp_path):
    write_folder(tmp_path, size=(20, 20))
    for file in (tmp_path / "train/bee").iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError, match="no training image of class bee can be read; .*bee/00.png is no image"):
        load_folder_into_memory(tmp_path, bad_images="skip")
    for file in tmp_path.glob("train/*/*"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match="not one of 21 images can be read; .*png is no image"):
        load_folder_into_memory(tmp_path, bad_images="skip")
    assert [len(labels) for _, labels in feed_of(tmp_path, bad_images="skip").train_batches(0)] == [0] * 4
    assert no_threads_left()


def test_nothing_left_to_test_on_is_an_error_that_names_an_image(tmp_path):
    write_folder(tmp_path, size=(20, 20))
    for file in tmp_path.glob("val/*/*"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match="not one of 9 test images can be read; .*val/ant/00.png is no image"):
        load_folder_into_memory(tmp_path, bad_images="skip")


def test_what_is_no_file_is_skipped_like_damage_and_what_the_machine_fails_to_read_is_not(tmp_path, monkeypatch):
    write_folder(tmp_path, size=(20, 20))
    ant = tmp_path / "train/ant"
    (ant / "broken.png").symlink_to(tmp_path / "gone.png")
    (ant / "circle.png").symlink_to(ant / "circle.png")
    os.mkfifo(ant / "pipe.png")
    feed = feed_of(tmp_path, bad_images="skip")
    assert len(feed.about()["sha256"]) == 64
    assert sum(len(labels) for _, labels in feed.train_batches(0)) == 21
    data = load_folder_into_memory(tmp_path, bad_images="skip")
    assert len(data.train_labels) == 21 and set(data.skipped) == feed.skipped
    ends = ["cannot be read: No such file or directory", "cannot be read: Too many levels of symbolic links",
            "is no image: not a file, but a folder, device, pipe or socket"]  # fmt: skip
    names = ("broken", "circle", "pipe")
    assert sorted(feed.skipped) == [f"{ant / name}.png {end}" for name, end in zip(names, ends)]

    def failing(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "stat", failing)
    with pytest.raises(InputError, match="00.png cannot be read: Input/output error") as caught:
        read_image(ant / "00.png")
    assert not isinstance(caught.value, BadImage)


# --- the pool ---------------------------------------------------------------------------------------------


def no_threads_left():
    return not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


@pytest.mark.parametrize("workers", [1, 4])
def test_no_more_than_the_batches_ahead_are_loaded(workers):
    size, started, lock = 2 * PIECE + 1, [], threading.Lock()

    def load(index):
        with lock:
            started.append(index)
        return np.zeros(2, np.uint8)

    endless = (np.arange(size) + size * k for k in itertools.count())
    decoded = decode_ahead(load, endless, (2,), workers)
    for taken in range(1, 8):
        next(decoded)
        time.sleep(0.01)  # a slow training step
        assert len(started) <= (taken + AHEAD) * size
    wait_until(lambda: len(started) == (7 + AHEAD) * size)  # they do work ahead
    decoded.close()
    assert len(started) == (7 + AHEAD) * size


def test_what_waits_is_given_up_when_the_caller_leaves(monkeypatch):
    started, left = [], threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, **how):
            super().shutdown(wait=False, **how)
            left.set()
            super().shutdown()

    def load(index):
        started.append(index)
        if index >= 20:
            left.wait()
        return np.zeros(1, np.uint8)

    monkeypatch.setattr("wtref.datasets.folder.ThreadPoolExecutor", Pool)
    decoded = decode_ahead(load, (np.arange(20) + 20 * k for k in itertools.count()), (1,), workers=2)
    next(decoded)
    decoded.close()
    assert len(started) <= 20 + 2 * PIECE  # of the 40 ahead, those that the two threads had begun
    assert no_threads_left()


def wait_until(holds, seconds=20):
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.001)
    assert holds()


def test_images_come_in_order_whoever_is_slow():
    def load(index):
        time.sleep(0.003 if index % 5 == 0 else 0)
        return np.full(1, index, np.uint8)

    batches = [np.arange(start, start + 11) for start in range(0, 99, 11)]
    for indices, images, bad in decode_ahead(load, batches, (1,), workers=4):
        assert np.array_equal(images[:, 0], indices) and bad == {}


def test_an_abandoned_feed_leaves_no_threads(folder):
    feed = feed_of(folder, workers=3, batch_size=2)
    batches = feed.train_batches(0)
    assert no_threads_left()  # nothing runs before it is asked for
    next(batches)
    assert not no_threads_left()
    del batches
    assert no_threads_left()


def test_an_exception_in_the_step_leaves_no_threads_once_it_is_handled(folder):
    with pytest.raises(ZeroDivisionError):
        for images, _ in feed_of(folder, workers=3, batch_size=2).train_batches(0):
            assert len(images) // 0
    assert no_threads_left()


def test_a_crash_in_a_worker_reaches_the_caller(folder):
    def load(index):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(decode_ahead(load, [np.arange(5)], (1,), 2))
    assert no_threads_left()


def test_ctrl_c_stops_the_pool():
    def load(index):
        if index == 30:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.005)
        return np.zeros(1, np.uint8)

    endless = (np.arange(8) + 8 * k for k in itertools.count())
    with pytest.raises(KeyboardInterrupt):
        for _ in decode_ahead(load, endless, (1,), 2):
            pass
    assert no_threads_left()
