"""What the tests of stopped, killed and resumed runs share."""

import json
from pathlib import Path

from wtref.cli.main import main
from wtref.runs import checkpoints
from wtref.runs.run import Run

TIMES = ("seconds", "images_per_second")
SMALL = "--model mlp --hidden 6 --batch-size 400 --epochs 3 --save-every 1 --device cpu".split()  # 4 steps an epoch
AUGMENTED = [*SMALL, *"--crop 1 --flip --rotate 10".split()]
TINY = "--model mlp --hidden 3 --batch-size 800 --epochs 2 --save-every 1 --device cpu".split()  # 2 steps an epoch


def train(*flags):
    return main(["train", *flags])


def outcome(name):
    """All that a run leaves but times: its last and best checkpoints' entries, and its metrics."""
    left = {}
    for which in ("last", "best"):
        arrays, plain = checkpoints.read(Path("runs", name, f"{which}.npz"))
        assert plain.pop("seconds") == 0.0
        plain["record"] = {k: v for k, v in (plain["record"] or {}).items() if k not in TIMES}
        left[which] = plain, {key: (a.dtype.str, a.shape, a.tobytes()) for key, a in arrays.items()}
    records = Run(name).metrics()
    return left, [json.dumps({k: v for k, v in record.items() if k not in TIMES}) for record in records]


def go_on(name, flags):
    """The command line that begins the run, or goes on with it where there is something to go on with."""
    if Path("runs", name, "config.json").exists():
        return ["train", "--resume", name, *flags]
    return ["train", "--log-name", name, *flags]


def leftovers(name):
    return list(Path("runs", name).glob(".*"))
