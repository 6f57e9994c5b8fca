"""Help texts, and hints about words that are nearly right."""

import re
from dataclasses import fields
from itertools import chain

import pytest

from launching import MLP
from wtref.cli.arguments import GROUPS
from wtref.cli.main import main
from wtref.relatives import RULES
from wtref.runs.config import Config


@pytest.fixture
def help_of(capsys, monkeypatch):
    """A function that returns the help text of a command, on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def help_of(command):
        assert main([*command.split(), "--help"]) == 0
        return capsys.readouterr().out

    return help_of


def flags(text):
    return set(re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE))


def test_every_field_is_in_one_group():
    assert sorted(chain(*GROUPS.values())) == sorted(spec.name for spec in fields(Config))


def test_flags_stand_in_groups(help_of):
    text = help_of("train")
    heads = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert heads == ["options", *GROUPS]
    optimizer = text.partition("\noptimizer:\n")[2].partition("\n\n")[0]
    assert {"--lr", "--momentum"} <= flags(optimizer) and "--model" not in flags(optimizer)


COMMANDS = ("", "train", "compare", "reproduce", "eval", "predict", "figures", "runs", "export", "import", "data", "check", "audit",
            "mirror", "constants", "decays", "bench", "bench steps", "bench loader", "bench scaling", "gpu-report")  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns_and_states_each_default_once(help_of, command):
    text = help_of(command)
    assert max(map(len, text.splitlines())) <= 80
    for about in re.split(r"\n  -", text):
        assert about.count("default:") <= 1 and "(default " not in about, about


@pytest.mark.parametrize("command", ["constants", "decays"])
def test_studies_have_no_flags_of_runs_and_of_several_processes(help_of, command):
    found = flags(help_of(command))
    assert "--data-dir" in found
    assert not found & {"--save-every", "--tensorboard", "--bucket-mib", "--bucket-dtype", "--wait-limit", "--check-copies"}


def test_check_lists_the_rules_that_it_takes(help_of):
    about = re.search(r"--rules RULE \[RULE \.\.\.\]\s+(.*?) \(default", help_of("check"), re.DOTALL)[1]
    named, _, note = about.partition(";")
    assert named.replace(",", "").split() == list(RULES) and " ".join(note.split()).endswith("the two passes alone are compared")


@pytest.mark.parametrize(
    "argv, wanted",
    [
        ("trian", "unknown command 'trian', did you mean 'train'? choose from: compare, "),
        ("train --epoch 3", "unrecognized arguments: --epoch 3, did you mean --epochs? (see python run.py train --help)"),
        ("train --batchsize=3", "unrecognized arguments: --batchsize=3, did you mean --batch-size? (see python run.py train --help)"),
        ("compare --seed 3", "unrecognized arguments: --seed 3, did you mean --seeds? (see python run.py compare --help)"),
        ("bench steps --model mlp", "unrecognized arguments: --model mlp, did you mean --models? (see python run.py bench steps --help)"),
        ("bench step", "unknown kind 'step', did you mean 'steps'? choose from: goals, "),
        ("train --model resnet9", "unknown model 'resnet9', did you mean 'resnet8'? choose from: mlp, "),
        ("train --rule KP", "unknown rule 'KP', did you mean 'kp'? choose from: bp, "),
        ("train --dataset minst", "unknown dataset 'minst', did you mean 'mnist'? choose from: digits, "),
        ("reproduce digit", "unknown experiment 'digit', did you mean 'digits'? choose from: "),
        ("eval mine --checkpoint bset", "unknown checkpoint 'bset', did you mean 'best'? choose from: best, last"),
        ("train --rule zzz", "unknown rule 'zzz'; choose from: bp, "),
    ],
)
def test_a_word_that_is_nearly_right(refused, argv, wanted):
    assert refused(*argv.split()).startswith(f"wtref: {wanted}")


def test_the_name_of_a_run_that_is_nearly_right(refused, capsys):
    assert main([*MLP, "--log-name", "my-first"]) == 0
    assert refused("eval", "my-frist") == "wtref: no run named 'my-frist' in runs/, did you mean 'my-first'? there are: my-first\n"


def test_no_flag_can_be_abbreviated(refused):
    for argv in ("train --epo 3", "compare --rule bp", "bench goals --repeat 3", "check --model mlp", "gpu-report --ou x --out y"):
        assert "unrecognized arguments: " in refused(*argv.split())


def test_models_and_rules_named_twice_count_once(monkeypatch):
    calls = []
    monkeypatch.setattr("wtref.bench.work.grid", lambda *call, **_: calls.append(call[:3]) or [])
    assert main("bench steps --models mlp mlp --rules bp kp bp --batches 8 8".split()) == 0
    assert calls == [(["mlp"], ["bp", "kp"], [8])]


@pytest.mark.parametrize(
    "flags, decay",
    [("", 0.03), ("--model mlp", 0.03), ("--epochs 30", None), ("--dataset synthetic", None), ("--preset cifar10-resnet8", None),
     ("--epochs 30 --weight-decay 0.01", 0.01), ("--preset cifar100-res18", 5e-4)],
)  # fmt: skip
def test_the_main_jobs_weight_decay_holds_for_its_own_steps(monkeypatch, flags, decay):
    calls = []
    monkeypatch.setattr("wtref.cli.training.compare", lambda *call: calls.append(call))
    assert main(["compare", "--rules", "kp", *flags.split()]) == 0
    assert {config.weight_decay for config in calls[0][0].configs("x").values()} == {decay}


@pytest.mark.parametrize("command, usage", [("train", "[--data-dir DIR]"), ("compare", "[--seeds N]"), ("data", "[--data-dir DIR]")])
def test_a_flag_s_value_is_called_what_it_is(help_of, command, usage):
    assert usage in " ".join(help_of(command).partition("\n\n")[0].split())


def test_help_states_compares_own_defaults(help_of):
    text = " ".join(help_of("compare").split())
    assert "(default: resnet20)" in text and "(default: 0.03, chosen for the main job; with any of --dataset, " in text
    assert len(RULES) > 10 and "(default: bp fa ss wm kp frozen)" in text


def test_eval_takes_the_data_of_the_run_by_default(help_of):
    text = " ".join(help_of("eval").split())
    assert "folder (default: the run's)" in text and "folder of the data sets (default: the run's)" in text


def test_a_form_of_export_that_there_is_not(refused):
    assert "unknown form 'onnx'; choose from: torch" in refused("export", "net", "--to", "onnx")
