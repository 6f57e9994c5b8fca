"""Messages between processes, and the errors of those that wait for one that does not respond.  mpiexec starts real ones."""

import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from launching import MPIEXEC, ROOT, SMALL, mpiexec, nothing_left, run, start
from wtref.errors import Unanswered
from wtref.runs import checkpoints

pytest.importorskip("mpi4py", reason="several processes need mpi4py: pip install 'wtref[mpi]'")
pytestmark = pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec here: pip install 'wtref[mpi]'")

WHOLE = "what was saved before is whole"

# The rank argv[1] sends itself the signal argv[2] before its third step; the rest is for wtref.
STRUCK = """
import os, signal, sys
from wtref.cli import main as cli
from wtref.runs import prepare
from wtref.distributed import messages
from wtref.distributed.training import DistributedTraining
messages.GRACE_PERIOD, messages.HEARTBEAT_INTERVAL = 1, 0.3
rank, number = int(sys.argv[1]), getattr(signal, sys.argv[2])
class Struck(DistributedTraining):
    def step(self, *batch):
        if self.group.rank == rank and self.position == 3:
            os.kill(os.getpid(), number)
        return super().step(*batch)
prepare.DistributedTraining = Struck
raise SystemExit(cli.main(sys.argv[3:]))
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program(text):
    Path("program.py").write_text(text)
    return "program.py"


def said(stderr):
    return [line for line in stderr.splitlines() if line.startswith("wtref: ")]


def shared_memory():
    return set(Path("/dev/shm").glob("mpich_shm_*"))


# --- a process that does not answer -----------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 2])
def test_a_stopped_process_is_named_when_the_limit_is_over(here, rank):
    flags = [*SMALL, "--epochs", "900", "--save-every", "1", "--log-name", "mine", "--wait-limit", "0.02"]
    done = run(mpiexec(3, program(STRUCK), rank, "SIGSTOP", *flags), seconds=60)
    pid = re.search(rf"{rank} is (\d+)", done.stdout)[1] if rank else r"\d+"
    (line,) = said(done.stderr)
    assert re.fullmatch(rf"wtref: rank {rank} \(process {pid} on .+\) has not answered for 0.02 min \(--wait-limit\); {WHOLE}", line)
    assert done.returncode == 1 and "Traceback" not in done.stderr and nothing_left(here)
    assert checkpoints.read(Path("runs/mine/last.npz"))[1]["position"] == 3


def test_a_dead_process_is_named_where_its_launcher_does_not_end_the_others(here):
    """As under srun: here the launcher sees a shell that outlives the process."""
    flags = [*SMALL, "--epochs", "900", "--save-every", "1", "--log-name", "mine", "--wait-limit", "0.02"]
    python = " ".join([sys.executable, program(STRUCK), "1", "SIGKILL", *flags])
    done = run([MPIEXEC, "-n", "3", "sh", "-c", f"{python}; sleep 60"], seconds=50)
    died, silent = said(done.stderr)
    assert re.fullmatch(rf"wtref: rank 1 \(process \d+\) was killed, .*; {WHOLE}", died)
    assert re.fullmatch(rf"wtref: rank 1 \(process \d+ on .+\) has not answered for 0.02 min \(--wait-limit\); {WHOLE}", silent)
    assert done.returncode == 1 and "Traceback" not in done.stderr and nothing_left(here)
    assert checkpoints.read(Path("runs/mine/last.npz"))[1]["position"] == 3


def test_an_error_of_one_process_does_not_wait_without_end_for_the_others_to_see_it(here):
    text = STRUCK.replace("messages.GRACE_PERIOD, messages.HEARTBEAT_INTERVAL = 1, 0.3", "messages.TIMEOUT = 1.2")
    text = text.replace("class Struck", "datasets.open_feed = lambda *_: os.kill(os.getpid(), number)\nclass Struck")
    text = text.replace("from wtref.cli", "from wtref import datasets\nfrom wtref.cli")
    one, other = (mpiexec(1, program(text), 1, "SIGSTOP", *SMALL, "--lr", lr) for lr in ("-1", "1"))
    done = run([*one, ":", *other[1:]], seconds=60)
    (line,) = said(done.stderr)
    assert re.fullmatch(rf"wtref: rank 1 \(process \d+ on .+\) has not answered for 0.02 min \(--wait-limit\); {WHOLE}", line)
    assert done.returncode == 1 and "Traceback" not in done.stderr and nothing_left(here) and not Path("runs").exists()


def test_who_is_asked_to_stop_does_not_wait_for_a_stopped_process_much_longer(here):
    command = mpiexec(3, program(STRUCK), 1, "SIGSTOP", *SMALL, "--epochs", "900", "--save-every", "1", "--log-name", "mine")
    started = start(command)
    pid = re.search(r"1 is (\d+)", next(line for line in started.stdout if "by process id" in line))[1]
    while "T (stopped)" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.01)
    started.send_signal(signal.SIGTERM)
    _, stderr = started.communicate(timeout=60)
    (line,) = said(stderr)
    wanted = (
        rf"wtref: rank 1 \(process {pid} on .+\) has not answered since the run was asked to stop, so nothing more can be saved; {WHOLE}"
    )
    assert re.fullmatch(wanted, line)
    assert started.returncode == 1 and nothing_left(here)
    assert checkpoints.read(Path("runs/mine/last.npz"))[1]["position"] == 3


def test_a_process_that_works_for_the_others_has_answered(here):
    """Rank 0 saves for longer than the others would wait for one that is silent."""
    text = STRUCK.replace("class Struck", "import time\nfrom wtref.runs.run import Run\nsave = Run.save\n"
        "Run.save = lambda *args: time.sleep(3) or save(*args)\nclass Struck")  # fmt: skip
    done = run(mpiexec(2, program(text), 0, "SIGTERM", *SMALL, "--epochs", "900", "--log-name", "mine"), seconds=60)
    assert done.returncode == 128 + signal.SIGTERM
    assert [line.partition(";")[0] for line in said(done.stderr)] == ["wtref: stopped in epoch 1, after step 4 of 15"]


def test_a_run_may_be_suspended_for_longer_than_the_limit(here):
    started = start(mpiexec(2, ROOT / "run.py", *SMALL, "--epochs", "900", "--wait-limit", "0.02"))
    line = next(line for line in started.stdout if "by process id" in line)
    next(started.stdout)
    pids = [int(pid) for pid in re.findall(r"\d is (\d+)", line)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    for _ in range(3):
        assert next(started.stdout).startswith("epoch ")
    started.send_signal(signal.SIGTERM)
    _, stderr = started.communicate(timeout=60)
    assert started.returncode == 128 + signal.SIGTERM
    assert [line.partition(" in epoch")[0] for line in said(stderr)] == ["wtref: stopped"]


MESSAGES = """
import os, pickle, signal, sys, time
import numpy as np
from mpi4py import MPI
from wtref.errors import Unanswered
from wtref.distributed.startup import unlink_shared_memory
from wtref.distributed.messages import Messenger
comm = MPI.COMM_WORLD
messenger = Messenger(comm)
comm.Barrier()
unlink_shared_memory()
values = [None, {}, "ä" * 1000, np.arange(5), 2**70]
assert messenger.all_gather(values[comm.rank])[0] is None
for rank, value in enumerate(messenger.all_gather(values[comm.rank])):
    assert repr(value) == repr(values[rank])
first = messenger.broadcast(lambda: values[comm.rank + 3])
assert np.array_equal(first, np.arange(5)), first
assert messenger.wait_count == 6
for _ in range(50):
    messenger.broadcast(lambda: None)
    comm.Barrier()
assert comm.rank == 0 or messenger.heartbeats[0][0] > messenger.wait_count - 5  # the heartbeats of rank 0 were received
messenger.timeout = 1.2
if comm.rank == 1:  # a late one is waited for
    time.sleep(0.4)
assert messenger.all_gather(comm.rank) == [0, 1, 2]
comm.Barrier()
if comm.rank == 1:
    time.sleep(60)  # too late
    os._exit(0)
start = time.monotonic()
try:
    messenger.all_gather(None)
except Unanswered as error:
    assert time.monotonic() - start > 1.2
    assert error.reporting_rank == 0
    print(f"{comm.rank}: {error}", flush=True)
time.sleep(1)
comm.Abort(7)
"""


def test_a_messenger_carries_values_of_all_sizes_and_names_the_late_process(here):
    done = run(mpiexec(3, program(MESSAGES)), seconds=60)
    assert done.returncode == 7, done.stderr
    line = f"rank 1 has not answered for 0.02 min (--wait-limit); {WHOLE}"
    assert all(done.stdout.count(f"{rank}: {line}") == 1 for rank in (0, 2))


def test_a_loss_that_mpi_reports_is_one_clear_line():
    from mpi4py import MPI

    from wtref.distributed.messages import Messenger

    class Lost:
        def Test(self):
            raise MPI.Exception(MPI.ERR_OTHER)

    with pytest.raises(Unanswered, match=f"^rank 0: MPI cannot reach another process .*; {WHOLE}$"):
        Messenger(MPI.COMM_SELF).wait(Lost())


# --- processes that do something else ---------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_is_shown_once_and_names_the_rank_that_was_alone_in_wanting_it(flag):
    done = run(mpiexec(2, ROOT / "run.py", flag), seconds=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(re.findall("^(?:usage:|wtref 0)", done.stdout, re.MULTILINE)) == 1
    for rank in (0, 1):
        argv = [SMALL, SMALL]
        argv[rank] = [flag]
        one, other = (mpiexec(1, ROOT / "run.py", *each) for each in argv)
        done = run([*one, ":", *other[1:]], seconds=60)
        assert done.returncode == 2
        assert said(done.stderr) == [f"wtref: rank {rank}: --help or --version ends the program"]


STARTUP = "import sys\nfrom wtref.distributed import startup\nstartup.TIMEOUT = 1.5\nfrom wtref.cli.main import main\nsys.exit(main())\n"


def test_a_program_that_never_calls_mpi_is_not_waited_for_without_end(here):
    before = shared_memory()
    one, other = mpiexec(1, program(STARTUP), *SMALL), [MPIEXEC, "-n", "1", shutil.which("true")]
    done = run([*one, ":", *other[1:]], seconds=60)
    assert done.returncode != 0 and nothing_left(here)
    (line,) = said(done.stderr)
    why = "another process has ended, hangs, or does not use MPI"
    assert re.fullmatch(rf"wtref: process \d+ has waited for 0.025 min for MPI to start; {why}", line)
    assert not shared_memory() - before or not Path("/dev/shm").is_dir()


def test_unlike_source_code_is_one_line_before_the_first_step(here):
    shutil.copytree(ROOT / "wtref", here / "copy/wtref", ignore=shutil.ignore_patterns("__pycache__"))
    optim = here / "copy/wtref/optim.py"
    optim.write_text(optim.read_text() + "# twice as fast\n")
    script = here / "other.py"
    script.write_text("import sys\nsys.path.insert(0, 'copy')\nfrom wtref.cli.main import main\nsys.exit(main())\n")
    flags = [*SMALL, "--data-dir", ROOT / "data"]
    done = run([*mpiexec(1, ROOT / "run.py", *flags), ":", *mpiexec(1, script, *flags)[1:]], seconds=60)
    assert done.returncode == 2 and not Path("runs").exists()
    (line,) = said(done.stderr)
    differ = "wtref: the processes differ in wtref's source code: [0-9a-f]{12} on rank 0, [0-9a-f]{12} on rank 1; start all with the same"
    assert re.fullmatch(differ, line)


# --- what a killed process leaves -------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm here")
def test_a_killed_run_leaves_no_shared_memory(here):
    started = start(mpiexec(2, ROOT / "run.py", *SMALL, "--epochs", "900"))
    pids = re.findall(r"\d is (\d+)", next(line for line in started.stdout if "by process id" in line))
    maps = Path(f"/proc/{pids[0]}/maps").read_text()
    names = set(re.findall(r"(/dev/shm/mpich_shm_\w+)(?: \(deleted\))?$", maps, re.MULTILINE))
    for pid in pids:
        os.kill(int(pid), signal.SIGKILL)
    started.communicate(timeout=60)
    assert names and not any(Path(name).exists() for name in names)
