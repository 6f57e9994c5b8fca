"""Several processes train as one would: the same numbers, whole folders, clear ends.  Real ones, started by mpiexec."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launching import MPIEXEC, ROOT, SMALL, mpiexec, nothing_left, run
from wtref.runs import checkpoints
from wtref.runs.run import Run

PROGRAM = ROOT / "tests" / "group_program.py"
TIMES = ("seconds", "images_per_second", "waiting_ms_per_step", "processes")

pytest.importorskip("mpi4py", reason="several processes need mpi4py: pip install 'wtref[mpi]'")
pytestmark = pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec here: pip install 'wtref[mpi]'")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(processes, *flags):
    done = run(mpiexec(processes, ROOT / "run.py", *SMALL, *flags))
    assert done.returncode == 0 and "wtref: " not in done.stderr, done.stderr
    assert nothing_left(Path.cwd())
    return done.stdout


def fails(command, code):
    """The lines on stderr of a command that ends with this code and never takes a step."""
    done = run(command)
    assert done.returncode == code, done.stderr
    assert "epoch" not in done.stdout and "Traceback" not in done.stderr and nothing_left(Path.cwd())
    return done.stderr.splitlines()


# --- the same numbers --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return found(1, tmp_path_factory.mktemp("alone") / "out.npz")


def found(processes, path, *how):
    """What group_program.py found with so many processes."""
    done = run(mpiexec(processes, PROGRAM, path, *how))
    assert done.returncode == 0, done.stderr
    return dict(np.load(path))


def distance(a, b):
    """The largest difference, relative to the largest value; angles, of which some are 0, to a thousandth of a degree.

    Where there is no angle, there must be none on the other side.
    """
    a, b = (np.nan_to_num(x, nan=-1) for x in (a, b))
    return np.abs(a - b).max() / max(np.abs(a).max(), 1e-3)


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_any_number_of_processes_learns_the_same(alone, processes, here):
    together = found(processes, here / "out.npz")
    assert together.keys() == alone.keys()
    own = {name for name in alone if name.startswith("own statistics")}
    assert not any(np.isnan(x).any() for name, x in alone.items() if "_angles " not in name)
    assert len({name.partition(":")[0] for name in alone}) == 29
    assert {name for name in alone.keys() - own if not distance(alone[name], together[name]) < 1e-9} == set()
    assert any(distance(alone[name], together[name]) > 1e-3 for name in own)  # as each share has its own


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_constant_channel_of_any_size_has_no_variance(processes, here):
    """By sums of squares 1,251,480 had a variance below zero, and NaN came of it; three rows of float32 and float64."""
    script = here / "constant.py"
    script.write_text(
        "import numpy as np\n"
        "from helpers import equipped\n"
        "from wtref.fast import plain\n"
        "from wtref.distributed.group import open_group\n"
        "group, found = open_group(), []\n"
        "for dtype in (np.float32, np.float64):\n"
        "    y = np.full((3, 4), [1_251_480, -1_251_480, 1e-3, 1e15], dtype)[group.shard(3)]\n"
        "    ones, running = np.ones(4, dtype), np.zeros((2, 4), dtype)\n"
        "    assert group.begin_batch(len(y)) == 3\n"
        "    mean, inverse_std, scale = group.norm_statistics(equipped(dtype).ops or plain, y, ones, *running, 1.0, 0.25)\n"
        "    found += [mean, inverse_std, *running]\n"
        "group.on_rank_0(lambda: np.savez('found.npz', *found))\n"
    )
    done = run(mpiexec(processes, script))
    assert done.returncode == 0, done.stderr
    found = list(np.load("found.npz").values())
    for dtype, (mean, inverse_std, running_mean, running_var) in ((np.float32, found[:4]), (np.float64, found[4:])):
        constant = np.array([1_251_480, -1_251_480, 1e-3, 1e15], dtype)
        assert np.array_equal(inverse_std, [2, 2, 2, 2]) and np.array_equal(running_var, np.zeros(4))
        assert np.array_equal(mean, constant) and np.array_equal(running_mean, constant)


def test_device_arrays_are_summed_by_nccl_when_their_stream_may(alone, here):
    together = found(2, here / "out.npz", "double")
    exact = {name for name in together if not name.startswith("bf16")}
    assert {name for name in exact if not distance(alone[name], together[name]) < 1e-9} == set()
    wanted, rounded = alone["resnet8 kp: stem.W"], together["bf16: stem.W"]
    assert 1e-5 < np.linalg.norm(wanted - rounded) / np.linalg.norm(wanted) < 0.2  # float32 alone is at 1e-6


def test_copies_that_drift_apart_stop_the_run_and_name_the_layer(here):
    script = here / "drift.py"
    script.write_text(
        "import numpy as np\n"
        "from wtref.cli import main as cli\n"
        "from wtref.distributed.training import DistributedTraining\n"
        "from wtref.runs import prepare\n"
        "class Spoilt(DistributedTraining):\n"
        "    def step(self, *batch):\n"
        "        if self.group.rank == 1 and self.position == 3:\n"
        "            B = self.network.synapses[1].B\n"
        "            B[2, 5] = np.nextafter(B[2, 5], 9)\n"
        "        return super().step(*batch)\n"
        "prepare.DistributedTraining = Spoilt\n"
        "raise SystemExit(cli.main())\n"
    )
    done = run(mpiexec(2, script, *SMALL, "--rule", "fa", "--check-copies", "2"))
    assert done.returncode == 1
    assert done.stderr == "wtref: the copies of output.B drifted apart: rank 1's is not rank 0's\n"


def test_running_statistics_of_shards_do_not_depend_on_when_a_run_is_saved_or_resumed(here):
    """Three processes, of which one has no image of an epoch's last batch."""
    script = here / "saving.py"
    script.write_text(
        "import numpy as np\n"
        "from group_program import CASES, data\n"
        "from wtref.datasets.memory import MemoryFeed\n"
        "from wtref.distributed.group import open_group\n"
        "from wtref.runs.prepare import prepare\n"
        "from wtref.runs.resuming import restore, state\n"
        "group, config = open_group(), CASES['own statistics']\n"
        "device = config.open_device(group=group)\n"
        "def fresh():\n"
        "    return prepare(config, device, group, MemoryFeed(data(), device, 7, 0, group=group))\n"
        "def after(steps, training, save=False):\n"
        "    for _, record in zip(range(steps), training.run()):\n"
        "        if save:\n"
        "            state(training)\n"
        "    return state(training)\n"
        "never, often, first = after(12, fresh()), after(12, fresh(), save=True), after(5, fresh())\n"
        "resumed = fresh()\n"
        "restore(resumed, *group.on_rank_0(lambda: first))\n"
        "resumed = after(7, resumed)\n"
        "group.verify_copies(never[0])\n"
        "for arrays, _ in (often, resumed):\n"
        "    print([name for name, array in never[0].items() if not np.array_equal(array, arrays[name])])\n"
    )
    done = run(mpiexec(3, script))
    assert (done.returncode, done.stdout) == (0, "[]\n" * 6), done.stderr


def test_gradients_travel_while_the_backward_pass_still_runs(here):
    script = here / "order.py"
    script.write_text(
        "from group_program import CASES, data\n"
        "from wtref.datasets.memory import MemoryFeed\n"
        "from wtref.distributed.group import open_group\n"
        "from wtref.runs.prepare import prepare\n"
        "group, events = open_group(), []\n"
        "config = CASES['resnet8 kp']\n"
        "device = config.open_device(group=group)\n"
        "group.prepare_transport(device, 10_000, 'float32')\n"
        "training = prepare(config, device, group, MemoryFeed(data(), device, 7, 0, group=group))\n"
        "start, queue = group.transport.start, group.queue_all_reduce\n"
        "group.transport.start = lambda x: events.append('sent') or start(x)\n"
        "group.queue_all_reduce = lambda *arrays: events.append('queued') or queue(*arrays)\n"
        "next(training.run())\n"
        "if group.rank == 0:\n"
        "    print(*events)\n"
    )
    events = run(mpiexec(2, script)).stdout.split()
    last = len(events) - 1 - events[::-1].index("queued")
    assert events.count("queued") == 10  # layers, their shortcuts among them
    assert events[:last].count("sent") >= 5


# --- runs --------------------------------------------------------------------------------------------------


def records(name):
    lines = Path("runs", name, "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def assert_same_run(a, b):
    (arrays, plain), (others, plain_b) = (checkpoints.read(Path("runs", name, "last.npz")) for name in (a, b))
    assert {key for key in arrays if not distance(arrays[key], others[key]) < 1e-9} == set()
    assert plain["rule"] == plain_b["rule"] and plain["epoch"] == plain_b["epoch"]
    for ours, theirs in zip(records(a), records(b), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert theirs[key] == pytest.approx(value, rel=1e-9, abs=1e-6)


def test_a_run_goes_on_with_another_number_of_processes(here):
    train(1, "--epochs", "3", "--log-name", "whole")
    command = mpiexec(3, ROOT / "run.py", *SMALL, "--epochs", "3", "--log-name", "parts", "--save-every", "4")
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(Path("runs/parts/last.npz"), started)
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=30)
    stopped = started.returncode == 128 + signal.SIGTERM
    assert stopped and said.count("stopped in epoch") == 1 or started.returncode == 0
    train(2, "--epochs", "3", "--resume", "parts")
    assert_same_run("whole", "parts")
    about = json.loads(Path("runs/parts/config.json").read_text())
    assert "processes" not in about["config"]


def test_a_run_of_several_processes_is_held_by_the_first(here):
    train(2, "--epochs", "1", "--log-name", "mine")
    in_use = f"run 'mine' is in use by process {os.getpid()} on {socket.gethostname()}; wait for it or stop it"
    with Run("mine").held():
        assert fails(mpiexec(2, ROOT / "run.py", "train", "--resume", "mine"), 2) == [f"wtref: rank 0: {in_use}"]
    assert "goes on after epoch 1" in run(mpiexec(2, ROOT / "run.py", "train", "--resume", "mine")).stdout
    assert not Path("runs/mine/lock").exists()


def test_waiting_is_in_the_metrics_of_several_processes_alone(here):
    train(2, "--epochs", "1", "--log-name", "two")
    train(1, "--epochs", "1", "--log-name", "one")
    two, one = (json.loads(Path("runs", name, "metrics.jsonl").read_text()) for name in ("two", "one"))
    assert 0 < two["waiting_ms_per_step"] < 1000 * two["seconds"] / 15
    assert "waiting_ms_per_step" not in one and two.keys() - one.keys() == {"waiting_ms_per_step", "processes"}


# --- ends --------------------------------------------------------------------------------------------------


def wait_for(path, process, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    assert path.exists(), process.communicate()


def named(said):
    """(rank, process id) of every process that the watchdog named."""
    return re.findall(r"^wtref: rank (\d+) \(process (\d+)\) was killed, .* or crashed; what was saved before is whole$", said, re.M)


def test_twenty_kills_at_random_moments_name_the_rank_and_leave_a_run_that_ends_as_if_nothing_had_happened(here):
    chance, flags = random.Random(0), ["--epochs", "150", "--save-every", "1", "--rule", "kp"]
    train(1, *flags, "--log-name", "whole")
    how, last = "--log-name", Path("runs/killed/last.npz")
    for kill in range(20):
        command = mpiexec(2 + kill % 2, ROOT / "run.py", *SMALL, *flags, how, "killed")
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = next(line for line in started.stdout if "by process id" in line)
        victim = chance.choice(re.findall(r"(\d+) is (\d+)", line))
        if kill == 0:
            wait_for(last, started)
        time.sleep(chance.uniform(0, 0.15))
        os.kill(int(victim[1]), signal.SIGKILL)
        start = time.monotonic()
        said = "".join(started.communicate(timeout=30))
        assert time.monotonic() - start < 30 and started.returncode != 0
        assert named(said) == [victim] and said.count("wtref: ") == 1 and "Traceback" not in said
        assert nothing_left(here)
        checkpoints.read(last)
        how = "--resume"
    train(2, *flags, "--resume", "killed")
    assert_same_run("whole", "killed")


def test_of_several_nodes_no_rank_is_named_wrongly(here):
    nodes = ["-launcher", "fork", "-hosts", "127.0.0.2,127.0.0.3"]  # MPICH takes them for two
    command = mpiexec(2, ROOT / "run.py", *SMALL, "--epochs", "900", "--log-name", "killed")
    started = subprocess.Popen([MPIEXEC, *nodes, *command[1:]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = next(line for line in started.stdout if "by process id" in line)
    os.kill(int(re.search(r"1 is (\d+)", line)[1]), signal.SIGKILL)
    said = "".join(started.communicate(timeout=30))
    assert started.returncode != 0 and "wtref: " not in said
    assert nothing_left(here)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_all_and_nobody_is_called_killed(here, number):
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
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for program, sign, words in ((script, "loading", "rank 0: interrupted"), (ROOT / "run.py", "epoch 1/900", "stopped in epoch .*")):
        command = mpiexec(2, program, *SMALL, "--epochs", "900")
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        next(line for line in started.stdout if sign in line)
        started.send_signal(number)
        said = [line for line in "".join(started.communicate(timeout=30)).splitlines() if "wtref: " in line]
        assert started.returncode in (130, 143) and len(said) == 1 and re.fullmatch(f"wtref: {words}", said[0])
        assert nothing_left(here)


def test_an_error_on_one_rank_ends_all_and_names_it_once(here):
    folder(here / "data", count=12)
    (here / "data/train/b/11.png").write_bytes(b"no image")
    command = mpiexec(3, ROOT / "run.py", *FOLDER, "--data-dir", "data", "--epochs", "1")
    start = time.monotonic()
    done = run(command, seconds=40)
    assert time.monotonic() - start < 30
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("wtref: ")] == [
        line for line in done.stderr.splitlines() if re.match(r"wtref: rank [012]: data/train/b/11.png is no image", line)
    ]
    assert done.stderr.count("11.png") == 1 and nothing_left(here)


def test_a_bug_on_one_rank_ends_all_and_shows_where(here):
    script = here / "bug.py"
    script.write_text(
        "from wtref.cli import main as cli\n"
        "from wtref.distributed.training import DistributedTraining\n"
        "from wtref.runs import prepare\n"
        "class Spoilt(DistributedTraining):\n"
        "    def step(self, *batch):\n"
        "        if self.group.rank == 1 and self.position == 3:\n"
        "            raise ZeroDivisionError('as planned')\n"
        "        return super().step(*batch)\n"
        "prepare.DistributedTraining = Spoilt\n"
        "raise SystemExit(cli.main())\n"
    )
    done = run(mpiexec(2, script, *SMALL), seconds=40)
    assert done.returncode == 1
    assert done.stderr.count("wtref: rank 1: ZeroDivisionError('as planned')") == done.stderr.count("wtref: ") == 1
    assert done.stderr.count("Traceback") == 1 and nothing_left(here)


@pytest.mark.parametrize(
    "one, other, line",
    [
        ("", "", "wtref: --lr must be more than 0, found -1.0"),
        ("", "--lr 0.2", "wtref: rank 0: --lr must be more than 0, found -1.0"),
        ("--lr 0.1", "--lr 0.2", "wtref: the processes differ in --lr: 0.1 on rank 0, 0.2 on rank 1; start all with the same"),
    ],
)
def test_bad_and_unlike_flags_are_one_line_before_the_first_step(one, other, line):
    one, other = (flags.split() or ["--lr", "-1"] for flags in (one, other))
    second = [":", *mpiexec(1, ROOT / "run.py", *SMALL, *other)[1:]]
    assert fails([*mpiexec(1, ROOT / "run.py", *SMALL, *one), *second], 2) == [line]
    assert not Path("runs").exists()


def test_unlike_data_are_one_line_before_the_first_step(here):
    folder(here / "a", count=4)
    folder(here / "b", count=5)
    one, other = (mpiexec(1, ROOT / "run.py", *FOLDER, "--data-dir", which) for which in ("a", "b"))
    (line,) = fails([*one, ":", *other[1:]], 2)
    assert line.startswith("wtref: the processes differ in the data's sha256: ")


def test_unlike_versions_are_one_line_before_the_first_step(here):
    script = here / "older.py"
    script.write_text("import wtref, sys\nwtref.__version__ = '0.0.9'\nfrom wtref.cli.main import main\nsys.exit(main())\n")
    command = [*mpiexec(1, ROOT / "run.py", *SMALL), ":", *mpiexec(1, script, *SMALL)[1:]]
    (line,) = fails(command, 2)
    assert line.startswith("wtref: the processes differ in wtref's version: ") and "0.0.9 on rank 1" in line


def test_commands_of_one_process_say_so():
    assert fails(mpiexec(2, ROOT / "run.py", "runs"), 2) == ["wtref: 'runs' is for one process, found 2; start it without mpiexec or srun"]


def test_a_loss_that_becomes_infinite_is_said_once(here):
    flags = "train --model mlp --lr 1e30 --device cpu --threads 1".split()
    (line,) = fails(mpiexec(2, ROOT / "run.py", *flags), 1)
    assert line.startswith("wtref: the loss became")


# --- image folders -----------------------------------------------------------------------------------------

FOLDER = "train --dataset folder --image-size 16 --model resnet8 --batch-size 6 --device cpu --threads 1".split()


def folder(root, count):
    """An image folder with two classes of `count` images to train on and three to test on."""
    rng = np.random.default_rng(count)
    for split, images in (("train", count), ("val", 3)):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            for i in range(images):
                pixels = rng.integers(256, size=(20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")


def test_each_rank_opens_its_share_of_an_image_folder_and_all_open_all(here):
    folder(here / "data", count=10)
    script = here / "opened.py"
    script.write_text(
        "import os, sys\n"
        "from wtref.cli import main as cli\n"
        "from wtref.datasets import reading\n"
        "read = reading.read_file\n"
        "def noted(path):\n"
        "    with open(f'opened-{os.getpid()}', 'a') as file:\n"
        "        file.write(f'{path}\\n')\n"
        "    return read(path)\n"
        "reading.read_file = noted\n"
        "sys.exit(cli.main())\n"
    )
    done = run(mpiexec(3, script, *FOLDER, "--data-dir", "data", "--epochs", "1", "--log-name", "three"))
    assert done.returncode == 0, done.stderr
    opened = [path.read_text().split() for path in Path().glob("opened-*")]
    assert len(opened) == 3 and all(opened)
    counts = [Counter(paths) for paths in opened]
    measured = counts[0] & counts[1] & counts[2]  # the batch that all take at the epoch's end, for the delta angles
    assert measured.total() == 6 and all("train" in path for path in measured)
    everything = Counter(str(path) for path in Path("data").glob("*/*/*.png"))
    assert sum((each - measured for each in counts), Counter()) == everything  # each once, and so none twice in the error
    alone = run(mpiexec(1, ROOT / "run.py", *FOLDER, "--data-dir", "data", "--epochs", "1", "--log-name", "one"))
    assert alone.returncode == 0, alone.stderr
    ours, theirs = records("three")[0], records("one")[0]
    assert ours["test_error"] == theirs["test_error"] and ours["train_error"] == theirs["train_error"]
    assert ours["test_loss"] == pytest.approx(theirs["test_loss"], rel=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2])  # 1: all processes agree that there is nothing to learn from
def test_damaged_images_are_skipped_as_by_one_process(here, batch_size):
    folder(here / "data", count=4)
    for name in ("train/a/1.png", "val/b/0.png"):
        (here / "data" / name).write_bytes(b"no image")
    (here / "data/train/b/9.png").symlink_to("gone.png")
    flags = [*FOLDER, "--data-dir", "data", "--epochs", "2", "--bad-images", "skip", "--dtype", "float64"]
    for processes in (1, 3):
        log = f"by{processes}"
        done = run(mpiexec(processes, ROOT / "run.py", *flags, "--batch-size", str(batch_size), "--log-name", log))
        assert done.returncode == 0, done.stderr
        assert "images that cannot be read and were skipped: 3, such as" in done.stdout
    assert_same_run("by1", "by3")


# --- bench -------------------------------------------------------------------------------------------------


def test_scaling_is_timed_in_processes_of_its_own_and_predicted(here):
    flags = "bench scaling --models mlp --rules kp --batches 64 --threads 2 --repeats 1 --json found.json".split()
    done = run([sys.executable, ROOT / "run.py", *flags])
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(Path("found.json").read_text())["rows"]
    rows = found["rows"]
    assert rows["one"]["waiting_ms"] == rows["half"]["waiting_ms"] == 0 < rows["two"]["waiting_ms"] < rows["two"]["ms"]
    assert {row["bytes"] for row in rows.values()} == {4 * (784 * 500 + 500 + 500 * 10 + 10)}
    assert found["strong"] == rows["one"]["ms"] / rows["two"]["ms"] and found["weak"] == rows["half"]["ms"] / rows["two"]["ms"]
    assert "PREDICTION, not a measurement" in done.stdout and done.stdout.count("strong scaling") == 1
