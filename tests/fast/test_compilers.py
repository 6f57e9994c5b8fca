"""The C sources under other compilers than gcc."""

import shutil
import subprocess

import pytest

from wtref.fast import compilers

clang = pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang")


@clang
@pytest.mark.parametrize("real", ["float", "double"])
def test_clang_finds_nothing_to_warn_of(real):
    flags = ["-std=gnu11", "-march=native", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-DREAL={real}"]
    subprocess.run(["clang", *flags, compilers.SOURCES / "all.c"], check=True)
