"""Downloads of the published data sets, verified by size and checksum.

A download is written to FILE.part, where the next attempt continues if this one ends early, and moved to FILE only when
its size and checksum are those of the published file.
"""

import contextlib
import hashlib
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from wtref import locks
from wtref.datasets.web import TIMEOUT, Failed, pieces, request
from wtref.errors import InputError, choose


@dataclass(frozen=True)
class File:
    """A published file: its name, its size in bytes and its MD5 checksum."""

    name: str
    size: int
    md5: str


@dataclass(frozen=True)
class Source:
    """The files of a data set, the folder in data_dir where they belong, and the addresses of its homes, the official first."""

    folder: str
    homes: tuple[str, ...]
    files: tuple[File, ...]


def _idx_files(*sizes_and_sums):
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(File(f"{name}-ubyte.gz", *pair) for name, pair in zip(names, sizes_and_sums, strict=True))


def _cifar(classes, form, size, md5):
    files = (File(f"cifar-{classes}-{form}.tar.gz", size, md5),)
    return Source(f"cifar{classes}", ("https://www.cs.toronto.edu/~kriz/",), files)


CATALOGUE = {
    "mnist": Source(
        "mnist",
        # The official home refuses most requests; PyTorch's copy has the same bytes.
        ("http://yann.lecun.com/exdb/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
        _idx_files(
            (9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            (28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
            (1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
            (4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
    ),
    "fashion-mnist": Source(
        "fashion-mnist",
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        _idx_files(
            (26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            (29_515, "25c81989df183df01b3e8a0aad5dffbe"),
            (4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
            (5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    ),
    "cifar10": _cifar(10, "binary", 170_052_171, "c32a1d4ab5d03f1284b67883e8d87530"),
    "cifar100": _cifar(100, "binary", 168_513_733, "03b5dce01913d631647c71ecec9e9cb8"),
    "cifar10-python": _cifar(10, "python", 170_498_071, "c58f30108f718f92721af3b95e74349a"),
    "cifar100-python": _cifar(100, "python", 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85"),
}


def show_progress(file, done, size):
    """Print the progress of a download to stderr: on a terminal in a line that is updated, otherwise once at the end."""
    start, end = ("\r", "\n" if done == size else "") if sys.stderr.isatty() else ("", "\n")
    if start or done == size:
        print(f"{start}{file}: {done / 1e6:.1f} of {size / 1e6:.1f} MB", end=end, file=sys.stderr, flush=True)


def fetch(name, data_dir, base_url=None, progress=show_progress, timeout=TIMEOUT):
    """Download the files of a data set that do not exist, or are damaged, in its folder in data_dir.

    Parameters
    ----------
    name : str
        A name in CATALOGUE.
    data_dir : path
    base_url : str, optional
        An address to use in place of the homes of the data set.
    progress : function
        Called as progress(file name, bytes received, bytes in all) during the download.
    timeout : float
        Seconds that a server may be silent.

    Returns
    -------
    list of Path
        The paths of all files of the data set.

    Raises
    ------
    InputError
        For an unknown name, and for a file that could not be downloaded.  The next call continues where this one ended.
    """
    source = choose("data set to fetch", name, CATALOGUE)
    folder = Path(data_dir) / source.folder
    homes = (base_url,) if base_url else source.homes
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in source.files:
            if not is_published(folder / file.name, file):
                _fetch_file(file, folder, homes, progress, timeout)
    except Failed as error:
        absent = ", ".join(file.name for file in source.files if not (folder / file.name).is_file())
        by_hand = f"download {absent or 'the files'} from {homes[-1]} by hand into {folder}"
        raise InputError(f"{name}: {error}; run it again, or {by_hand}") from None
    except OSError as error:
        raise InputError(f"{name}: cannot write to {folder} ({error.strerror or error})") from None
    return [folder / file.name for file in source.files]


def _fetch_file(file, folder, homes, progress, timeout):
    """Download one file from the first home that succeeds; raises Failed with the reasons of all homes."""
    part, reasons = folder / f"{file.name}.part", []
    with _locked(part) as out:
        for home in homes:
            url = f"{home.rstrip('/')}/{file.name}"
            try:
                _download(url, out, file, progress, timeout)
                if not is_published(part, file):
                    raise Failed(f"sent bytes with MD5 {_md5(part)} instead of {file.md5}", keep=False)
                os.replace(part, folder / file.name)
                return
            except Failed as error:
                if not error.keep:
                    out.truncate(0)
                reasons.append(f"{url} {error}")
        if kept := _size(out):
            reasons.append(f"{kept:,} of {file.size:,} bytes are kept in {part}")
        else:
            part.unlink()
    raise Failed("; ".join(reasons))


@contextlib.contextmanager
def _locked(part):
    """Open the part of a file for appending, under a lock against other processes."""
    if os.path.lexists(part) and not _is_own_file(os.lstat(part)):
        raise InputError(f"{part}: a link, folder or device, not the partial file of a download; remove it")
    with open(part, "ab", opener=_following_no_link) as out:
        if not locks.try_lock(out, part):
            raise InputError(f"{part}: another process is downloading to it; wait for it to end")
        yield out


def _is_own_file(status):
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def _following_no_link(path, flags):
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _download(url, out, file, progress, timeout):
    """Append the missing bytes of the file to `out`, or write all of it if the server cannot start in the middle."""
    if (have := _size(out)) == file.size:
        return
    have = have if have < file.size else 0
    with request(url, have, timeout) as response:
        done = _offset(response, have, file.size)
        out.truncate(done)
        for piece in pieces(response, file.size - done, timeout):
            out.write(piece)
            done += len(piece)
            progress(file.name, done, file.size)
    out.flush()
    os.fsync(out.fileno())
    if done < file.size:
        # Without a Content-Length this was the server's whole file, so it is a different file.
        keep = response.headers["Content-Length"] is not None
        raise Failed(f"ended after {done:,} of {file.size:,} bytes", keep)


def _offset(response, have, size):
    """The byte of the file at which the response starts; raises Failed unless its headers promise all the rest."""
    start, length = 0, response.headers["Content-Length"]
    if response.status == 206:
        found, right = response.headers["Content-Range"], f"bytes {have}-{size - 1}/{size}"
        if found != right:
            raise Failed(f"offers {found!r} instead of {right!r}", keep=False)
        start = have
    if length not in (None, str(size - start)):
        raise Failed(f"offers {length!r} bytes where the published file has {size - start}")
    return start


def _size(out):
    out.flush()
    return os.fstat(out.fileno()).st_size


def is_published(path, file):
    return path.is_file() and path.stat().st_size == file.size and _md5(path) == file.md5


def _md5(path):
    with open(path, "rb") as data:
        return hashlib.file_digest(data, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
