"""The data sets by name, and the feeds that supply the training loop with batches."""

import sys
from collections import ChainMap
from dataclasses import replace
from pathlib import Path

from wtref.datasets.arrays import from_arrays
from wtref.datasets.augment import Augmentation
from wtref.datasets.base import Dataset
from wtref.datasets.cifar import load_cifar10, load_cifar100
from wtref.datasets.digits import load_digits
from wtref.datasets.folder import FolderFeed, load_folder_into_memory, load_folder_once
from wtref.datasets.idx import load_fashion_mnist, load_mnist
from wtref.datasets.memory import MemoryFeed
from wtref.datasets.names import CLASS_NAMES
from wtref.datasets.synthetic import load_synthetic
from wtref.distributed.group import SINGLE
from wtref.errors import InputError, check_choice, choose
from wtref.installation import data_folder
from wtref.text import printable, wrapped

IN_MEMORY = {
    "digits": load_digits,
    "mnist": load_mnist,
    "fashion-mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "synthetic": load_synthetic,
    "small-folder": load_folder_into_memory,  # an image folder whose images share one size
}
STREAMED = {"folder": FolderFeed}  # an image folder, streamed from disk in ImageNet's way
DATASETS = ChainMap(STREAMED, IN_MEMORY)  # a view of both; plug-ins add to IN_MEMORY


def load(name, data_dir=None):
    """Load the Dataset called `name` from the folder data_dir, by default that of `data_folder`.

    Raises
    ------
    InputError
        If the name is unknown, or the files are missing or damaged.
    """
    data = choose("dataset", name, IN_MEMORY)(_folder(name, data_dir))
    if not isinstance(data, Dataset):  # a plug-in's arrays
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise InputError(f"{name}: its function must return ((X, y), (Xt, yt)), found {type(data).__name__}")
        data = from_arrays(name, *data)
    return replace(data, class_names=CLASS_NAMES[name]) if name in CLASS_NAMES else data


def open_feed(config, device, group=SINGLE):
    """Open the data set of a Config: a FolderFeed for the data set "folder", a MemoryFeed for all others.

    group: the processes that share each batch.  Raises InputError if the data are missing or damaged.
    """
    check_choice("dataset", config.dataset, DATASETS)
    if config.dataset == "folder":
        return FolderFeed(
            _folder("folder", config.data_dir), device, config.batch_size, config.seed,
            config.image_size, config.flip is not False, config.jitter, config.workers, config.bad_images, group,
        )  # fmt: skip
    if config.dataset == "small-folder":
        data = load_folder_once(_folder("small-folder", config.data_dir), config.workers, config.bad_images)
    else:
        data = load(config.dataset, config.data_dir)
    augmentation = Augmentation(config.crop, config.flip is True, config.rotate)
    return MemoryFeed(data, device, config.batch_size, config.seed, augmentation, group)


def in_words(feed):
    """A text that states how many images a feed has, and which files of an image folder were left out."""
    images = f"{feed.train_count:,} training and {feed.test_count:,} test images"
    return "\n".join((f"data: {images} of {feed.classes:,} classes", *(wrapped(printable(line)) for line in feed.left_out)))


def warn(feed):
    """Print the warnings about a feed's data to stderr."""
    for line in feed.doubts:
        print(f"wtref: {printable(line)}", file=sys.stderr)


def _folder(name, data_dir):
    if data_dir is None and name in ("folder", "small-folder"):
        raise InputError(f"--dataset {name} needs --data-dir: the folder that holds train/ and val/ or test/")
    return Path(data_dir) if data_dir else data_folder(name)


__all__ = ["DATASETS", "IN_MEMORY", "Dataset", "load", "open_feed"]
