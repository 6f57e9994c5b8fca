"""A run that is killed at any moment, or whose disk is full, ends with the same bits once it is resumed."""

import errno
import io
import itertools
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from resumed_runs import AUGMENTED, TINY, go_on, leftovers, outcome, train
from wtref import files
from wtref.cli.main import main
from wtref.runs import checkpoints
from wtref.runs.run import Run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fork(argv, prepare=lambda: None):
    """A child that runs the command line; its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            prepare()
            code = main(argv)
        finally:
            os._exit(code)
    return pid


def ended(pid):
    """The exit code of a child, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die():
    os.kill(os.getpid(), signal.SIGKILL)


RUNS = {
    **{rule: [*AUGMENTED, "--rule", rule] for rule in ("bp", "fa", "brsf", "wm", "kp", "dfa", "ss", "frsf")},
    "float64": [*AUGMENTED, "--rule", "kp", "--dtype", "float64"],
}
KILLS = 100


def slow_disk():
    """Writing a file takes a while, as it does not where files are kept in memory."""
    fsync = os.fsync
    os.fsync = lambda file: time.sleep(0.005) or fsync(file)


@pytest.mark.slow
def test_kill_9_at_any_moment():
    chance = random.Random(2019)
    whole, lasts = {}, {}
    for name, flags in RUNS.items():
        start = time.perf_counter()
        assert ended(fork(["train", "--log-name", name, *flags], slow_disk)) == 0
        lasts[name], whole[name] = time.perf_counter() - start, outcome(name)
    kills = while_writing = mid_epoch = 0
    for number in itertools.count(1):
        for kind, flags in RUNS.items():
            name = f"{kind}-{number}"
            for tries in itertools.count():
                child = fork(go_on(name, flags), slow_disk)
                time.sleep(chance.uniform(0, (0.7 + 0.1 * tries) * lasts[kind]))
                os.kill(child, signal.SIGKILL)
                code = ended(child)
                assert code in (0, -signal.SIGKILL)
                if code == 0:
                    break
                kills += 1
                while_writing += bool(leftovers(name))
                if Path("runs", name, "last.npz").exists():
                    mid_epoch += checkpoints.read(Path("runs", name, "last.npz"))[1]["position"] != 0
            assert outcome(name) == whole[kind]
            assert not leftovers(name)
        if kills >= KILLS:
            break
    assert while_writing >= 5 and mid_epoch >= 20


def deaths(call):
    """Kill this process at the call-th of all moments right before and right after os.link, os.replace and os.fsync."""
    count = itertools.count(1)

    def watched(original):
        def function(*args):
            if next(count) == call:
                die()
            result = original(*args)
            if next(count) == call:
                die()
            return result

        return function

    for name in ("link", "replace", "fsync"):
        setattr(os, name, watched(getattr(os, name)))


@pytest.mark.slow
def test_killed_at_each_point_of_every_save():
    flags = [*TINY, "--rule", "wm"]
    assert train("--log-name", "whole", *flags) == 0
    whole = outcome("whole")
    for call in itertools.count(1):
        name = f"cut{call}"
        code = ended(fork(["train", "--log-name", name, *flags], lambda: deaths(call)))
        assert code in (0, -signal.SIGKILL)
        if code == 0:
            break
        if Path("runs", name, "last.npz").exists():
            saved = Run(name).progress()["epoch"]
            assert len(Run(name).metrics()) in (saved, saved - 1)
        assert train(*go_on(name, flags)[1:]) == 0
        assert outcome(name) == whole and not leftovers(name)
    assert call > 50


def test_killed_in_mid_write():
    """Half a checkpoint is on the disk, under its temporary name."""
    assert train("--log-name", "whole", *TINY) == 0

    def prepare(call):
        savez, count = np.savez, itertools.count(1)

        def half(file, **entries):
            if next(count) == call:
                file.write(b"PK\3\4 half of it")
                file.flush()
                die()
            savez(file, **entries)

        np.savez = half

    for call in (1, 2, 3, 4):
        name = f"cut{call}"
        assert ended(fork(["train", "--log-name", name, *TINY], lambda: prepare(call))) == -signal.SIGKILL
        assert len(leftovers(name)) == 1
        assert train("--resume", name) == 0
        assert outcome(name) == outcome("whole") and not leftovers(name)


# --- a full disk ------------------------------------------------------------------------------------------


class FullDisk:
    """From the call-th write, fsync or link on, there is no space left."""

    def __init__(self, monkeypatch, call):
        self.left, self.hit = call, False
        disk = self

        class File(io.FileIO):
            def write(self, data):
                disk.use()
                return super().write(data)

        monkeypatch.setattr(files, "open", lambda path, mode: File(path, mode), raising=False)
        for name in ("fsync", "link"):
            monkeypatch.setattr(os, name, self.wrapped(getattr(os, name)))

    def use(self):
        self.left -= 1
        if self.left <= 0:
            self.hit = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def wrapped(self, original):
        def function(*args):
            self.use()
            return original(*args)

        return function


@pytest.mark.slow
def test_a_full_disk_at_each_write(monkeypatch, capsys):
    assert train("--log-name", "whole", *TINY) == 0
    whole = outcome("whole")
    capsys.readouterr()
    for call in itertools.chain(range(1, 60), itertools.count(60, 7)):
        name = f"full{call}"
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, call)
            code = train("--log-name", name, *TINY)
        err = capsys.readouterr().err
        if not disk.hit:
            break
        assert code == 1 and err.startswith("wtref: cannot write runs/") and err.count("\n") == 1
        assert "No space left on device" in err
        assert not leftovers(name)
        assert Path("runs", name).exists() == Path("runs", name, "config.json").exists()
        assert train(*go_on(name, TINY)[1:]) == 0
        assert outcome(name) == whole
        capsys.readouterr()
    assert code == 0 and call > 150
