"""Values that cannot be: whatever a flag or a stored Config is given, one line names the flag and what would be right."""

import math
from dataclasses import fields
from typing import get_args

import pytest

from wtref.cli.main import main
from wtref.errors import InputError
from wtref.runs.config import Config
from wtref.training import Training
from wtref.values import LIMITS

SPECS = {spec.name: spec for spec in fields(Config)}
MLP = "--model mlp --hidden 8 --device cpu --epochs 1".split()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def kinds(spec):
    """The types that a field may have, of a tuple those of its elements."""
    return set(get_args(spec.type) or [spec.type]) - {Ellipsis}


def of_wrong_type(spec):
    """Values of every type that the field must not have."""
    samples = {str: "x", bool: True, int: 3, float: 2.5, type(None): None, dict: {}, list: [1], tuple: (0.5, 1), complex: 1j, bytes: b"x"}
    allowed = kinds(spec) | ({int} if float in kinds(spec) else set())
    if isinstance(spec.default, tuple):
        yield from (samples[kind] for kind in samples.keys() - {tuple})
        yield ()
        yield from ((1, samples[kind]) for kind in samples.keys() - allowed)
    else:
        yield from (samples[kind] for kind in samples.keys() - allowed)


@pytest.mark.parametrize("name", SPECS)
def test_a_field_of_another_type_is_refused_by_name(name):
    for value in of_wrong_type(SPECS[name]):
        with pytest.raises(InputError, match=f"^--{name.replace('_', '-')} must be .*, found ") as caught:
            Config(**{name: value})
        assert "\n" not in str(caught.value)


def test_the_right_types_are_named():
    for name, value, right in [
        ("epochs", 2.5, "an integer, found 2.5"), ("epochs", True, "an integer, found True"), ("lr", "1", "a number, found '1'"),
        ("data_dir", 5, "text or none, found 5"), ("nesterov", 1, "true or false, found 1"),
        ("hidden", [8], "a list, each an integer, found [8]"), ("hidden", (8, 2.0), "a list, each an integer, found (8, 2.0)"),
        ("data_dir", "a\0b", r"text or none, found 'a\x00b'"), ("weight_decay", 1j, "a number or none, found 1j"),
    ]:  # fmt: skip
        with pytest.raises(InputError) as caught:
            Config(**{name: value})
        assert str(caught.value) == f"--{name.replace('_', '-')} must be {right}"


NUMBERS = [name for name in SPECS if kinds(SPECS[name]) & {int, float}]


def test_every_number_has_limits():
    assert set(NUMBERS) <= LIMITS.keys()


@pytest.mark.parametrize("name", NUMBERS)
def test_a_field_s_impossible_numbers_are_refused_by_name(name):
    few = [-1, 10**301, -(10**301), 10**4000]
    many = [math.nan, math.inf, -math.inf, 1.7e308] if float in kinds(SPECS[name]) else []
    for number in few + many:
        with pytest.raises(InputError, match=f"^--{name.replace('_', '-')} must be .*, found ") as caught:
            Config(**{name: (number,) if isinstance(SPECS[name].default, tuple) else number})
        assert len(str(caught.value)) < 150
        assert not isinstance(number, float) or math.isfinite(number) or "must be a finite number" in str(caught.value)


@pytest.mark.parametrize("name", NUMBERS)
def test_the_limits_themselves_are_allowed(name):
    limits, kind = LIMITS[name], int if int in kinds(SPECS[name]) else float
    low = limits.low if not limits.above else 1e-9
    high = limits.high if not limits.below else 1 - 1e-9
    for number in (kind(low), kind(high)):
        assert limits.misfit(number) is None
        Config(**{name: (number,) if isinstance(SPECS[name].default, tuple) else number})


OTHERS = {  # a command, its flag, one number too low, what is said of it
    "compare --rules bp": ["--seeds 0 at least 1", "--jobs -1 at least 1"],
    "reproduce digits": ["--seeds 0 at least 1", "--epochs 0 at least 1"],
    "decays": ["--seeds -1 at least 1", "--epochs 0 at least 1"],
    "bench steps": ["--repeats 0 at least 1", "--batches 0 at least 1", "--shape 0 at least 1"],
    "mirror": ["--inputs 63 at least 64", "--seed -1 at least 0"],
    "constants": ["--steps 0 at least 1", "--seed -1 at least 0"],
}


@pytest.mark.parametrize("command", OTHERS)
def test_numbers_that_are_no_fields_have_limits_too(command, capsys):
    for flag, low, *right in map(str.split, OTHERS[command]):
        times = 3 if flag == "--shape" else 1
        for value, must_be in [(low, " ".join(right)), (10**30, f"at most {LIMITS[flag[2:]].high:,}")]:
            assert main([*command.split(), flag, *times * [str(value)]]) == 2
            assert capsys.readouterr() == ("", f"wtref: {flag} must be {must_be}, found {value}\n")


@pytest.mark.parametrize("argv", ["--device cuda:" + 5000 * "1", "--epochs " + 5000 * "1", "--milestones nan --schedule step"])
def test_numbers_that_python_cannot_read_are_one_line(argv, capsys):
    assert main([*MLP, *argv.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and argv.split()[0].strip("-") in err


def test_a_network_that_no_memory_holds_is_one_line(monkeypatch, capsys):
    """A million by a million weights."""
    assert main("--model mlp --hidden 1 1000000 1000000 --device cpu".split()) == 2
    out, err = capsys.readouterr()
    assert err.startswith("wtref: out of memory (Unable to allocate 7.28 TiB")
    assert "lower --batch-size, or choose a smaller network" in err and err.count("\n") == 1 and out == ""


@pytest.mark.parametrize("command", ["train", "compare", "constants"])
def test_too_little_memory_at_the_start_is_one_line(monkeypatch, capsys, command):
    def full(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(Training, "__init__", full)
    assert main([command, "--device", "cpu"]) == 2
    assert capsys.readouterr().err == ("wtref: out of memory (no more to be had); lower --batch-size, or choose a smaller network\n")
