"""`predict` feeds the network what evaluation feeds it, bit for bit, and no file makes it hang or start a program."""

import io
import os
import signal
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, features

from pictures import picture
from wtref import datasets
from wtref.cli.main import main
from wtref.datasets import reading
from wtref.runs.predicting import Predictor
from wtref.runs.prepare import prepare
from wtref.runs.run import Run

TRAIN = "train --model mlp --hidden 3 --epochs 1 --batch-size 4 --device cpu --log-name mine".split()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def odd_files(folder, size):
    """One image file of each kind that a second reader could read in another way."""
    folder.mkdir(parents=True)
    colours, grey = picture(1, *size), picture(2, *size, mode="L")
    palette = picture(3, *size).convert("P", palette=Image.Palette.ADAPTIVE, colors=9)
    deep = np.random.default_rng(0).integers(0, 2**16, size[::-1], dtype=np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(deep).save(folder / "deep.png")
    Image.fromarray(deep).save(folder / "deep.tif")
    (folder / "deep.pgm").write_bytes(b"P5 %d %d 65535\n" % size + deep.astype(">u2").tobytes())
    palette.save(folder / "palette.png", transparency=bytes(range(0, 90, 10)))
    palette.save(folder / "movie.gif", save_all=True, append_images=[palette.rotate(180)])
    colours.convert("CMYK").save(folder / "cmyk.jpg")
    grey.convert("LA").save(folder / "la.png")
    grey.convert("1").save(folder / "bits.png")
    colours.convert("RGBA").save(folder / "rgba.png")
    colours.save(folder / "turned.jpg", exif=turned)
    colours.save(folder / "progressive.jpg", progressive=True)
    colours.save(folder / "pages.tif", save_all=True, append_images=[grey])


def fed_by_evaluation(run):
    """{file name: what the network gets} of a run's test images."""
    feed = prepare(run.config()).feed
    paths = sorted(str(path) for path in Path("set/val").glob("*/*"))
    images = np.concatenate([images for images, _ in feed.test_batches()])
    assert len(images) == len(paths) > 12
    return dict(zip(paths, images))


@pytest.mark.parametrize("dataset, sizes", [("folder --image-size 16", [(40, 30), (21, 64)]), ("small-folder", [(20, 20)])])
def test_predict_feeds_the_network_what_evaluation_does(dataset, sizes):
    for number, size in enumerate(sizes):
        odd_files(Path(f"set/val/odd{number}"), size)
        odd_files(Path(f"set/train/odd{number}"), size)
    for split in ("train", "val"):
        Path(f"set/{split}/usual").mkdir()
        picture(7, *sizes[0]).save(f"set/{split}/usual/x.png")
    assert main([*TRAIN, "--dataset", *dataset.split(), "--data-dir", "set"]) == 0
    run = Run.find("mine")
    predictor = Predictor(run, "last", "cpu")
    for path, image in fed_by_evaluation(run).items():
        found = predictor.network_input(path)[0]
        assert found.dtype == image.dtype and np.array_equal(found, image), path


def test_a_grey_set_is_fed_its_own_grey_levels():
    """Files of 8 and 16 bits, grey and colour, of a digit become the digit again; another colour by Pillow's weights."""
    assert main([*TRAIN, "--dataset", "digits"]) == 0
    run = Run.find("mine")
    predictor, digits = Predictor(run, "last", "cpu"), datasets.load("digits")
    images, _ = next(prepare(run.config()).feed.test_batches())
    for number in range(20):
        pixels = np.rint(digits.test_images[number, ..., 0] * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save("8.png")
        Image.fromarray(pixels.astype(np.uint16) * 257).save("16.png")
        Image.fromarray(pixels).convert("RGB").save("colour.png")
        for name in ("8.png", "16.png", "colour.png"):
            assert np.array_equal(predictor.network_input(name)[0], images[number])
    colours = picture(5, 8, 8)
    colours.save("x.png")
    levels = np.rint(np.asarray(colours.convert("L"), float) * 16 / 255)[..., None]
    assert np.allclose(predictor.network_input("x.png")[0], (levels - digits.mean) / digits.std, atol=1e-6)


def test_of_another_size_the_middle_is_seen():
    """Left and right of a wide image are cut off; a dark set's brightest pixel is not taken for white."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            Path(f"set/{split}/{name}").mkdir(parents=True)
            Image.new("RGB", (4, 4), (90, 90, 90 + (name == "a"))).save(f"set/{split}/{name}/x.png")
    assert main([*TRAIN, "--dataset", "small-folder", "--data-dir", "set"]) == 0
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 7:17] = 80, 160, 240
    Image.fromarray(wide).save("wide.png")
    predictor = Predictor(Run.find("mine"), "last", "cpu")
    seen = predictor.network_input("wide.png")[0] * predictor.normalise.std + predictor.normalise.mean
    assert np.allclose(seen, np.broadcast_to([80, 160, 240], (4, 4, 3)), atol=0.01)


# --- hostile files ----------------------------------------------------------------------------------------


def png(width, height):
    """A grey PNG of which a few rows are there."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def write(data):
    return lambda path: path.write_bytes(data)


def saved(image, format):
    file = io.BytesIO()
    image.save(file, format)
    return write(file.getvalue())


def listen(path):
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


def enormous(path):
    with open(path, "wb") as file:
        file.write(png(8, 8))
        file.truncate(reading.MAX_BYTES + 1)  # a hole: takes no room


NO_FILE = "not a file, but a folder, device, pipe or socket"
HOSTILE = {
    "postscript": (saved(picture(0, 8, 8), "EPS"), "no format that wtref reads"),
    "icon": (saved(picture(0, 16, 16), "ICO"), "no format that wtref reads"),
    "one column": (write(png(1, 89_000_000)), "too large: 1x89000000, over 65,535 pixels on a side"),
    "one row": (write(png(65_536, 1)), "too large: 65536x1, over 65,535 pixels on a side"),
    "many pixels": (write(png(10_000, 10_000)), "too large: 10000x10000, over 89,478,485 pixels"),
    "many bytes": (enormous, "too large: 536,870,913 bytes, over 536,870,912"),
    "pipe": (os.mkfifo, NO_FILE),
    "socket": (listen, NO_FILE),
    "folder": (os.mkdir, NO_FILE),
    "device": (lambda path: path.symlink_to("/dev/zero"), NO_FILE),
    "loop": (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
    "broken link": (lambda path: path.symlink_to("gone.png"), "cannot be read: No such file or directory"),
    "nothing": (lambda path: None, "cannot be read: No such file or directory"),
    "floats": (saved(Image.new("F", (8, 8)), "TIFF"), "no known range (Pillow's mode F); right would be 8 or 16 bits"),
}  # fmt: skip


@pytest.fixture
def limited():
    """A test that hangs fails."""
    former = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_hostile_file_is_one_line(limited, capsys, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    assert main([*TRAIN, "--dataset", "digits"]) == 0
    for what, (make, line) in HOSTILE.items():
        path = Path(f"{what}.png")
        make(path)
        capsys.readouterr()
        assert main(["predict", "mine", str(path), "--device", "cpu"]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(f"wtref: {path} ") and err.count("\n") == 1 and line in err


@pytest.mark.skipif(not features.check("littlecms2"), reason="Pillow converts Lab colours by littlecms2 alone")
def test_lab_colours_are_converted():
    Image.new("LAB", (2, 2), (128, 128, 128)).save("x.tif")
    assert np.abs(np.asarray(reading.read_image("x.tif"), int) - 119).max() <= 2  # L* = 50 in sRGB
