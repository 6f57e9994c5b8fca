"""The data sets, by name.  Images stay in memory as small integers, (N, H, W, C)."""

from pathlib import Path

from wtref.datasets.base import Dataset
from wtref.datasets.digits import load_digits
from wtref.datasets.synthetic import load_synthetic
from wtref.errors import choose

DATASETS = {"digits": load_digits, "synthetic": load_synthetic}
DATA_DIR = Path(__file__).resolve().parents[2] / "data"


def load(name, data_dir=None):
    """The data set called `name`, looked for in data_dir; None: the repository's data folder.

    Raises
    ------
    InputError
        For an unknown name, or if its files are missing or damaged.
    """
    return choose("dataset", name, DATASETS)(Path(data_dir or DATA_DIR))


__all__ = ["DATASETS", "DATA_DIR", "Dataset", "load"]
