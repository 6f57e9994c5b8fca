"""`bench scaling`: what it times, and what it predicts."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from launching import RUN_PY, needs_mpi, run
from wtref.bench import scaling


def test_all_reduce_costs_what_halving_and_doubling_does():
    """Counted message by message: in round i, half of what is left goes out, and comes back on the way up."""
    latency, speed, size = 3e-6, 1e9, 1 << 20
    for rounds in (1, 3, 10):
        sent, left = 0, size
        for _ in range(rounds):
            left /= 2
            sent += left
        counted = 2 * (rounds * latency + sent / speed)
        assert scaling.all_reduce(2**rounds, size, latency, speed) == pytest.approx(counted)


def test_prediction_falls_with_devices_and_rises_with_the_network():
    row = {"ms": 100.0, "bytes": 1e8, "buckets": 24, "small_sums": 106, "small_bytes": 850_000}
    found = list(scaling.predict(row).values())
    for efficiencies in found:
        assert all(0 < least <= most <= 1 for least, most in efficiencies)
        assert efficiencies == sorted(efficiencies, reverse=True)
    for slow, fast in zip(found, found[1:]):
        assert all(a < b for a, b in zip(slow, fast))
    none = {"bytes": 0, "buckets": 0, "small_sums": 0, "small_bytes": 0}
    assert scaling.predict(row | none)["10 Gbit/s Ethernet, 30 µs"][0] == (1, 1)
    large = scaling.predict(row | none | {"small_bytes": 1.25e8})["10 Gbit/s Ethernet, 30 µs"]
    assert large[0] == pytest.approx((0.25, 0.25)), "three rounds of 100 ms among eight devices, which nothing hides"


def test_what_batch_norm_sends():
    norms = [SimpleNamespace(channels=c, gamma=np.zeros(c, np.float32)) for c in (3, 5)]
    assert scaling.small_sums(norms, sync_bn=True) == {"small_sums": 4, "small_bytes": 8 * (24 + 8)}
    assert scaling.small_sums(norms, sync_bn=False) == {"small_sums": 1, "small_bytes": 8 * 8}
    assert scaling.small_sums([], sync_bn=True) == {"small_sums": 0, "small_bytes": 0}


@needs_mpi
@pytest.mark.slow
def test_scaling_is_timed_in_processes_of_its_own_and_predicted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = "bench scaling --models mlp --rules kp --batches 64 --threads 2 --repeats 1 --json found.json".split()
    done = run([sys.executable, RUN_PY, *flags])
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(Path("found.json").read_text())["rows"]
    rows = found["rows"]
    assert rows["one"]["waiting_ms"] == rows["half"]["waiting_ms"] == 0 < rows["two"]["waiting_ms"] < rows["two"]["ms"]
    assert {row["bytes"] for row in rows.values()} == {4 * (784 * 500 + 500 + 500 * 10 + 10)}
    assert found["strong"] == rows["one"]["ms"] / rows["two"]["ms"] and found["weak"] == rows["half"]["ms"] / rows["two"]["ms"]
    assert "PREDICTION, not a measurement" in done.stdout and done.stdout.count("strong scaling") == 1
