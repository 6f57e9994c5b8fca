"""run.py as a process of its own, and what becomes of it."""

import os
import signal
import subprocess
import sys
import time

from launching import RUN_PY


def start(*argv, **how):
    """run.py in a process group of its own, with the usual Ctrl-C even where a background job ignores it."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    own = {"start_new_session": True, "preexec_fn": ctrl_c_as_usual}
    return subprocess.Popen([sys.executable, RUN_PY, *map(str, argv)], env=environment, **pipes, **own, **how)


def ctrl_c_as_usual():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process):
    """(exit code, stdout, stderr); never leaves a process behind."""
    try:
        out, err = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def patience(condition, seconds=60):
    """Wait until condition() holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def nobody_in(group):
    """No process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
