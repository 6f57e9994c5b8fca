"""The main job: one network, one recipe, several rules and seeds; a table, and pictures."""

import json
import multiprocessing
import signal
import sys
from dataclasses import asdict, replace
from statistics import mean, stdev

from wtref import datasets, figures, runs

from wtref.errors import Diverged, check_choice
from wtref.files import replacing
from wtref.kernels import cores
from wtref.rules import RULES
from wtref.training import Training

# Deep enough for FA to fail, and a lambda large enough for KP to align within these 360 steps;
# chosen on a fifth of the training images (README, "What it shows", tells of the choice before).
DEFAULTS = {"model": "resnet20", "epochs": 8, "weight_decay": 0.03}


def run(config, rules, seeds, jobs=None):
    """Train config under each rule with seeds 0 .. seeds - 1, print and draw what came out.

    Everything goes to a new folder runs/compare-DATASET-N/: metrics.jsonl with a line per rule, seed and epoch,
    table.txt, and the pictures.  Returns the exit code.
    """
    for rule in rules:
        check_choice("rule", rule, RULES)
    configs = [replace(config, rule=rule, seed=seed) for seed in range(seeds) for rule in rules]
    jobs = _jobs(config, jobs, len(configs))
    _open(configs[0])  # a data set, device or shape that cannot be is found here, before any work
    folder = runs.RUNS / runs.free_name(f"compare-{config.dataset}")
    runs.new_folder(folder)
    print(f"{config.model} on {config.dataset}, {config.epochs} epochs: {', '.join(rules)} x {seeds} seeds")
    try:
        lines = _run_all(configs, jobs, folder)
    except KeyboardInterrupt:
        saved = folder / "metrics.jsonl"
        held = f"the finished runs are in {saved}" if saved.exists() else "no run was finished"
        print(f"\nwtref: interrupted; {held}", file=sys.stderr)
        return 130
    text = table(lines, rules)
    _write(folder / "table.txt", text + "\n")
    _write(folder / "compare.json", json.dumps(asdict(config), indent=2))
    print(f"\n{text}\n\nmetrics: {folder}/metrics.jsonl")
    for path in figures.draw_comparison([{**line, "curve": line["rule"]} for line in lines], folder):
        print(f"picture: {path}")
    return 0


def table(lines, rules):
    """Rule, accuracy, angles and time at the last epoch: mean (and standard deviation) over seeds."""
    rows = ["rule   test accuracy %   matrix angle °   worst layer °   delta angle °   seconds"]
    for rule in rules:
        mine = [line for line in lines if line["rule"] == rule]
        end = max(line["epoch"] for line in mine)
        last = [line for line in mine if line["epoch"] == end]
        accuracy = [100 - line["test_error"] for line in last]
        spread = stdev(accuracy) if len(accuracy) > 1 else 0.0
        matrix = [angle for line in last for angle in line["matrix_angles"].values()]
        by_layer = [mean(line["matrix_angles"][name] for line in last) for name in last[0]["matrix_angles"]]
        delta = mean(angle for line in last for angle in line["delta_angles"].values())
        seconds = sum(line["seconds"] for line in mine) / len(last)
        angles = f"{mean(matrix):11.1f} {max(by_layer):15.1f}" if matrix else f"{'-':>11} {'-':>15}"
        rows.append(f"{rule:<6} {mean(accuracy):6.2f} ± {spread:4.2f} {angles} {delta:15.1f} {seconds:12.1f}")
    return "\n".join(rows)


def _run_all(configs, jobs, folder):
    """All runs, `jobs` at a time; each is written down as it finishes."""
    lines = []
    configs = [replace(config, threads=config.threads or max(cores() // jobs, 1)) for config in configs]
    with _pool(jobs) as pool:
        for done, (config, records) in enumerate(pool.imap_unordered(_train, configs), start=1):
            lines += [{"rule": config.rule, "seed": config.seed, **record} for record in records]
            _write(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
            accuracy, seconds = 100 - records[-1]["test_error"], sum(r["seconds"] for r in records)
            progress = f"[{done:>{len(str(len(configs)))}}/{len(configs)}]"
            print(f"{progress} {config.rule:<4} seed {config.seed}: {accuracy:.2f} % right, {seconds:.1f} s", flush=True)
    return lines


def _train(config):
    try:
        return config, [record for record in _open(config).steps() if record]
    except Diverged as error:
        raise Diverged(f"{error} ({config.rule}, seed {config.seed})") from None


def _open(config):
    device = config.open_device()
    return Training(config, device, datasets.open_feed(config, device))


def _jobs(config, jobs, most):
    on_cpu = config.open_device().name == "cpu"
    return min(jobs or (cores() if on_cpu else 1), most)


def _pool(jobs):
    """Worker processes that leave Ctrl-C to this one: they are born while it is ignored."""
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return multiprocessing.get_context("spawn").Pool(jobs)
    finally:
        signal.signal(signal.SIGINT, usual)


def _write(path, text):
    with replacing(path) as file:
        file.write(text.encode())
