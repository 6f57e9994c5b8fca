"""The source distribution and the wheel: installed elsewhere, wtref runs by its own command and leaves its installation as it is."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import wtref
from oldest_versions import make_environment, scripts

ROOT = Path(__file__).parents[1]
FOLDERS = ("wtref", "tests", ".ci", "data/digits", "data/pictures", "data/results")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"

pytestmark = pytest.mark.slow


def sources(folder, *suffixes):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in suffixes}


def build(kind, source, folder):
    """Build a "wheel" or an "sdist" from a folder of sources; returns its path."""
    subprocess.run([sys.executable, "-c", BUILD.format(kind), folder], cwd=source, check=True, capture_output=True)
    (path,) = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return path


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The source distribution of a copy of the repository, in which a data set was downloaded and a network trained."""
    copy = tmp_path_factory.mktemp("repository")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*(path for path in ROOT.iterdir() if path.is_file()), ROOT / "data" / "README.md"):
        shutil.copy(path, copy / path.relative_to(ROOT))
    for name in ("data/mnist/train-images-idx3-ubyte.gz", "data/cifar-10-binary.tar.gz", "runs/mine/metrics.jsonl"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(b"1")
    return build("sdist", copy, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel that is built from the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as file:
        file.extractall(folder, filter="data")
    return build("wheel", folder / f"wtref-{wtref.__version__}", folder)


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The folder of a new environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("environment")
    assert make_environment(folder, wheel) == 0
    return folder


def test_the_source_distribution_has_the_repository_but_no_downloads_and_no_runs(sdist):
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    kinds = (".py", ".c", ".h", ".cu", ".md", ".json", ".jsonl", ".npz", ".png")
    wanted = {f"{folder}/{name}" for folder in FOLDERS for name in sources(ROOT / folder, *kinds)}
    assert wanted | {"run.py", "README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "data/README.md", ".ci/run"} <= names
    assert not {name for name in names if name.startswith(("data/mnist", "data/cifar", "runs"))}


def test_the_wheel_has_the_program_its_kernels_the_digits_and_the_licence(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    about = f"wtref-{wtref.__version__}.dist-info"
    program = {f"wtref/{name}" for name in sources(ROOT / "wtref", ".py", ".c", ".cu", ".typed")}
    data = {"wtref/data/README.md", "wtref/data/digits/digits.npz"}
    assert {name for name in names if not name.startswith(about)} == program | data
    assert f"{about}/licenses/LICENSE" in names


def run(environment, folder, *command):
    """The standard output of a command that succeeds in the folder work/; the user's home is home/ beside it."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"  # of the compiled kernels
    own = {"HOME": str(folder / "home"), "XDG_CACHE_HOME": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XDG_DATA_HOME")}
    command = [scripts(environment) / command[0], *command[1:]]
    done = subprocess.run(command, cwd=folder / "work", env=variables | own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_the_installed_program_lists_and_trains_and_leaves_its_installation_as_it_is(environment, tmp_path):
    before, work = contents(environment), tmp_path / "work"
    work.mkdir()
    listed = run(environment, tmp_path, "wtref", "data").replace("\n    ", " ").splitlines()
    assert " intact " in listed[0] and str(environment) in listed[0]
    assert str(tmp_path / "home" / ".local" / "share" / "wtref" / "mnist") in listed[1]
    assert run(environment, tmp_path, "python", "-m", "wtref", "--version") == f"wtref {wtref.__version__}\n"
    out = run(environment, tmp_path, "wtref", "reproduce", "digits", "--seeds", "1", "--epochs", "1")
    assert "report" in out and (work / "runs" / "reproduce-digits-1epochs" / "report.html").is_file()
    run(environment, tmp_path, "python", "-m", "wtref", "train", "--model", "mlp", "--rule", "kp", "--epochs", "1", "--log-name", "mine")
    assert "mine" in run(environment, tmp_path, "wtref", "runs")
    assert {path.name for path in work.iterdir()} == {"runs"}
    assert contents(environment) == before
