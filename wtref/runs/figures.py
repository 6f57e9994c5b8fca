"""Pictures of runs: test error per epoch, angles and sizes of feedback and errors, per layer and epoch.  Needs matplotlib."""

import math
from statistics import mean

from wtref import progress
from wtref.angles import mean_angle, measured
from wtref.runs.colours import label, palette
from wtref.runs.drawing import ONE_EPOCH, available, every, label_ends, save, subplots
from wtref.runs.run_files import ANGLES

SIZES = {"feedback_ratios", "delta_ratios", "update_angle"}  # entries that lines of older versions lack
EXACT = ("bp", "frozen")  # rules whose B is W^T: their angles are 0 and their ratios 1
COARSE_TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
TICKS = tuple(sorted((*COARSE_TICKS, 0.3, 3, 7, 15, 30, 40, 70)))
MOST_COLUMNS = 8  # of curves beside each other


def draw_comparison(lines, folder):
    """Draw test-error.png, depth.png, angles.png and sizes.png from metrics lines of several runs.

    Lines of the same "curve" (a rule or a run's name) are seeds of one curve.  Pictures of which the lines hold nothing are
    left out: all but the first for rules whose B is W^T or networks without an angle, and sizes.png for lines of an older version.

    Returns the paths; none, and a line on stderr, where matplotlib is not installed.
    """
    if not available():
        return []
    progress.show("drawing the pictures")
    lines = list(map(_completed, lines))
    styles = palette({line["curve"]: line["rule"] for line in lines})
    pictures = {"test-error.png": _draw_errors(lines, styles)}
    angled = {line["curve"] for line in lines if line["rule"] not in EXACT and _kinds([line])}
    if angled:
        theirs = {curve: style for curve, style in styles.items() if curve in angled}
        pictures["depth.png"] = _draw_depth(lines, theirs)
        pictures["angles.png"] = _draw_angles(lines, theirs)
        sized = [line for line in lines if SIZES <= line.keys()]
        if any(line["curve"] in angled for line in sized):
            pictures["sizes.png"] = _draw_sizes(sized, styles)
    return save(pictures, folder)


def _completed(line):
    """The line, with NaN for the local delta angles that an older version did not measure."""
    return {"local_delta_angles": dict.fromkeys(line["matrix_angles"], math.nan), **line}


def _kinds(lines):
    """{kind: entry} of the angles of which some were measured."""
    return {kind: entry for kind, entry in ANGLES.items() if any(measured(line[entry].values()) for line in lines)}


def _draw_errors(lines, styles):
    """One line per curve: the mean over seeds, in a band from the best seed to the worst."""
    figure, ((axes,),) = subplots(1, 1, (7, 4.2))
    ends, last = {}, max(line["epoch"] for line in lines)
    for curve, style in styles.items():
        epochs, values = _by_epoch(lines, curve, lambda line: line["test_error"])
        centre = [mean(v) for v in values]
        band = [min(v) for v in values], [max(v) for v in values]
        if len(epochs) > 1:
            axes.fill_between(epochs, *band, color=style.color, alpha=0.15, linewidth=0)
        else:  # a band would have no width
            axes.vlines(epochs, *band, color=style.color, alpha=0.4, linewidth=4)
        axes.plot(epochs, centre, **style._asdict(), markevery=every(epochs), markersize=5, linewidth=1.8, clip_on=False)
        ends[curve] = centre[-1]
    axes.set(xlabel="epoch", xlim=(1, last) if last > 1 else ONE_EPOCH)
    scale_errors(axes, [line["test_error"] for line in lines])
    label_ends(axes, {curve: (end, f"{label(curve)} {end:{'.1f' if end >= 1 else '.2g'}} %") for curve, end in ends.items()}, styles)
    return figure


def scale_errors(axes, errors):
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


def _draw_depth(lines, styles):
    """Angles at each curve's last epoch, by layer; the first layer on the left."""
    kinds = _kinds(lines)
    figure, (row,) = subplots(1, len(kinds), (4.5 * len(kinds), 3.8))
    for axes, (kind, entry) in zip(row, kinds.items()):
        ends = _draw_by_layer(axes, lines, styles, entry)
        axes.set(xlabel="layer", ylabel=f"{kind} angle (degrees)")
        _scale_angles(axes, lines)
        label_ends(axes, {curve: (end, f"{label(curve)} {end:.0f}°") for curve, end in ends.items()}, styles)
    return figure


def _draw_by_layer(axes, lines, styles, entry):
    """Draw an entry of each curve's last epoch, a point per layer, mean over seeds; returns {curve: the last layer's}."""
    depths, ends = _depths(lines), {}
    for curve, style in styles.items():
        values = _last_by_layer(lines, curve, entry)
        if measured(values.values()):
            at = [depths[name] for name in values]
            axes.plot(at, values.values(), **style._asdict(), markevery=every(at), markersize=4, linewidth=1.4, clip_on=False)
            ends[curve] = measured(values.values())[-1]
    return ends


def _last_by_layer(lines, curve, entry):
    """{layer: the mean over seeds} of an entry at the curve's last epoch; empty for a curve without lines."""
    mine = [line for line in lines if line["curve"] == curve]
    last = [line[entry] for line in mine if line["epoch"] == max(line["epoch"] for line in mine)]
    return {name: mean_angle(each[name] for each in last) for name in (last[0] if last else ())}


def _draw_sizes(lines, styles):
    """The sizes of B and of delta by layer, relative to backprop's, and the angle of the update over the epochs."""
    figure, (axes,) = subplots(1, 3, (14, 4), share=False)
    figure.get_layout_engine().set(wspace=0.06)  # else labels of curves would touch the next axis's name
    rules = {line["curve"]: line["rule"] for line in lines}
    free = {curve: styles[curve] for curve, rule in rules.items() if rule not in EXACT}
    _draw_ratios(axes[0], lines, free, "feedback_ratios", "‖B‖ / ‖W‖")
    _draw_ratios(axes[1], lines, free, "delta_ratios", "‖δ‖ / ‖δ by backprop‖")
    _draw_updates(axes[2], lines, {curve: styles[curve] for curve, rule in rules.items() if rule != "bp"})
    return figure


def _draw_ratios(axes, lines, styles, entry, name):
    """Ratios at each curve's last epoch, by layer, on a logarithmic axis; a cross at the bottom stands for 0."""
    positive, depths = [], _depths(lines)
    for curve, style in styles.items():
        values = _last_by_layer(lines, curve, entry)
        positive += [value for value in values.values() if value > 0]
        zeros = [depths[layer] for layer, value in values.items() if value == 0]
        axes.plot(zeros, [0.03] * len(zeros), transform=axes.get_xaxis_transform(), color=style.color, linestyle="", marker="x")
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set(xlabel="layer", ylabel=name, xlim=(0.5, len(depths) + 0.5))
    _scale_ratios(axes, positive)
    ends = _draw_by_layer(axes, lines, styles, entry)
    label_ends(axes, {curve: (end, f"{label(curve)} {end:.3g}") for curve, end in ends.items()}, styles)


def _scale_ratios(axes, ratios):
    """Set a logarithmic axis that shows 1 and all ratios, with ticks at 1, 2 and 5 unless it spans many decades."""
    low, high = min([0.5, *ratios]), max([2, *ratios])
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylim(low / 1.3, high * 1.3)
    if high / low < 1000:
        decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        ticks = [tick for tick in ticks if low / 1.3 <= tick <= high * 1.3]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()


def _draw_updates(axes, lines, styles):
    """The angle between the whole update and backprop's, per epoch, mean over seeds."""
    ends, last = {}, max(line["epoch"] for line in lines)
    for curve, style in styles.items():
        epochs, values = _by_epoch(lines, curve, lambda line: line["update_angle"])
        means = [mean_angle(v) for v in values]
        axes.plot(epochs, means, **style._asdict(), markevery=every(epochs), markersize=4, linewidth=1.4, clip_on=False)
        if measured(means):
            ends[curve] = measured(means)[-1]
    axes.set(xlabel="epoch", ylabel="update angle (degrees)", xlim=(1, last) if last > 1 else ONE_EPOCH)
    _scale_angles(axes, lines)
    label_ends(axes, {curve: (end, f"{label(curve)} {end:.0f}°") for curve, end in ends.items()}, styles)


def _draw_angles(lines, styles):
    """A column per curve, of its kinds of angles; many curves fill several rows of such columns."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    kinds, rows = _kinds(lines), math.ceil(len(styles) / MOST_COLUMNS)
    columns, height = math.ceil(len(styles) / rows), len(kinds)
    figure, grid = subplots(height * rows, columns, (2.3 * columns + 1.2, 2.4 * height * rows))
    colour_of = colormaps["viridis"]
    for number, curve in enumerate(styles):
        row, column = divmod(number, columns)
        for axes, (kind, entry) in zip(grid[height * row :, column], kinds.items()):
            lowest = kind == list(kinds)[-1]
            _draw_layers(axes, lines, curve, entry, colour_of)
            axes.tick_params(labelbottom=lowest, labelleft=column == 0)
            axes.set(xlabel="epoch" if lowest else "", ylabel=f"{kind} angle (°)" if column == 0 else "")
        grid[height * row, column].set_title(label(curve), color=styles[curve].color, fontweight="bold", parse_math=False)
    for axes in grid[-height:, len(styles) - columns * (rows - 1) :].flat:
        axes.set_visible(False)
    _scale_angles(grid[0, 0], lines)  # and all others, which share its axes
    if max(line["epoch"] for line in lines) == 1:
        grid[0, 0].set_xlim(ONE_EPOCH)
    bar = figure.colorbar(ScalarMappable(cmap=colour_of), ax=grid, ticks=[0, 1], fraction=0.03, pad=0.02)
    bar.ax.set_yticklabels(["first", "last"])
    bar.set_label("layer", labelpad=-16)
    return figure


def _draw_layers(axes, lines, curve, entry, colour_of):
    """Angles of a curve over the epochs, a line per layer, mean over seeds."""
    depths = _depths(lines)
    names = next(line[entry] for line in lines if line["curve"] == curve)
    for name in names:
        epochs, values = _by_epoch(lines, curve, lambda line: line[entry][name])
        colour = colour_of((depths[name] - 1) / max(len(depths) - 1, 1))
        marker = "o" if len(epochs) == 1 else None  # where a line would be invisible
        axes.plot(epochs, [mean_angle(v) for v in values], color=colour, linewidth=1.2, marker=marker, markersize=4)
    if not names:
        axes.text(0.5, 0.5, "no such matrix", transform=axes.transAxes, ha="center", color="grey")


def _scale_angles(axes, lines):
    """Set an axis of degrees that holds all angles of the lines; those above 100 are rare."""
    angles = measured([angle for line in lines for entry in ANGLES.values() for angle in line[entry].values()])
    angles += measured([line.get("update_angle", math.nan) for line in lines])
    top = 100 if max(angles, default=0) <= 100 else 180
    axes.set(ylim=(-3, top + 3 * (top > 100)), yticks=range(0, top + 1, 20))


def _depths(lines):
    """{layer: 1, 2, ...} from the first layer, which has no B of its own, to the last, which has no delta below it."""
    names = dict.fromkeys(name for kind in ("delta", "matrix") for line in lines for name in line[f"{kind}_angles"])
    return {name: depth for depth, name in enumerate(names, start=1)}


def _by_epoch(lines, curve, value):
    """The epochs of a curve, and for each the values of all seeds."""
    mine = [line for line in lines if line["curve"] == curve]
    epochs = sorted({line["epoch"] for line in mine})
    return epochs, [[value(line) for line in mine if line["epoch"] == epoch] for epoch in epochs]
