"""A run's files, damaged in every way: never a traceback, one line that names the file, and the other runs are untouched."""

import json
import math
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wtref.cli.main import main
from wtref.errors import InputError
from wtref.runs import checkpoints, resuming, run_files
from wtref.runs.run import Run

USES = {
    "eval": "eval mine --device cpu",
    "resume": "train --resume mine",
    "export": "export mine --device cpu",
    "figures": "figures mine",
    "predict": "predict mine x.png --device cpu",
}
TEXTS = {
    "empty": b"", "white": b" \n", "binary": bytes(range(256)), "no UTF-8": b'{"a": "\xff\xfe"}', "zeros": bytes(50),
    "deep": b"[" * 100_000, "deep objects": b'{"a":' * 100_000, "deep and closed": b"[" * 2000 + b"]" * 2000,
    "a huge number": b"1" * 5000, "list": b"[]", "null": b"null", "number": b"3", "text": b'"x"', "UTF-16": '{"a": 1}'.encode("utf-16"),
}  # fmt: skip
WRONG = [None, "x", -1, 10**400, float("nan"), float("inf"), [], {}, [None], {"a": None}]  # of some type each
ONE_OF = 15  # cases goes by way of the command line too, which takes longer
TEXT_WILL_DO = {f"{entry} is 'x'" for entry in ("data: sha256", "config: data_dir", "config: device", "config: plugin")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run with one epoch left to train."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main("--model mlp --hidden 3 --batch-size 800 --epochs 2 --device cpu --rule kp --log-name mine".split()) == 0
    config = folder / "runs/mine/config.json"
    config.write_text(config.read_text().replace('"epochs": 2', '"epochs": 3'))
    return folder / "runs/mine"


@pytest.fixture(autouse=True)
def here(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "yours"):
        restore(trained, name)
    Image.new("L", (8, 8)).save("x.png")


def restore(trained, name="mine"):
    """Let the run be what it was."""
    shutil.rmtree(f"runs/{name}", ignore_errors=True)
    shutil.copytree(trained, f"runs/{name}")


@pytest.fixture
def attempt(capsys):
    """A function that uses the run and returns (exit code, text on stderr)."""

    def use(how):
        capsys.readouterr()
        code = main(USES.get(how, how).split())
        out, err = capsys.readouterr()
        assert code in (0, 1, 2)
        assert code == 0 or err.startswith("wtref: ") and out == ""
        assert code == 0 or err.splitlines(keepends=True)[-1].startswith("wtref: ") and "\x1b" not in err
        return code, err

    return use


@pytest.fixture
def refused(attempt):
    """A function that holds a use of the run to one line which names the file, exit code 2 and an unchanged folder."""

    def use(how, file):
        before = contents("runs")
        code, err = attempt(how)
        assert code == 2 and file in err and err.count("\n") == 1, (how, err)
        assert contents("runs") == before
        return err

    return use


def contents(folder):
    """{path: bytes of a regular file} of everything below folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(Path(folder).rglob("*"))}


def state_of(name, capsys):
    """The last word of a run's row in the table of runs."""
    capsys.readouterr()
    assert main(["runs"]) == 0
    return {row.split()[0]: row.split()[-1] for row in capsys.readouterr().out.splitlines()}[name]


def variants(value, depth):
    """(what was done, the value so changed): every entry down to `depth` left out, or one of WRONG in its place."""
    for key in value if isinstance(value, dict) else ():
        yield f"no {key}", {name: part for name, part in value.items() if name != key}
        for wrong in WRONG:
            yield f"{key} is {wrong!r}", {**value, key: wrong}
        if depth > 1:
            for what, part in variants(value[key], depth - 1):
                yield f"{key}: {what}", {**value, key: part}


# --- config.json ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_config_that_is_none(refused, capsys, text):
    Path("runs/mine/config.json").write_bytes(text)
    for how in USES:
        refused(how, "runs/mine/config.json is damaged")
    assert state_of("mine", capsys) == "damaged" and state_of("yours", capsys) == "unfinished"


@pytest.mark.slow
def test_every_entry_of_the_config(trained, attempt):
    """What is wrong is refused with the file's name; what passes is a value that the entry may have."""
    about = json.loads((trained / "config.json").read_text())
    path, passed = Path("runs/mine/config.json"), set()
    cases = list(variants(about, depth=2))
    for number, (what, changed) in enumerate(cases):
        path.write_text(json.dumps(changed))
        refusal = None
        try:
            run_files.read_images(path)
            passed.add(what)
        except InputError as error:
            refusal = f"wtref: {error}\n"
            assert str(path) in refusal and refusal.count("\n") == 1
        if number % ONE_OF == 0:
            code, err = attempt("eval")
            assert (code, err) == ((2, refusal) if refusal else (0, ""))
    assert len(cases) > 600 and len(passed) < len(cases) / 5
    for what in passed:
        unused = ("versions", "data: train", "data: test", "data: no t")
        assert what.startswith(unused) or what.endswith("is None") or what in TEXT_WILL_DO, what


@pytest.mark.parametrize(
    "block, name, value, right",
    [
        ("config", "epochs", 2.5, "--epochs must be an integer, found 2.5"),
        ("config", "epochs", True, "--epochs must be an integer, found True"),
        ("config", "data_dir", 5, "--data-dir must be text or none, found 5"),
        ("config", "hidden", [3, "x"], "--hidden must be a list, each an integer, found (3, 'x')"),
        ("config", "lr", float("nan"), "--lr must be a finite number, found nan"),
        ("config", "model", "vgg", "unknown model 'vgg'"),
        ("data", "shape", [8, 8], "shape must be three sizes from 1 to 10,000, found (8, 8)"),
        ("data", "shape", [8, 8, 10**19], "shape must be three sizes from 1 to 10,000"),
        ("data", "class_names", [1, 2], "class_names must be a list, each text, found (1, 2)"),
        ("data", "class_names", [], "class_names must be a list, each text, found ()"),
        ("data", "mean", [1.0, 2.0], "mean must be from 0 to 255 in each of 1 channels, found (1.0, 2.0)"),
        ("data", "std", [0.0], "std must be from 1e-09 to 255 in each of 1 channels, found (0.0,)"),
        ("data", "levels", -1, "levels must be from 0 to 255, found -1"),
    ],
)
def test_what_is_wrong_about_the_config_is_said(refused, block, name, value, right):
    path = Path("runs/mine/config.json")
    about = json.loads(path.read_text())
    about[block][name] = value
    path.write_text(json.dumps(about))
    for how in ("eval", "export", "predict"):
        assert f"runs/mine/config.json is damaged ({right}" in refused(how, "config.json")


# --- metrics.jsonl ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_metrics_that_are_none(refused, attempt, capsys, text):
    Path("runs/mine/metrics.jsonl").write_bytes(text)
    if text == b"":  # no finished epoch
        assert "no finished epochs to draw in: mine" in refused("figures", "")
        return
    refused("figures", "runs/mine/metrics.jsonl is damaged")
    refused("resume", "runs/mine/metrics.jsonl is damaged")
    assert attempt("eval")[0] == 0
    assert state_of("mine", capsys) == "damaged" and state_of("yours", capsys) == "unfinished"


@pytest.mark.slow
def test_every_entry_of_the_metrics(trained, refused):
    path = Path("runs/mine/metrics.jsonl")
    first, second = (trained / "metrics.jsonl").read_text().splitlines()
    free = {"train_loss", "train_error", "test_loss", "lr", "seconds", "images_per_second"}  # of which any number will do
    record = json.loads(second)
    cases = list(variants({name: record[name] for name in (*run_files.RECORD, *run_files.LATER)}, depth=2))
    for what, changed in cases:
        name = what.split()[0]
        number = name in free and name in changed and isinstance(changed[name], int | float | None)  # null is read as NaN
        unmeasured = re.fullmatch(r"(update_angle|\w+: \w+) is (nan|None)", what)
        if number or unmeasured or what in [f"no {later}" for later in run_files.LATER]:
            continue
        path.write_text(f"{first}\n{json.dumps(changed)}\n")
        refused("figures", "runs/mine/metrics.jsonl is damaged")
    assert len(cases) > 180


def test_lines_about_other_layers(refused):
    """A picture of them would lack points."""
    path = Path("runs/mine/metrics.jsonl")
    first, second = path.read_text().splitlines(keepends=True)
    path.write_text(first.replace('"output"', '"exit"') + second)
    assert "the layers of epoch 2 are not those of the other lines" in refused("figures", "runs/mine/metrics.jsonl is damaged")


@pytest.mark.parametrize(
    "name, value, right",
    [
        ("update_angle", 181.0, "update_angle must be from 0 to 180, found 181.0"),
        ("update_angle", -1.0, "update_angle must be from 0 to 180, found -1.0"),
        ("update_angle", "x", "update_angle must be a number, found 'x'"),
        ("feedback_ratios", {"output": -0.5}, "feedback_ratios of output must be at least 0 and finite, found -0.5"),
        ("feedback_ratios", {"exit": 0.5}, "the layers of feedback_ratios are not those of matrix_angles"),
        ("delta_ratios", {"hidden1": -0.5}, "delta_ratios of hidden1 must be at least 0 and finite, found -0.5"),
        ("delta_ratios", {}, "the layers of delta_ratios are not those of delta_angles"),
        ("delta_ratios", 3, "delta_ratios must be names, each with a number, found 3"),
    ],
)
def test_entries_that_older_files_lack_are_checked_where_they_are(trained, refused, name, value, right):
    record = json.loads((trained / "metrics.jsonl").read_text().splitlines()[0])
    Path("runs/mine/metrics.jsonl").write_text(json.dumps(record | {name: value}) + "\n")
    assert f"runs/mine/metrics.jsonl is damaged ({right})" in refused("figures", "metrics.jsonl")
    with pytest.raises(ValueError, match=re.escape(right)):
        arrays, plain = checkpoints.read(trained / "last.npz")
        resuming.check_plain({**plain, "record": plain["record"] | {name: value}})


def test_a_run_of_an_older_version_is_continued(trained):
    """Neither its metrics nor the record in its checkpoint have the later entries."""
    arrays, plain = checkpoints.read(trained / "last.npz")
    older = [without_later(json.loads(line)) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    checkpoints.write(Path("runs/mine/last.npz"), arrays, plain | {"record": without_later(plain["record"])})
    Path("runs/mine/metrics.jsonl").write_text(json.dumps(older[0]) + "\n")  # as left by a kill between the two files
    assert main(["train", "--resume", "mine"]) == 0
    *before, after = Run("mine").metrics()
    assert before == older and run_files.LATER.keys() <= after.keys()
    assert main(["figures", "mine"]) == main(["runs"]) == 0


def without_later(record):
    return {name: value for name, value in record.items() if name not in run_files.LATER}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_metrics_file_that_is_none(refused, text):
    Path("other.jsonl").write_bytes(text)
    refused("figures other.jsonl", "other.jsonl")


# --- checkpoints ------------------------------------------------------------------------------------------


def arrays_like(a):
    """Arrays that must not stand in the place of the matrix or vector a: the first five are no finite real numbers."""
    yield from (a * np.nan, a * np.inf, a.astype(complex), a.astype(str), a.astype(int))
    yield from (a.astype(np.float16), a.astype(np.float64), np.ones((1, 1), a.dtype), np.array(1, a.dtype), a[:0], a[..., None])


@pytest.mark.slow
def test_every_array_of_a_checkpoint(trained, attempt, refused):
    """What is no number is damage, and a resume falls back; what has another shape or type does not fit."""
    last = Path("runs/mine/last.npz")
    arrays, plain = checkpoints.read(trained / "last.npz")
    assert {name.split(".")[0] for name in arrays} == {"hidden1", "output", "velocity"}
    for name, array in arrays.items():
        forward = not name.startswith("velocity.") and not name.endswith(".B")
        used = ["resume", "eval"] if forward else ["resume"]
        checkpoints.write(last, {key: a for key, a in arrays.items() if key != name}, plain)
        for how in used:
            refused(how, "runs/mine/last.npz does not fit")
        for number, wrong in enumerate(arrays_like(array)):
            checkpoints.write(last, {**arrays, name: wrong}, plain)
            for how in used[:1] if number > 4 else used[1:]:
                assert name.removeprefix("velocity.") in refused(how, "runs/mine/last.npz")
    checkpoints.write(last, {**arrays, name: array * np.nan}, plain)
    code, err = attempt("resume")
    assert code == 0 and "last.npz is damaged" in err and "falling back" in err


@pytest.mark.parametrize("name", ["more", "hidden2.W", "velocity.more", "velocity."])
def test_an_array_too_many(trained, refused, name):
    arrays, plain = checkpoints.read(trained / "last.npz")
    checkpoints.write(Path("runs/mine/last.npz"), {**arrays, name: np.ones(3, np.float32)}, plain)
    assert "is no array of this network" in refused("resume", "runs/mine/last.npz does not fit")


@pytest.mark.slow
def test_every_plain_value_of_a_checkpoint(trained, attempt):
    """Wrong types and impossible counts are refused; what passes is a value that could be, or of no use to anybody."""
    last, passed = Path("runs/mine/last.npz"), set()
    arrays, plain = checkpoints.read(trained / "last.npz")
    cases = list(variants(plain, depth=3))
    for number, (what, changed) in enumerate(cases):
        refusal = None
        try:
            resuming.check_plain(json.loads(json.dumps(changed)))
            passed.add(what)
        except ValueError as error:
            refusal = str(error)
        if number % ONE_OF:
            continue
        checkpoints.write(last, arrays, changed)
        code, err = attempt("resume")
        if refusal:
            assert (code, err) == (2, f"wtref: {last} does not fit the run's network: {refusal}\n")
        assert code == 0 or code == 2 and str(last) in err and err.count("\n") == 1, (what, err)
        restore(trained)
    assert len(cases) > 300 and len(passed) < len(cases) / 4
    for what in passed:
        name = what.split()[0].rstrip(":")
        assert name in ("loss_sum", "seconds", "waited", "best", "record", "generator") or what in ("rule is {}", "no record"), what


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("how", ["eval", "export", "predict"])
def test_a_checkpoint_that_is_none(refused, how, text):
    Path("runs/mine/last.npz").write_bytes(text)
    refused(how, "runs/mine/last.npz is damaged")


def test_a_checkpoint_that_goes_too_far(trained, refused):
    arrays, plain = checkpoints.read(trained / "last.npz")
    for change in ({"epoch": 4}, {"position": 2}):
        checkpoints.write(Path("runs/mine/last.npz"), arrays, {**plain, **change})
        assert "at most epoch 3, of 2 steps each" in refused("resume", "runs/mine/last.npz does not fit")


# --- any file ---------------------------------------------------------------------------------------------

FILES = {"config.json": list(USES), "metrics.jsonl": ["figures", "resume"], "last.npz": ["eval", "export", "predict"]}
KINDS = {
    "a folder": lambda path: path.mkdir(),
    "a full folder": lambda path: (path / "x").mkdir(parents=True),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("file", FILES)
def test_something_else_in_a_file_s_place(attempt, capsys, file, make):
    path = Path("runs/mine", file)
    path.unlink()
    make(path)
    linked = path.is_symlink() and not path.exists()  # as if there were nothing
    for how in FILES[file]:
        code, err = attempt(how)
        assert code == 2 and err.count("\n") == 1 and (str(path) in err or linked and "mine" in err) or linked and how == "resume"
        if code == 0:
            break
    main(["runs"])
    assert "yours" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_flipped_and_missing_bytes(trained, attempt, file):
    path, chance = Path("runs/mine", file), random.Random(file)
    data = path.read_bytes()
    for number in range(40):
        place, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :] if number % 2 else data[:place])
        code, err = attempt(FILES[file][-1])
        assert code == 0 or code == 2 and err.count("\n") == 1 and "mine" in err
        restore(trained)


@pytest.mark.parametrize("how, place", [("export", "torch.pt"), ("resume", "best.npz")])
def test_a_folder_that_cannot_be_written_to(attempt, how, place):
    """A folder in the file's place stands for a folder without permission: the tests may run as root."""
    Path("runs/mine", place).unlink(missing_ok=True)
    Path("runs/mine", place, "x").mkdir(parents=True)
    code, err = attempt(how)
    assert code == 1 and err.count("\n") == 1 and err.startswith("wtref: cannot write ") and "runs/mine" in err


@pytest.mark.parametrize("word", ["null", "NaN"])  # older versions wrote NaN
def test_angles_that_were_not_measured_are_read_and_written_as_null(trained, word):
    path, record = Path("runs/mine/metrics.jsonl"), json.loads((trained / "metrics.jsonl").read_text().splitlines()[0])
    angle = json.dumps(record["matrix_angles"]["output"])
    path.write_text(path.read_text().replace(angle, word, 1))
    records = Run("mine").metrics()
    assert math.isnan(records[0]["matrix_angles"]["output"]) and not math.isnan(records[1]["matrix_angles"]["output"])
    Run("mine").write_metrics(records)
    assert path.read_text().count("null") == 1 and "NaN" not in path.read_text()
    assert main(["train", "--resume", "mine"]) == 0
    assert math.isnan(Run("mine").metrics()[0]["matrix_angles"]["output"])


def test_a_record_with_angles_that_were_not_measured_is_recovered_from_its_checkpoint(trained):
    arrays, plain = checkpoints.read(trained / "last.npz")
    plain["record"]["delta_angles"]["hidden1"] = math.nan
    checkpoints.write(Path("runs/mine/last.npz"), arrays, plain)
    assert checkpoints.read(Path("runs/mine/last.npz"))[1]["record"]["delta_angles"]["hidden1"] is None
    path = Path("runs/mine/metrics.jsonl")
    path.write_text(path.read_text().splitlines()[0] + "\n")  # as left by a kill between the two files
    assert main(["train", "--resume", "mine"]) == 0
    found = [record["delta_angles"]["hidden1"] for record in Run("mine").metrics()]
    assert len(found) == 3 and [math.isnan(angle) for angle in found] == [False, True, False]


def test_the_published_results_are_metrics():
    files = sorted(Path(__file__).parents[2].joinpath("data/results").glob("*.jsonl"))
    assert files and all(run_files.read_results(file) for file in files)
