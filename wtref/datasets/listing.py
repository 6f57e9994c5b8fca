"""The contents of an image folder: its classes, its images, and the files that are left out.

    ROOT/train/CLASS/*      ROOT/val/CLASS/* (or, without val/, ROOT/test/CLASS/*)

Classes are the names of the folders in sorted order; images are the files with the ending of a format that is read.
Tiny ImageNet is read in its published layout: ROOT/train/CLASS/images/*, and ROOT/val/images/*, whose classes are in
ROOT/val/val_annotations.txt.
"""

import itertools
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wtref.datasets.reading import pillow
from wtref.errors import InputError
from wtref.text import printable

NESTED, ANNOTATIONS = "images", "val_annotations.txt"  # of Tiny ImageNet


@dataclass(frozen=True)
class Files:
    """The images of a split ("train", "val" or "test"): their paths, and their labels (N,).

    left_out: lines of text about the other files.
    """

    split: str
    paths: list[str]
    labels: np.ndarray
    left_out: tuple[str, ...]


def list_folder(root):
    """(class names, training Files, test Files) of an image folder, in sorted order.  Raises InputError for another layout."""
    root = Path(root)
    held_out = "val" if (root / "val").is_dir() else "test"
    splits = [_Split(root / "train"), _Split(root / held_out)]
    train, test = (split.classes for split in splits)
    for name in sorted(train.keys() ^ test.keys()):
        has, lacks = ("train", held_out) if name in train else (held_out, "train")
        raise InputError(f"{root}: class {name} is in {has}/ and not in {lacks}/; both must have the same classes")
    return tuple(train), *(split.files() for split in splits)


class _Split:
    """The folder of one split.

    Attributes: classes, {class name: paths of its images}; left_out, {reason: paths}.
    """

    def __init__(self, folder):
        self.folder, self.left_out = folder, defaultdict(list)
        files, folders = self._entries(folder)
        self.classes = self._annotated(files, folders) if ANNOTATIONS in files else None
        if self.classes is None:
            self.left_out["files outside of class folders"] += files.values()
            self.classes = {name: self._images(path) for name, path in folders.items()}
        if not self.classes:
            raise InputError(f"{folder} holds no class folders; images belong in {folder}/CLASS/")

    def files(self):
        """The split as Files."""
        counts = [len(paths) for paths in self.classes.values()]
        lines = [
            printable(f"left out in {self.folder}: {reason} ({len(paths):,}), such as {os.path.relpath(min(paths), self.folder)}")
            for reason, paths in self.left_out.items() if paths
        ]  # fmt: skip
        labels = np.repeat(np.arange(len(counts)), counts)
        return Files(self.folder.name, list(itertools.chain(*self.classes.values())), labels, tuple(lines))

    def _entries(self, folder):
        """(files, folders) directly in a folder, {name: path} each, sorted by name, without hidden ones."""
        files, folders = {}, {}
        try:
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.name[0] == ".":
                        self.left_out["hidden files and folders"].append(entry.path)
                    else:
                        (folders if _is_folder(entry) else files)[entry.name] = entry.path
        except OSError as error:
            right = "an image folder holds train/CLASS/ and val/CLASS/ or test/CLASS/"
            raise InputError(f"{folder}: {error.strerror}; {right}") from None
        return files, folders

    def _images(self, folder):
        """The paths of the images of a class."""
        files, folders = self._entries(folder)
        images, others = _by_ending(files)
        if not images and NESTED in folders:
            inner, more = self._entries(folders.pop(NESTED))
            images, unknown = _by_ending(inner)
            others, folders = others | unknown, folders | more
        nested = [path for inside in folders.values() for path in _nested_images(inside)]
        if not images:
            found = f"{len(nested)} in folders inside it, such as {nested[0]}" if nested else "nothing at all"
            found = f"only {len(others)} other files" if others and not nested else found
            raise InputError(f"{folder} holds no images, {found}; add some or remove the class")
        self.left_out["images in folders inside a class"] += nested
        self.left_out["files whose ending is of no format that is read"] += others.values()
        return list(images.values())

    def _annotated(self, files, folders):
        """{class name: paths} by Tiny ImageNet's annotations; None if there are no images in NESTED."""
        inner, deeper = self._entries(folders[NESTED]) if NESTED in folders else ({}, {})
        images, others = _by_ending(inner)
        if not images:
            return None
        classes, path = defaultdict(list), self.folder / ANNOTATIONS
        for name, class_name in _read_annotations(path):
            if name not in images:
                raise InputError(f"{path}: {name} is named twice, or is no image in {folders[NESTED]}")
            classes[class_name].append(images.pop(name))
        loose, unknown = _by_ending({name: path for name, path in files.items() if name != ANNOTATIONS})
        elsewhere = [inside for name, inside in folders.items() if name != NESTED] + list(deeper.values())
        nested = [image for inside in elsewhere for image in _nested_images(inside)]
        self.left_out[f"images that {ANNOTATIONS} does not name"] += [*images.values(), *loose.values(), *nested]
        self.left_out["files whose ending is of no format that is read"] += [*others.values(), *unknown.values()]
        return {name: sorted(classes[name]) for name in sorted(classes)}


def _read_annotations(path):
    """[[file name, class name]], the first two of the words, separated by tabs, in each line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    words = [line.split("\t") for line in lines]
    for number, found in enumerate(words, start=1):
        if len(found) < 2 or not found[0] or not found[1]:
            raise InputError(f"{path}: line {number} is {lines[number - 1]!r}, right would be FILE, tab, CLASS")
    return [found[:2] for found in words]


def _by_ending(files):
    """Divide files, {name: path}, into (images, others) by their endings."""
    images = {name: path for name, path in files.items() if _is_image(name)}
    return images, {name: path for name, path in files.items() if name not in images}


def _is_image(name):
    return os.path.splitext(name)[1].lower() in pillow()[1]


def _nested_images(folder):
    return [os.path.join(inside, name) for inside, _, names in os.walk(folder) for name in names if _is_image(name)]


def _is_folder(entry):
    """True for a folder.  A broken or circular link counts as a file, so that reading it raises the error."""
    try:
        return entry.is_dir()
    except OSError:
        return False
