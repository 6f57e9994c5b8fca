"""run.py as a process of its own, and its end."""

import os
import signal
import subprocess
import sys
import time

from launching import RUN_PY


def start(*argv, **how):
    """run.py in a process group of its own, in which Ctrl-C has its default effect, also where the tests run as a background job."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    own = {"start_new_session": True, "preexec_fn": _restore_ctrl_c}
    return subprocess.Popen([sys.executable, RUN_PY, *map(str, argv)], env=environment, **pipes, **own, **how)


def _restore_ctrl_c():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process):
    """(exit code, stdout, stderr); never leaves a process behind."""
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def wait_until(condition, seconds=60):
    """Wait until condition() holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition does not hold in time"
        time.sleep(0.01)


def is_empty(group):
    """Whether no process of a (Unix) process group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
