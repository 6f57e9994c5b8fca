"""`pytest --kernels plain` runs the tests as on a machine without a C compiler: no CPU device has ops.

`pytest --start-within SECONDS` skips the tests that it cannot start in that time.

With pytest-xdist, `pytest -n 2 --dist loadfile` shares the test files out to two processes with cores of their own.
"""

import os
import signal
import time

for variable in list(os.environ):  # before NumPy and OpenMP read them
    if variable == "COLUMNS" or variable.startswith("OMP_"):
        del os.environ[variable]

import pytest

START = time.monotonic()
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if WORKER and hasattr(os, "sched_setaffinity"):  # each process has cores of its own, so that threads do not wait for each other
    CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, CORES[int(WORKER.removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])] or CORES)

from wtref import plugins
from wtref.datasets import IN_MEMORY
from wtref.device import open_device
from wtref.fast.ops import equip
from wtref.models import MODELS
from wtref.relatives import RULES


def pytest_addoption(parser):
    parser.addoption("--kernels", choices=["auto", "plain"], default="auto")
    parser.addoption("--start-within", type=float, metavar="SECONDS", help="skip the tests that would start later than this")


def pytest_configure(config):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts with &
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
    if config.getoption("--kernels") == "plain":
        os.environ["CC"] = "false"  # in subprocesses too


def pytest_runtest_setup(item):
    limit = item.config.getoption("--start-within")
    if limit is not None and time.monotonic() - START > limit:
        item.session.too_late = True
        pytest.skip(f"not started within {limit:g} s")


def pytest_sessionfinish(session, exitstatus):
    if exitstatus == 0 and hasattr(session, "too_late"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED  # not 0, as if all tests had passed


def pytest_report_header(config):
    return equip(open_device("cpu")).kernels


@pytest.fixture
def registries():
    """What a plug-in registers is gone after the test."""
    before = [(registry, dict(registry)) for registry in (RULES, MODELS, IN_MEMORY, plugins.loaded)]
    yield
    for registry, content in before:
        registry.clear()
        registry.update(content)
