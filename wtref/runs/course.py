"""The course of an experiment: a table at some of its epochs and a picture of all, beside another program's log if there is one."""

import csv
import math

from wtref.angles import mean_angle, measured
from wtref.errors import InputError
from wtref.runs.colours import label, palette
from wtref.runs.drawing import label_ends, subplots
from wtref.runs.figures import EXACT, scale_errors
from wtref.runs.run_files import ANGLES, MEASURED, check_once, check_record
from wtref.text import columns

LOGGED = ("rule", "epoch", "test_accuracy", "matrix_angle_output", "delta_angle_hidden")  # the columns of a log
TICKS = [digit * 10**power for power in range(6) for digit in (1, 2, 5)]  # of epochs
CIRCLED = {digit * 10**power for power in range(6) for digit in (1, 2, 3, 5, 7)}  # epochs of a log that are drawn, and the last
MEANING = "means over seeds; matrix, delta, local: angles in degrees\n"
BESIDE = "behind a stroke: the other program's; its delta angle is a local one, of one image\n"


def _error(line):
    return line["test_error"]


def _mean_of(entry):
    return lambda line: mean_angle(line[entry].values())


MEASURES = {"test error (%)": _error, **{f"{kind} angle (°)": _mean_of(entry) for kind, entry in ANGLES.items()}}


def read_log(path, rules):
    """Another program's log as lines like those of metrics.jsonl.

    Parameters: path, of a CSV file with the columns LOGGED, in percent and degrees, empty where nothing was measured; rules, the
        experiment's: a log's "wm" is the experiment's "authors-wm" if it has such a rule.
    Raises: InputError for any other file, which names the line, for one without a row of these rules, and for two rows of one epoch.
    """
    names = {rule.removeprefix("authors-"): rule for rule in rules}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # with a byte-order mark or without
            rows = csv.DictReader(file)
            if missing := [name for name in LOGGED if name not in (rows.fieldnames or ())]:
                raise InputError(f"--beside {path}: lacks the columns {', '.join(missing)}; right would be {', '.join(LOGGED)}")
            lines = [_line(path, rows.line_num, row, names) for row in rows if row["rule"] in names]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--beside {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not lines:
        raise InputError(f"--beside {path}: no row is of one of the experiment's rules, {', '.join(names)}")
    check_once(f"--beside {path}", lines, ("rule", "epoch"))
    return lines


def _line(path, number, row, names):
    """A row of a log as a line of metrics; path and number: where it stands."""
    try:
        accuracy, matrix, delta = (float(row[name] or math.nan) for name in LOGGED[2:])
        angles = {"matrix_angles": {"output": matrix}, "delta_angles": {}, "local_delta_angles": {"output": delta}}
        line = {"rule": names[row["rule"]], "epoch": int(row["epoch"]), "test_error": 100 - accuracy, **angles}
        check_record(line, MEASURED)
    except (TypeError, ValueError) as problem:
        raise InputError(f"--beside {path}, line {number}: {problem}; right would be percent and degrees") from None
    return line


def table(experiment, lines):
    """A row for each rule at each of the experiment's `looks`, and at the last epoch, with what it means, as text."""
    rows, last = [("epoch", "rule", "accuracy %", "matrix", "delta", "local")], max((line["epoch"] for line in lines), default=1)
    for epoch in sorted({last, *(look for look in experiment.looks if look < last)}):
        for rule in dict.fromkeys(line["rule"] for line in lines if line["epoch"] == epoch):
            pairs = zip(_means(lines, rule, epoch), _means(experiment.beside, rule, epoch))
            rows.append((f"{epoch:,}", label(rule), *(_cell(*pair) for pair in pairs)))
    return f"{columns(rows, str.rjust)}\n\n{BESIDE if experiment.beside else ''}{MEANING}"


def _means(lines, rule, epoch):
    """Accuracy and angles of a rule after an epoch, means over seeds; NaN where there are none."""
    mine = [line for line in lines if (line["rule"], line["epoch"]) == (rule, epoch)]
    error, *angles = (mean_angle(map(measure, mine)) for measure in MEASURES.values())
    return 100 - error, *angles


def _cell(ours, theirs):
    ours, theirs = ("–" if math.isnan(number) else f"{number:.2f}" for number in (ours, theirs))
    return ours if theirs == "–" else f"{ours} / {theirs}"


def draw(experiment, lines):
    """The figure of all measures over the epochs: lines for the experiment's rules, circles for the other program's."""
    figure, grid = subplots(2, 2, (11, 8), share=False)
    styles, last = palette({line["rule"]: line["rule"] for line in lines}), max(line["epoch"] for line in lines)
    beside = [line for line in experiment.beside if line["epoch"] <= last]
    for axes, (name, measure) in zip(grid.flat, MEASURES.items()):
        shown = {rule: style for rule, style in styles.items() if measure is _error or rule not in EXACT}
        ends = {}
        for rule, style in shown.items():
            axes.plot(*_curve(lines, rule, measure), color=style.color, linestyle=style.linestyle, linewidth=1.6)
            circles = [line for line in beside if line["epoch"] in {*CIRCLED, last} and not math.isnan(measure(line))]
            if {line["rule"] for line in circles} >= {rule}:
                axes.plot(*_curve(circles, rule, measure), "o", color=style.color, fillstyle="none", markersize=5, clip_on=False)
            if known := measured(_curve(lines, rule, measure)[1]):
                ends[rule] = known[-1], f"{label(rule)} {known[-1]:.1f}"
        _scale(axes, measure, last, measured(map(measure, [*lines, *beside])))
        axes.set_ylabel(name)
        label_ends(axes, ends, {rule: style._replace(marker="s", fillstyle="full") for rule, style in shown.items()})
    if beside:
        figure.suptitle("lines: this program; circles: the other program's log", fontsize=10)
    return figure


def _curve(lines, rule, measure):
    """The epochs of a rule and the means over seeds of a measure."""
    mine = [line for line in lines if line["rule"] == rule]
    epochs = sorted({line["epoch"] for line in mine})
    return epochs, [mean_angle(measure(line) for line in mine if line["epoch"] == epoch) for epoch in epochs]


def _scale(axes, measure, last, values):
    if measure is _error:
        scale_errors(axes, values)
    else:
        axes.set_ylim(0, max([90, *values]))
    axes.set_xscale("log")
    ticks = [*(epoch for epoch in TICKS if 1.5 * epoch < last), last]
    axes.set(xlabel="epoch", xlim=(1, max(last, 2)))
    axes.set_xticks(ticks, [f"{epoch:,}" for epoch in ticks])
    axes.minorticks_off()
