"""Every test runs in a folder of its own; fixtures that run a command line and hold its output to the rules."""

import pytest

from wtref.cli.main import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    """Every path below folder, and the bytes of the files."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.fixture
def refused(here, capsys):
    """A function that holds a command line to the rules for bad input and returns its one line."""

    def refuse(*argv):
        capsys.readouterr()
        before = contents(here)
        assert main([str(arg) for arg in argv]) == 2
        out, err = capsys.readouterr()
        assert contents(here) == before
        assert out == ""
        assert err.startswith("wtref: ") and err.count("\n") == 1 and err.endswith("\n")
        return err

    return refuse


@pytest.fixture
def said(capsys):
    """A function that runs a command line and returns its output."""

    def run(*argv):
        capsys.readouterr()
        assert main([str(arg) for arg in argv]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return run
