"""The report of an experiment: a table, figures, and both in one HTML file that needs nothing else.

    table.txt       rules, errors and angles beside the published numbers
    metrics.jsonl   a line per rule, seed and epoch, from which all can be redrawn
    *.png           the figures (figures.py)
    report.html     all of it, figures inlined
"""

import base64
import json
from dataclasses import asdict
from html import escape
from statistics import mean, stdev

from wtref.angles import mean_angle, measured
from wtref.files import make_folder, write_lines, write_text
from wtref.runs import figures
from wtref.text import printable

COLUMNS = ("rule", "test error %", "runs", "matrix angle °", "worst layer °", "delta angle °", "worst layer °", "published %")
CAPTIONS = {
    "test-error.png": "Test error per epoch: the mean over seeds, in a band from the best seed to the worst.",
    "depth.png": "Alignment against depth at the last epoch: a point per layer, the first layer on the left; numbers: the last layer's.",
    "angles.png": "Matrix and delta angle of each layer over the epochs, mean over seeds.",
}
STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #8886 }
th:first-child, td:first-child { text-align: left } figure { margin: 2rem 0 } figcaption { color: #777 }
img { max-width: 100%; background: #fff; border-radius: 6px } pre { overflow-x: auto; padding: .8rem; background: #8882 }
"""


def write(folder, experiment, configs, lines, command):
    """Write everything from the metrics lines of runs of these Configs into `folder`, new or not.

    command: what repeats the experiment.  Raises Unsaved.
    """
    make_folder(folder)
    write_lines(folder / "metrics.jsonl", lines)
    write_text(folder / "table.txt", text(experiment, configs, lines))
    curves = [{**line, "curve": line["rule"]} for line in lines]
    pictures = figures.draw_comparison(curves, folder)
    write_text(folder / "report.html", _page(experiment, configs, lines, pictures, command))


def text(experiment, configs, lines):
    """The table and what it is of, as text."""
    table = [COLUMNS, *rows(lines, experiment.published)]
    widths = [max(map(len, column)) for column in zip(*table)]
    aligned = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in table)
    return f"{aligned}\n\n{_foot(experiment, configs)}"


def _foot(experiment, configs):
    foot = f"{experiment.about}; {configs[0].epochs} epochs; angles at the last one\n"
    return foot + (f"published: {experiment.source}\n" if experiment.published else "")


def rows(lines, published):
    """The table's rows under COLUMNS, as texts, one for each rule in the lines' order."""
    return [_row(rule, [line for line in lines if line["rule"] == rule], published) for rule in _rules(lines)]


def _rules(lines):
    return list(dict.fromkeys(line["rule"] for line in lines))


def _row(rule, mine, published):
    end = max(line["epoch"] for line in mine)
    last = [line for line in mine if line["epoch"] == end]
    errors = [line["test_error"] for line in last]
    spread = f" ± {stdev(errors):.2f}" if len(errors) > 1 else ""
    angles = [text for kind in ("matrix", "delta") for text in _angles([line[f"{kind}_angles"] for line in last])]
    return (figures.label(rule), f"{mean(errors):.2f}{spread}", str(len(errors)), *angles, published.get(rule, "–"))


def _angles(by_seed):
    """(mean over layers, worst layer) of the layers' means over seeds."""
    layers = measured(mean_angle(angles[name] for angles in by_seed) for name in by_seed[0])
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


def _page(experiment, configs, lines, pictures, command):
    head = "".join(f"<th>{escape(cell)}</th>" for cell in COLUMNS)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows(lines, experiment.published))
    shown = "\n".join(
        f'<figure><img alt="{escape(CAPTIONS[path.name])}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}"><figcaption>{escape(CAPTIONS[path.name])}</figcaption></figure>'
        for path in pictures
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>wtref: {escape(experiment.about)}</title><style>{STYLE}</style></head>
<body>
<h1>{escape(experiment.about)}</h1>
<table><tr>{head}</tr>
{body}</table>
<p>{escape(_foot(experiment, configs)).replace(chr(10), "<br>")}</p>
{shown}
<h2>To repeat it</h2>
<pre>{escape(printable(command))}</pre>
<h2>Configuration</h2>
{_configuration(configs)}
</body></html>
"""
