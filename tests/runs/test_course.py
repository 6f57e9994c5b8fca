"""The course of an experiment: another program's log is read or refused, and drawn where it was measured."""

from dataclasses import replace

import pytest

from wtref.cli.main import main
from wtref.errors import InputError
from wtref.runs import course
from wtref.runs.colours import COLOURS
from wtref.runs.experiments import EXPERIMENTS

AUTHORS = EXPERIMENTS["mnist-authors"]
HEAD = "rule,epoch,test_accuracy,matrix_angle_output,delta_angle_hidden\n"


@pytest.fixture
def log(tmp_path):
    def write(text):
        path = tmp_path / "log.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_a_log_has_lines_like_those_of_metrics(log):
    bp, wm = course.read_log(log(HEAD + "bp,1,88.00,,\nzzz,1,2,3,4\nwm,10,90.5,27.5,17\n"), AUTHORS.rules)
    assert (bp["rule"], bp["epoch"], bp["test_error"]) == ("bp", 1, 12.0)
    assert (wm["rule"], wm["epoch"], wm["test_error"], wm["matrix_angles"]) == ("authors-wm", 10, 9.5, {"output": 27.5})
    assert wm["local_delta_angles"] == {"output": 17.0} and wm["delta_angles"] == {}


@pytest.mark.parametrize("text, wanted", [
    ("rule,epoch\nbp,1\n", "lacks the columns test_accuracy, matrix_angle_output, delta_angle_hidden"),
    ("", "lacks the columns rule, "),
    (HEAD + "bp,1,88,,\nbp,2,much,,\n", "line 3: could not convert string to float: 'much'; right would be percent and degrees"),
    (HEAD + "bp,1\n", "line 2: epoch 1 with a test error of nan % cannot be"),
    (HEAD + "bp,1,101,,\n", "line 2: epoch 1 with a test error of -1.0 % cannot be"),
    (HEAD + "kp,1,90,,181\n", "line 2: local_delta_angles of output must be from 0 to 180, found 181.0"),
    (HEAD + "bp,,88,,\n", "line 2: "),
    (HEAD.encode() + b"bp,\xff\n", "cannot be read: "),
    (HEAD, "no row is of one of the experiment's rules, bp, fa, kp, wm, frozen"),
    (HEAD + "BP,1,88,,\n", "no row is of one of the experiment's rules, bp, fa, kp, wm, frozen"),
    (HEAD + "bp,1,88,,\nkp,1,90,,\nbp,1,98,,\n", "has 2 lines of rule bp, epoch 1; right would be one"),
])  # fmt: skip
def test_a_log_that_is_none_is_refused_in_one_line(log, text, wanted):
    path = log(text)
    with pytest.raises(InputError) as caught:
        course.read_log(path, AUTHORS.rules)
    assert f"--beside {path}" in str(caught.value) and wanted in str(caught.value) and "\n" not in str(caught.value)


def test_a_log_with_a_byte_order_mark_is_read_as_without(log):
    text = HEAD + "bp,1,88,,\n"
    marked = course.read_log(log(text.encode("utf-8-sig")), AUTHORS.rules)
    assert [(line["rule"], line["test_error"]) for line in marked] == [("bp", 12.0)]


def test_a_log_that_does_not_exist_or_has_no_effect(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = "mnist-authors", "mnist-differences", "digits", "depth"
    assert [main(["reproduce", name, "--beside", "none.csv"]) for name in names] == [2] * 4
    missing, also, idle, idle_too = capsys.readouterr().err.splitlines()
    assert missing == "wtref: --beside none.csv cannot be read: No such file or directory"
    assert idle == "wtref: --beside none.csv has no effect in digits; leave it out"
    assert (also, idle_too) == (missing, idle.replace("digits", "depth"))


def test_circles_are_the_log_s_and_lines_the_program_s_own(log):
    pytest.importorskip("matplotlib").use("Agg")
    beside = course.read_log(log(HEAD + "kp,1,70,50,60\nkp,2,80,40,45\nkp,4,85,35,42\nkp,6,86,34,41\nkp,7,87,33,40\n"), AUTHORS.rules)
    angles = {"matrix_angles": {"output": 30.0}, "delta_angles": {"hidden1": 20.0}, "local_delta_angles": {"output": 25.0}}
    lines = [{"rule": rule, "seed": seed, "epoch": epoch, "test_error": 10.0 + 2 * seed, **angles}
             for rule in ("bp", "kp") for seed in (0, 1) for epoch in (1, 2, 3, 4, 5, 6)]  # fmt: skip
    error, *angled = course.draw(replace(AUTHORS, beside=beside), lines).axes
    assert {curve.get_color() for curve in error.lines} == {COLOURS["bp"], COLOURS["kp"]}
    for axes, own, theirs in zip((error, *angled), (11, 30, 20, 25), ([30, 20, 14], [50, 40, 34], None, [60, 45, 41]), strict=True):
        line, *circles = [curve for curve in axes.lines if curve.get_color() == COLOURS["kp"]]
        assert list(line.get_xdata()) == [1, 2, 3, 4, 5, 6] and list(line.get_ydata()) == [own] * 6
        assert [list(curve.get_ydata()) for curve in circles] == ([theirs] if theirs else [])
        assert all(list(curve.get_xdata()) == [1, 2, 6] and curve.get_linestyle() == "None" for curve in circles)
        assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "6"]
    assert all(COLOURS["bp"] not in {curve.get_color() for curve in axes.lines} for axes in angled)
