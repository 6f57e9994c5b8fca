"""Runs on file systems that have no hard links, or cannot flush a folder, end as elsewhere."""

import contextlib
import errno
import itertools
import os
import shutil
import stat
from pathlib import Path

import pytest

from wtref.cli.main import main
from wtref.errors import Unsaved
from wtref.files import saving
from wtref.runs import checkpoints
from wtref.runs.run import Run

RUN = "train --model mlp --hidden 3 --batch-size 800 --epochs 3 --save-every 1 --device cpu --log-name mine".split()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def failing(number):
    def function(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return function


def no_folder_flush(monkeypatch, number):
    """os.fsync refuses folders, and them alone."""
    fsync = os.fsync

    def picky(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", picky)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES, errno.EINVAL])
def test_without_hard_links_checkpoints_are_copied(monkeypatch, number):
    monkeypatch.setattr(os, "link", failing(number))
    assert main(RUN) == 0
    assert main(["train", "--resume", "mine"]) == 0
    assert sorted(os.listdir("runs/mine")) == ["best.npz", "config.json", "last.npz", "metrics.jsonl", "previous.npz"]
    read = {name: checkpoints.read(Path(f"runs/mine/{name}.npz"))[1] for name in ("best", "last", "previous")}
    assert (read["last"]["epoch"], read["last"]["position"]) == (3, 0)
    assert (read["previous"]["epoch"], read["previous"]["position"]) == (2, 1)
    assert read["best"]["epoch"] == read["last"]["best"]["epoch"]


class Killed(BaseException):
    pass


def killing(monkeypatch, call):
    """Die before the call-th of all file replacements."""
    replace, count = os.replace, itertools.count(1)

    def watched(*paths):
        if next(count) == call:
            raise Killed
        replace(*paths)

    monkeypatch.setattr(os, "replace", watched)


def outcome():
    """The last and the best checkpoint's arrays and the metrics, without times."""
    folder, times = Path("runs/mine"), ("seconds", "images_per_second")
    arrays = [checkpoints.read(folder / f"{name}.npz")[0] for name in ("last", "best")]
    records = [{k: v for k, v in record.items() if k not in times} for record in Run("mine").metrics()]
    return [{name: array.tobytes() for name, array in each.items()} for each in arrays], records


@pytest.mark.slow
def test_killed_before_each_replacement_a_run_without_hard_links_ends_the_same(monkeypatch):
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    assert main(RUN) == 0
    whole = outcome()
    for call in itertools.count(1):
        shutil.rmtree("runs")
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            killing(patch, call)
            assert main(RUN) == 0
            break
        begun = Path("runs/mine/config.json").exists()
        assert main(["train", "--resume", "mine"] if begun else RUN) == 0
        assert outcome() == whole
    assert call == 17, "config.json, six checkpoints, five made previous, one made best, three records"


def test_a_copy_is_whole_or_not_there(monkeypatch, tmp_path):
    """The disk fills up in the midst of a copy: what stood there before still stands, and no half of the new one."""
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    (tmp_path / "new").write_bytes(b"new" * 100)
    (tmp_path / "old").write_bytes(b"old")
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", failing(errno.ENOSPC))
        with pytest.raises(Unsaved, match="No space left"):
            checkpoints.keep_as(tmp_path / "new", tmp_path / "old")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"new": b"new" * 100, "old": b"old"}
    checkpoints.keep_as(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == b"new" * 100 and not (tmp_path / "old").samefile(tmp_path / "new")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EACCES, errno.EPERM])
def test_a_folder_that_cannot_be_flushed_does_not_matter(monkeypatch, number):
    no_folder_flush(monkeypatch, number)
    assert main(RUN) == 0
    assert checkpoints.read(Path("runs/mine/last.npz"))[1]["epoch"] == 3


def test_a_folder_that_cannot_be_opened_does_not_matter(monkeypatch, tmp_path):
    """As on Windows, and in folders where one may write but not list."""
    monkeypatch.setattr(os, "open", failing(errno.EACCES))
    with saving(tmp_path / "file") as file:
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_failure_of_the_disk_is_never_ignored(monkeypatch, capsys, number):
    no_folder_flush(monkeypatch, number)
    assert main(RUN) == 1
    assert capsys.readouterr().err == f"wtref: cannot write runs/mine/config.json: {os.strerror(number)}; no run was started\n"
