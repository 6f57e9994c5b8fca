"""Where an installed wtref finds the digits and puts data sets, and how its messages name it."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

import wtref
from wtref import installation
from wtref.cli.main import main
from wtref.datasets import fetch
from wtref.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The folder of the user's data of a program that is not in a clone."""
    monkeypatch.setattr(installation, "IS_CLONE", False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".local" / "share" / "wtref"


def test_in_a_clone_all_data_sets_lie_in_its_folder():
    assert {installation.data_folder(name) for name in ("digits", "mnist", "cifar10")} == {ROOT / "data"}


def test_an_installed_program_keeps_data_sets_in_the_users_folder(installed, tmp_path, monkeypatch):
    assert installation.data_folder("cifar10") == installed
    assert installation.data_folder("digits") == installation.EMBEDDED
    monkeypatch.setattr(sys, "platform", "darwin")
    assert installation.data_folder("cifar10") == tmp_path / "Library" / "Application Support" / "wtref"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "mine"))
    assert installation.data_folder("cifar10") == tmp_path / "mine" / "wtref"


def test_an_installed_program_fetches_into_the_users_folder_and_lists_it(installed, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(fetch, "fetch", lambda name, folder: asked.append((name, folder)) or [])
    assert main(["data", "fetch", "mnist"]) == 0
    assert asked == [("mnist", installed)]
    assert main(["data"]) == 0
    lines = capsys.readouterr().out.replace("\n    ", " ").splitlines()
    assert lines[0].startswith("digits") and " intact " in lines[0] and str(installation.EMBEDDED) in lines[0]
    assert str(installed / "mnist") in lines[1] and lines[1].endswith("fetch it with: wtref data fetch mnist")


def test_without_a_home_folder_the_digits_are_found_and_other_data_sets_need_a_folder(installed, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert installation.data_folder("digits") == installation.EMBEDDED
    with pytest.raises(InputError, match="--data-dir"):
        installation.data_folder("mnist")


@pytest.mark.parametrize("started, command", [
    ("run.py", "python run.py"), ("/home/me/.venv/bin/wtref", "wtref"), ("C:/Scripts/wtref.exe", "wtref"), ("", "python run.py"),
])  # fmt: skip
def test_messages_name_the_command_that_started_the_program(started, command, monkeypatch):
    monkeypatch.setattr(sys, "argv", [started, "data"])
    assert installation.program() == command


def test_messages_of_an_installed_program_name_its_command(installed, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["notebook"])
    assert installation.program() == "wtref"
    assert main(["train", "--resume"]) == 2
    assert capsys.readouterr().err == "wtref: argument --resume: expected one argument (see wtref train --help)\n"


def test_the_gpu_report_needs_the_repositorys_tests(installed, monkeypatch):
    from wtref.bench import gpu_report

    monkeypatch.setattr(gpu_report, "IS_CLONE", False)
    with pytest.raises(InputError, match="clone"):
        gpu_report.report("report", "cuda")


def test_the_citation_names_the_paper_and_this_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert re.findall("family-names: (.*)", text) == ["Akrout", "Wilson", "Humphreys", "Lillicrap", "Tweed"]
    assert '"Deep Learning without Weight Transport"' in text and "2019" in text
    assert f"\nversion: {wtref.__version__}\n" in text
    assert f"\n## {wtref.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_all_packages_are_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "wtref").rglob("*.py")}
    assert set(listed) == found | {"wtref.data"}
