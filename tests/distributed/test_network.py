"""Several processes compute the same numbers as one.  mpiexec starts real ones, most of them running group_program.py."""

import numpy as np
import pytest

from launching import ROOT, SMALL, distance, mpiexec, needs_mpi, run

pytestmark = needs_mpi

MODELS = ["mlp", "lenet", "resnet8", "plain kernels", "own statistics"]  # the networks of group_program.py, by the beginning of their names

PROGRAM = ROOT / "tests" / "group_program.py"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process found, of all 39 networks."""
    alone = found(1, tmp_path_factory.mktemp("alone") / "out.npz")
    assert len({name.partition(":")[0] for name in alone}) == 39
    return alone


def found(processes, path, *how):
    """What group_program.py found with so many processes."""
    done = run(mpiexec(processes, PROGRAM, path, *how))
    assert done.returncode == 0, done.stderr
    return dict(np.load(path))


def test_two_processes_learn_the_same_as_one(here):
    names = ["mlp kp", "resnet8 wm"]
    alone, together = (found(processes, here / f"{processes}.npz", *names) for processes in (1, 2))
    assert {name.partition(":")[0] for name in together} == set(names) and together.keys() == alone.keys()
    assert {name for name in alone if not distance(alone[name], together[name]) < 1e-9} == set()


@pytest.mark.slow
@pytest.mark.parametrize("processes, models", [(2, MODELS), (3, ["mlp", "resnet8", "own"]), (4, ["mlp", "resnet8 wm", "own"])])
def test_any_number_of_processes_learns_the_same(alone, processes, models, here):
    alone = {name: x for name, x in alone.items() if name.startswith(tuple(models))}
    together = found(processes, here / "out.npz", *models)
    assert together.keys() == alone.keys()
    own = {name for name in alone if name.startswith("own statistics")}
    assert not any(np.isnan(x).any() for name, x in alone.items() if "angle" not in name and "_ratios " not in name)
    assert {name for name in alone.keys() - own if not distance(alone[name], together[name]) < 1e-9} == set()
    assert any(distance(alone[name], together[name]) > 1e-3 for name in own)  # as each shard has its own


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_constant_channel_of_any_size_has_no_variance(processes, here):
    """By sums of squares 1,251,480 had a variance below zero, and NaN came of it; three rows of float32 and float64."""
    script = here / "constant.py"
    script.write_text(
        "import numpy as np\n"
        "from helpers import equipped\n"
        "from wtref import layers\n"
        "from wtref.distributed.group import open_group\n"
        "from wtref.distributed.network import FastSyncBatchNorm\n"
        "from wtref.fast import layers as fast, plain\n"
        "group, found = open_group(), []\n"
        "for dtype in (np.float32, np.float64):\n"
        "    device = equipped(dtype)\n"
        "    y = np.full((3, 4), [1_251_480, -1_251_480, 1e-3, 1e15], dtype)[group.shard(3)]\n"
        "    norm = layers.BatchNorm('norm', 4, momentum=1.0, epsilon=0.25)\n"
        "    norm.initialise(device, None)\n"
        "    running, norm = (norm.running_mean, norm.running_var), fast.BatchNorm(norm, device.ops or plain)\n"
        "    group.begin_batch(len(y))\n"
        "    assert group.images == 3\n"
        "    mean, inverse_std, scale = (FastSyncBatchNorm(norm, group) if group.size > 1 else norm).statistics(y)\n"
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


@pytest.mark.slow
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


@pytest.mark.slow
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
    assert (done.returncode, "".join(done.stdout.split())) == (0, "[]" * 6), done.stderr


@pytest.mark.slow
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
