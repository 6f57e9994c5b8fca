"""Views of single images, against Pillow and the definitions of torchvision."""

import math
import random

import numpy as np
import pytest
from PIL import Image

from pictures import encode, picture
from wtref.datasets import reading, views
from wtref.datasets.reading import to_rgb
from wtref.datasets.views import central_view, colour_jitter, random_box, random_view

BILINEAR = Image.Resampling.BILINEAR


@pytest.mark.parametrize("width, height", [(500, 375), (375, 500), (224, 224), (64, 48), (1000, 120), (3, 2), (300, 299)])
@pytest.mark.parametrize("size", [224, 32, 7])
def test_central_view_is_resize_and_centre_crop(width, height, size):
    image = picture(width + height, width, height)
    short = round(size * 256 / 224)
    if width <= height:
        wide, high = short, int(short * height / width)
    else:
        wide, high = int(short * width / height), short
    left, top = int(round((wide - size) / 2.0)), int(round((high - size) / 2.0))
    right = np.asarray(image.resize((wide, high), BILINEAR))[top : top + size, left : left + size]
    assert np.array_equal(central_view(image, size), right)


@pytest.mark.parametrize("width, height", [(1, 5000), (5000, 1), (1, 1), (2, 90)])
def test_extreme_shapes_neither_fail_nor_fill_the_memory(width, height, monkeypatch):
    sizes, image = [], picture(0, width, height)
    resize = Image.Image.resize

    def noted(image, size, *args, **kwargs):
        sizes.append(size)
        return resize(image, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", noted)
    assert central_view(image, 224).shape == (224, 224, 3)
    assert np.prod(sizes[0]) <= 256 * 2560
    monkeypatch.setattr(reading, "read_file", lambda path: encode(image, "PNG"))
    for seed in range(20):
        assert random_view("x.png", 32, True, 0.4, np.random.default_rng(seed)).shape == (32, 32, 3)


def test_random_view_is_crop_resize_flip(tmp_path):
    image, path, mirrored = picture(0, 90, 70), tmp_path / "x.png", set()
    image.save(path)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        box, flip = random_box(90, 70, rng), rng.random() < 0.5
        right = np.asarray(image.crop(box).resize((24, 24), BILINEAR))
        found = random_view(path, 24, True, 0.0, np.random.default_rng(seed))
        assert np.array_equal(found, right[:, ::-1] if flip else right)
        mirrored.add(flip)
    assert mirrored == {False, True}


def test_half_of_the_views_are_mirrored(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.tile(np.arange(0, 250, 10, dtype=np.uint8), (25, 1))).save(path)
    views = [random_view(path, 8, True, 0.0, np.random.default_rng((7, seed))) for seed in range(2000)]
    rate = np.mean([view[0, 0, 0] > view[0, -1, 0] for view in views])
    assert abs(rate - 0.5) < 4 * 0.5 / math.sqrt(2000)


def torchvisions_box(width, height, uniform, randint):
    """RandomResizedCrop.get_params, from its documentation."""
    for _ in range(10):
        area = width * height * uniform(0.08, 1.0)
        ratio = math.exp(uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = int(round(math.sqrt(area * ratio))), int(round(math.sqrt(area / ratio)))
        if 0 < w <= width and 0 < h <= height:
            return randint(0, width - w), randint(0, height - h), w, h
    return None


@pytest.mark.parametrize("width, height", [(500, 375), (60, 60), (100, 40)])
def test_boxes_are_distributed_like_torchvisions(width, height):
    rng, other, n = np.random.default_rng(0), random.Random(0), 4000
    boxes = np.array([random_box(width, height, rng) for _ in range(n)])
    left, top, right, bottom = boxes.T
    assert (left >= 0).all() and (top >= 0).all() and (right <= width).all() and (bottom <= height).all()
    assert (right > left).all() and (bottom > top).all()
    found = np.stack([left, top, right - left, bottom - top], axis=1)
    theirs = [torchvisions_box(width, height, other.uniform, other.randint) for _ in range(n)]
    theirs = np.array([box for box in theirs if box is not None])
    if len(theirs) < n:  # in the fallback: the largest box about the centre
        found = found[~((found[:, 3] == height) & (found[:, 2] == round(height * 4 / 3)))]
    assert abs(len(found) - len(theirs)) < 200
    for a, b in zip(measures(found), measures(theirs)):
        assert kolmogorov_smirnov(a, b) < 1.95 * math.sqrt(2 / len(found))  # p = 0.001


def measures(boxes):
    left, top, width, height = boxes.T
    return left, top, width * height, width / height


def kolmogorov_smirnov(a, b):
    grid = np.unique(np.concatenate([a, b]))
    below = [np.searchsorted(np.sort(x), grid, side="right") / len(x) for x in (a, b)]
    return np.abs(below[0] - below[1]).max()


@pytest.mark.parametrize("size, box", [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506)), ((50, 1), (24, 0, 25, 1))])
def test_the_box_where_none_fits(size, box):
    assert random_box(*size, np.random.default_rng(0)) == box


def test_a_jpeg_is_decoded_small_and_looks_the_same(tmp_path, monkeypatch):
    path, decoded = tmp_path / "x.jpg", []
    image = picture(0, 803, 601)
    image.save(path, quality=95)
    plain = to_rgb
    monkeypatch.setattr(views, "to_rgb", lambda im, name: decoded.append(im.size) or plain(im, name))
    for seed in range(30):
        found = random_view(path, 32, True, 0.0, np.random.default_rng(seed)).astype(int)
        rng = np.random.default_rng(seed)
        box = random_box(803, 601, rng)
        right = np.asarray(image.crop(box).resize((32, 32), BILINEAR)).astype(int)
        if rng.random() < 0.5:
            right = right[:, ::-1]
        assert np.abs(found - right).mean() < 1.5 and np.abs(found - right).max() < 20
        scale = 803 / decoded[-1][0]
        assert scale < 1.01 or min(box[2] - box[0], box[3] - box[1]) / scale > 31
    assert (101, 76) in decoded and (201, 151) in decoded


def test_jitter_is_torchvisions_without_hue():
    image, changed = picture(0), set()
    for seed in range(10):
        found = np.asarray(colour_jitter(image, 0.4, np.random.default_rng(seed)))
        rng, right = np.random.default_rng(seed), np.asarray(image).astype(float)
        for change in rng.permutation(3):
            factor = rng.uniform(0.6, 1.4)
            grey = right @ [0.299, 0.587, 0.114]
            towards = [0.0, np.rint(grey.mean()), grey[..., None]][change]  # brightness, contrast, saturation
            right = np.clip(factor * right + (1 - factor) * towards, 0, 255)
        assert np.abs(found - right).max() < 5  # Pillow rounds after every change
        changed.add(found.tobytes())
    assert len(changed) == 10
