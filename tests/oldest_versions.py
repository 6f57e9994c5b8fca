"""Runs the tests with the oldest packages that pyproject.toml promises: `python tests/oldest_versions.py [pytest's arguments]`.

The oldest versions of the required packages and of matplotlib are installed into a temporary environment, which takes all
other packages, such as pytest and PyTorch, from the one that runs this program.  The oldest Python is the one that runs it.
Exits with pytest's code, or with pip's where the packages cannot be installed.
"""

import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def oldest():
    """The required packages and matplotlib in their oldest versions, as pip's arguments."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [each.replace(">=", "==") for each in (*project["dependencies"], *project["optional-dependencies"]["plot"])]


def scripts(folder):
    """The folder of the commands of an environment."""
    return Path(sysconfig.get_path("scripts", "venv", {"base": str(folder)}))


def make_environment(folder, *packages):
    """Install packages into a new environment, in which those of the running one can be imported, too; returns pip's exit code."""
    venv.create(folder)
    own = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    (own / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--python", str(folder), "install", "--quiet", "--no-deps", "--no-compile", *map(str, packages)]
    return subprocess.run(command).returncode


def main(*arguments):
    with tempfile.TemporaryDirectory() as folder:
        code = make_environment(Path(folder), *oldest())
        if code:
            return code
        python = scripts(folder) / "python"
        subprocess.run([python, "-c", "import numpy, PIL; print('NumPy', numpy.__version__, 'and Pillow', PIL.__version__)"], check=True)
        return subprocess.run([python, "-m", "pytest", "-p", "no:cacheprovider", *arguments], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
