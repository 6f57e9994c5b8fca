"""One process at a time writes to a run; others are refused with its process id, and lose nothing."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from programs import wait_until
from wtref import locks
from wtref.cli.main import main
from wtref.runs import checkpoints, folders
from wtref.runs.experiments import EXPERIMENTS, Experiment
from wtref.runs.run import Run

ROOT = Path(__file__).parents[1]
NET = "--model mlp --hidden 3 --batch-size 800 --device cpu --kernels plain --threads 1".split()  # 2 steps an epoch
TINY = ["train", *NET, "--epochs", "2", "--log-name", "mine"]
EXPERIMENT = Experiment(
    "a tiny one", {"model": "mlp", "dataset": "digits", "hidden": (3,), "epochs": 1, "batch_size": 800}, rules={"frozen": {}}, seeds=1
)
FOLDER = Path("runs/mine")
IN_USE = f"wtref: run 'mine' is in use by process %d on {socket.gethostname()}; wait for it or stop it\n"
LEFT = (  # what reproduce adds
    f"wtref: run '{{0}}-frozen-0' is in use by process {os.getpid()} on {socket.gethostname()}; wait for it or stop it; "
    "0 of 1 runs finished; missing: frozen seed 0; do what is left with: python run.py reproduce {0} --jobs 1\n"
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def contents(folder=FOLDER):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_second_process_is_refused_and_a_killed_one_is_no_obstacle(capsys):
    """A suspended process keeps its lock; a killed one leaves its lock file behind, but no lock."""
    command = [sys.executable, ROOT / "run.py", "train", *NET, "--epochs", "100000", "--save-every", "1", "--log-name", "mine"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until((FOLDER / "previous.npz").exists)
        first.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WNOWAIT)
        before = contents()
        assert main(["train", "--resume", "mine"]) == 2
        assert capsys.readouterr().err == IN_USE % first.pid
        assert contents() == before
    finally:
        first.kill()
        first.wait()
    assert (FOLDER / "lock").exists()
    with locks.held(FOLDER / "lock", "the run"):
        assert str(os.getpid()) in (FOLDER / "lock").read_text()
    assert not (FOLDER / "lock").exists()


def test_every_command_that_writes_is_refused(monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "tiny", EXPERIMENT)
    assert main(TINY) == 0
    assert main(["reproduce", "tiny", "--jobs", "1"]) == 0
    Path("runs/tiny-frozen-0/last.npz").unlink()
    capsys.readouterr()
    tiny = Run("tiny-frozen-0")
    with Run("mine").held(), tiny.held():
        before = contents(), contents(tiny.folder)
        assert main(["train", "--resume", "mine"]) == 2
        assert capsys.readouterr() == ("", IN_USE % os.getpid())
        assert main(["reproduce", "tiny", "--jobs", "1"]) == 2
        assert capsys.readouterr().err == LEFT.format("tiny")
        monkeypatch.setattr("wtref.runs.compare._begun", lambda name: False)  # as found just before the other process began
        assert main(["reproduce", "tiny", "--jobs", "1"]) == 2
        assert capsys.readouterr().err == LEFT.format("tiny")
        assert (contents(), contents(tiny.folder)) == before


def test_two_processes_do_not_write_one_report_at_the_same_time(monkeypatch, capsys):
    """Each may have trained other rules; the second still prints its table."""
    monkeypatch.setitem(EXPERIMENTS, "tiny", EXPERIMENT)
    folder = Path("runs/reproduce-tiny")
    folder.mkdir(parents=True)
    with locks.held(folder / "lock", "it"):
        assert main(["reproduce", "tiny", "--jobs", "1"]) == 2
    out, err = capsys.readouterr()
    assert "accuracy %" in out and not list(folder.iterdir())
    assert err == (IN_USE % os.getpid()).replace("run 'mine'", "the report runs/reproduce-tiny")
    assert main(["reproduce", "tiny", "--jobs", "1"]) == 0 and (folder / "report.html").exists() and not (folder / "lock").exists()


@pytest.mark.parametrize("command", ["train", "import", "reproduce"])
def test_a_folder_that_another_process_has_just_made_is_not_removed(monkeypatch, capsys, command):
    monkeypatch.setitem(EXPERIMENTS, "mine", EXPERIMENT)
    name = "mine-frozen-0" if command == "reproduce" else "mine"
    flags = {"train": TINY, "import": ["import", "torch.pt", *NET, "--log-name", "mine"], "reproduce": ["reproduce", "mine", "--jobs", "1"]}
    assert main([*TINY[:-1], "other"]) == 0 and main(["export", "other"]) == 0
    Path("runs/other/torch.pt").rename("torch.pt")
    Run(name).folder.mkdir()
    capsys.readouterr()
    with Run(name).held():
        assert main(flags[command]) == 2
        said = LEFT.format("mine") if command == "reproduce" else IN_USE % os.getpid()
        assert capsys.readouterr().err == said
        assert os.listdir(Run(name).folder) == ["lock"]
    assert main(flags[command]) == 0, "an empty folder that is not locked is treated as none"


def test_a_lock_is_released_at_the_end_and_reading_needs_none(capsys):
    assert main(TINY) == 0 and not (FOLDER / "lock").exists()
    with Run("mine").held():
        for command in (["runs"], ["eval", "mine"], ["figures", "mine"], ["export", "mine"]):
            assert main(command) == 0
    assert capsys.readouterr().err == ""


def test_temporary_files_of_other_commands_are_kept():
    assert main(TINY) == 0
    theirs, ours = FOLDER / ".torch.pt.12.tmp", FOLDER / ".last.npz.12.tmp"
    theirs.touch(), ours.touch()
    assert main(["train", "--resume", "mine"]) == 0
    assert theirs.exists() and not ours.exists()


def test_of_a_lock_file_only_a_process_and_its_host_are_printed(capsys):
    Run("mine").folder.mkdir(parents=True)
    with Run("mine").held():
        (FOLDER / "lock").write_text("process 1 on \033]0;a\007")
        assert main(TINY) == 2
    assert capsys.readouterr().err == "wtref: run 'mine' is in use by another process; wait for it or stop it\n"


OBSTACLES = {
    "fifo": os.mkfifo,
    "folder": Path.mkdir,
    "hard link": lambda path: os.link("treasure", path),
    "symbolic link": lambda path: path.symlink_to(Path("treasure").absolute()),
}


@pytest.mark.parametrize("plant", OBSTACLES.values(), ids=OBSTACLES)
def test_a_path_that_is_no_lock_file_is_not_written_to(capsys, plant):
    assert main(TINY) == 0
    Path("treasure").write_text("gold")
    plant(FOLDER / "lock")
    capsys.readouterr()
    assert main(["train", "--resume", "mine"]) == 2
    why = "is a link or not a regular file, as a lock file must be; remove it"
    assert capsys.readouterr().err == f"wtref: runs/mine/lock {why}\n"
    assert Path("treasure").read_text() == "gold" and (FOLDER / "lock").exists()


def test_a_folder_that_cannot_be_written_is_one_line(monkeypatch, capsys):
    assert main(TINY) == 0
    capsys.readouterr()
    os_open = os.open

    def read_only(path, flags, *mode):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return os_open(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    assert main(["train", "--resume", "mine"]) == 1
    assert capsys.readouterr() == ("", "wtref: cannot write to runs/mine: Read-only file system\n")


def test_a_lock_can_be_held_on_a_full_disk(monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with locks.held(Path("lock"), "it"):
        assert Path("lock").exists()


def test_a_lock_file_that_its_holder_removes_meanwhile_is_created_again(monkeypatch):
    """The holder ends between opening and locking: the opened file has no name any more, so a lock on it protects nothing."""
    flock = fcntl.flock

    def late(file, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        Path("lock").unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with locks.held(Path("lock"), "it"):
        with pytest.raises(locks.InputError, match="it is in use"):
            with locks.held(Path("lock"), "it"):
                pass


# --- where there are no locks -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_a_run_goes_on_and_one_line_says_so(monkeypatch, capsys, number):
    def flock(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert main(TINY) == 0
    why = f"locks are not available for runs/mine/lock ({os.strerror(number)})"
    assert capsys.readouterr().err == f"wtref: {why}; make sure that no other process writes there\n"
    assert checkpoints.read(FOLDER / "last.npz")[1]["epoch"] == 2 and not (FOLDER / "lock").exists()


def test_a_system_without_fcntl_has_no_locks(monkeypatch, capsys):
    monkeypatch.setattr(locks, "fcntl", None)
    with locks.held(Path("lock"), "it"), locks.held(Path("lock"), "it"):
        pass
    assert capsys.readouterr().err.count("locks are not available for lock (not on this system)") == 2


# --- names ------------------------------------------------------------------------------------------------


def test_two_processes_that_find_the_same_free_name_get_a_folder_each(monkeypatch):
    for name in ("a-1", "a-2"):
        (folders.RUNS / name).mkdir(parents=True)
    offered = iter(["a-1", "a-2", "a-3"])  # as before other processes took the first two
    monkeypatch.setattr(folders, "free_name", lambda stem: next(offered))
    assert folders.free_folder("a") == folders.RUNS / "a-3" and (folders.RUNS / "a-3").is_dir()


def test_a_runs_path_that_is_no_folder_is_one_line(capsys):
    folders.RUNS.symlink_to("nowhere")
    assert main(TINY[:-2]) == 2
    assert capsys.readouterr().err == "wtref: cannot make the folder runs: File exists\n"


def test_an_import_that_cannot_be_saved_leaves_no_run(monkeypatch, capsys):
    """A run without its checkpoint would start from the first weights."""
    assert main(TINY) == 0 and main(["export", "mine"]) == 0
    capsys.readouterr()

    def full(*args, **entries):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("numpy.savez", full)
    assert main(["import", "runs/mine/torch.pt", *NET, "--log-name", "new"]) == 1
    assert capsys.readouterr().err == "wtref: cannot write runs/new/last.npz: No space left on device; no run was started\n"
    assert json.loads((FOLDER / "config.json").read_text()) and not Path("runs/new").exists()
