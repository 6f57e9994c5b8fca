"""Pictures show every number they are made of, zeros and single epochs too."""

import math
import random

import numpy as np
import pytest
from PIL import Image

from wtref.runs import colours, course, drawing, figures
from wtref.runs.experiments import EXPERIMENTS, RELATED
from wtref.runs.run_files import LATER
from wtref.studies import depth

pytest.importorskip("matplotlib").use("Agg")
pyplot = pytest.importorskip("matplotlib.pyplot")
from matplotlib.collections import PathCollection


def line(curve, epoch, error, seed=0, angle=30.0):
    angles = {"hidden": angle, "output": angle + 10}
    return {"curve": curve, "rule": curve, "seed": seed, "epoch": epoch, "test_error": error,
            "matrix_angles": angles, "delta_angles": angles, "local_delta_angles": angles, "update_angle": angle / 2,
            "feedback_ratios": {"hidden": 0.5, "output": 2.0}, "delta_ratios": {"hidden": 3.0, "output": 0.3}}  # fmt: skip


def old(line):
    """The line as an older version wrote it."""
    return {name: value for name, value in line.items() if name not in LATER}


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def drawn(lines, draw=figures._draw_errors):
    """The axes of the picture, laid out."""
    assert drawing.available()
    figure = draw(lines, colours.palette(dict.fromkeys(line["curve"] for line in lines)))
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
    assert pixels(tmp_path / "test-error.png", colours.COLOURS["kp"]) > 3000


def test_a_single_epoch_is_seen(tmp_path):
    lines = [line(rule, 1, error, seed) for rule, error in (("kp", 20.0), ("fa", 30.0)) for seed in (0, 1)]
    figures.draw_comparison(lines, tmp_path)
    for rule in ("kp", "fa"):
        assert pixels(tmp_path / "test-error.png", colours.COLOURS[rule]) > 100
    for axes in drawn(lines, figures._draw_angles)[:6]:
        assert axes.get_xlim() == (0, 2) and list(axes.get_xticks()) == [0, 1, 2]
        assert [curve.get_marker() for curve in axes.lines] == ["o", "o"]
    for axes in (*drawn(lines), *drawn(lines, figures._draw_sizes)):
        assert {"v", "s"} <= {curve.get_marker() for curve in axes.lines}


def test_the_spread_of_a_single_epoch_is_drawn():
    (axes,) = drawn([line("kp", 1, error, seed) for seed, error in enumerate((20.0, 30.0))])
    bar, _ = axes.collections  # and the marker beside the curve's name
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
    assert [figures.label(name) for name in names] == ["cifar10-re…ng-name-1", "cifar10-re…ng-name-2"]
    assert [figures.label(name) for name in ("ss", "usf", "a-name-of-20-letters")] == ["SS", "uSF", "a-name-of-20-letters"]


def test_depth_shows_runs_of_unlike_lengths():
    lines = [line("long", epoch, 5.0, angle=20.0 + epoch) for epoch in (1, 2, 3)] + [line("short", 1, 5.0, angle=60.0)]
    matrix, *_ = drawn(lines, figures._draw_depth)
    assert {tuple(curve.get_ydata()) for curve in matrix.lines} == {(23.0, 33.0), (60.0, 70.0)}


def test_labels_at_line_ends_keep_order_and_distance():
    placed = drawing.spread_out({"a": 0.2, "b": 0.21, "c": 0.97, "d": 0.99}, gap=0.1)
    assert placed == pytest.approx({"a": 0.2, "b": 0.3, "c": 0.9, "d": 1.0})


def of_depth(lines, styles):
    return depth.draw({part: lines for part in depth.PARTS})


def of_course(lines, styles):
    return course.draw(EXPERIMENTS["mnist-authors"], lines)


@pytest.mark.parametrize("draw", [figures._draw_errors, figures._draw_depth, figures._draw_sizes, of_depth, of_course])
def test_a_label_stands_beside_the_end_of_its_curve(draw):
    larger = {"feedback_ratios": {"hidden": 2.0, "output": 9.0}, "delta_ratios": {"hidden": 9.0, "output": 2.0}}
    lines = [line("wm", epoch, 5.0, angle=10.0) for epoch in (1, 2)] + [line("fa", epoch, 40.0, angle=70.0) | larger for epoch in (1, 2)]
    for axes in drawn(lines, draw):
        to_fraction = (axes.transData + axes.transAxes.inverted()).transform
        ends = {curve.get_color(): to_fraction(curve.get_xydata()[-1])[1] for curve in axes.lines if curve.get_xydata()[1:].size}
        found = {text.get_color(): text.xy[1] for text in axes.texts}
        assert found == pytest.approx({colour: ends[colour] for colour in (colours.COLOURS["wm"], colours.COLOURS["fa"])})


def test_points_at_the_edge_are_whole():
    lines = [line("kp", epoch, 5.0) for epoch in (1, 2)]
    for draw in (figures._draw_errors, figures._draw_depth):
        curves = [curve for axes in drawn(lines, draw) for curve in axes.lines]
        assert curves and not any(curve.get_clip_on() for curve in curves)


def test_labels_of_many_curves_do_not_overlap():
    for count in (2, 16, 40):
        (axes,) = drawn([line(f"rule-{number}", epoch, 20 + number / 100) for number in range(count) for epoch in (1, 2)])
        boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
        assert len(boxes) == count and all(below.y1 <= above.y0 + 2 for below, above in zip(boxes, boxes[1:]))
        pyplot.close(axes.figure)


def test_sizes_show_ratios_by_layer_and_the_update_angle_by_epoch():
    lines = [line("kp", epoch, 5.0, seed, angle) for epoch in (1, 2) for seed, angle in ((0, 20.0), (1, 40.0))]
    lines[3]["feedback_ratios"] = {"hidden": 0.7, "output": 8.0}
    feedback, delta, update = drawn(lines + [line(rule, epoch, 5.0) for rule in ("bp", "frozen") for epoch in (1, 2)], figures._draw_sizes)
    assert [axes.get_yscale() for axes in (feedback, delta, update)] == ["log", "log", "linear"]
    for axes, wanted, text in ((feedback, (0.6, 5.0), "KP 5"), (delta, (3.0, 0.3), "KP 0.3")):
        assert [list(curve.get_ydata()) for curve in axes.lines] == [[], [1, 1], pytest.approx(wanted)]
        assert [label.get_text() for label in axes.texts] == [text] and 1 in axes.get_yticks()
        assert axes.get_ylim()[0] < min(1, *wanted) < max(1, *wanted) < axes.get_ylim()[1]
    assert [list(curve.get_ydata()) for curve in update.lines] == [[15, 15], [15, 15]], "KP and the control, not backprop"
    assert [curve.get_linestyle() for curve in update.lines] == ["-", "--"]


def test_errors_that_are_zero_are_crosses_and_those_that_could_not_be_measured_gaps():
    lines = [line(rule, 1, 5.0) for rule in ("fa", "ss")]
    lines[0]["delta_ratios"], lines[1]["delta_ratios"] = {"hidden": 0.0, "output": 0.25}, {"hidden": math.nan, "output": 1e-9}
    _, delta, _ = drawn(lines, figures._draw_sizes)
    assert [list(curve.get_xdata()) for curve in delta.lines if curve.get_marker() == "x"] == [[1], []]
    low, high = delta.get_ylim()
    assert low < 1e-9 and high > 1 and len(delta.get_yticks()) < 20
    assert {text.get_text() for text in delta.texts} == {"FA 0.25", "SS 1e-09"}


def test_pictures_without_content_are_left_out(tmp_path):
    def names(lines):
        return [path.stem for path in figures.draw_comparison(lines, tmp_path)]

    exact, new = [line("bp", 1, 5.0), line("frozen", 1, 9.0)], [line("kp", 1, 5.0), line("kp", 2, 5.0)]
    assert names(exact) == ["test-error"]
    assert names(exact + new) == ["test-error", "depth", "angles", "sizes"]
    assert names([old(each) for each in exact + new]) == ["test-error", "depth", "angles"]
    assert names([*exact, *map(old, new)]) == ["test-error", "depth", "angles"]
    assert names([old(new[0]), new[1]]) == ["test-error", "depth", "angles", "sizes"], "a run that a newer version has continued"
    assert names([*new, old(line("fa", 1, 5.0))])[-1] == "sizes"


@pytest.mark.parametrize("angles", [{}, {"output": math.nan}])
def test_where_no_angle_was_measured_the_errors_alone_are_drawn(tmp_path, angles):
    """As in a network without a layer that has feedback weights."""
    lines = [line(rule, epoch, 5.0) for rule in ("bp", "kp") for epoch in (1, 2)]
    for each in lines:
        each |= dict.fromkeys(("matrix_angles", "delta_angles", "local_delta_angles", "feedback_ratios", "delta_ratios"), angles)
    assert [path.name for path in figures.draw_comparison(lines, tmp_path)] == ["test-error.png"]


@pytest.mark.parametrize("epochs", [1, 3])
def test_many_rules_fill_rows_and_no_labels_overlap(epochs):
    lines = [line(rule, epoch, 5.0 + place, angle=5.0 * place) for place, rule in enumerate(RELATED) for epoch in range(1, epochs + 1)]
    for draw in (figures._draw_errors, figures._draw_depth, figures._draw_sizes):
        for axes in drawn(lines, draw):
            boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
            assert len(boxes) > 10 and all(below.y1 <= above.y0 + 1 for below, above in zip(boxes, boxes[1:]))
    *grid, _ = [axes for axes in drawn(lines, figures._draw_angles) if axes.get_visible()]
    assert [axes.get_title() for axes in grid if axes.get_title()] == [figures.label(rule) for rule in RELATED]
    assert len(grid) == 3 * len(RELATED) and max(axes.get_subplotspec().colspan.stop for axes in grid) == figures.MOST_COLUMNS - 1


def test_every_rule_has_a_colour_of_its_own():
    own = colours.palette({**dict.fromkeys(colours.COLOURS), **{f"mine-{number}": f"mine-{number}" for number in range(7)}})
    lab = {rule: lightness_and_hue(style.color) for rule, style in own.items()}
    distances = {(a, b): np.linalg.norm(lab[a] - lab[b]) for a in lab for b in lab if a < b}
    assert min(distances.values()) > 20, min(distances, key=distances.get)
    for pair in (("om", "wm"), ("dfa", "dkp"), ("kp", "pfa"), ("ss", "usf"), ("sa", "ss"), ("sa", "usf")):
        assert distances[tuple(sorted(pair))] > 40, pair


def test_curves_can_be_told_apart_without_colours():
    own = colours.palette({**dict.fromkeys(colours.COLOURS), **{f"mine-{number}": f"mine-{number}" for number in range(5)}})
    assert len({style[1:] for style in own.values()}) == len(own)
    many = colours.palette({f"{number}": f"{number}" for number in range(35)})
    assert len(set(many.values())) == 35
    assert len(set(colours.palette({f"run-{number}": "kp" for number in range(35)}).values())) == 35


@pytest.mark.parametrize("draw", [figures._draw_errors, figures._draw_depth, figures._draw_sizes])
def test_curves_and_their_names_show_the_same_marker(draw):
    lines = [line(rule, epoch, 5.0 + epoch) for rule in ("kp", "mine") for epoch in range(1, 31)]
    styles = colours.palette({"kp": "kp", "mine": "mine"})
    figure = draw(lines, styles)
    for axes in figure.axes:
        shown = {curve.get_color(): curve for curve in axes.lines if len(curve.get_xdata()) > 1 and curve.get_color() != "grey"}
        for style in styles.values():
            curve = shown[style.color]
            assert (curve.get_marker(), curve.get_linestyle(), curve.get_fillstyle()) == style[1:]
            assert 1 <= len(curve.get_xdata()) / curve.get_markevery() <= 15
        assert len(axes.texts) == len([marks for marks in axes.collections if isinstance(marks, PathCollection)]) == 2


def test_angles_above_100_degrees_are_on_the_axis():
    lines = [line("fa", epoch, 5.0, angle=130.0) for epoch in (1, 2)]
    for draw in (figures._draw_depth, figures._draw_angles):
        assert drawn(lines, draw)[0].get_ylim()[1] > 140


def lightness_and_hue(colour):
    """A colour such as #0072B2 in CIELAB, where distances are as they are seen."""
    coded = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
