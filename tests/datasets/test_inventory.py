"""The state of the data sets in a folder: intact, damaged, other than published, or missing."""

import hashlib
import re
import shutil

import pytest

import published_sets
from file_server import silent
from published_sets import refused
from wtref.datasets import cifar, fetch, idx, inventory
from wtref.errors import InputError


def test_the_catalogue_names_the_files_that_the_readers_look_for(tmp_path):
    for name in ("mnist", "fashion-mnist"):
        line = refused(lambda name=name: idx.find_idx(name, tmp_path))
        assert all(file.name in line for file in fetch.CATALOGUE[name].files)
    for name, form in (("cifar10", 0), ("cifar10-python", 1), ("cifar100", 0), ("cifar100-python", 1)):
        source = fetch.CATALOGUE[name]
        assert source.files[0].name == cifar.FORMS[source.folder][form].archive
    for source in fetch.CATALOGUE.values():
        assert all(re.fullmatch("[0-9a-f]{32}", file.md5) and file.size for file in source.files)
        assert all(re.fullmatch(r"https?://.*/", home) for home in source.homes)


def states(data_dir):
    return {row.name: (row.state, row.detail) for row in inventory.status(data_dir)}


@pytest.fixture
def small_sets(tmp_path, monkeypatch):
    """Small sound MNIST (zipped) and CIFAR-10 (python, archive), as if they were the published ones."""
    monkeypatch.setattr(idx, "COUNTS", {"train": published_sets.TRAIN, "t10k": published_sets.TEST})
    monkeypatch.setattr(cifar, "COUNTS", published_sets.COUNTS)
    (tmp_path / "mnist").mkdir()
    for name, array in published_sets.arrays().items():
        published_sets.write(tmp_path / "mnist", name, published_sets.idx_bytes(array), zipped=True)
    published_sets.place(tmp_path / "cifar10", "cifar10", "python", True)
    for name in ("mnist", "cifar10-python"):
        source, files = fetch.CATALOGUE[name], []
        for file in source.files:
            data = (tmp_path / source.folder / file.name).read_bytes()
            files.append(fetch.File(file.name, len(data), hashlib.md5(data).hexdigest()))
        monkeypatch.setitem(fetch.CATALOGUE, name, fetch.Source(source.folder, source.homes, tuple(files)))
    return tmp_path


def test_status_of_an_empty_folder_says_how_to_fetch_each_set(tmp_path):
    found = states(tmp_path)
    assert list(found) == ["digits", "mnist", "fashion-mnist", "cifar10", "cifar100"]
    for name, (state, detail) in found.items():
        assert state == "missing" and str(tmp_path) in detail
        assert name == "digits" or f"python run.py data fetch {name}" in detail


def test_status_of_what_is_there(small_sets):
    found = states(small_sets)
    assert found["mnist"][0] == found["cifar10"][0] == "intact"
    assert all("checksum" in found[name][1] for name in ("mnist", "cifar10"))
    assert found["fashion-mnist"][0] == found["cifar100"][0] == "missing"


def test_status_of_unpacked_files_goes_by_their_contents(small_sets):
    shutil.rmtree(small_sets / "cifar10")
    published_sets.place(small_sets, "cifar10", "binary", False)
    state, detail = states(small_sets)["cifar10"]
    assert state == "intact" and "contents" in detail and "cifar-10-batches-bin" in detail


def test_status_of_damaged_and_of_other_files(small_sets):
    path = small_sets / "mnist" / f"{published_sets.LABELS}.gz"
    array = published_sets.arrays()[published_sets.LABELS]
    published_sets.write(path.parent, published_sets.LABELS, published_sets.idx_bytes(array[::-1]), zipped=True)
    state, detail = states(small_sets)["mnist"]
    assert state == "differs" and str(path) in detail
    path.write_bytes(path.read_bytes()[:-5])
    state, detail = states(small_sets)["mnist"]
    assert state == "damaged" and str(path) in detail and "cut off" in detail


def test_status_of_the_repositorys_own_folder():
    from wtref.installation import EMBEDDED

    assert states(EMBEDDED)["digits"][0] == "intact"


def test_a_fetched_set_can_be_loaded(small_sets, server):
    packed = {path.name: path.read_bytes() for path in (small_sets / "mnist").iterdir()}
    server.behave = lambda request: request.answer(200, packed[request.path.rpartition("/")[2]])
    elsewhere = small_sets / "elsewhere"
    with pytest.raises(InputError):
        idx.load_mnist(elsewhere)
    assert len(fetch.fetch("mnist", elsewhere, server.url, progress=silent, timeout=5)) == 4
    assert len(idx.load_mnist(elsewhere).train_labels) == published_sets.TRAIN
    assert states(elsewhere)["mnist"][0] == "intact"
