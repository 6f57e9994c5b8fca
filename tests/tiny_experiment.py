"""An experiment of a second."""

from wtref.runs.experiments import Experiment

TINY = Experiment(
    "a tiny one",
    {"model": "mlp", "dataset": "digits", "hidden": (16,), "epochs": 2, "batch_size": 128},
    rules={"bp": {}, "kp": {"lr": 0.2}, "frozen": {}},
    published={"kp": "1.25(5)"},
    source="nobody",
)
