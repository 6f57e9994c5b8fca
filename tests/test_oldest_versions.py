"""A part of the tests with the oldest promised packages; `python tests/oldest_versions.py -m "not slow"` runs them all."""

import subprocess
import sys

import pytest

import oldest_versions

# Arrays and random numbers, images, pictures, runs
PART = [
    "test_rules.py",
    "datasets/test_load.py",
    "datasets/test_reading.py",
    "runs/test_figures.py::test_a_single_epoch_is_seen",
    "cli/test_damaged_files.py",
]


def test_the_oldest_versions_are_those_of_the_project():
    assert oldest_versions.oldest() == ["numpy==2.0", "pillow==10", "threadpoolctl==3.5", "matplotlib==3.9"]


@pytest.mark.slow
def test_a_part_of_the_tests_passes_with_the_oldest_versions():
    tests = [oldest_versions.ROOT / "tests" / name for name in PART]
    done = subprocess.run(
        [sys.executable, oldest_versions.__file__, "-m", "not slow", "-k", "not mutated", *tests], capture_output=True, text=True
    )
    if "Retrying" in done.stderr:
        pytest.skip("pip reaches no packages")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("NumPy 2.0.0 and Pillow 10.0.0\n")
