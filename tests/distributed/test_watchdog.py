"""The report of a killed process, and the run that it leaves."""

import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launching import MPIEXEC, RUN_PY, SMALL, assert_same_run, mpiexec, needs_mpi, nothing_left, process_ids, start, train
from programs import wait_until
from wtref.runs import checkpoints


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="the watchdog needs epoll, which Linux has")
def test_the_watchdog_names_the_first_to_close_however_late_it_reads():
    from wtref.distributed import watchdog

    rng = random.Random(0)
    for trial in range(12):
        pipes, epoll = [os.pipe() for _ in range(9)], select.epoll()
        for reading, _ in pipes:
            epoll.register(reading, select.EPOLLIN)
        first, *others = rng.sample(range(9), 9)
        left = trial % 3 == 0
        if left:
            os.write(pipes[first][1], b"left")
        for rank in (first, *others):
            os.close(pipes[rank][1])
        names = [f"{reading}=rank {rank}" for rank, (reading, _) in enumerate(pipes)]
        inherited = (epoll.fileno(), *(reading for reading, _ in pipes))
        command = [sys.executable, "-I", "-S", watchdog.__file__, str(epoll.fileno()), *names]
        stderr = subprocess.run(command, pass_fds=inherited, capture_output=True, text=True, timeout=30).stderr
        epoll.close()
        for reading, _ in pipes:
            os.close(reading)
        assert not stderr if left else stderr.startswith(f"wtref: rank {first} was killed") and stderr.count("\n") == 1


def named(stderr):
    """(rank, process id) of every process that the watchdog named."""
    return re.findall(r"^wtref: rank (\d+) \(process (\d+)\) was killed, .* or crashed; what was saved before is whole$", stderr, re.M)


@needs_mpi
@pytest.mark.slow
def test_ten_kills_at_random_moments_name_the_rank_and_leave_a_run_that_ends_with_the_same_numbers(here):
    rng, flags = random.Random(0), ["--epochs", "80", "--rule", "kp"]
    train(1, *flags, "--log-name", "whole")
    option, last = "--log-name", Path("runs/killed/last.npz")
    for kill in range(10):
        command = mpiexec(2 + kill % 2, RUN_PY, *SMALL, *flags, "--save-every", "1", option, "killed")
        started = start(command)
        rank, pid = rng.choice(list(process_ids(started.stdout, 2 + kill % 2).items()))
        if kill == 0:
            wait_until(last.exists)
        time.sleep(rng.uniform(0, 0.15))
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        output = "".join(started.communicate(timeout=30))
        assert time.monotonic() - killed < 30 and started.returncode != 0
        assert named(output) == [(str(rank), str(pid))] and output.count("wtref: ") == 1 and "Traceback" not in output
        assert nothing_left(here)
        checkpoints.read(last)
        option = "--resume"
    train(2, *flags, "--save-every", "1000", "--resume", "killed")
    assert_same_run("whole", "killed")


@needs_mpi
@pytest.mark.slow
def test_of_several_nodes_no_rank_is_named_wrongly(here):
    nodes = ["-launcher", "fork", "-hosts", "127.0.0.2,127.0.0.3"]  # two nodes for MPICH
    command = mpiexec(2, RUN_PY, *SMALL, "--epochs", "900", "--log-name", "killed")
    started = start([MPIEXEC, *nodes, *command[1:]])
    os.kill(process_ids(started.stdout, 2)[1], signal.SIGKILL)
    output = "".join(started.communicate(timeout=30))
    assert started.returncode != 0 and "wtref: " not in output
    assert nothing_left(here)


@needs_mpi
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_all_and_no_process_is_reported_as_killed(here, number):
    script = here / "slow.py"
    script.write_text(
        "import time\n"
        "from wtref import datasets\n"
        "from wtref.cli import main as cli\n"
        "def slow(*_):\n"
        "    print('loading', flush=True)\n"
        "    time.sleep(60)\n"
        "datasets.open_feed = slow\n"
        "raise SystemExit(cli.main())\n"
    )
    for program, sign, words in ((script, "loading", "rank 0: interrupted"), (RUN_PY, "epoch 1/900", "stopped in epoch .*")):
        command = mpiexec(2, program, *SMALL, "--epochs", "900")
        started = start(command)
        next(line for line in started.stdout if sign in line)
        started.send_signal(number)
        lines = [line for line in "".join(started.communicate(timeout=30)).splitlines() if "wtref: " in line]
        assert started.returncode in (130, 143) and len(lines) == 1 and re.fullmatch(f"wtref: {words}", lines[0])
        assert nothing_left(here)
