"""The report of an experiment: its table and its configuration show what the metrics and the runs' Configs hold."""

import math

from wtref.runs import report
from wtref.runs.config import Config
from wtref.runs.experiments import EXPERIMENTS, Experiment


def line_of(rule, seed, error, angle):
    angles = {"conv": angle, "output": 0.0}
    return {"rule": rule, "seed": seed, "epoch": 1, "seconds": 2.0, "test_error": error,
            "matrix_angles": {} if rule == "dfa" else angles, "delta_angles": {"stem": angle}}  # fmt: skip


def rows_of(lines, published=None):
    configs = [Config(rule=line["rule"], seed=line["seed"]) for line in lines]
    return report.table(Experiment("", {}, published=published or {}), configs, lines)


def test_the_table_has_mean_and_standard_deviation_over_seeds():
    heading, kp, dfa = rows_of([line_of("kp", 0, 2.0, 10.0), line_of("kp", 1, 4.0, 30.0), line_of("dfa", 0, 5.0, 90.0)])
    assert heading == report.COLUMNS
    assert kp == ("KP", "97.00 ± 1.41", "10.0", "20.0", "20.0", "2.0", "2")
    assert dfa == ("DFA", "95.00", "–", "–", "90.0", "2.0", "1")


def test_the_table_leaves_out_angles_that_could_not_be_measured():
    lines = [line_of("kp", 0, 2.0, 10.0), line_of("kp", 1, 4.0, math.nan), line_of("fa", 0, 5.0, math.nan)]
    lines[2]["matrix_angles"] = {"conv": math.nan, "output": math.nan}
    _, kp, fa = rows_of(lines)
    assert kp[2:5] == ("5.0", "10.0", "10.0")  # of the layers' 10 and 0
    assert fa[2:5] == ("–", "–", "–")


def test_only_the_last_epoch_counts_but_for_the_seconds():
    lines = [line_of("kp", 0, 50.0, 80.0), line_of("kp", 0, 2.0, 10.0) | {"epoch": 2}]
    assert rows_of(lines)[1] == ("KP", "98.00", "5.0", "10.0", "10.0", "4.0", "1")


def test_published_accuracies_have_a_column_where_there_are_any():
    heading, kp, fa = rows_of([line_of("kp", 0, 2.0, 10.0), line_of("fa", 0, 2.0, 10.0)], {"kp": "97.7(4)"})
    assert heading[-1] == "published %" and (kp[-1], fa[-1]) == ("97.7(4)", "–")


def test_a_run_without_metrics_is_named():
    configs = [Config(rule=rule, seed=seed) for seed in range(10) for rule in ("bp", "kp")]
    experiment = Experiment("a tiny one", {})
    lines = [line_of(config.rule, config.seed, 2.0, 10.0) for config in configs]
    assert "missing" not in report.text(experiment, configs, lines)
    assert report.text(experiment, configs, lines[1:]).endswith("\n19 of 20 runs finished; missing: bp seed 0\n")
    few = report.missing_in_words(configs, lines[:2])
    assert few.startswith("2 of 20 runs finished; missing: bp seed 1, kp seed 1, ") and few.endswith(", kp seed 6 and 6 more")


def test_the_configuration_shows_what_differs_by_rule():
    configs = list(EXPERIMENTS["mnist-mlp"].configs("x").values())
    shared, own = report.recipes(configs)
    assert own == {"bp": {"lr": 0.2}, "wm": {"lr": 0.05}, "kp": {"lr": 0.3}, "ss": {"lr": 0.2}, "fa": {"lr": 0.2}}
    assert shared["hidden"] == (500,) and not {"lr", "rule", "seed", "data_dir"} & shared.keys()
    alone = [config for config in configs if config.rule == "bp"]
    assert report.recipes(alone) == ({**shared, "lr": 0.2}, {})
