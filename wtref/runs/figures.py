"""Pictures of runs: test error per epoch, angles per layer and epoch, and against depth.  Needs matplotlib."""

import sys
from statistics import mean

from wtref.angles import mean_angle, measured
from wtref.files import saving
from wtref.text import printable

COLOURS = {  # the palette of Okabe and Ito, which colour-blind readers can distinguish; one colour per rule everywhere
    "bp": "#000000", "fa": "#D55E00", "ss": "#E69F00", "wm": "#0072B2", "kp": "#009E73",
    "usf": "#E69F00", "frsf": "#56B4E9", "brsf": "#8C6D31", "dfa": "#CC79A7",
}  # fmt: skip

OTHERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # runs by name, in order
COARSE_TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
TICKS = tuple(sorted((*COARSE_TICKS, 0.3, 3, 7, 15, 30, 40, 70)))
LONGEST = 20  # characters of a name
ONE_EPOCH = (0, 2)  # limits of the axis of epochs if there is only one
LABELS = {"usf": "uSF", "frsf": "frSF", "brsf": "brSF"}


def label(curve):
    """The label of a curve: a rule's name as the literature writes it, or the name of a run.

    Long names of runs are shortened in the middle; "$", with which Matplotlib begins a formula, is escaped.
    """
    if curve in COLOURS:
        return LABELS.get(curve, curve.upper())
    name = printable(curve)
    name = f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 :]}" if len(name) > LONGEST else name
    return name.replace("$", r"\$")


def palette(curves):
    """{curve: colour}"""
    return {curve: COLOURS.get(curve, OTHERS[i % len(OTHERS)]) for i, curve in enumerate(curves)}


def draw_comparison(lines, folder):
    """Draw test-error.png, depth.png and angles.png from metrics lines of several runs.

    Lines of the same "curve" (a rule or a run's name) are seeds of one curve.

    Returns the paths; none, and a line on stderr, where matplotlib is not installed.
    """
    if not _ready():
        return []
    colours = palette(dict.fromkeys(line["curve"] for line in lines))
    pictures = {"test-error.png": _draw_errors(lines, colours)}
    angled = {line["curve"] for line in lines if line["rule"] != "bp"}  # backprop's angles are 0
    if angled:
        theirs = {curve: colour for curve, colour in colours.items() if curve in angled}
        pictures["depth.png"] = _draw_depth(lines, theirs)
        pictures["angles.png"] = _draw_angles(lines, theirs)
    return _save(pictures, folder)


def draw_lessons(noises, decays, folder):
    """Draw mirror.png from mirror.lessons; returns the paths, as draw_comparison does."""
    if not _ready():
        return []
    figure, ((left, right),) = _figure(1, 2, (10, 4), share=False)
    for (noise, points), dashes in zip(noises.items(), ("-", "--")):
        counts, measured, theory = zip(*points)
        left.plot(counts, theory, color=COLOURS["wm"], linestyle=dashes, linewidth=1.4)
        left.plot(counts, measured, color=COLOURS["wm"], linestyle="", marker="o", markersize=5)
        left.annotate(noise, (counts[-1], measured[-1]), xytext=(6, 6), textcoords="offset points", color=COLOURS["wm"],
                      annotation_clip=False)  # fmt: skip
    left.set_xscale("log", base=2)
    left.set(xlabel="rows of noise", ylabel="matrix angle (degrees)", ylim=(-2, 90))
    left.set_title("WM: points measured, lines by theory", fontsize=10, loc="left")
    for (decay, momentum), points in decays.items():
        counts, measured, theory = zip(*points)
        right.plot(counts, theory, color=COLOURS["kp"], linewidth=1.4)
        right.plot(counts[::25], measured[::25], color=COLOURS["kp"], linestyle="", marker="o", markersize=4)
        text = f"λ = {decay:g}" + (f", momentum {momentum:g}" if momentum else "")
        end = next((p for p in points if p.measured < 1e-3), points[-1])
        right.annotate(text, (end.count, max(end.measured, 1.3e-3)), xytext=(6, 0), textcoords="offset points", va="center",
                       color=COLOURS["kp"], annotation_clip=False)  # fmt: skip
    right.set_yscale("log")
    right.set(xlabel="training step", ylabel="‖W − Bᵀ‖, relative to its start", xlim=(0, counts[-1]), ylim=(1e-3, 1.3))
    right.set_title("KP: points measured, lines by theory", fontsize=10, loc="left")
    return _save({"mirror.png": figure}, folder)


def _ready():
    """Whether matplotlib is installed; if it is not, print a line to stderr that says how to install it."""
    try:
        import matplotlib
    except ImportError:
        print("no pictures: they need matplotlib, pip install 'wtref[plot]'", file=sys.stderr)
        return False
    matplotlib.use("Agg")
    return True


def _save(pictures, folder):
    from matplotlib import pyplot

    for name, figure in pictures.items():
        with saving(folder / name) as file:
            figure.savefig(file, format="png", dpi=160)
        pyplot.close(figure)
    return [folder / name for name in pictures]


def _draw_errors(lines, colours):
    """One line per curve: the mean over seeds, in a band from the best seed to the worst."""
    figure, ((axes,),) = _figure(1, 1, (7, 4.2))
    ends, last = {}, max(line["epoch"] for line in lines)
    for curve, colour in colours.items():
        epochs, values = _by_epoch(lines, curve, lambda line: line["test_error"])
        centre = [mean(v) for v in values]
        band = [min(v) for v in values], [max(v) for v in values]
        if len(epochs) > 1:
            axes.fill_between(epochs, *band, color=colour, alpha=0.15, linewidth=0)
        else:  # a band would have no width
            axes.vlines(epochs, *band, color=colour, alpha=0.4, linewidth=4)
        axes.plot(epochs, centre, color=colour, linewidth=1.8, marker=_marker(epochs))
        ends[curve] = centre[-1]
    axes.set(xlabel="epoch", xlim=(1, last) if last > 1 else ONE_EPOCH)
    _scale_errors(axes, [line["test_error"] for line in lines])
    _label_ends(axes, {curve: (end, f"{label(curve)} {end:{'.1f' if end >= 1 else '.2g'}} %") for curve, end in ends.items()}, colours)
    return figure


def _scale_errors(axes, errors):
    """Set a logarithmic axis between two ticks that enclose all errors; if some are 0, it is linear below the lower tick."""
    smallest = min(filter(None, errors), default=1)
    choice = TICKS if max(errors) < 50 * smallest else COARSE_TICKS
    low = max((tick for tick in choice[:-1] if tick <= smallest), default=choice[0])
    high = min((tick for tick in choice if tick > low and tick >= max(errors)), default=choice[-1])
    ticks = [tick for tick in choice if low <= tick <= high]
    if min(errors) > 0:
        axes.set_yscale("log")
        axes.set(ylabel="test error (%)", ylim=(min(low, smallest) / 1.03, high * 1.03))
    else:
        axes.set_yscale("symlog", linthresh=low, linscale=0.3)
        axes.set(ylabel=f"test error (%), linear below {low:g}", ylim=(-0.1 * low, high * 1.03))
        ticks.insert(0, 0)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def _marker(epochs):
    """A marker for a curve of a single point, where a line would be invisible."""
    return "o" if len(epochs) == 1 else None


def _draw_depth(lines, colours):
    """Angles at each curve's last epoch, a point per layer, mean over seeds; the first layer on the left."""
    figure, (row,) = _figure(1, 2, (9, 3.8))
    depths = _depths(lines)
    for axes, kind in zip(row, ("matrix", "delta")):
        ends = {}
        for curve, colour in colours.items():
            last = max(line["epoch"] for line in lines if line["curve"] == curve)
            mine = [line[f"{kind}_angles"] for line in lines if line["curve"] == curve and line["epoch"] == last]
            values = [mean_angle(angles[name] for angles in mine) for name in mine[0]]
            if not measured(values):
                continue
            axes.plot([depths[name] for name in mine[0]], values, color=colour, linewidth=1.4, marker="o", markersize=3)
            ends[curve] = measured(values)[-1]
        axes.set(ylim=(-3, 100), yticks=range(0, 101, 20), xlabel="layer")
        axes.set_ylabel(f"{kind} angle (degrees)")
        _label_ends(axes, {curve: (end, f"{label(curve)} {end:.0f}°") for curve, end in ends.items()}, colours)
    return figure


def _draw_angles(lines, colours):
    """Rows: matrix and delta angle; a column per curve; a line per layer, mean over seeds."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    figure, grid = _figure(2, len(colours), (2.3 * len(colours) + 1.2, 4.8))
    colour_of, depths = colormaps["viridis"], _depths(lines)
    for axes_row, kind in zip(grid, ("matrix", "delta")):
        for axes, curve in zip(axes_row, colours):
            mine = [line for line in lines if line["curve"] == curve]
            names = list(mine[0][f"{kind}_angles"])
            for name in names:
                epochs, values = _by_epoch(mine, curve, lambda line: line[f"{kind}_angles"][name])
                colour = colour_of((depths[name] - 1) / max(len(depths) - 1, 1))
                axes.plot(epochs, [mean_angle(v) for v in values], color=colour, linewidth=1.2, marker=_marker(epochs), markersize=4)
            if not names:
                axes.text(0.5, 0.5, "no such matrix", transform=axes.transAxes, ha="center", color="grey")
            axes.set(ylim=(-3, 100), yticks=range(0, 101, 20))
            axes.label_outer()
        axes_row[0].set_ylabel(f"{kind} angle (degrees)")
    for axes, curve in zip(grid[0], colours):
        axes.set_title(label(curve), color=colours[curve], fontweight="bold")
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    if max(line["epoch"] for line in lines) == 1:
        grid[0, 0].set_xlim(ONE_EPOCH)  # of all, which share it
    bar = figure.colorbar(ScalarMappable(cmap=colour_of), ax=grid, ticks=[0, 1], fraction=0.03, pad=0.02)
    bar.ax.set_yticklabels(["first", "last"])
    bar.set_label("layer", labelpad=-16)
    return figure


def _depths(lines):
    """{layer: 1, 2, ...} from the first layer, which has no B of its own, to the last, which has no delta below it."""
    names = dict.fromkeys(name for kind in ("delta", "matrix") for line in lines for name in line[f"{kind}_angles"])
    return {name: depth for depth, name in enumerate(names, start=1)}


def _figure(rows, columns, size, share=True):
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained",
                                   sharex=share, sharey=share)  # fmt: skip
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.xaxis.get_major_locator().set_params(integer=True)  # epochs
    return figure, grid


def _by_epoch(lines, curve, value):
    """The epochs of a curve, and for each the values of all seeds."""
    mine = [line for line in lines if line["curve"] == curve]
    epochs = sorted({line["epoch"] for line in mine})
    return epochs, [[value(line) for line in mine if line["epoch"] == epoch] for epoch in epochs]


def _label_ends(axes, ends, colours):
    """Write texts beside the right edge, {curve: (height, text)}, in the curves' colours and without overlaps."""
    to_fraction = axes.transData + axes.transAxes.inverted()
    heights = {curve: to_fraction.transform((axes.get_xlim()[1], height))[1] for curve, (height, _) in ends.items()}
    for curve, height in _spread_out(heights, gap=0.06).items():
        axes.annotate(ends[curve][1], (1, height), xycoords="axes fraction", xytext=(6, 0), color=colours[curve],
                      textcoords="offset points", va="center", annotation_clip=False)  # fmt: skip


def _spread_out(heights, gap):
    """The same heights in the same order, each at least `gap` above the one below, none above 1 if there is room."""
    placed, floor, ceiling = {}, 0.0, 1.0
    for name in sorted(heights, key=heights.get):
        placed[name] = max(heights[name], floor)
        floor = placed[name] + gap
    for name in sorted(placed, key=placed.get, reverse=True):
        placed[name] = min(placed[name], ceiling)
        ceiling = placed[name] - gap
    return placed
