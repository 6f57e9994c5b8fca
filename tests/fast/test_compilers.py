"""Which compilers and flags compile the C sources, and the suite of the compiled kernels under clang."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from helpers import CPU
from kernel_suite import KernelSuite, compiled, need_clang, normal
from wtref.fast import compilers
from wtref.fast.compilers import command_and_macros
from wtref.fast.ops import equip

compiled()


@pytest.fixture(scope="class")
def kernels_by_clang(request):
    need_clang()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", "clang")
        request.cls.fast = compiled()


@pytest.mark.slow
@pytest.mark.usefixtures("kernels_by_clang")
class TestClang(KernelSuite):
    side, depth = 100, 600


@pytest.mark.parametrize("real", ["float", "double"])
def test_clang_finds_nothing_to_warn_of(real):
    need_clang()
    flags = ["-std=gnu11", "-march=native", "-fopenmp", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-DREAL={real}"]
    subprocess.run(["clang", *flags, compilers.SOURCES / "all.c"], check=True)


@pytest.fixture
def compiler_without(tmp_path, monkeypatch):
    """Return a function that makes a compiler which refuses flags, unless -Xpreprocessor stands before them as for Apple's clang."""

    def make(*refused, base="cc"):
        path = tmp_path / "compiler"
        path.write_text(f"""#!/bin/sh
before=
for word; do
    for refused in {" ".join(refused)}; do
        if [ "$word" = $refused ] && [ "$before" != -Xpreprocessor ]; then
            echo "error: unsupported option $word" >&2
            exit 1
        fi
    done
    before=$word
done
exec {base} "$@"
""")
        path.chmod(0o700)
        monkeypatch.setenv("CC", str(path))
        return str(path)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compilers, "LIBOMP", [])
    monkeypatch.setattr(compilers, "FLAGS", ["-O0", *compilers.FLAGS[1:]])  # which compiles in a second
    command_and_macros.cache_clear()
    yield make
    command_and_macros.cache_clear()


@pytest.mark.parametrize("content", ["garbage", "#!/no/such/interpreter\n"])
def test_a_compiler_that_cannot_be_started_is_named(content, tmp_path, monkeypatch):
    compiler = tmp_path / "compiler"
    compiler.write_text(content)
    compiler.chmod(0o700)
    monkeypatch.setenv("CC", str(compiler))
    assert re.search(r"plain kernels \(the C compiler cannot be started: .*compiler'\)", equip(CPU).kernels)


@pytest.mark.parametrize("refused, flags", [
    ([], ["-march=native", "-fopenmp"]),
    (["-march=native"], ["-mcpu=native", "-fopenmp"]),
    (["-march=native", "-mcpu=native"], ["-fopenmp"]),
    (["-fopenmp"], ["-march=native"]),
    (["-march=native", "-mcpu=native", "-fopenmp"], []),
])  # fmt: skip
def test_flags_that_a_compiler_refuses_are_left_out(refused, flags, compiler_without):
    compiler = compiler_without(*refused)
    assert command_and_macros(compiler)[0] == [compiler, *compilers.FLAGS, *flags]


def suits_the_plain_kernels(fast):
    suite, draw = KernelSuite(), normal(3, np.float32)
    suite.fast = fast
    suite.convolutions(draw, (9, 8), [(3, 3), (1, 1), (1, 1)], 16, 32, 2)
    suite.convolutions(draw, (9, 8), [(5, 5), (2, 2), (1, 1)], 3, 10, 2)
    suite.both("product", draw(70, 50), draw(33, 50).T)
    suite.both("moments", draw(30, 17))


@pytest.mark.slow
def test_without_openmp_the_kernels_have_one_thread_and_say_so(compiler_without):
    compiler_without("-fopenmp")
    device = equip(CPU, "compiled", 2)
    assert device.kernels.endswith("), 1 thread (the C compiler has no OpenMP)")
    suits_the_plain_kernels(device.ops)
    assert equip(CPU, "compiled", 1).kernels.endswith("), 1 thread")


@pytest.mark.slow
def test_openmp_from_homebrew_s_folder(compiler_without, monkeypatch):
    """A clang that refuses plain -fopenmp stands in for that of a Mac."""
    need_clang()
    compiler_without("-fopenmp", base="clang")
    resources = subprocess.check_output(["clang", "-print-resource-dir"], text=True).strip()  # PREFIX/lib/clang/VERSION
    monkeypatch.setattr(compilers, "LIBOMP", [str(Path(resources).parents[2])])
    device = equip(CPU, "compiled", 2)
    assert device.kernels.endswith("), 2 threads") and device.ops.has_openmp
    suits_the_plain_kernels(device.ops)
