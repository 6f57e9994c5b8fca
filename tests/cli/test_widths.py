"""Tables and lines fit 80 columns, whatever rules, models and runs are called and however many layers there are."""

import pytest

from wtref.bench import kernels, report, scaling
from wtref.bench.work import Work
from wtref.cli.main import main

RULE, MODEL = "a-rule-whose-name-has-30-chars", "a-network-whose-name-has-30-ch"
PLUGIN = f"""
import wtref
@wtref.rule("{RULE}")
class Mine(wtref.KolenPollack): pass
@wtref.model("{MODEL}")
def layers(shape, classes, options):
    return [wtref.Flatten(), wtref.Linear("a-layer-whose-name-has-30-char", 64, 30), wtref.ReLU(), wtref.Linear("last", 30, classes)]
"""
DEEP = ["--model", "mlp", "--hidden", *["8"] * 16]


@pytest.fixture
def widest(here, registries, capsys):
    """A function that runs a command and returns the length of its longest line."""
    (here / "mine.py").write_text(PLUGIN)

    def widest(*argv):
        assert main(list(argv)) in (0, 1)
        return max(map(len, capsys.readouterr().out.splitlines()))

    return widest


FLAGS = ["--plugin", "mine.py", "--epochs", "1", "--batch-size", "500"]


@pytest.mark.parametrize("argv", [
    ["train", "--model", MODEL, "--rule", RULE, *FLAGS, "--log-name", "a-run-whose-name-has-30-charac"],
    ["compare", *DEEP, *FLAGS, "--rules", RULE, "fa", "--seeds", "2", "--jobs", "1"],
    ["audit", "--plugin", "mine.py", "--rules", RULE, "brsf"],
    ["bench", "loader", "--plugin", "mine.py", "--models", MODEL, "--rules", RULE, "--repeats", "1"],
    ["constants", "--models", "mlp", "--steps", "2"],
])  # fmt: skip
def test_what_a_command_prints(widest, argv):
    assert widest(*argv) <= 80
    if argv[0] in ("train", "compare"):
        assert widest("runs") <= 80


def test_the_table_of_a_check(widest):
    pytest.importorskip("torch")
    assert widest("check", "--models", "mlp", "resnet8", "--rules", RULE, "frozen", "--plugin", "mine.py") <= 80


def test_the_data_sets(widest):
    assert widest("data", "--data-dir", "nowhere") <= 80


def test_a_benchmarks_rows():
    row = {"work": f"{MODEL} 224x224x3 {RULE} batch 1024", "kernels": "compiled kernels (AVX-512), 128 threads", "goals": [],
           "torch_setting": "channels-last", "torch_instruction_set": "AVX512", "profile": {"products": 1.0}, **{key: 12345.6 for _, key, _ in report.COLUMNS}}  # fmt: skip
    assert max(map(len, f"{report.header(row)}\n{report.line(row)}".splitlines())) <= 80


def test_the_kernels_rows():
    row = {"kernel": "convolve_gradient", "shapes": "128x16x16x32, 128x32x32x16", "ms": 1234.5, "plain_ms": 9999.5, "ratio": 0.9,
           "rate": 1234.5}  # fmt: skip
    assert len(kernels.line(row)) <= 80 and len(kernels.TITLE) <= 80


def test_the_prediction_of_scaling():
    row = {"ms": 100.0, "waiting_ms": 50.0, "bytes": 1e8, "buckets": 24, "small_sums": 106, "small_bytes": 1e6}
    rows = dict.fromkeys(("one", "two", "half"), row)
    found = {"rows": rows, "strong": 0.5, "weak": 0.5, "prediction": scaling.predict(rows["half"])}
    assert max(map(len, scaling.table(Work.of("resnet18", "kp", 128, threads=2), found).splitlines())) <= 80
