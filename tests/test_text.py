"""Whatever files, folders, classes and runs are called, only printable characters reach a terminal or a report."""

import contextlib
import io
import json
import re
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers import modest
from wtref import locks
from wtref.cli.main import main
from wtref.distributed.group import SINGLE
from wtref.errors import InputError, Unsaved
from wtref.runs import figures, report
from wtref.runs.checkpoints import Damaged
from wtref.runs.config import Config
from wtref.runs.experiments import EXPERIMENTS
from wtref.text import columns, printable, wrapped

# Escape sequences, C0, DEL and C1; ends of lines; marks of the writing direction; a byte that is no UTF-8; a tab
HOSTILE = "a\x1b[31m\x07\x7f\x9b\n\r\u2028\u202e\u2066\udcff\tb"
ESCAPED = r"a\x1b[31m\x07\x7f\x9b\n\r\u2028\u202e\u2066\udcff\tb"


def assert_clean(text):
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_folder(root, class_names, file_name="x.png"):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in class_names:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}{file_name}")


def test_unprintable_characters_are_escaped():
    assert printable(HOSTILE) == ESCAPED


def test_columns_move_together_where_lines_would_be_too_long():
    assert columns([["a" * 38, "b" * 38, "c"]]) == f"{'a' * 38}  {'b' * 38} c".replace("  ", " ")
    assert columns([["a" * 37, "b" * 38, "c"]]) == f"{'a' * 37}  {'b' * 38}  c"


def test_columns_shorten_names_and_never_numbers():
    rows = [["a name of many letters", *["12.50 ± 11.25"] * 5], ["b", *["1"] * 5]]
    first, _ = columns(rows, str.rjust).splitlines()
    assert len(first) == 80 and first.split(" ", 1)[0].startswith("a") and "…" in first and first.count("12.50 ± 11.25") == 5
    first, _ = columns([["name", *["12.50 ± 11.25"] * 6], ["b", *["1"] * 6]]).splitlines()
    assert first.count("12.50 ± 11.25") == 6, "too long a line rather than a wrong number"


def test_wrapped_text_is_broken_at_spaces_alone():
    text = wrapped(f"{'word ' * 30}a/path/{'x' * 90}")
    *lines, last = text.splitlines()
    assert max(map(len, lines)) <= 80 and last == f"    a/path/{'x' * 90}"


def test_text_without_them_stays_as_it_is():
    for text in ("", "plain text", "Ä ü ß 漢字 ∂‖W‖ 4 °", r"C:\new", "👍"):
        assert printable(text) == text


@modest
@given(st.text(st.characters(exclude_categories=()), max_size=50))
def test_any_text_becomes_printable_utf_8_once_and_for_all(text):
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert printable(shown) == shown


def test_every_error_that_ends_a_run_is_one_clean_line(capsys):
    for kind in (InputError, Unsaved, Damaged):
        assert SINGLE.report_error(kind(HOSTILE), 2) == 2
        assert capsys.readouterr().err == f"wtref: {ESCAPED}\n"


def test_an_input_error_is_clean_wherever_it_is_shown():
    assert str(InputError(HOSTILE)) == ESCAPED


def test_names_of_classes_and_files_are_printed_escaped(here, capsys):
    write_folder(here / "images", ("plain", HOSTILE), HOSTILE + ".png")
    flags = "--model mlp --hidden 4 --dataset small-folder --data-dir images --epochs 1 --device cpu --log-name mine"
    assert main(flags.split()) == 0
    image = f"images/val/plain/0{HOSTILE}.png"
    assert main(["predict", "mine", image]) == 0
    assert main(["eval", "mine"]) == 0
    out, err = capsys.readouterr()
    assert_clean(out + err)
    assert f"images/val/plain/0{ESCAPED}.png\n" in out
    assert f" %  {ESCAPED}\n" in out


def test_files_left_out_and_skipped_are_printed_escaped(here, capsys):
    write_folder(here / "images", ("a", "b"))
    for name in (f"{HOSTILE}.png", f"{HOSTILE}.txt"):
        (here / "images" / "train" / "a" / name).write_bytes(b"no image")
    flags = "--model mlp --hidden 4 --dataset small-folder --data-dir images --epochs 1 --device cpu --bad-images skip"
    assert main(flags.split()) == 0
    out, err = capsys.readouterr()
    assert_clean(out + err)
    assert f"{ESCAPED}.png" in out
    assert f"such as a/{ESCAPED}.txt\n" in out


def test_folders_of_data_are_printed_escaped(here, capsys):
    assert main(["data", "--data-dir", HOSTILE]) == 0
    out, _ = capsys.readouterr()
    assert_clean(out)
    assert out.count(ESCAPED) >= 4


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--data-dir", HOSTILE, "--dataset", "mnist"],
        ["train", "--dataset", HOSTILE],
        ["train", "--epochs", HOSTILE],
        ["train", "--log-name", HOSTILE],
        ["train", HOSTILE],
        ["train", "--device", HOSTILE],
        ["train", "--preset", HOSTILE],
        ["predict", HOSTILE, "x.png"],
        ["figures", f"{HOSTILE}.jsonl"],
        ["reproduce", HOSTILE],
        ["data", "fetch", HOSTILE],
        ["import", HOSTILE],
    ],
    ids=lambda command: " ".join(part for part in command if part.isprintable()),
)
def test_refusals_quote_what_they_refuse_escaped(here, capsys, command):
    assert main(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1 and err[:-1].isprintable()


@modest
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=20))
def test_no_text_on_the_command_line_reaches_the_terminal_unescaped(text):
    for command in (["data", "--data-dir", f"x{text}"], ["predict", f"x{text}", "y"], ["train", "--dataset", f"x{text}"]):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(command)
        shown = out.getvalue() + err.getvalue()
        assert unbroken(printable(f"x{text}")) in unbroken(shown)
        assert_clean(shown)


def unbroken(text):
    """The text without spaces and ends of lines, at which it may be broken, and without backslashes and quotes, which repr may add."""
    return re.sub(r"""[\s\\'"]""", "", text)


def test_a_run_whose_folder_was_given_an_unprintable_name_is_listed_and_refused_escaped(here, capsys):
    assert main("--model mlp --hidden 4 --epochs 1 --device cpu --log-name mine".split()) == 0
    shutil.move("runs/mine", f"runs/{HOSTILE}")
    capsys.readouterr()
    assert main(["runs"]) == 0
    name, heading, own_name, row = capsys.readouterr().out.splitlines()
    assert (name, own_name) == ("name", ESCAPED), "a name too long for its row has a line of its own"
    assert heading.index("rule") == row.index("bp") and max(map(len, (heading, row))) <= 80
    for command in (["eval", HOSTILE], ["train", "--resume", HOSTILE], ["figures", HOSTILE]):
        assert main(command) == 2
        assert capsys.readouterr().err == (f"wtref: runs/{ESCAPED}: a run's name must consist of printable characters; rename the folder\n")


def test_what_is_said_of_locks_is_escaped(here, capsys, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with open(HOSTILE, "wb") as file:
        assert locks.try_lock(file, here / HOSTILE)
    assert f"locks are not available for {here}/{ESCAPED} (not supported)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_report_and_its_pictures_take_any_text(here):
    line = {"rule": "$x\x1b$", "seed": 0, "epoch": 1, "test_error": 10.0, "seconds": 1.0}
    line |= {"matrix_angles": {"1": 20.0}, "delta_angles": {"0": 30.0}}
    command = f"python run.py reproduce digits --data-dir {HOSTILE}"
    report.write(here / "report", EXPERIMENTS["digits"], [Config()], [line], command)
    page = (here / "report" / "report.html").read_text(encoding="utf-8")
    assert_clean(page)
    assert f"--data-dir {ESCAPED}</pre>" in page
    assert json.loads((here / "report" / "metrics.jsonl").read_text()) == line
    assert figures.label("$1$") == "$1$"
