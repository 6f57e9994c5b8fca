"""Image folders: what is listed and what is left out, by name; Tiny ImageNet as it is published."""

import hashlib
from pathlib import Path

import pytest

from helpers import CPU
from pictures import CLASSES, encode, picture, write_folder
from wtref.cli.main import main
from wtref.datasets.folder import FolderFeed, load_folder_into_memory
from wtref.datasets.listing import list_folder
from wtref.errors import InputError

IMAGE = encode(picture(0, 20, 20), "PNG")


def add(root, *names, data=IMAGE):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def open_feed(root):
    return FolderFeed(root, CPU, batch_size=6, seed=1, image_size=16)


def test_classes_and_images_are_found_in_order(tmp_path):
    write_folder(tmp_path)
    names, train, test = list_folder(tmp_path)
    assert names == CLASSES
    assert train.paths == [f"{tmp_path}/train/{name}/0{k}.png" for name in CLASSES for k in range(7)]
    assert train.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert test.paths == [f"{tmp_path}/val/{name}/0{k}.png" for name in CLASSES for k in range(3)]
    assert test.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_hidden_things_and_other_files_are_left_out(tmp_path):
    write_folder(tmp_path)
    before = list_folder(tmp_path)[1].paths
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "README.txt").write_text("no class")
    ant = tmp_path / "train" / "ant"
    (ant / "._00.png").write_bytes(b"not an image")
    (ant / "notes.txt").write_text("no image")
    (ant / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0")
    (ant / "more.png").mkdir()
    assert list_folder(tmp_path)[1].paths == before
    (ant / "UPPER.JPEG").write_bytes(encode(picture(0), "JPEG"))
    assert len(list_folder(tmp_path)[1].paths) == len(before) + 1


def test_test_folder_stands_in_for_val_and_val_goes_first(tmp_path):
    write_folder(tmp_path, held_out="test", test=2)
    assert len(list_folder(tmp_path)[2].paths) == 6
    write_folder(tmp_path, held_out="val", test=4)
    assert len(list_folder(tmp_path)[2].paths) == 12


def remove(path):
    for child in path.iterdir() if path.is_dir() else ():
        remove(child)
    path.rmdir() if path.is_dir() else path.unlink()


def rename(path):
    path.rename(path.with_suffix(".txt"))


LAYOUTS = {
    "no folder": (remove, [""], "train: No such file or directory; an image folder holds train/CLASS/"),
    "no train": (remove, ["train"], "train: No such file or directory"),
    "no val": (remove, ["val"], "test: No such file or directory"),
    "no classes": (remove, ["train/ant", "train/bee", "train/cat"], "train holds no class folders"),
    "empty class": (remove, ["train/bee/00.png"], "bee holds no images, nothing at all"),
    "other files": (rename, ["val/bee/00.png", "val/bee/01.png"], "bee holds no images, only 2 other files"),
    "train alone": (remove, ["val/cat"], "class cat is in train/ and not in val/"),
    "val alone": (remove, ["train/ant"], "class ant is in val/ and not in train/"),
}


@pytest.mark.parametrize("what", LAYOUTS)
@pytest.mark.parametrize("open_folder", [open_feed, load_folder_into_memory])
def test_another_layout_is_one_clear_line(tmp_path, what, open_folder):
    damage, places, line = LAYOUTS[what]
    root = write_folder(tmp_path / "set", train=1, test=2)
    for place in places:
        damage(root / place)
    with pytest.raises(InputError, match=line) as caught:
        open_folder(root)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_left_out_is_counted_and_named(tmp_path):
    write_folder(tmp_path)
    whole = list_folder(tmp_path)
    assert [files.left_out for files in whole[1:]] == [(), ()]
    add(tmp_path / "train", "ant/more/x.png", "ant/more/deep/y.JPG", "bee/more/z.png", "bee/more/z.txt")
    add(tmp_path / "train", "ant/.hidden.png", "ant/notes.txt", "cat/a.svg", "loose.png", ".ipynb_checkpoints/x.png")
    add(tmp_path / "val", "cat/a\x1b[31m.raw")
    names, train, test = list_folder(tmp_path)
    assert train.left_out == (
        f"left out in {tmp_path}/train: hidden files and folders (2), such as .ipynb_checkpoints",
        f"left out in {tmp_path}/train: files outside of class folders (1), such as loose.png",
        f"left out in {tmp_path}/train: images in folders inside a class (3), such as ant/more/deep/y.JPG",
        f"left out in {tmp_path}/train: files whose ending is of no format that is read (2), such as ant/notes.txt",
    )
    assert test.left_out == (
        f"left out in {tmp_path}/val: files whose ending is of no format that is read (1), such as cat/a\\x1b[31m.raw",
    )
    assert (names, train.paths, test.paths) == (CLASSES, whole[1].paths, whole[2].paths)


@pytest.mark.parametrize("dataset", ["folder --image-size 8", "small-folder"])
def test_a_run_begins_with_its_counts_and_what_was_left_out(tmp_path, monkeypatch, capsys, dataset):
    monkeypatch.chdir(tmp_path)
    write_folder(Path("set"), size=(20, 20))
    add(Path("set"), "val/ant/more/x.png", "train/notes.txt")
    flags = "--model mlp --hidden 2 --epochs 1 --device cpu --data-dir set --log-name mine".split()
    assert main(["train", *flags, "--dataset", *dataset.split()]) == 0
    lines = capsys.readouterr().out.replace("\n    ", " ").splitlines()
    start = lines.index("data: 21 training and 9 test images of 3 classes")
    assert start == 1 and lines[start : start + 3] == [
        "data: 21 training and 9 test images of 3 classes",
        "left out in set/train: files outside of class folders (1), such as notes.txt",
        "left out in set/val: images in folders inside a class (1), such as ant/more/x.png",
    ]


def test_a_class_whose_images_lie_deeper_is_one_line_that_says_where(tmp_path):
    write_folder(tmp_path)
    for path in (tmp_path / "train/bee").iterdir():
        path.unlink()
    add(tmp_path, "train/bee/a/1.png", "train/bee/b/2.png")
    right = f"bee holds no images, 2 in folders inside it, such as {tmp_path}/train/bee/[ab]/[12].png; add some"
    with pytest.raises(InputError, match=right):
        list_folder(tmp_path)


def test_links_in_circles_do_not_hang_and_are_no_folders(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train/ant/circle").symlink_to(tmp_path / "train/ant")
    (tmp_path / "train/loop").symlink_to("loop")
    (tmp_path / "train/ant/deep").mkdir()
    (tmp_path / "train/ant/deep/again").symlink_to(tmp_path / "train")
    names, train, _ = list_folder(tmp_path)
    assert names == CLASSES and len(train.paths) == 21
    assert f"left out in {tmp_path}/train: files outside of class folders (1), such as loop" in train.left_out


# --- Tiny ImageNet ----------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path):
    """Its published layout: two classes of three training images, four annotated images in val/, more in test/."""
    seeds = iter(range(100))

    def image(name):
        add(tmp_path, name, data=encode(picture(next(seeds), 20, 20), "JPEG"))

    for name in ("n02", "n01"):
        for k in range(3):
            image(f"train/{name}/images/{name}_{k}.JPEG")
        add(tmp_path, f"train/{name}/{name}_boxes.txt", data=b"n01_0.JPEG\t0\t0\t19\t19\n")
    for k in range(4):
        image(f"val/images/val_{k}.JPEG")
        image(f"test/images/test_{k}.JPEG")
    boxes = [(0, "n02"), (3, "n01"), (1, "n01"), (2, "n02")]
    lines = "".join(f"val_{k}.JPEG\t{name}\t0\t32\t44\t62\n" for k, name in boxes)
    add(tmp_path, "val/val_annotations.txt", data=lines.encode())
    add(tmp_path, "wnids.txt", "words.txt", data=b"n01\nn02\n")
    return tmp_path


def test_tiny_imagenet_is_read_as_it_is_published(tiny):
    names, train, test = list_folder(tiny)
    assert names == ("n01", "n02")
    assert train.paths == [f"{tiny}/train/{name}/images/{name}_{k}.JPEG" for name in names for k in range(3)]
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert test.paths == [f"{tiny}/val/images/val_{k}.JPEG" for k in (1, 3, 0, 2)]
    assert test.labels.tolist() == [0, 0, 1, 1]
    assert train.left_out == (f"left out in {tiny}/train: files whose ending is of no format that is read (2), such as n01/n01_boxes.txt",)
    assert test.left_out == ()
    data = load_folder_into_memory(tiny)
    assert data.test_labels.tolist() == [0, 0, 1, 1] and data.train_images.shape == (6, 20, 20, 3)


def test_its_annotations_are_part_of_what_the_data_are(tiny):
    """A run is not resumed on the same images with other labels."""
    before = FolderFeed(tiny, CPU, 2, 0).about()["sha256"]
    path = tiny / "val/val_annotations.txt"
    path.write_text(path.read_text().replace("val_0.JPEG\tn02", "val_0.JPEG\tn01"))
    assert FolderFeed(tiny, CPU, 2, 0).about()["sha256"] != before
    path.write_text("".join(reversed(path.read_text().replace("val_0.JPEG\tn01", "val_0.JPEG\tn02").splitlines(True))))
    assert FolderFeed(tiny, CPU, 2, 0).about()["sha256"] == before


def test_the_fingerprint_of_class_folders_is_of_names_and_sizes(tmp_path):
    """As it always was: earlier runs can be resumed."""
    write_folder(tmp_path)
    paths = [path for files in list_folder(tmp_path)[1:] for path in files.paths]
    entries = repr([(Path(path).parts[-3:], Path(path).stat().st_size) for path in paths])
    assert FolderFeed(tmp_path, CPU, 2, 0).about()["sha256"] == hashlib.sha256(entries.encode()).hexdigest()


def test_sorted_into_class_folders_it_is_read_too(tiny):
    """As many scripts leave it: val/CLASS/images/, or val/CLASS/, with the annotations still there."""
    right = [sorted(Path(path).name for path in list_folder(tiny)[2].paths)]
    for line in (tiny / "val/val_annotations.txt").read_text().splitlines():
        file, name = line.split("\t")[:2]
        add(tiny, f"val/{name}/images/{file}", data=(tiny / "val/images" / file).read_bytes())
        (tiny / "val/images" / file).unlink()
    (tiny / "val/images").rmdir()
    names, _, test = list_folder(tiny)
    assert names == ("n01", "n02") and test.labels.tolist() == [0, 0, 1, 1]
    assert [sorted(Path(path).name for path in test.paths)] == right


WRONG = {
    "no tab": ("val_0.JPEG n02\n", r"line 1 is 'val_0.JPEG n02', right would be FILE, tab, CLASS"),
    "no class": ("val_0.JPEG\t\t0\n", "line 1 is .*, right would be FILE, tab, CLASS"),
    "no such image": ("val_0.JPEG\tn01\nval_9.JPEG\tn02\n", "val_9.JPEG is named twice, or is no image in .*/val/images"),
    "outside": ("../../train/n01/images/n01_0.JPEG\tn01\n", "n01_0.JPEG is named twice, or is no image in"),
    "twice": ("val_0.JPEG\tn01\nval_0.JPEG\tn02\n", "val_0.JPEG is named twice, or is no image in"),
    "another class": ("val_0.JPEG\tn01\nval_1.JPEG\tn07\n", "class n02 is in train/ and not in val/"),
    "nothing": ("", "val holds no class folders"),
}


@pytest.mark.parametrize("what", WRONG)
def test_annotations_that_cannot_be_are_one_line(tiny, what):
    text, line = WRONG[what]
    (tiny / "val/val_annotations.txt").write_text(text)
    with pytest.raises(InputError, match=line) as caught:
        list_folder(tiny)
    assert "\n" not in str(caught.value)


def test_annotations_that_are_no_text_are_one_line(tiny):
    (tiny / "val/val_annotations.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="val_annotations.txt cannot be read: 'utf-8' codec"):
        list_folder(tiny)


def test_images_that_the_annotations_do_not_name_are_left_out_by_name(tiny):
    """Wherever they are in val/."""
    add(tiny / "val", "images/extra.JPEG", "images/more/x.png", "n01/images/y.png", "loose.png", "notes.txt")
    _, _, test = list_folder(tiny)
    assert len(test.paths) == 4
    assert test.left_out == (
        f"left out in {tiny}/val: images that val_annotations.txt does not name (4), such as images/extra.JPEG",
        f"left out in {tiny}/val: files whose ending is of no format that is read (1), such as notes.txt",
    )
