"""Compiling the C sources, and the cache of compiled libraries."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import CPU
from kernel_suite import compiled
from wtref.errors import InputError
from wtref.fast import building
from wtref.fast.compiled import Compiled
from wtref.fast.ops import cores, equip

compiled()
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("real", ["float", "double"])
def test_sources_compile_without_a_warning(real, tmp_path):
    strict = ["-Wall", "-Wextra", "-Werror", f"-DREAL={real}"]
    subprocess.run(["cc", *building.FLAGS, *strict, building.SOURCES / "all.c", "-o", tmp_path / "library.so"], check=True)


def test_words_and_refusals_without_a_compiler(monkeypatch):
    for compiler, reason in [("no-such-compiler", "'no-such-compiler' was not found"), ("false", "the C compiler failed")]:
        monkeypatch.setenv("CC", compiler)
        device = equip(CPU, "auto", 1)
        assert reason in device.kernels and device.kernels.startswith("plain kernels")
        assert device.ops is None
        with pytest.raises(InputError, match=f"--kernels compiled: .*{reason}"):
            equip(CPU, "compiled")
    monkeypatch.undo()
    assert equip(CPU).kernels == f"compiled kernels ({Compiled(1).instruction_set}), {cores()} thread{'s' * (cores() > 1)}"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of compiled libraries, empty; a single C function takes the place of the sources."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "all.c").write_text("REAL relu(REAL x) { REAL zero = 0; return x > zero ? x : zero; }")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(building, "SOURCES", sources)
    building._library.cache_clear()
    yield tmp_path / "wtref"
    building._library.cache_clear()


def library_again():
    building._library.cache_clear()
    return building.library("float")


def test_a_library_that_others_could_have_written_is_not_loaded(cache):
    building.library("float")
    cache.chmod(0o777)
    with pytest.raises(building.NoCompiler, match="must be writable by its owner alone"):
        library_again()


def test_a_source_that_does_not_compile_leaves_nothing_behind(cache, monkeypatch):
    monkeypatch.setattr(building, "FLAGS", [*building.FLAGS, "-Dzero=broken("])
    with pytest.raises(building.NoCompiler, match="the C compiler failed"):
        building.library("double")
    assert list(cache.iterdir()) == []


def test_a_library_is_compiled_once(cache, capfd):
    building.library("float")
    assert "compiling" in capfd.readouterr().err
    assert library_again().relu and capfd.readouterr().err == ""


@pytest.mark.parametrize("damage", [
    lambda library, checksum: library.write_bytes(library.read_bytes()[:5_000]),
    lambda library, checksum: library.write_bytes(b""),
    lambda library, checksum: library.write_bytes(library.read_bytes().replace(b"relu", b"Relu")),
    lambda library, checksum: library.unlink(),
    lambda library, checksum: checksum.unlink(),
    lambda library, checksum: checksum.write_bytes(b"\xff"),
], ids=["cut short", "empty", "changed", "lost", "no checksum", "another checksum"])  # fmt: skip
def test_a_damaged_library_is_compiled_again(damage, cache):
    building.library("float")
    checksum, library = sorted(cache.iterdir())
    assert (checksum.suffix, library.suffix) == (".sha256", ".so")
    wanted = library.read_bytes(), checksum.read_bytes()
    library.rename(cache / "loaded"), shutil.copy(cache / "loaded", library)  # the loaded file is not damaged
    damage(library, checksum)
    assert library_again().relu
    assert (library.read_bytes(), checksum.read_bytes()) == wanted


def test_processes_may_compile_at_once(cache):
    """Each compiles, whether another has finished or not; the library that is left is whole."""
    program = f"""if True:
        from pathlib import Path
        from wtref.fast import building
        building.SOURCES, building._is_whole = Path({str(building.SOURCES)!r}), lambda path: False
        building.library("float").relu
    """
    command = [sys.executable, "-c", program]
    started = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(process.communicate()[1].count("compiling"), process.returncode) for process in started] == [(1, 0)] * 3
    assert sorted(file.suffix for file in cache.iterdir()) == [".sha256", ".so"]
    assert building._is_whole(next(cache.glob("*.so")))


def test_without_a_home_folder_the_plain_kernels_compute_and_say_why(monkeypatch):
    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    building._library.cache_clear()
    reason = "there is no home folder for the compiled kernels; set XDG_CACHE_HOME to a folder"
    assert equip(CPU, "auto", 1).kernels == f"plain kernels ({reason}), 1 thread"


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    building._library.cache_clear()
    with pytest.raises(building.NoCompiler, match=f"Not a directory: '{tmp_path}/file/wtref'; set XDG_CACHE_HOME to another folder"):
        building.library("float")
    building._library.cache_clear()


@pytest.mark.parametrize("command, reason", [
    ("gcc 'x", "the environment variable CC must be a command, found \"gcc 'x\": No closing quotation"),
    ("''", "the C compiler '' was not found; install gcc, or set CC to a C compiler"),
    ("cc -no-such-flag", "the C compiler failed: .*-no-such-flag.*"),
])  # fmt: skip
def test_compilers_that_cannot_be(command, reason, cache, monkeypatch):
    monkeypatch.setenv("CC", command)
    with pytest.raises(building.NoCompiler, match=f"^{reason}$"):
        building.library("float")


@pytest.mark.parametrize("command", ["", " "])
def test_no_compiler_named_means_cc(command, cache, monkeypatch):
    monkeypatch.setenv("CC", command)
    assert building.library("float").relu
