"""`pytest --kernels plain` runs the tests as on a machine without a C compiler: no CPU device has ops.

With pytest-xdist, `pytest -n 2 --dist loadfile` shares the test files out to two processes with cores of their own.
"""

import os
import signal

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if WORKER and hasattr(os, "sched_setaffinity"):  # each process has cores of its own, so that threads do not wait for each other
    CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, CORES[int(WORKER.removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])] or CORES)

from wtref.device import open_device
from wtref.fast.ops import equip


def pytest_addoption(parser):
    parser.addoption("--kernels", choices=["auto", "plain"], default="auto")


def pytest_configure(config):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts with &
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
    if config.getoption("--kernels") == "plain":
        os.environ["CC"] = "false"  # in subprocesses too


def pytest_report_header(config):
    return equip(open_device("cpu")).kernels
