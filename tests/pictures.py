"""Pictures, and folders of them, for the tests of what reads them."""

import io
import itertools

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")


def picture(seed, width=40, height=30, mode="RGB"):
    """A smooth random picture; no two seeds give the same."""
    rng = np.random.default_rng(seed)
    pixels = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return pixels.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encode(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def write_folder(root, train=7, test=3, size=None, held_out="val", ending="png"):
    """A folder of three classes with `train` and `test` images each, of many sizes unless one is given."""
    sizes = itertools.cycle([size] if size else [(40, 30), (30, 40), (33, 33), (64, 21), (20, 20)])
    counts = (("train", train), (held_out, test))
    places = [(split, name, k) for split, count in counts for name in CLASSES for k in range(count)]
    for seed, (split, name, k) in enumerate(places):
        folder = root / split / name
        folder.mkdir(parents=True, exist_ok=True)
        picture(seed, *next(sizes)).save(folder / f"{k:02d}.{ending}")
    return root
