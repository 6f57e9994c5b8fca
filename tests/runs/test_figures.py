"""Pictures show every number they are made of, zeros and single epochs too."""

import math
import random

import numpy as np
import pytest
from PIL import Image

from wtref.runs import figures

pytest.importorskip("matplotlib").use("Agg")
pyplot = pytest.importorskip("matplotlib.pyplot")


def line(curve, epoch, error, seed=0, angle=30.0):
    angles = {"hidden": angle, "output": angle + 10}
    return {"curve": curve, "rule": curve, "seed": seed, "epoch": epoch, "test_error": error,
            "matrix_angles": angles, "delta_angles": angles}  # fmt: skip


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def drawn(lines, draw=figures._draw_errors):
    """The axes of the picture, laid out."""
    assert figures._ready()
    figure = draw(lines, figures.palette(dict.fromkeys(line["curve"] for line in lines)))
    figure.canvas.draw()
    return figure.axes


def pixels(path, colour):
    """How many pixels of a picture have a colour."""
    image = np.asarray(Image.open(path).convert("RGB"))
    return int((image == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=-1).sum())


def test_zero_has_a_place_on_the_axis():
    (axes,) = drawn([line("kp", 1, 5.0), line("kp", 2, 0.6), line("kp", 3, 0.0), line("bp", 1, 4.0), line("bp", 3, 2.0)])
    assert axes.get_yscale() == "symlog" and axes.get_ylabel() == "test error (%), linear below 0.5"
    labels = {text.get_text(): tick for text, tick in zip(axes.get_yticklabels(), axes.get_yticks())}
    assert labels["0"] == 0 and labels["0.5"] == 0.5 and max(labels.values()) == 5
    to_fraction = (axes.transData + axes.transAxes.inverted()).transform
    height = {error: to_fraction((1, error))[1] for error in (0, 0.5, 0.6, 5)}
    assert 0 < height[0] < height[0.5] < height[0.6] < height[5] < 1
    assert [text.get_text() for text in axes.texts] == ["KP 0 %", "BP 2.0 %"]


def test_without_zeros_the_axis_is_logarithmic():
    (axes,) = drawn([line("kp", 1, 40.0), line("kp", 2, 12.0)])
    assert axes.get_yscale() == "log" and axes.get_ylabel() == "test error (%)"
    assert list(axes.get_yticks()) == [10, 15, 20, 30, 40]


def test_every_error_lies_between_two_ticks_whose_labels_do_not_overlap():
    numbers = random.Random(0)
    sets = [[0.0], [100.0], [0.0, 100.0], [0.005], [0.012, 0.013], [97.5, 97.6], [10.0], [70.0, 100.0]]
    sets += [[max(0.002, 100 * numbers.random() ** numbers.choice([1, 3, 9])) for _ in range(3)] for _ in range(20)]
    for errors in sets:
        (axes,) = drawn([line("kp", epoch, error) for epoch, error in enumerate(errors, start=1)])
        pyplot.close(axes.figure)
        low, high = axes.get_ylim()
        ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
        assert low < min(errors) and max(errors) < high and len(ticks) >= 2, errors
        boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
        assert all(below.y1 < above.y0 for below, above in zip(boxes, boxes[1:])), errors


def test_a_picture_of_zeros_alone_is_not_empty(tmp_path):
    figures.draw_comparison([line("kp", epoch, 0.0) for epoch in (1, 2, 3)], tmp_path)
    assert pixels(tmp_path / "test-error.png", figures.COLOURS["kp"]) > 3000


def test_a_single_epoch_is_seen(tmp_path):
    lines = [line(rule, 1, error, seed) for rule, error in (("kp", 20.0), ("fa", 30.0)) for seed in (0, 1)]
    figures.draw_comparison(lines, tmp_path)
    for rule in ("kp", "fa"):
        assert pixels(tmp_path / "test-error.png", figures.COLOURS[rule]) > 100
    for axes in drawn(lines, figures._draw_angles)[:4]:
        assert axes.get_xlim() == (0, 2) and list(axes.get_xticks()) == [0, 1, 2]
        assert [curve.get_marker() for curve in axes.lines] == ["o", "o"]


def test_the_spread_of_a_single_epoch_is_drawn():
    (axes,) = drawn([line("kp", 1, error, seed) for seed, error in enumerate((20.0, 30.0))])
    (bar,) = axes.collections
    assert [list(point) for point in bar.get_segments()[0]] == [[1, 20], [1, 30]]


def test_a_layer_without_an_angle_leaves_a_gap():
    """Where only one seed has an angle, that is the mean; where none has, nothing is drawn."""
    lines = [line("fa", epoch, 5.0, seed, 20.0) for epoch in (1, 2) for seed in (0, 1)]
    lines[0]["matrix_angles"] = {"hidden": math.nan, "output": math.nan}
    lines[1]["matrix_angles"] = {"hidden": math.nan, "output": 50.0}
    lines[2]["matrix_angles"] = lines[3]["matrix_angles"] = {"hidden": 40.0, "output": math.nan}
    matrix, *_ = drawn(lines, figures._draw_angles)
    found = [curve.get_ydata().tolist() for curve in matrix.lines]
    assert np.array_equal(found, [[math.nan, 40.0], [50.0, math.nan]], equal_nan=True)
    matrix, delta = drawn(lines, figures._draw_depth)[:2]
    assert [text.get_text() for text in matrix.texts] == ["FA 40°"] and [text.get_text() for text in delta.texts] == ["FA 30°"]


def test_long_names_leave_room_for_the_picture(tmp_path, recwarn):
    names = [f"cifar10-resnet20-kp-{'very-' * 20}long-name-{number}" for number in (1, 2)]
    figures.draw_comparison([line(name, epoch, 5.0 + epoch) | {"rule": "kp"} for name in names for epoch in (1, 2)], tmp_path)
    assert not recwarn.list
    assert [figures.label(name) for name in names] == ["cifar10-re…ong-name-1", "cifar10-re…ong-name-2"]
    assert [figures.label(name) for name in ("ss", "usf", "a-name-of-20-letters")] == ["SS", "uSF", "a-name-of-20-letters"]


def test_depth_shows_runs_of_unlike_lengths():
    lines = [line("long", epoch, 5.0, angle=20.0 + epoch) for epoch in (1, 2, 3)] + [line("short", 1, 5.0, angle=60.0)]
    matrix, _ = drawn(lines, figures._draw_depth)
    assert {tuple(curve.get_ydata()) for curve in matrix.lines} == {(23.0, 33.0), (60.0, 70.0)}


def test_labels_at_line_ends_keep_order_and_distance():
    placed = figures._spread_out({"a": 0.2, "b": 0.21, "c": 0.97, "d": 0.99}, gap=0.1)
    assert placed == pytest.approx({"a": 0.2, "b": 0.3, "c": 0.9, "d": 1.0})
