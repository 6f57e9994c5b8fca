"""The kernels that the tests run on: `pytest --kernels plain` does without the compiled ones."""

import os
import signal

import pytest

from wtref import kernels


def pytest_addoption(parser):
    parser.addoption("--kernels", choices=["auto", "plain"], default="auto")


@pytest.fixture(scope="module")
def plain_kernels():
    kernels.use("plain")
    yield
    kernels.use()


def pytest_configure(config):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a script starts with &
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
    if config.getoption("--kernels") == "plain":
        os.environ["CC"] = "false"  # as on a machine without a C compiler, in subprocesses too
    config.kernels_in_words = kernels.use()


def pytest_report_header(config):
    return config.kernels_in_words
