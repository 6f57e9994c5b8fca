"""The main job: one network, one recipe, several rules and seeds; a table, and pictures."""

import contextlib
import math
import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from statistics import mean, stdev

from wtref import datasets
from wtref.angles import mean_angle, measured
from wtref.errors import Diverged, InputError, Unsaved, check_choice
from wtref.fast.ops import cores
from wtref.files import write_json, write_lines, write_text
from wtref.interrupts import exit_code
from wtref.relatives import RULES
from wtref.runs import figures
from wtref.runs.folders import free_folder
from wtref.runs.jobs import completed
from wtref.runs.prepare import prepare
from wtref.runs.session import say_skipped

# Deep enough for FA to fail, and a lambda large enough for KP to align within these 360 steps;
# chosen on a fifth of the training images (README, "What it shows", tells of the choice before).
DEFAULTS = {"model": "resnet20", "epochs": 8, "weight_decay": 0.03}
NAMED = 12  # missing runs that a message names


def run(config, rules, seeds, jobs=None):
    """Train config under each rule with seeds 0 .. seeds - 1, print and draw what came out.

    Everything goes to a new folder runs/compare-DATASET-N/: metrics.jsonl with a line per rule, seed and epoch,
    table.txt, and the pictures.  Returns the exit code.
    """
    for rule in rules:
        check_choice("rule", rule, RULES)
    configs = [replace(config, rule=rule, seed=seed) for seed in range(seeds) for rule in dict.fromkeys(rules)]
    jobs = _jobs(config, jobs, len(configs))
    feed = prepare(configs[0]).feed  # a data set, device or shape that cannot be is found here, before any work
    folder = free_folder(f"compare-{config.dataset}")
    try:
        write_json(folder / "compare.json", asdict(config))
    except Unsaved:
        folder.rmdir()
        raise
    print(f"{config.model} on {config.dataset}, {config.epochs} epochs: {', '.join(rules)} x {seeds} seeds")
    print(datasets.in_words(feed), flush=True)
    datasets.warn(feed)
    lines, code = _run_all(configs, jobs, folder)
    if not lines:
        return code
    text = table(lines, rules)
    try:
        write_lines(folder / "metrics.jsonl", lines)
        write_text(folder / "table.txt", text + "\n")
    finally:  # what cannot be kept can still be read
        print(f"\n{text}\n")
    print(f"metrics: {folder}/metrics.jsonl", flush=True)
    if code < 128:  # after an interrupt nobody waits for pictures
        for path in figures.draw_comparison([{**line, "curve": line["rule"]} for line in lines], folder):
            print(f"picture: {path}")
    return code


def table(lines, rules):
    """Rule, accuracy, angles and time at the last epoch: mean (and standard deviation) over seeds.

    A rule of which no run was finished has no row.
    """
    rows = ["rule   test accuracy %   matrix angle °   worst layer °   delta angle °   seconds"]
    for rule in dict.fromkeys(rules):
        mine = [line for line in lines if line["rule"] == rule]
        if not mine:
            continue
        end = max(line["epoch"] for line in mine)
        last = [line for line in mine if line["epoch"] == end]
        accuracy = [100 - line["test_error"] for line in last]
        spread = stdev(accuracy) if len(accuracy) > 1 else 0.0
        matrix = mean_angle(angle for line in last for angle in line["matrix_angles"].values())
        by_layer = [mean_angle(line["matrix_angles"][name] for line in last) for name in last[0]["matrix_angles"]]
        delta = mean_angle(angle for line in last for angle in line["delta_angles"].values())
        seconds = sum(line["seconds"] for line in mine) / len(last)
        angles = f"{_cell(matrix):>11} {_cell(max(measured(by_layer), default=math.nan)):>15} {_cell(delta):>15}"
        rows.append(f"{rule:<6} {mean(accuracy):6.2f} ± {spread:4.2f} {angles} {seconds:12.1f}")
    return "\n".join(rows)


def _cell(angle):
    return "-" if math.isnan(angle) else f"{angle:.1f}"


def _run_all(configs, jobs, folder):
    """(the metrics lines of all finished runs, in the order of configs; exit code).

    Each run is saved as soon as it is finished.  A run that diverges or finds no memory does not stop the others;
    data that have become unreadable do, as all runs share them.
    """
    configs = [replace(config, threads=config.threads or max(cores() // jobs, 1)) for config in configs]
    finished, skipped, code = {}, set(), 0
    try:
        with contextlib.closing(completed(_train, configs, jobs)) as outcomes:
            for config, outcome in outcomes:
                try:
                    finished[config], unread = outcome.result()
                except (Diverged, MemoryError) as error:
                    code = 1
                    _complain(f"{_reason(error)} ({config.rule}, seed {config.seed})")
                    continue
                skipped |= unread
                _keep(folder, _lines(configs, finished))
                print(f"{_progress(finished, configs)} {_summary(config, finished[config])}", flush=True)
    except InputError as error:
        code = 2
        _complain(f"{error}; {_held(configs, finished, folder)}")
    except KeyboardInterrupt as interrupt:
        code = exit_code(interrupt)
        _complain(f"interrupted; {_held(configs, finished, folder)}")
    except BrokenProcessPool:
        code = 1
        ended = "a worker process ended before its run, as it does where memory runs out (fewer --jobs need less)"
        _complain(f"{ended}; {_held(configs, finished, folder)}")
    say_skipped(skipped)
    return _lines(configs, finished), code


def _train(config):
    """(the records of all epochs, a set of lines about images that were skipped)"""
    training = prepare(config)
    return [record for record in training.run() if record], set(training.feed.skipped)


def _lines(configs, finished):
    """The records of {config: records} as lines of metrics.jsonl; their order does not depend on what was done first."""
    done = [config for config in configs if config in finished]
    return [{"rule": config.rule, "seed": config.seed, **record} for config in done for record in finished[config]]


def _keep(folder, lines):
    """Save what is finished; where that fails, the runs go on, and it is tried again after the next one."""
    try:
        write_lines(folder / "metrics.jsonl", lines)
    except Unsaved as error:
        _complain(f"{error}; the runs go on")


def _held(configs, finished, folder):
    """Which runs are saved and which are missing, in words."""
    missing = [f"{config.rule} seed {config.seed}" for config in configs if config not in finished]
    named = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else "")
    saved = folder / "metrics.jsonl"
    return f"{f'the finished runs are in {saved}' if saved.exists() else 'no run was finished'}; missing: {named}"


def _progress(finished, configs):
    return f"[{len(finished):>{len(str(len(configs)))}}/{len(configs)}]"


def _summary(config, records):
    accuracy, seconds = 100 - records[-1]["test_error"], sum(record["seconds"] for record in records)
    return f"{config.rule:<4} seed {config.seed}: {accuracy:.2f} % right, {seconds:.1f} s"


def _reason(error):
    return "out of memory; fewer --jobs or a smaller --batch-size need less" if isinstance(error, MemoryError) else str(error)


def _complain(text):
    print(f"wtref: {text}", file=sys.stderr, flush=True)


def _jobs(config, jobs, most):
    on_cpu = config.open_device().name == "cpu"
    return min(jobs or (cores() if on_cpu else 1), most)
