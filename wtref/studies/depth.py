"""`run.py reproduce depth`: how far down the rules bring useful errors, in networks from 3 to 56 layers.

Residual networks and plain ones, with batch norm before the ReLU, learn the digits.  The delta angle of the first layer is
that of errors that have come all the way down; the local delta angle is that of one layer, mean over layers.
"""

from wtref.angles import mean_angle, measured
from wtref.runs.colours import label, palette
from wtref.runs.drawing import label_ends, subplots
from wtref.runs.experiments import DIGITS, Experiment
from wtref.runs.figures import EXACT
from wtref.runs.report import last_lines
from wtref.runs.series import Series

# At the learning rate of the residual networks, 0.1, backprop itself fails in 16 hidden layers: 56 % where this recipe reaches 97 %.
MLP = {**DIGITS, "model": "mlp", "norm": "before", "epochs": 20, "lr": 0.02}
FAMILIES = {  # {kind of network: {number of layers on the way down: (part, recipe)}}
    "residual networks": {n: (f"depth-resnet{n}", {**DIGITS, "model": f"resnet{n}"}) for n in (8, 20, 56)},
    "plain networks, 64 cells a layer": {n + 1: (f"depth-mlp{n}", {**MLP, "hidden": (64,) * n}) for n in (2, 4, 8, 16)},
}


def draw(lines):
    """The figure of accuracies, delta angles and local delta angles against depth; lines: {part: metrics lines}."""
    figure, grid = subplots(2, 3, (15, 8), share=False)
    styles = palette({line["rule"]: line["rule"] for part in lines.values() for line in part})
    for row, (family, depths) in zip(grid, FAMILIES.items()):
        found = {depth: last for depth, (part, _) in depths.items() if (last := last_lines(lines.get(part, [])))}
        _draw_against_depth(row[0], found, styles, lambda line: 100 - line["test_error"], "test accuracy (%)")
        angled = {rule: style for rule, style in styles.items() if rule not in EXACT}
        for axes in row[1:]:
            axes.set_ylim(-3, 103)
        _draw_against_depth(row[1], found, angled, _of_first_layer, "delta angle of the first layer (°)")
        _draw_against_depth(
            row[2], found, angled, lambda line: mean_angle(line["local_delta_angles"].values()), "local delta angle, mean (°)"
        )
        row[0].set_title(family, fontsize=10, loc="left")
    return figure


def _draw_against_depth(axes, found, styles, measure, name):
    """A curve for each rule, mean over seeds; found: {depth: lines of the last epoch}."""
    ends = {}
    for rule, style in styles.items():
        means = {depth: mean_angle(measure(line) for line in last if line["rule"] == rule) for depth, last in found.items()}
        if known := measured(means.values()):
            axes.plot(means.keys(), means.values(), **style._asdict(), markersize=5, linewidth=1.6)
            ends[rule] = known[-1], f"{label(rule)} {known[-1]:.0f}"
    axes.set_xscale("log")
    axes.set(xlabel="layers", ylabel=name)
    axes.set_xticks(list(found), map(str, found))
    axes.minorticks_off()
    label_ends(axes, ends, styles)


def _of_first_layer(line):
    return next(iter(line["delta_angles"].values()))


PARTS = {
    part: Experiment(f"{part.removeprefix('depth-')} on digits", recipe) for depths in FAMILIES.values() for part, recipe in depths.values()
}
DEPTH = Series("networks of different depths on the digits", PARTS, draw)
