"""Standard output and error that are full, closed, left by their reader, or of a narrow alphabet."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launching import MLP, RUN_PY
from wtref.cli.main import main
from wtref.runs.run import Run

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
NO_SPACE = "wtref: cannot write to standard output: No space left on device\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ended(*argv, **how):
    """(exit code, stderr) of run.py."""
    how = {"stderr": subprocess.PIPE, "timeout": 60, **how}
    done = subprocess.run([sys.executable, RUN_PY, *argv], **how)
    return done.returncode, (done.stderr or b"").decode()


@needs_full
@pytest.mark.parametrize("argv, unbuffered", [(["runs"], ""), (["--help"], ""), (["runs"], "1")])
def test_a_full_standard_output_is_one_line_and_exit_code_1(argv, unbuffered):
    with open(FULL, "wb") as full:
        code, err = ended(*argv, stdout=full, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    assert (code, err) == (1, NO_SPACE)


@needs_full
def test_a_full_standard_error_changes_no_exit_code():
    with open(FULL, "wb") as full:
        assert ended("runs", "--nonsense", stderr=full)[0] == 2


@pytest.mark.parametrize("argv", [["runs"], ["--help"]], ids=" ".join)
def test_a_reader_that_has_left_ends_a_command_quietly(argv):
    reading, writing = os.pipe()
    os.close(reading)
    assert ended(*argv, stdout=writing) == (1, "")
    os.close(writing)


def test_with_all_streams_closed_a_run_is_whole(capsys):
    def close():
        for number in range(3):
            os.close(number)

    assert ended(*MLP, "--log-name", "mine", stderr=None, preexec_fn=close)[0] == 0
    assert main(["eval", "mine", "--device", "cpu"]) == 0
    assert "after 1 epoch and" in capsys.readouterr().out
    assert len(Run("mine").metrics()) == 1


class Narrow(io.TextIOWrapper):
    """A terminal of ASCII alone."""

    def __init__(self):
        super().__init__(io.BytesIO(), encoding="ascii", errors="strict")

    def said(self):
        return self.buffer.getvalue().decode("ascii")


def test_what_a_terminal_cannot_show_is_printed_as_escapes(monkeypatch):
    out, err = Narrow(), Narrow()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    assert main([*MLP, "--log-name", "mine"]) == 0
    assert "\\xb0" in out.said() and out.said().splitlines()[-1].startswith("done: 1 epoch")
    assert main(["predict", "mine", os.fsdecode("bild-ä-".encode() + b"\xff.png")]) == 2
    assert "bild-\\xe4-\\udcff.png" in err.said() and err.said().count("\n") == 1


def test_streams_that_are_no_files_are_taken(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["runs"]) == 0
    assert out.getvalue().startswith("name")
