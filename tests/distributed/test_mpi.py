"""Bad input, errors and bugs in one of several processes: one line on stderr, and all processes end."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from launching import FOLDER, ROOT, RUN_PY, SMALL, fails, image_folder, messages, mpiexec, needs_mpi, nothing_left, run, write_program

pytestmark = needs_mpi


@pytest.mark.parametrize(
    "one, other, line",
    [
        ("", "", "wtref: --lr must be more than 0, found -1.0"),
        pytest.param("", "--lr 0.2", "wtref: rank 0: --lr must be more than 0, found -1.0", marks=pytest.mark.slow),
        pytest.param(
            "--lr 0.1",
            "--lr 0.2",
            "wtref: the processes differ in --lr: 0.1 on rank 0, 0.2 on rank 1; start all with the same",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bad_and_unlike_flags_are_one_line_before_the_first_step(one, other, line):
    one, other = (flags.split() or ["--lr", "-1"] for flags in (one, other))
    second = [":", *mpiexec(1, RUN_PY, *SMALL, *other)[1:]]
    assert fails([*mpiexec(1, RUN_PY, *SMALL, *one), *second], 2) == [line]
    assert not Path("runs").exists()


@pytest.mark.slow
def test_unlike_data_are_one_line_before_the_first_step(here):
    image_folder(here / "a", count=4)
    image_folder(here / "b", count=5)
    one, other = (mpiexec(1, RUN_PY, *FOLDER, "--data-dir", which) for which in ("a", "b"))
    (line,) = fails([*one, ":", *other[1:]], 2)
    assert line.startswith("wtref: the processes differ in the data's sha256: ")


@pytest.mark.slow
def test_unlike_versions_are_one_line_before_the_first_step(here):
    script = here / "older.py"
    script.write_text("import wtref, sys\nwtref.__version__ = '0.0.9'\nfrom wtref.cli.main import main\nsys.exit(main())\n")
    command = [*mpiexec(1, RUN_PY, *SMALL), ":", *mpiexec(1, script, *SMALL)[1:]]
    (line,) = fails(command, 2)
    assert line.startswith("wtref: the processes differ in wtref's version: ") and "0.0.9 on rank 1" in line


@pytest.mark.slow
def test_unlike_source_code_is_one_line_before_the_first_step(here):
    shutil.copytree(ROOT / "wtref", here / "copy/wtref", ignore=shutil.ignore_patterns("__pycache__"))
    optim = here / "copy/wtref/optim.py"
    optim.write_text(optim.read_text() + "# twice as fast\n")
    script = here / "other.py"
    script.write_text("import sys\nsys.path.insert(0, 'copy')\nfrom wtref.cli.main import main\nsys.exit(main())\n")
    flags = [*SMALL, "--data-dir", ROOT / "data"]
    done = run([*mpiexec(1, RUN_PY, *flags), ":", *mpiexec(1, script, *flags)[1:]], seconds=60)
    assert done.returncode == 2 and not Path("runs").exists()
    (line,) = messages(done.stderr)
    differ = "wtref: the processes differ in wtref's source code: [0-9a-f]{12} on rank 0, [0-9a-f]{12} on rank 1; start all with the same"
    assert re.fullmatch(differ, line)


@pytest.mark.slow
def test_a_run_that_only_one_process_finds_is_one_line_before_the_first_step(here):
    """As with a file system that has not yet shown a folder to all nodes."""
    flags = [*SMALL, "--data-dir", ROOT / "data", "--resume-or-start", "mine"]
    for name in ("one", "other"):
        (here / name).mkdir()
    assert run([sys.executable, RUN_PY, *flags, "--epochs", "1"], cwd="one").returncode == 0
    one, other = (mpiexec(1, RUN_PY, *flags, "--epochs", "1") for _ in "ab")
    one[3:3], other[3:3] = ["-wdir", here / "one"], ["-wdir", here / "other"]
    line = "wtref: the processes differ in the run that is resumed: mine on rank 0, None on rank 1; start all with the same"
    assert fails([*one, ":", *other[1:]], 2) == [line]
    assert not Path("other/runs").exists()


@pytest.mark.slow
def test_commands_for_one_process_refuse_several():
    assert fails(mpiexec(2, RUN_PY, "runs"), 2) == ["wtref: 'runs' is for one process, found 2; start it without mpiexec or srun"]


@pytest.mark.slow
def test_help_is_shown_once_and_a_single_rank_that_asks_for_it_is_named():
    for flag in ("--help", "--version"):
        done = run(mpiexec(2, RUN_PY, flag), seconds=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(re.findall("^(?:usage:|wtref 0)", done.stdout, re.MULTILINE)) == 1
    for rank, flag in ((0, "--help"), (1, "--version")):
        argv = [SMALL, SMALL]
        argv[rank] = [flag]
        one, other = (mpiexec(1, RUN_PY, *each) for each in argv)
        done = run([*one, ":", *other[1:]], seconds=60)
        assert done.returncode == 2
        assert messages(done.stderr) == [f"wtref: rank {rank}: --help or --version ends the program"]


@pytest.mark.slow
def test_a_loss_that_becomes_infinite_is_reported_once(here):
    flags = "train --model mlp --lr 1e30 --device cpu --threads 1".split()
    (line,) = fails(mpiexec(2, RUN_PY, *flags), 1)
    assert line.startswith("wtref: the loss became")


@pytest.mark.slow
def test_an_error_on_one_rank_ends_all_and_names_it_once(here):
    image_folder(here / "data", count=12)
    (here / "data/train/b/11.png").write_bytes(b"no image")
    command = mpiexec(3, RUN_PY, *FOLDER, "--data-dir", "data", "--epochs", "1")
    done = run(command, seconds=40)
    assert done.returncode == 2
    assert messages(done.stderr) == [
        line for line in done.stderr.splitlines() if re.match(r"wtref: rank [012]: data/train/b/11.png is no image", line)
    ]
    assert done.stderr.count("11.png") == 1 and nothing_left(here)


BUG = """
from wtref.cli import main as cli
from wtref.distributed.training import DistributedTraining
from wtref.runs import prepare
class Spoilt(DistributedTraining):
    def step(self, *batch):
        if self.group.rank == 1 and self.position == 3:
            raise ZeroDivisionError("as planned")
        return super().step(*batch)
prepare.DistributedTraining = Spoilt
raise SystemExit(cli.main())
"""


@pytest.mark.slow
def test_a_bug_on_one_rank_ends_all_and_shows_where(here):
    done = run(mpiexec(2, write_program(BUG), *SMALL), seconds=40)
    assert done.returncode == 1
    assert done.stderr.count("wtref: rank 1: ZeroDivisionError('as planned')") == done.stderr.count("wtref: ") == 1
    assert done.stderr.count("Traceback") == 1 and nothing_left(here)


@pytest.mark.slow
def test_a_process_that_reports_an_error_is_not_ended_by_sigterm(here):
    """srun sends it to all once one has failed; 143 would say that the run was stopped and saved."""
    signalled = "import os\nfrom wtref.distributed import mpi\nmpi.printable = lambda error: os.kill(os.getpid(), 15) or error\n"
    done = run(mpiexec(2, write_program(signalled + BUG), *SMALL), seconds=40)
    assert done.returncode == 1 and messages(done.stderr) == ["wtref: rank 1: ZeroDivisionError('as planned')"]
    assert nothing_left(here)
