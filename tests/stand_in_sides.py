"""Sides for the bench that stand in for compiled ones; a process of its own can import them."""

import os
import subprocess
import time
from pathlib import Path


class Compiled:
    """A first step of 1.5 s, and later ones of 0.25 s."""

    def __init__(self, work):
        self.seconds = 1.5

    def step(self):
        time.sleep(self.seconds)
        self.seconds = 0.25


class Hanging(Compiled):
    """A quick first step; no later one comes to an end."""

    def __init__(self, work):
        self.seconds = 0

    def step(self):
        time.sleep(self.seconds)
        self.seconds = 600


def failing(work):
    raise ValueError("no compiler here\nand much more")


def ending(work):
    os._exit(3)


def endless(work):
    """Its compiler, a process whose id is in the file $STAND_IN_PID, does not come to an end."""
    compiler = subprocess.Popen(["sleep", "60"])
    Path(os.environ["STAND_IN_PID"]).write_text(str(compiler.pid))
    compiler.wait()
