"""The report of an experiment: its table and its configuration show what the metrics and the runs' Configs hold."""

import math
import re

from wtref.runs import report
from wtref.runs.config import Config
from wtref.runs.experiments import EXPERIMENTS, RELATED, Experiment


def line_of(rule, seed, error, angle):
    angles = {"conv": angle, "output": 0.0}
    return {"rule": rule, "seed": seed, "epoch": 1, "seconds": 2.0, "test_error": error, "update_angle": angle / 2,
            "matrix_angles": {} if rule == "dfa" else angles, "delta_angles": {"stem": angle}, "local_delta_angles": {"conv": angle + 1}, "delta_ratios": {"stem": 0.5}}  # fmt: skip


def text_of(lines):
    configs = [Config(rule=line["rule"], seed=line["seed"]) for line in lines]
    return report.text(Experiment("a tiny one", {}), configs, lines)


def rows_of(lines, published=None):
    configs = [Config(rule=line["rule"], seed=line["seed"]) for line in lines]
    return report.table(Experiment("", {}, published=published or {}), configs, lines)


def test_the_table_has_mean_and_standard_deviation_over_seeds():
    heading, kp, dfa = rows_of([line_of("kp", 0, 2.0, 10.0), line_of("kp", 1, 4.0, 30.0), line_of("dfa", 0, 5.0, 90.0)])
    assert heading == report.COLUMNS
    assert kp == ("KP", "97.00 ± 1.41", "10.0", "20.0", "20.0", "21.0", "10.0", "2.0", "2")
    assert dfa == ("DFA", "95.00", "–", "–", "90.0", "91.0", "45.0", "2.0", "1")


def test_the_table_leaves_out_angles_that_could_not_be_measured():
    lines = [line_of("kp", 0, 2.0, 10.0), line_of("kp", 1, 4.0, math.nan), line_of("fa", 0, 5.0, math.nan)]
    lines[2]["matrix_angles"] = {"conv": math.nan, "output": math.nan}
    _, kp, fa = rows_of(lines)
    assert kp[2:7] == ("5.0", "10.0", "10.0", "11.0", "5.0")  # of the layers' 10 and 0
    assert fa[2:7] == ("–", "–", "–", "–", "–")


def test_lines_of_older_versions_have_neither_update_nor_local_delta_angles():
    old = line_of("kp", 0, 2.0, 10.0)
    del old["update_angle"], old["delta_ratios"], old["local_delta_angles"]
    assert rows_of([old])[1] == ("KP", "98.00", "5.0", "10.0", "10.0", "–", "–", "2.0", "1")
    new = line_of("kp", 1, 2.0, 30.0)
    assert rows_of([old, new])[1][5:7] == rows_of([new, old])[1][5:7] == ("31.0", "15.0")
    assert "zero" not in text_of([old])


def test_layers_whose_errors_are_zero_are_named():
    lines = [line_of(rule, seed, 2.0, 10.0) for rule in ("bp", "fa", "kp") for seed in (0, 1)]
    assert "zero" not in text_of(lines)
    names = [f"conv{number}" for number in range(6)]
    for line, zero in zip(lines[2:], (names[:1], names, names[:2], names[1:2]), strict=True):
        line["delta_ratios"] = {name: 0.0 if name in zero else 1.0 for name in names}
        line["delta_angles"] = {name: math.nan if name in zero else 20.0 for name in names}
    said = [line for line in text_of(lines).splitlines() if "zero" in line]
    assert said == [
        "FA: no delta angle in conv0, conv1, conv2, conv3 and 2 more: δ is zero there",
        "KP: no delta angle in conv0, conv1: δ is zero there",
    ]
    assert rows_of(lines)[2][4] == rows_of(lines)[3][4] == "20.0"
    lines[0]["delta_ratios"] = {"conv0": 1.0, "conv1": math.nan}
    assert "BP: no delta angle in conv1: backprop's δ is zero there" in text_of(lines).splitlines()
    later = [line | {"epoch": 2, "delta_ratios": dict.fromkeys(names, 1.0)} for line in lines]
    assert "zero" not in text_of(lines + later), "only the last epoch counts"


def test_the_main_job_s_table_fits_a_terminal_and_says_what_its_columns_are():
    rules = ("bp", "fa", "ss", "wm", "kp", "frozen")
    wide = [line_of(rule, seed, error, 89.0) | {"seconds": 1234.5} for rule in rules for seed, error in ((0, 5.0), (1, 45.0))]
    text = text_of(wide)
    assert max(map(len, text.splitlines())) <= 80 and "± 28.28" in text
    for column in ("matrix", "worst", "delta", "local", "update"):
        assert f"{column}: " in text
    assert text.count("\nfrozen: hidden weights never learn; ") == 1
    assert "frozen" not in text_of([line for line in wide if line["rule"] != "frozen"])


def test_differences_to_backprop_are_paired_by_seed():
    errors = {"bp": (10.0, 20.0, 30.0), "kp": (11.0, 23.0, 35.0), "fa": (10.5, 20.5), "ss": (5.0,)}
    lines = [line_of(rule, seed, error, 10.0) for rule, found in errors.items() for seed, error in enumerate(found)]
    before = [line | {"epoch": 0, "test_error": 90.0} for line in lines]
    (said,) = [line for line in text_of(before + lines).replace("\n    ", " ").splitlines() if "minus" in line]
    assert said == "accuracy minus BP's with the same seed, mean ± standard error over seeds: KP -3.00 ± 1.15, FA -0.50 ± 0.00"
    assert "minus" not in text_of(lines[3:]) and "minus" not in text_of(lines[:1] + lines[-1:])
    many = [line_of(rule, seed, 20.0 + seed, 80.0) for rule in ("bp", *RELATED) for seed in (0, 1)]
    assert all(re.search(r"\.\d\d,?$", line) for line in text_of(many).split("minus")[1].splitlines()[1:-1] if "±" in line)


def test_only_the_last_epoch_counts_but_for_the_seconds():
    lines = [line_of("kp", 0, 50.0, 80.0), line_of("kp", 0, 2.0, 10.0) | {"epoch": 2}]
    assert rows_of(lines)[1] == ("KP", "98.00", "5.0", "10.0", "10.0", "11.0", "5.0", "4.0", "1")


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
    assert own == {"bp": {"lr": 0.2}, "wm": {"lr": 0.05}, "kp": {"lr": 0.3}, "ss": {"lr": 0.2}, "fa": {"lr": 0.2}, "frozen": {"lr": 0.2}}
    assert shared["hidden"] == (500,) and not {"lr", "rule", "seed", "data_dir"} & shared.keys()
    alone = [config for config in configs if config.rule == "bp"]
    assert report.recipes(alone) == ({**shared, "lr": 0.2}, {})


def test_the_page_is_as_wide_as_a_phone_and_its_table_scrolls():
    page = report._page(Experiment("a <tiny> one", {}), [Config(rule="kp")], [line_of("kp", 0, 2.0, 10.0)], [], "python run.py <x>")
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert '<div class="wide"><table>' in page and ".wide { overflow-x: auto }" in page
    assert "<tiny>" not in page and "<x>" not in page


def test_the_text_below_a_table_fits_80_columns():
    lines = [line_of(rule, 0, 5.0, 80.0) for rule in ("kp", "frozen")]
    source = {"published": {"kp": "97.7(4)"}, "source": "many authors " * 12}
    text = report.text(Experiment("a network whose description is long " * 4, {}, **source), [Config(rule="kp")], lines)
    assert max(map(len, text.splitlines())) <= 80 and "published %" in text
