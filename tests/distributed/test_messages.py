"""Messages between processes, and the errors of those that wait for one that does not respond.  mpiexec starts real ones."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from launching import MPIEXEC, RUN_PY, SIGNALLED, SMALL, messages, mpiexec, needs_mpi, nothing_left, process_ids, run, start, write_program
from wtref.errors import Unanswered
from wtref.runs import checkpoints

pytestmark = needs_mpi

WHOLE = "what was saved before is whole"

# Processes that do not wait as long as they otherwise would.
IMPATIENT = "from wtref.distributed import messages\nmessages.GRACE_PERIOD, messages.HEARTBEAT_INTERVAL = 1, 0.3\n" + SIGNALLED


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_a_stopped_process_is_named_when_the_limit_is_over(here, rank):
    flags = [*SMALL, "--epochs", "900", "--save-every", "1", "--log-name", "mine", "--wait-limit", "0.02"]
    done = run(mpiexec(3, write_program(IMPATIENT), rank, "SIGSTOP", *flags), seconds=60)
    pid = process_ids(done.stdout.splitlines(), 3)[rank] if rank else r"\d+"
    (line,) = messages(done.stderr)
    assert re.fullmatch(rf"wtref: rank {rank} \(process {pid} on .+\) has not answered for 0.02 min \(--wait-limit\); {WHOLE}", line)
    assert done.returncode == 1 and "Traceback" not in done.stderr and nothing_left(here)
    assert checkpoints.read(Path("runs/mine/last.npz"))[1]["position"] == 3


@pytest.mark.slow
def test_a_dead_process_is_named_where_its_launcher_does_not_end_the_others(here):
    """As under srun: here the launcher sees a shell that outlives the process."""
    flags = [*SMALL, "--epochs", "900", "--save-every", "1", "--log-name", "mine", "--wait-limit", "0.02"]
    python = " ".join([sys.executable, write_program(IMPATIENT), "1", "SIGKILL", *flags])
    done = run([MPIEXEC, "-n", "3", "sh", "-c", f"{python}; sleep 60"], seconds=50)
    killed, missing = messages(done.stderr)
    assert re.fullmatch(rf"wtref: rank 1 \(process \d+\) was killed, .*; {WHOLE}", killed)
    assert re.fullmatch(rf"wtref: rank 1 \(process \d+ on .+\) has not answered for 0.02 min \(--wait-limit\); {WHOLE}", missing)
    assert done.returncode == 1 and "Traceback" not in done.stderr and nothing_left(here)
    assert checkpoints.read(Path("runs/mine/last.npz"))[1]["position"] == 3


@pytest.mark.slow
def test_an_error_of_one_process_does_not_wait_for_ever_for_a_stopped_one(here):
    text = "from wtref.distributed import messages\nmessages.TIMEOUT = 1.2\n" + SIGNALLED
    text = text.replace("class Signalled", "datasets.open_feed = lambda *_: os.kill(os.getpid(), number)\nclass Signalled")
    text = text.replace("from wtref.cli", "from wtref import datasets\nfrom wtref.cli")
    one, other = (mpiexec(1, write_program(text), 1, "SIGSTOP", *SMALL, "--lr", lr) for lr in ("-1", "1"))
    done = run([*one, ":", *other[1:]], seconds=60)
    (line,) = messages(done.stderr)
    assert re.fullmatch(rf"wtref: rank 1 \(process \d+ on .+\) has not answered for 0.02 min \(--wait-limit\); {WHOLE}", line)
    assert done.returncode == 1 and "Traceback" not in done.stderr and nothing_left(here) and not Path("runs").exists()


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_waits_only_briefly_for_a_stopped_process(here):
    command = mpiexec(3, write_program(IMPATIENT), 1, "SIGSTOP", *SMALL, "--epochs", "900", "--save-every", "1", "--log-name", "mine")
    started = start(command)
    pid = process_ids(started.stdout, 3)[1]
    while "T (stopped)" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.01)
    started.send_signal(signal.SIGTERM)
    _, stderr = started.communicate(timeout=60)
    (line,) = messages(stderr)
    wanted = (
        rf"wtref: rank 1 \(process {pid} on .+\) has not answered since the run was asked to stop, so nothing more can be saved; {WHOLE}"
    )
    assert re.fullmatch(wanted, line)
    assert started.returncode == 1 and nothing_left(here)
    assert checkpoints.read(Path("runs/mine/last.npz"))[1]["position"] == 3


@pytest.mark.slow
def test_a_process_that_saves_for_the_others_has_answered(here):
    """Rank 0 saves for longer than the others wait for a process that does not respond."""
    text = IMPATIENT.replace("class Signalled", "import time\nfrom wtref.runs.run import Run\nsave = Run.save\n"
        "Run.save = lambda *args: time.sleep(3) or save(*args)\nclass Signalled")  # fmt: skip
    done = run(mpiexec(2, write_program(text), 0, "SIGTERM", *SMALL, "--epochs", "900", "--log-name", "mine"), seconds=60)
    assert done.returncode == 128 + signal.SIGTERM
    assert [line.partition(";")[0] for line in messages(done.stderr)] == ["wtref: stopped in epoch 1, after step 4 of 15"]


# Rank 0 saves for longer than --wait-limit, after it has done argv[1].
SAVING = """
import os, signal, sys, time
from wtref.cli import main as cli
from wtref.runs.run import Run
def slow_save(*args, save=Run.save):
    exec(first)
    time.sleep(3)
    save(*args)
Run.save = slow_save
first = sys.argv[1]
raise SystemExit(cli.main([*sys.argv[2:], "--log-name", "mine", "--wait-limit", "0.02"]))
"""


@pytest.mark.slow
def test_a_process_may_save_for_longer_than_the_limit(here):
    done = run(mpiexec(3, write_program(SAVING), "pass", *SMALL, "--epochs", "1"), seconds=60)
    assert (done.returncode, messages(done.stderr)) == (0, [])
    assert checkpoints.read(Path("runs/mine/last.npz"))[1]["epoch"] == 1


@pytest.mark.slow
def test_a_process_that_is_stopped_while_it_saves_is_named(here):
    done = run(mpiexec(3, write_program(SAVING), "os.kill(os.getpid(), signal.SIGSTOP)", *SMALL, "--epochs", "1"), seconds=60)
    (line,) = messages(done.stderr)
    assert re.fullmatch(rf"wtref: rank 0 \(process \d+ on .+\) has not answered for 0.02 min \(--wait-limit\); {WHOLE}", line)
    assert done.returncode == 1 and "Traceback" not in done.stderr and nothing_left(here)


@pytest.mark.slow
def test_a_run_may_be_suspended_for_longer_than_the_limit(here):
    started = start(mpiexec(2, RUN_PY, *SMALL, "--epochs", "900", "--wait-limit", "0.02"))
    pids = process_ids(started.stdout, 2).values()
    next(started.stdout)
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
    assert [line.partition(" in epoch")[0] for line in messages(stderr)] == ["wtref: stopped"]


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
    with open(f"rank-{comm.rank}", "w") as file:
        file.write(str(error))
if comm.rank == 2:
    comm.send(None, 0)
    time.sleep(60)
comm.recv(source=2)
comm.Abort(7)
"""


@pytest.mark.slow
def test_a_messenger_carries_values_of_all_sizes_and_names_the_late_process(here):
    done = run(mpiexec(3, write_program(MESSAGES)), seconds=60)
    assert done.returncode == 7, done.stderr
    for rank in (0, 2):
        assert Path(f"rank-{rank}").read_text() == f"rank 1 has not answered for 0.02 min (--wait-limit); {WHOLE}"


def test_a_loss_that_mpi_reports_is_one_clear_line():
    from mpi4py import MPI

    from wtref.distributed.messages import Messenger

    class Lost:
        def Test(self):
            raise MPI.Exception(MPI.ERR_OTHER)

    with pytest.raises(Unanswered, match=f"^rank 0: MPI cannot reach another process .*; {WHOLE}$"):
        Messenger(MPI.COMM_SELF).wait(Lost())
