"""The report of an experiment: a table, figures, and both in one HTML file that needs nothing else.

metrics.jsonl   a line per rule, seed and epoch, from which all can be redrawn
table.txt       rules, accuracies and angles, beside published accuracies if there are any
*.png           the figures (figures.py)
report.html     all of it, figures inlined
"""

import base64
import json
import math
from dataclasses import asdict
from html import escape
from statistics import mean, stdev

from wtref.angles import mean_angle, measured
from wtref.files import make_folder, write_lines, write_text
from wtref.runs import course, figures
from wtref.runs.colours import label
from wtref.runs.drawing import save
from wtref.text import columns, counted, printable, spread, wrapped

COLUMNS = ("rule", "accuracy %", "matrix", "worst", "delta", "local", "update", "seconds", "runs")
MEANINGS = (
    "angles are in degrees, means over layers; worst: the worst layer's matrix angle\n"
    "matrix: angle between B and Wᵀ\n"
    "delta: angle between δ and backprop's, both from the output all the way down\n"
    "local: local delta angle, between Bδ and Wᵀδ in one layer, for the same δ\n"
    "update: angle between the updates of all W together and backprop's\n"
)
CONTROL = "frozen: hidden weights never learn; a gain over it is due to hidden layers\n"
DIFFERENCES = "accuracy minus BP's with the same seed, mean ± standard error over seeds: "
NAMED_RUNS = 12  # missing runs that a message names
NAMED_LAYERS = 4  # layers without a delta angle that a line names
CAPTIONS = {
    "test-error.png": "Test error per epoch: the mean over seeds, in a band from the best seed to the worst.",
    "depth.png": "Alignment against depth at the last epoch: a point per layer, the first layer on the left; numbers: the last layer's.",
    "angles.png": "Matrix, delta and local delta angle of each layer over the epochs, mean over seeds.",
    "course.png": "Test error and angles, mean over layers and seeds, over the epochs; circles: the other program's.",
    "sizes.png": "Feedback weights and errors by layer at the last epoch, their norms relative to W's and to those of backprop's errors "
    "(1: as large; a cross at the bottom: all zero), and the angle between the whole update and backprop's; means over seeds.",
}
STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #8886 }
.wide { overflow-x: auto } th, td { white-space: nowrap }
th:first-child, td:first-child { text-align: left } figure { margin: 2rem 0 } figcaption { color: #777 }
img { max-width: 100%; background: #fff; border-radius: 6px } pre { overflow-x: auto; padding: .8rem; background: #8882 }
"""


def write(folder, experiment, configs, lines, command):
    """Write everything from the metrics lines of finished runs into `folder`, new or not; returns the paths.

    configs: of all runs, finished or not; command: what repeats the experiment.  Raises Unsaved.
    """
    make_folder(folder)
    metrics, table, page = (folder / name for name in ("metrics.jsonl", "table.txt", "report.html"))
    write_lines(metrics, lines)
    write_text(table, text(experiment, configs, lines))
    pictures = figures.draw_comparison([{**line, "curve": line["rule"]} for line in lines], folder)
    if experiment.looks and pictures:
        pictures += save({"course.png": course.draw(experiment, lines)}, folder)
    write_text(page, _page(experiment, configs, lines, pictures, command))
    return [metrics, table, *pictures, page]


def text(experiment, configs, lines):
    """The table and what it is of, as text."""
    whole = f"{columns(table(experiment, configs, lines), str.rjust)}\n\n{_foot(experiment, configs, lines)}"
    return f"{whole}\n{course.table(experiment, lines)}" if experiment.looks else whole


def _foot(experiment, configs, lines):
    about = f"{experiment.about}; after {counted(configs[0].epochs, 'epoch')}; mean ± standard deviation over seeds"
    foot = f"{wrapped(about)}\n{MEANINGS}"
    if any(line["rule"] == "frozen" for line in lines):
        foot += CONTROL
    foot += _differences_in_words(lines) + _unmeasured_in_words(lines)
    if experiment.published:
        foot += f"{wrapped(f'published: {experiment.source}')}\n"
    missing = missing_in_words(configs, lines)
    return foot + (f"{wrapped(missing)}\n" if missing else "")


def _differences_in_words(lines):
    """Each rule's accuracy minus backprop's with the same seed, where at least two seeds are common to both."""
    errors = {(line["rule"], line["seed"]): line["test_error"] for line in last_lines(lines)}
    found = []
    for rule in dict.fromkeys(rule for rule, _ in errors if rule != "bp"):
        gains = [errors["bp", seed] - error for (name, seed), error in errors.items() if name == rule and ("bp", seed) in errors]
        if gains[1:]:
            found.append(f"{label(rule)}~{mean(gains):+.2f}~±~{stdev(gains) / math.sqrt(len(gains)):.2f}")
    text = wrapped(DIFFERENCES + ", ".join(found)).replace("~", " ")  # no line ends within an item
    return f"{text}\n" if found else ""


def _unmeasured_in_words(lines):
    """For each rule, the layers without a delta angle at the last epoch, and whether its own delta is zero there or backprop's."""
    text = ""
    for rule in dict.fromkeys(line["rule"] for line in lines):
        ratios = [item for line in last_lines([x for x in lines if x["rule"] == rule]) for item in line.get("delta_ratios", {}).items()]
        if zero := list(dict.fromkeys(name for name, ratio in ratios if ratio == 0)):
            text += f"{label(rule)}: no delta angle in {_shortened(zero, NAMED_LAYERS)}: δ is zero there\n"
        if unknown := list(dict.fromkeys(name for name, ratio in ratios if math.isnan(ratio))):
            text += f"{label(rule)}: no delta angle in {_shortened(unknown, NAMED_LAYERS)}: backprop's δ is zero there\n"
    return text


def _shortened(names, most):
    """The names, of many only the first and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def missing_in_words(configs, lines):
    """Which of the runs have no metrics lines, "" where none is missing."""
    finished = {(line["rule"], line["seed"]) for line in lines}
    missing = [f"{config.rule} seed {config.seed}" for config in configs if (config.rule, config.seed) not in finished]
    if not missing:
        return ""
    return f"{len(configs) - len(missing)} of {len(configs)} runs finished; missing: {_shortened(missing, NAMED_RUNS)}"


def table(experiment, configs, lines):
    """The heading and the row of each rule that has a finished run, as tuples of texts."""
    published = experiment.published
    rows = [COLUMNS + ("published %",) * bool(published)]
    for rule in dict.fromkeys(config.rule for config in configs):
        mine = [line for line in lines if line["rule"] == rule]
        if mine:
            rows.append(_row(rule, mine) + (published.get(rule, "–"),) * bool(published))
    return rows


def _row(rule, mine):
    last = last_lines(mine)
    accuracies = [100 - line["test_error"] for line in last]
    matrix, worst = _angles(line["matrix_angles"] for line in last)
    delta, _ = _angles(line["delta_angles"] for line in last)
    local, _ = _angles(line.get("local_delta_angles", {}) for line in last)
    update, _ = _angles({"update": line.get("update_angle", math.nan)} for line in last)
    seconds = sum(line["seconds"] for line in mine) / len(last)
    return label(rule), spread(accuracies), matrix, worst, delta, local, update, f"{seconds:.1f}", str(len(last))


def last_lines(lines):
    """The lines of the last epoch."""
    end = max((line["epoch"] for line in lines), default=0)
    return [line for line in lines if line["epoch"] == end]


def _angles(by_seed):
    """(mean over layers, widest layer) of the layers' means over seeds, without those that could not be measured."""
    by_seed = list(by_seed)
    names = dict.fromkeys(name for angles in by_seed for name in angles)
    layers = measured(mean_angle(angles.get(name, math.nan) for angles in by_seed) for name in names)
    return (f"{mean(layers):.1f}", f"{max(layers):.1f}") if layers else ("–", "–")


def recipes(configs):
    """(the fields that all Configs share, {rule: those in which the rules differ}); without data_dir, seed and rule."""
    by_rule = {config.rule: asdict(config) for config in configs}
    first = next(iter(by_rule.values()))
    names = [name for name in first if name not in ("rule", "seed", "data_dir")]
    shared = {name: first[name] for name in names if all(fields[name] == first[name] for fields in by_rule.values())}
    own = {rule: {name: fields[name] for name in names if name not in shared} for rule, fields in by_rule.items()}
    return shared, {rule: fields for rule, fields in own.items() if fields}


def _configuration(configs):
    shared, own = recipes(configs)
    shown = f"<pre>{escape(json.dumps(shared, indent=2))}</pre>"
    if own:
        lines = "\n".join(f"{rule}: {json.dumps(fields)}" for rule, fields in own.items())
        shown += f"\n<p>The rules differ in:</p>\n<pre>{escape(lines)}</pre>"
    return shown


def _course(experiment, lines):
    return f"<pre>{escape(course.table(experiment, lines))}</pre>" if experiment.looks else ""


def _page(experiment, configs, lines, pictures, command):
    head, *rows = table(experiment, configs, lines)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    shown = "\n".join(
        f'<figure><img alt="{escape(CAPTIONS[path.name])}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}"><figcaption>{escape(CAPTIONS[path.name])}</figcaption></figure>'
        for path in pictures
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>wtref: {escape(experiment.about)}</title><style>{STYLE}</style></head>
<body>
<h1>{escape(experiment.about)}</h1>
<div class="wide"><table><tr>{head}</tr>
{body}</table></div>
<p>{escape(_foot(experiment, configs, lines)).replace(chr(10), "<br>")}</p>
{_course(experiment, lines)}
{shown}
<h2>To repeat it</h2>
<pre>{escape(printable(command))}</pre>
<h2>Configuration</h2>
{_configuration(configs)}
</body></html>
"""
