"""Compiling the C sources, and the cache of compiled libraries."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from helpers import CPU
from kernel_suite import compiled
from wtref.cores import default_threads
from wtref.errors import InputError
from wtref.fast import building, compilers
from wtref.fast.compiled import Compiled
from wtref.fast.compilers import NoCompiler
from wtref.fast.ops import equip

compiled()
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("real", ["float", "double"])
def test_sources_compile_without_a_warning(real, tmp_path):
    command, _ = compilers.command_and_macros("cc")
    strict = ["-Wall", "-Wextra", "-Werror", f"-DREAL={real}"]
    subprocess.run([*command, *strict, compilers.SOURCES / "all.c", "-o", tmp_path / "library.so"], check=True)


def test_words_and_refusals_without_a_compiler(monkeypatch):
    for compiler, reason in [("no-such-compiler", "'no-such-compiler' was not found"), ("false", "the C compiler failed")]:
        monkeypatch.setenv("CC", compiler)
        device = equip(CPU, "auto", 1)
        assert reason in device.kernels and device.kernels.startswith("plain kernels")
        assert device.ops is None
        with pytest.raises(InputError, match=f"--kernels compiled: .*{reason}"):
            equip(CPU, "compiled")
    monkeypatch.undo()
    assert (
        equip(CPU).kernels == f"compiled kernels ({Compiled(1).instruction_set}), {default_threads()} thread{'s' * (default_threads() > 1)}"
    )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of compiled libraries, empty; a single C function takes the place of the sources."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "all.c").write_text("REAL relu(REAL x) { REAL zero = 0; return x > zero ? x : zero; }")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compilers, "SOURCES", sources)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    forget()
    yield tmp_path / "wtref"
    forget()


def forget():
    """Forget what this process has compiled and said."""
    for function in (building._library, building.say, compilers.command_and_macros):
        function.cache_clear()


def library_again():
    forget()
    return building.library("float")


def test_a_library_that_others_could_have_written_is_not_loaded(cache, capfd):
    library = building.library("float")
    cache.chmod(0o777)
    assert library_again()._name != library._name
    assert "must be writable by its owner alone; the CPU kernels are compiled for this process alone" in capfd.readouterr().err


def test_a_source_that_does_not_compile_leaves_nothing_behind(cache, monkeypatch):
    monkeypatch.setattr(compilers, "FLAGS", [*compilers.FLAGS, "-Dzero=broken("])
    with pytest.raises(NoCompiler, match="the C compiler failed"):
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
        from wtref.fast import building, compilers
        compilers.SOURCES, building._is_whole = Path({str(compilers.SOURCES)!r}), lambda path: False
        building.library("float").relu
    """
    command = [sys.executable, "-c", program]
    started = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(process.communicate()[1].count("compiling"), process.returncode) for process in started] == [(1, 0)] * 3
    assert sorted(file.suffix for file in cache.iterdir()) == [".sha256", ".so"]
    assert building._is_whole(next(cache.glob("*.so")))


def no_home(cache, monkeypatch):
    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    return "there is no home folder for the compiled kernels"


def not_a_folder(cache, monkeypatch):
    cache.touch()
    return f"[Errno 17] File exists: '{cache}'"


def not_whole(cache, monkeypatch):
    monkeypatch.setattr(building, "_is_whole", lambda path: path.write_bytes(b"no library"))
    return "file too short"


@pytest.mark.parametrize("hindrance", [no_home, not_a_folder, not_whole])
def test_without_a_cache_a_process_compiles_for_itself_and_says_why_once(hindrance, cache, monkeypatch, capfd):
    """The folder is gone as soon as the library is loaded."""
    reason = hindrance(cache, monkeypatch)
    before = set(cache.parent.iterdir())
    for real in ("float", "double"):
        assert building.library(real).relu
    *_, line = capfd.readouterr().err.splitlines()
    assert line.startswith("wtref: ") and f"{reason}; the CPU kernels are compiled for this process alone; set XDG_CACHE_HOME" in line
    assert set(cache.parent.iterdir()) - {cache} == before - {cache}


def test_a_cache_from_which_nothing_may_be_loaded(cache):
    """A file system mounted with noexec, in a mount namespace of its own."""
    program = f"""if True:
        from pathlib import Path
        from wtref.fast import building, compilers
        compilers.SOURCES = Path({str(compilers.SOURCES)!r})
        building.library("float").relu, building.library("double").relu
    """
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount -t tmpfs -o noexec,mode=700 none "$0" && exec "$@"', cache]
    cache.mkdir(mode=0o700)
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare, and the right to mount")
    done = subprocess.run([*mount, sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "for this process alone" in line]
    assert line.startswith(f"wtref: {cache}: failed to map segment")


def test_without_any_folder_the_plain_kernels_compute_and_say_why(cache, monkeypatch):
    cache.touch()
    monkeypatch.setattr(tempfile, "tempdir", str(cache))
    reason = f"[Errno 17] File exists: '{cache}'; nor in a temporary folder: [Errno 20] Not a directory: '{cache}/"
    device = equip(CPU, "auto", 1)
    assert device.ops is None and device.kernels.startswith(f"plain kernels ({reason}")
    assert device.kernels.endswith("; set XDG_CACHE_HOME or TMPDIR to another folder), 1 thread")


@pytest.mark.parametrize("command, reason", [
    ("gcc 'x", "the environment variable CC must be a command, found \"gcc 'x\": No closing quotation"),
    ("''", "the C compiler '' was not found; install gcc, or set CC to a C compiler"),
    ("cc -no-such-flag", "the C compiler failed: .*-no-such-flag.*"),
])  # fmt: skip
def test_compilers_that_cannot_be(command, reason, cache, monkeypatch):
    monkeypatch.setenv("CC", command)
    with pytest.raises(NoCompiler, match=f"^{reason}$"):
        building.library("float")


@pytest.mark.parametrize("command", ["", " "])
def test_no_compiler_named_means_cc(command, cache, monkeypatch):
    monkeypatch.setenv("CC", command)
    assert building.library("float").relu
