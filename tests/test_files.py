"""Everything that is written besides checkpoints: on a full disk nothing is lost that could be kept or shown."""

import ast
import errno
import json
import math
import os
import re
from pathlib import Path

import pytest

import wtref
from gpu_steps import ABOUT, GOOD
from tiny_experiment import TINY
from wtref import files
from wtref.bench import gpu_report
from wtref.cli.main import main
from wtref.errors import InputError, Unsaved
from wtref.runs.experiments import EXPERIMENTS

MLP = "--model mlp --hidden 8 --device cpu --epochs 1".split()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(Path(folder).rglob("*"))}


@pytest.fixture
def full(monkeypatch, capsys):
    """A function that runs a command line on a disk that is full, from the first file on or from the first of a name;
    it returns stdout and stderr."""

    def run(*argv, name=""):
        def fsync(handle):
            if name in os.readlink(f"/proc/self/fd/{handle}"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", fsync)
            assert main(list(argv)) == 1
        assert not list(Path().rglob("*.tmp"))
        return capsys.readouterr()

    return run


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc names no open files")


@needs_proc
@pytest.mark.parametrize("argv, path", [(["figures", "mine"], "test-error.png"), (["export", "mine"], "torch.pt")])
def test_a_run_is_what_it_was(full, argv, path):
    assert main([*MLP, "--log-name", "mine"]) == 0
    before = contents("runs")
    out, err = full(*argv)
    assert (out, err) == ("", f"wtref: cannot write runs/mine/{path}: No space left on device\n")
    assert contents("runs") == before


@needs_proc
def test_what_a_failed_export_replaces_stays(full, capsys):
    assert main([*MLP, "--log-name", "mine"]) == main(["export", "mine"]) == 0
    before = contents("runs")
    full("export", "mine")
    assert contents("runs") == before


@needs_proc
def test_mirror_shows_its_table(full):
    out, err = full("mirror", "--inputs", "64")
    assert "weight mirror, W at rest" in out and "Kolen-Pollack, lambda 0.01" in out
    assert err == "wtref: cannot write runs/mirror-1/mirror.png: No space left on device\n"


@needs_proc
@pytest.mark.parametrize("name", ["metrics.jsonl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("angles.png", "report.html"))])
def test_reproduce_shows_its_table_and_needs_no_run_again(monkeypatch, capsys, full, name):
    monkeypatch.setitem(EXPERIMENTS, "tiny", TINY)
    flags = ["reproduce", "tiny", "--seeds", "1", "--epochs", "1", "--threads", "1"]
    assert main(flags) == 0
    shown = capsys.readouterr().out.splitlines()
    out, err = full(*flags, name=name)
    assert err == f"wtref: cannot write runs/reproduce-tiny-1epochs/{name}: No space left on device\n"
    assert re.findall(r"^ *(?:BP|KP|frozen) .*$", out, re.MULTILINE) == [line for line in shown if re.match(" *(BP|KP|frozen) ", line)] != []


@needs_proc
def test_compare_starts_no_run_on_a_disk_that_is_full_already(full):
    flags = ["compare", *MLP, "--rules", "frozen", "--seeds", "1"]
    out, err = full(*flags)
    unsaved = "wtref: cannot write runs/compare-digits-1-frozen-0/config.json: No space left on device; no run was started"
    again = f"python run.py {' '.join(flags)} --log-name compare-digits-1"
    assert err == f"{unsaved}; 0 of 1 runs finished; missing: frozen seed 0; do what is left with: {again}\n" and "accuracy %" not in out
    assert not os.path.exists("runs")


@needs_proc
def test_bench_shows_its_rows(full):
    flags = ["--models", "mlp", "--rules", "bp", "--dataset", "digits", "--repeats", "1", "--device", "cpu"]
    out, err = full("bench", "loader", *flags, "--json", "found.json")
    assert "mlp under bp on cpu: the training step takes " in out
    assert err == "wtref: cannot write found.json: No space left on device\n" and not os.listdir()


def test_bench_replaces_no_device(capsys):
    """--json /dev/null would be a file from then on."""
    os.mkfifo("pipe")
    assert main(["bench", "steps", "--models", "mlp", "--json", "pipe"]) == 2
    assert capsys.readouterr().err == "wtref: --json pipe: cannot be written; name a file in an existing folder\n"
    assert Path("pipe").is_fifo()


@needs_proc
def test_a_gpu_report_takes_all_its_steps(monkeypatch, capsys, full):
    monkeypatch.setattr(gpu_report, "steps", lambda folder, device: [GOOD, GOOD])
    monkeypatch.setattr(gpu_report, "_machine", lambda device: ABOUT)
    monkeypatch.setattr("wtref.cli.bench.open_device", lambda name: type("Gpu", (), {"name": "cuda"}))
    out, err = full("gpu-report", "--out", "report")
    assert out.count("good ...\n    passed, ") == 2
    line = "wtref: cannot write {}/report.json: No space left on device"
    once = line.format(Path("report").resolve())
    assert err.splitlines() == [f"{once}; the steps go on"] * 2 + [once]


@needs_proc
def test_event_files_on_a_full_disk_end_a_run_in_one_line(monkeypatch, capsys):
    writing = pytest.importorskip("tensorboardX.event_file_writer")

    def full(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing.EventsWriter, "flush", full)
    assert main([*MLP, "--log-name", "mine", "--tensorboard"]) == 1
    said = "wtref: cannot write to runs/mine/events: No space left on device; --no-tensorboard does without\n"
    assert capsys.readouterr().err == said


def test_a_folder_or_file_that_cannot_be_made_is_one_line(tmp_path):
    Path("file").write_text("")
    with pytest.raises(InputError, match="^cannot make the folder file/below: Not a directory$"):
        files.make_folder(Path("file/below"))
    with pytest.raises(Unsaved, match="^cannot write file/below: Not a directory$"):
        files.write_text("file/below", "text")


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_replaced_file_is_the_new_one(tmp_path):
    path = tmp_path / "file"
    for text in (b"old and long", b"new"):
        with files.saving(path) as file:
            file.write(text)
    assert content_of(tmp_path) == {"file": b"new"}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), ValueError()], ids=repr)
@pytest.mark.parametrize("old", [{}, {"file": b"old"}], ids=["none there", "one there"])
def test_a_failed_replacement_leaves_the_old_file_whole(tmp_path, old, error):
    for name, text in old.items():
        (tmp_path / name).write_bytes(text)
    with pytest.raises(Unsaved if isinstance(error, OSError) else type(error)):
        with files.saving(tmp_path / "file") as file:
            file.write(b"half of the ne")
            file.flush()
            assert content_of(tmp_path).items() >= old.items()
            raise error
    assert content_of(tmp_path) == old


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with files.saving(str(tmp_path / "file")) as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "file").read_bytes() == b"old"
    assert (tmp_path / "file").read_bytes() == b"new"


def test_text_and_lines_are_what_was_written():
    files.write_text("text", "5 ° ± 1\nname-\udcff\n")
    assert Path("text").read_bytes() == b"5 \xc2\xb0 \xc2\xb1 1\nname-\\udcff\n"
    records = [{"a": 1.5, "b": {"c": None}}, {"a": "ü\n"}]
    files.write_lines("lines", records)
    assert [json.loads(line) for line in Path("lines").read_text(encoding="utf-8").splitlines()] == records
    files.write_json("value", records)
    assert json.loads(Path("value").read_text(encoding="utf-8")) == records


def test_json_holds_null_for_numbers_that_it_has_not():
    value = {"a": math.nan, "b": [1.5, (math.inf, -math.inf)], "c": {"d": math.nan}, "e": True, "f": "NaN"}
    text = files.json_text(value)
    assert text == '{"a": null, "b": [1.5, [null, null]], "c": {"d": null}, "e": true, "f": "NaN"}'
    again = files.nan_for_null(json.loads(text))
    assert math.isnan(again["a"]) and math.isnan(again["c"]["d"]) and again["b"][0] == 1.5


# --- in what encoding -------------------------------------------------------------------------------------


def in_the_locale_s_encoding(source):
    """Line numbers of calls that read or write text without saying in which encoding."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        function, mode = ast.unparse(call.func), given.get("mode", ast.unparse(call.args[1]) if len(call.args) > 1 else "'r'")
        text = function == "open" and "b" not in mode
        text |= function.endswith((".read_text", ".write_text")) and not function.startswith("files.")
        text |= function.startswith("subprocess.") and bool({"text", "universal_newlines"} & given.keys())
        if text and "encoding" not in given:
            found.append(call.lineno)
    return found


def test_calls_without_an_encoding_are_noticed():
    bad = ["open(p)", "open(p, 'w')", "open(p, mode='a')", "p.read_text()", "(a / b).write_text(t)", "subprocess.run(c, text=True)"]
    good = ["open(p, 'rb')", "open(p, mode='wb')", "open(p, 'w', encoding='utf-8')", "p.read_text(encoding='utf-8')",
            "write_text(p, t)", "os.open(p, os.O_RDONLY)", "Image.open(p)", "subprocess.run(c)"]  # fmt: skip
    assert in_the_locale_s_encoding("\n".join([*bad, *good])) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("path", sorted(Path(wtref.__file__).parent.rglob("*.py")), ids=lambda path: path.name)
def test_text_is_utf_8_whatever_the_locale(path):
    assert in_the_locale_s_encoding(path.read_text(encoding="utf-8")) == []
