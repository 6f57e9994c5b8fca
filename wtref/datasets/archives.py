"""Reading of files and archives that may be damaged or hostile, for all data sets that are published as such.

Every read has a limit, so no file, however well compressed, takes more memory than the data set it should hold.
"""

import contextlib
import gzip
import re
import tarfile
import zlib

from wtref.errors import InputError
from wtref.installation import program

PIECE = 1 << 16  # bytes read at a time
MEMBERS = 64  # the most entries of an archive
SMALL = 1 << 16  # the most bytes of an entry that is skipped


class Missing(InputError):
    """The files of a data set do not exist."""


def fetch_hint(name):
    """The remedy for missing files, for messages."""
    return f"fetch it with: {program()} data fetch {name}"


@contextlib.contextmanager
def opened(path):
    """Open a file for reading bytes, decompressed if it is a .gz; errors of reading within the context become InputErrors."""
    try:
        with gzip.open(path) if str(path).endswith(".gz") else open(path, "rb") as file:
            yield file
    except EOFError:
        raise InputError(f"{path}: cut off, the end of its compressed data is missing") from None
    except (OSError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def read_up_to(file, size):
    """The next `size` bytes of an open file, or fewer at its end, as a bytearray."""
    data, at = bytearray(size), 0
    with memoryview(data) as view:
        while count := file.readinto(view[at : at + PIECE]):
            at += count
    del data[at:]
    return data


def check_end(file, path, size=0):
    """Read an open file to its end, where a .gz has its checksum.  Raises InputError if more than `size` bytes are left."""
    while piece := file.read(PIECE):
        size -= len(piece)
        if size < 0:
            raise InputError(f"{path}: has more bytes after its end")


def tar_files(path, folder, limits):
    """Read files of a .tar.gz into memory, one after the other; limits: {file: the most bytes it may have}.

    Yields (file, its bytes) for each file in `limits`, in the order of the archive.  Raises InputError for a damaged archive,
    and for one that contains anything but regular files directly in `folder`, each of them once.
    """
    seen = set()
    with opened(path) as stream:
        for _ in range(MEMBERS):
            header = _after_attributes(read_up_to(stream, tarfile.BLOCKSIZE), stream, path)
            if not any(header):
                break
            file, size = _check_member(header, path, folder)
            limit = limits.get(file, SMALL)
            if not 0 <= size <= limit:
                raise InputError(f"{path}: {file!r} claims {size:,} bytes, right would be up to {limit:,}")
            if file in seen:
                raise InputError(f"{path}: {file!r} occurs twice")
            seen.add(file)
            data = read_up_to(stream, size)
            padding = read_up_to(stream, -size % tarfile.BLOCKSIZE)
            if len(data) + len(padding) < size + -size % tarfile.BLOCKSIZE:
                raise InputError(f"{path}: cut off inside {file!r}")
            if file in limits:
                yield file, data
            del data  # before memory is allocated for the next file
        else:
            raise InputError(f"{path}: has more than {MEMBERS} entries")
        check_end(stream, path, SMALL)
    absent = [file for file in limits if file not in seen]
    if absent:
        raise InputError(f"{path}: lacks {', '.join(absent)}")


def _after_attributes(header, stream, path):
    """The header, or the one after it if it introduces attributes of the next file, which Python writes for times."""
    if header[156:157] != tarfile.XHDTYPE:
        return header
    size = _read_header(header, path).size
    if not 0 <= size <= SMALL:
        raise InputError(f"{path}: attributes of a file claim {size:,} bytes, right would be up to {SMALL:,}")
    if re.search(rb" (path|linkpath|size|GNU\.[^=]*)=", read_up_to(stream, size + -size % tarfile.BLOCKSIZE)):
        raise InputError(f"{path}: attributes of a file change its name or size")
    return read_up_to(stream, tarfile.BLOCKSIZE)


def _read_header(header, path):
    try:
        return tarfile.TarInfo.frombuf(bytes(header), "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        raise InputError(f"{path}: damaged, the header of a file is expected here ({error})") from None


def _check_member(header, path, folder):
    """(name, size) of a file from its header in a tar archive; the name of the folder itself is ""."""
    info = _read_header(header, path)
    within, _, file = info.name.partition("/")
    if within != folder or "/" in file or file in (".", ".."):
        raise InputError(f"{path}: {info.name!r} lies outside of {folder}/")
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        raise InputError(f"{path}: {info.name!r} is a link or device (type {info.type!r}), not a file")
    return file, info.size
