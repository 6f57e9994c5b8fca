"""`run.py bench scaling`: a training step on one and on two processes of this machine, and a prediction for more.

Each arrangement of processes and threads is timed in new processes; the arrangements take turns.  Run as a program,
`python -m wtref.bench.scaling WORK`, this module is one of those processes.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

from wtref.bench.sides import Ours
from wtref.bench.turns import WARM_UP
from wtref.bench.work import Work
from wtref.distributed.group import open_group
from wtref.errors import InputError
from wtref.runs.config import Config
from wtref.text import columns, wrapped

ROOT = Path(__file__).parents[2]
STEPS = 5  # whose median is a turn's time
GOAL = 0.9  # the speed of two processes with half the threads each, relative to one process with all of them
DEVICES = (8, 16, 32, 64, 128, 256, 512, 1024)
# The latency in seconds and the bytes per second of one link.  The latencies are typical values, assumed.
NETWORKS = {
    "10 Gbit/s Ethernet, 30 µs": (30e-6, 1.25e9),
    "100 Gbit/s Ethernet, 10 µs": (10e-6, 12.5e9),
    "200 Gbit/s InfiniBand, 2 µs": (2e-6, 25e9),
    "400 Gbit/s InfiniBand, 2 µs": (2e-6, 50e9),
}


def check(work):
    """Raise InputError unless the threads and the images of a Work can be halved."""
    for what, number in (("--threads", work.threads), ("--batches", work.config.batch_size)):
        if number % 2:
            raise InputError(f"bench scaling halves {what}, so each must be even, found {number}")


def arrangements(work):
    """{name: (processes, Work)}.

    "one": a process with all threads; "two": two processes with half the threads each; "half": one of these two alone, with
    its shard of the batch.
    """
    half = replace(work.config, threads=work.threads // 2)
    shard = replace(half, batch_size=work.config.batch_size // 2)
    return {
        "one": (1, replace(work, config=replace(work.config, threads=work.threads))),
        "two": (2, replace(work, config=half)),
        "half": (1, replace(work, config=shard)),
    }


def run(work, repeats):
    """Time all arrangements in turn, `repeats` times; prints the table and returns its row of results, as plain values.

    Raises InputError where mpiexec or mpi4py is missing.
    """
    turns = {name: [] for name in arrangements(work)}
    for _ in range(repeats):
        for name, (processes, each) in arrangements(work).items():
            turns[name].append(_timed(processes, each))
    rows = {name: {key: median(turn[key] for turn in found) for key in found[0]} for name, found in turns.items()}
    one, two, half = (rows[name]["ms"] for name in ("one", "two", "half"))
    found = {"work": str(work), "rows": rows, "strong": one / two, "weak": half / two}
    found["prediction"] = predict(rows["half"])
    print(table(work, found))
    return found


def predict(row):
    """Predict the efficiency of many devices from the step of one: {network: [(least, most) for each of DEVICES]}.

    least: no communication of gradients overlaps the backward pass; most: as much as fits into the backward pass, which is
    taken to be two thirds of the step, overlaps it.
    """
    step = row["ms"] / 1000
    found = {}
    for network, (latency, speed) in NETWORKS.items():
        found[network] = []
        for devices in DEVICES:
            sums = math.log2(devices) * (row["small_sums"] * latency + row["small_bytes"] / speed)  # of batch norm, one by one
            gradients = all_reduce(devices, row["bytes"], latency, speed, row["buckets"])
            hidden = min(gradients, 2 / 3 * step)
            found[network].append((step / (step + sums + gradients), step / (step + sums + gradients - hidden)))
    return found


def small_sums(norms, sync_bn):
    """The number and the bytes of the sums that the batch norms of network.py take in a step, beside those of gradients."""
    channels, size = sum(norm.channels for norm in norms), norms[0].gamma.itemsize if norms else 0
    if sync_bn:  # (3, C) in float64 on the way up, (2, C) on the way down
        return {"small_sums": 2 * len(norms), "small_bytes": channels * (3 * 8 + 2 * size)}
    return {"small_sums": min(len(norms), 1), "small_bytes": 2 * channels * size}  # the running statistics


def all_reduce(devices, size, latency, speed, messages=1):
    """The seconds of an all-reduce of `size` bytes by recursive halving and doubling (Thakur, Rabenseifner and Gropp, 2005)."""
    return messages * 2 * math.log2(devices) * latency + 2 * (devices - 1) / devices * size / speed


def table(work, found):
    """The results of `run` as text."""
    lines = [wrapped(str(work)), "processes  threads each  batch     step ms  compute ms  communication ms"]
    for name, (processes, each) in arrangements(work).items():
        row = found["rows"][name]
        about = f"{processes:9}  {each.threads:12}  {each.config.batch_size:5}"
        lines.append(f"{about}  {row['ms']:10,.1f}  {row['ms'] - row['waiting_ms']:10,.1f}  {row['waiting_ms']:16,.1f}")
    verdict = "met" if found["strong"] >= GOAL else "MISSED"
    lines += [
        f"strong scaling, the same batch and threads in two processes: {found['strong']:.2f}",
        f"    at least {GOAL}: {verdict}",
        f"weak scaling, twice the batch and threads in two processes: {found['weak']:.2f}",
    ]
    return "\n".join([*lines, "", *_prediction(work, found)])


def _prediction(work, found):
    """The lines of the prediction: a row for each number of devices, a column for each network."""
    half, batch = found["rows"]["half"], arrangements(work)["half"][1].config.batch_size
    about = (
        f"PREDICTION, not a measurement: efficiency of devices with a step of {half['ms']:,.0f} ms for {batch} images each, "
        f"{half['bytes'] / 2**20:,.1f} MiB of gradients, by the textbook cost of an all-reduce; "
        "from none of it during the backward pass to as much as possible"
    )
    networks = [network.split(" ", 2) for network in found["prediction"]]
    heads = [("", *(f"{number} {unit}" for number, unit, _ in networks)), ("devices", *(kind for _, _, kind in networks))]
    rows = zip(DEVICES, *found["prediction"].values())
    cells = [(f"{devices:,}", *(f"{least:.2f} - {most:.2f}" for least, most in each)) for devices, *each in rows]
    return wrapped(about), columns([*heads, *cells], str.rjust)


def _timed(processes, work):
    """Take one turn of an arrangement in new processes: {"ms", "waiting_ms", ...} of a step."""
    command = [sys.executable, "-m", "wtref.bench.scaling", json.dumps({"config": asdict(work.config), "shape": work.shape})]
    if processes > 1:
        mpiexec = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
        if mpiexec is None:
            raise InputError("bench scaling needs mpiexec: pip install 'wtref[mpi]'")
        command = [mpiexec, "-n", str(processes), *command]
    done = subprocess.run(command, cwd=ROOT, encoding="utf-8", errors="replace", capture_output=True)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise InputError(f"{processes} processes could not be timed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def main(about):
    """Run one process of an arrangement; rank 0 prints the results as JSON for `_timed`."""
    about = json.loads(about)
    config = {name: tuple(value) if isinstance(value, list) else value for name, value in about["config"].items()}
    work, group = Work(Config(**config), tuple(about["shape"])), open_group()
    ours = Ours(work, group)
    group.prepare_transport(ours.device, int(work.config.bucket_mib * 2**20), work.config.bucket_dtype)
    steps = []
    for _ in range(WARM_UP + STEPS):
        group.pop_waiting_time()
        start = time.perf_counter()
        ours.step()
        steps.append((1000 * (time.perf_counter() - start), 1000 * group.pop_waiting_time()))
    ms, waiting = (median(each) for each in zip(*steps[WARM_UP:]))
    network = ours.training.network
    size = sum(array.nbytes for s in network.synapses for array in (s.W, s.b) if array is not None)
    buckets = math.ceil(size / (work.config.bucket_mib * 2**20))
    found = {"ms": ms, "waiting_ms": waiting, "bytes": size, "buckets": buckets, **small_sums(network.norms, work.config.sync_bn)}
    if group.rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
