"""What the pictures have in common: their axes, markers and files, and the names beside the ends of curves.  Needs matplotlib."""

import math
import sys

from wtref.files import saving

MOST_MARKERS = 12  # of a curve
GAP = 0.06  # between labels of 10 points, as a fraction of the axes' height; more of them are smaller
ONE_EPOCH = (0, 2)  # limits of the axis of epochs if there is only one


def available():
    """Whether matplotlib is installed; if it is not, print a line to stderr that says how to install it."""
    try:
        import matplotlib
    except ImportError:
        print("no pictures: they need matplotlib, pip install 'wtref[plot]'", file=sys.stderr)
        return False
    matplotlib.use("Agg")
    return True


def save(pictures, folder):
    from matplotlib import pyplot

    for name, figure in pictures.items():
        with saving(folder / name) as file:
            figure.savefig(file, format="png", dpi=160)
        pyplot.close(figure)
    return [folder / name for name in pictures]


def subplots(rows, columns, size, share=True):
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained",
                                   sharex=share, sharey=share)  # fmt: skip
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.xaxis.get_major_locator().set_params(integer=True)  # epochs
    return figure, grid


def every(points):
    """Which points of a curve have a marker: every such one, so that there are at most MOST_MARKERS."""
    return math.ceil(len(points) / MOST_MARKERS)


def label_ends(axes, ends, styles):
    """Write texts beside the right edge, {curve: (height, text)}, each after its curve's marker, without overlaps.

    The axes' limits must not change afterwards.
    """
    to_fraction = axes.transData + axes.transAxes.inverted()
    heights = {curve: to_fraction.transform((axes.get_xlim()[1], height))[1] for curve, (height, _) in ends.items()}
    gap = min(GAP, 1 / max(len(ends), 1))
    for curve, height in spread_out(heights, gap).items():
        style, size = styles[curve], 10 * gap / GAP
        face = style.color if style.fillstyle == "full" else "none"
        axes.scatter(1.025, height, size**2 / 3, face, marker=style.marker, edgecolors=style.color, transform=axes.transAxes, clip_on=False)
        axes.annotate(ends[curve][1], (1.025, height), xycoords="axes fraction", xytext=(0.7 * size, 0), textcoords="offset points",
                      color=style.color, va="center", annotation_clip=False, fontsize=size, parse_math=False)  # fmt: skip


def spread_out(heights, gap):
    """The same heights in the same order, each at least `gap` above the one below, none above 1 if there is room."""
    placed, floor, ceiling = {}, 0.0, 1.0
    for name in sorted(heights, key=heights.get):
        placed[name] = max(heights[name], floor)
        floor = placed[name] + gap
    for name in sorted(placed, key=placed.get, reverse=True):
        placed[name] = min(placed[name], ceiling)
        ceiling = placed[name] - gap
    return placed
