"""Which data sets exist in a data folder, and whether they are intact."""

from dataclasses import dataclass
from pathlib import Path

from wtref.datasets.archives import Missing
from wtref.datasets.cifar import find_cifar, load_cifar10, load_cifar100
from wtref.datasets.digits import load_digits
from wtref.datasets.fetch import CATALOGUE, is_published
from wtref.datasets.idx import find_idx, load_fashion_mnist, load_mnist
from wtref.errors import InputError
from wtref.installation import data_folder

LOADERS = {"digits": load_digits, "mnist": load_mnist, "fashion-mnist": load_fashion_mnist}
LOADERS |= {"cifar10": load_cifar10, "cifar100": load_cifar100}


@dataclass(frozen=True)
class Row:
    """The state of a data set: intact, differs (readable, but not the published bytes), damaged or missing."""

    name: str
    state: str
    detail: str


def status(data_dir=None):
    """A list with a Row for each data set that can exist in data_dir, by default in its `data_folder`; reads all files that exist."""
    return [Row(name, *_state(name, Path(data_dir) if data_dir else data_folder(name))) for name in LOADERS]


def _state(name, data_dir):
    try:
        paths = _paths(name, data_dir)
    except Missing as error:
        return "missing", str(error)
    sources = [source for source in CATALOGUE.values() if source.folder == name]
    published = {file.name: file for source in sources for file in source.files}
    known = [path for path in paths if path.name in published]
    where = str(paths[0] if len(paths) == 1 else paths[0].parent)
    try:
        wrong = [path for path in known if not is_published(path, published[path.name])]
        if known == paths and not wrong:
            return "intact", f"{where}: as published, by its checksum"
        LOADERS[name](data_dir)
    except (InputError, OSError) as error:
        return "damaged", str(error)
    if wrong:
        return "differs", f"{wrong[0]}: in order, but not the published bytes"
    return "intact", f"{where}: in order, by its contents"


def _paths(name, data_dir):
    if name == "digits":
        path = data_dir / "digits" / "digits.npz"
        if not path.is_file():
            raise Missing(f"digits: {path} is missing; the digits are part of wtref")
        return [path]
    return [find_cifar(name, data_dir)[1]] if name.startswith("cifar") else find_idx(name, data_dir)
