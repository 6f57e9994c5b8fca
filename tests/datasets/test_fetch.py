"""Downloads against a local server that stalls, cuts off, lies and breaks; the state of a data folder."""

import contextlib
import fcntl
import hashlib
import http.server
import io
import itertools
import os
import re
import shutil
import threading
import urllib.request

import numpy as np
import pytest

import published_sets
from published_sets import refused
from wtref.datasets import cifar, fetch, idx, web
from wtref.errors import InputError

CONTENT = bytes(np.random.default_rng(0).integers(256, size=300_000, dtype=np.uint8))
OTHER = bytes(np.random.default_rng(1).integers(256, size=300_000, dtype=np.uint8))
HALF = len(CONTENT) // 2


def silent(*_):
    """A progress that nobody sees."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the server's `behave` says; notes every request's path and range."""

    def do_GET(self):
        self.server.seen.append((self.path, self.headers["Range"]))
        with contextlib.suppress(OSError):  # the client may have left
            self.server.behave(self)

    def answer(self, code, body, length=..., **headers):
        self.send_response(code)
        length = len(body) if length is ... else length
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        """Keep quiet."""


def start_of(request):
    return int(re.fullmatch(r"bytes=(\d+)-", request.headers["Range"] or "bytes=0-")[1])


def content_range(start):
    return f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"


def honest(request):
    start = start_of(request)
    if not start:
        return request.answer(200, CONTENT)
    return request.answer(206, CONTENT[start:], Content_Range=content_range(start))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server on this machine, the one file that it has, and where it would be fetched to."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        server.behave, server.seen, server.over = honest, [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}/files/"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        publish(monkeypatch, server.url)
        server.file = tmp_path / "things" / "data.bin"
        server.part = tmp_path / "things" / "data.bin.part"
        yield server
        server.over.set()
        server.shutdown()


def publish(monkeypatch, *homes):
    file = fetch.File("data.bin", len(CONTENT), hashlib.md5(CONTENT).hexdigest())
    monkeypatch.setitem(fetch.CATALOGUE, "things", fetch.Source("things", homes, (file,)))


def get(tmp_path, **options):
    return fetch.fetch("things", tmp_path, **{"progress": silent, "timeout": 5, **options})


# --- what goes well ---------------------------------------------------------------------------------------


def test_a_download(server, tmp_path):
    calls = []
    assert get(tmp_path, progress=lambda *call: calls.append(call)) == [server.file]
    assert server.file.read_bytes() == CONTENT and not server.part.exists()
    assert server.seen == [("/files/data.bin", None)]
    done = [call[1] for call in calls]
    assert {(call[0], call[2]) for call in calls} == {("data.bin", len(CONTENT))}
    assert done == sorted(done) and done[-1] == len(CONTENT) and len(done) > 1


def test_what_is_there_and_intact_is_left_alone(server, tmp_path):
    server.file.parent.mkdir()
    server.file.write_bytes(CONTENT)
    assert get(tmp_path) == [server.file] and not server.seen


def test_a_damaged_file_is_replaced(server, tmp_path):
    server.file.parent.mkdir()
    server.file.write_bytes(OTHER)
    get(tmp_path)
    assert server.file.read_bytes() == CONTENT


def test_a_damaged_file_stays_until_there_is_a_better_one(server, tmp_path):
    server.behave = lambda request: request.answer(200, OTHER)
    server.file.parent.mkdir()
    server.file.write_bytes(b"old")
    refused(lambda: get(tmp_path), "MD5")
    assert server.file.read_bytes() == b"old"


def test_going_on_where_an_earlier_download_ended(server, tmp_path):
    server.file.parent.mkdir()
    server.part.write_bytes(CONTENT[:HALF])
    get(tmp_path)
    assert server.file.read_bytes() == CONTENT and server.seen == [("/files/data.bin", f"bytes={HALF}-")]


def test_a_server_that_knows_no_ranges_starts_over(server, tmp_path):
    server.behave = lambda request: request.answer(200, CONTENT)
    server.file.parent.mkdir()
    server.part.write_bytes(CONTENT[:HALF])
    get(tmp_path)
    assert server.file.read_bytes() == CONTENT and server.seen == [("/files/data.bin", f"bytes={HALF}-")]


def test_a_complete_part_needs_no_server(server, tmp_path):
    server.file.parent.mkdir()
    server.part.write_bytes(CONTENT)
    get(tmp_path)
    assert server.file.read_bytes() == CONTENT and not server.seen


def test_a_part_that_is_too_long_is_started_over(server, tmp_path):
    server.file.parent.mkdir()
    server.part.write_bytes(CONTENT + b"more")
    get(tmp_path)
    assert server.file.read_bytes() == CONTENT and server.seen == [("/files/data.bin", None)]


def test_a_redirect_is_followed(server, tmp_path):
    def behave(request):
        if request.path.startswith("/files/"):
            return request.answer(302, b"", Location=f"http://127.0.0.1:{server.server_port}/moved/data.bin")
        return honest(request)

    server.behave = behave
    server.file.parent.mkdir()
    server.part.write_bytes(CONTENT[:HALF])
    get(tmp_path)
    assert server.file.read_bytes() == CONTENT and server.seen[-1] == ("/moved/data.bin", f"bytes={HALF}-")


def test_redirects_lead_from_http_to_https_and_never_back():
    def follow(start, end):
        request, response = urllib.request.Request(start), io.BytesIO(b"moved")
        redirected = web._Redirections().redirect_request(request, response, 302, "Found", {}, end)
        assert response.closed
        return redirected.full_url

    assert follow("http://a/", "https://b/") == "https://b/"
    assert follow("https://a/", "HTTPS://b/") == "HTTPS://b/"
    for start, end in (("https://a/", "http://b/"), ("http://a/", "ftp://b/"), ("https://a/", "ftp://b/")):
        with pytest.raises(web.Failed, match=f"redirects to {end}; only an https address may"):
            follow(start, end)


def test_where_the_first_home_refuses_the_second_is_asked(server, tmp_path, monkeypatch):
    publish(monkeypatch, f"http://127.0.0.1:{server.server_port}/closed/", server.url)
    server.behave = lambda request: request.answer(403, b"") if "closed" in request.path else honest(request)
    get(tmp_path)
    assert [path for path, _ in server.seen] == ["/closed/data.bin", "/files/data.bin"]


def test_another_home_can_be_named(server, tmp_path):
    get(tmp_path, base_url=f"http://127.0.0.1:{server.server_port}/mirror")
    assert server.seen == [("/mirror/data.bin", None)]


# --- what goes wrong --------------------------------------------------------------------------------------


def stall(part):
    def behave(request):
        request.answer(200, CONTENT[:part], length=len(CONTENT))
        request.server.over.wait(10)

    return behave


def drip(request):
    request.answer(200, b"", length=len(CONTENT))
    for k in range(1000):
        request.wfile.write(CONTENT[k : k + 1])
        if request.server.over.wait(0.05):
            return


def drip_forever(start, text):
    """A server that says `start` at once and then a text over and over, a byte at a time."""

    def behave(request):
        request.wfile.write(start)
        for byte in itertools.cycle(text):
            if request.server.over.wait(0.02):
                return
            request.wfile.write(bytes([byte]))

    return behave


def redirect_without_end(request):
    request.answer(302, b"", None, Location=request.server.url)
    while not request.server.over.is_set():
        request.wfile.write(bytes(1 << 16))


def silence(request):
    request.server.over.wait(10)


def hang_up(request):
    request.connection.close()


def babble(request):
    request.wfile.write(b"220 this is no web server\r\n" * 3)


def chunked(data):
    def behave(request):
        request.protocol_version = "HTTP/1.1"
        request.answer(200, b"", None, Transfer_Encoding="chunked", Connection="close")
        request.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))

    return behave


def answers(code, body, **options):
    return lambda request: request.answer(code, body, **options)


CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = CHUNKS + b"1\r\n%s\r\n0\r\n" % CONTENT[:1]
KEPT, GONE = f"{HALF:,} of 300,000", None
SENT, PUBLISHED = hashlib.md5(OTHER).hexdigest(), hashlib.md5(CONTENT).hexdigest()
FAULTS = {
    "stalls before it answers": (silence, GONE, "timed out"),
    "stalls in the middle": (stall(HALF), KEPT, "timed out"),
    "drips": (drip, "bytes are kept", "less than 1024 bytes per second"),
    "drips in its header": (drip_forever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), GONE, "timed out"),
    "drips in its first line": (drip_forever(b"HTTP/1.1 200 ", b"O"), GONE, "timed out"),
    "drips by saying go on": (drip_forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), GONE, "timed out"),
    "drips in the length of a chunk": (drip_forever(CHUNKS, b"0"), GONE, "timed out"),
    "drips after the last chunk": (drip_forever(LAST_CHUNK, b"X: y\r\n"), "1 of 300,000", "timed out"),
    "hangs up": (hang_up, GONE, "does not answer"),
    "is none": (babble, GONE, "does not answer"),
    "cuts off": (answers(200, CONTENT[:HALF], length=len(CONTENT)), KEPT, "ended after 150,000 of 300,000"),
    "has a shorter file": (answers(200, CONTENT[:HALF]), GONE, "'150000' bytes", "300000"),
    "has a longer file": (answers(200, CONTENT + b"x"), GONE, "'300001' bytes"),
    "promises too much": (answers(200, CONTENT, length=10**15), GONE, "'1000000000000000' bytes"),
    "promises nonsense": (answers(200, CONTENT, length="many"), GONE, "'many' bytes"),
    "promises less than nothing": (answers(200, CONTENT, length=-5), GONE, "'-5' bytes"),
    "has other bytes": (answers(200, OTHER), GONE, SENT, PUBLISHED),
    "has a web page": (answers(200, b"<html>log in</html>"), GONE, "'19' bytes"),
    "sends a page in chunks": (chunked(b"<html>log in</html>"), GONE, "ended after 19"),
    "sends more than it should in chunks": (chunked(OTHER + OTHER), GONE, "MD5"),
    "names no length and sends less": (answers(200, CONTENT[:HALF], length=None), GONE, "ended after 150"),
    "does not have it": (answers(404, b"not here"), GONE, "answers 404 Not Found"),
    "is broken": (answers(500, b"oops"), GONE, "answers 500 Internal Server Error"),
    "answers with a part nobody asked for": (answers(206, CONTENT[1:]), GONE, "None instead of 'bytes"),
    "sends one round": (answers(302, b"", Location="data.bin"), GONE, "answers 302"),
    "sends one to a file": (answers(302, b"", Location="file:///etc/hostname"), GONE, "answers 302"),
    "sends one to ftp": (answers(302, b"", Location="ftp://127.0.0.1/data.bin"), GONE, "redirects to ftp://127.0.0.1/"),
    "sends one round with pages that have no end": (redirect_without_end, GONE, "answers 302"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that(fault, server, tmp_path):
    server.behave, kept, *wanted = FAULTS[fault]
    timeout = 0.3 if "stall" in fault or "drips" in fault else 5
    line = refused(lambda: get(tmp_path, timeout=timeout), *wanted)
    assert line.startswith(f"things: {server.url}data.bin ") and "run it again" in line
    assert f"download data.bin from {server.url} by hand and put into {server.file.parent}" in line
    assert not server.file.exists() and server.part.exists() == bool(kept)
    if kept:
        assert f"{kept}" in line and str(server.part) in line
        assert CONTENT.startswith(server.part.read_bytes())
    server.behave = honest
    get(tmp_path)
    assert server.file.read_bytes() == CONTENT and not server.part.exists()


RESUMING = {
    "other range": answers(206, CONTENT[:HALF], Content_Range=f"bytes 0-{HALF - 1}/{len(CONTENT)}"),
    "no range": answers(206, CONTENT[HALF:]),
    "range of another file": answers(206, CONTENT[HALF:], Content_Range=f"bytes {HALF}-299999/400000"),
    "refuses": answers(416, b""),
    "other bytes": answers(206, OTHER[HALF:], Content_Range=content_range(HALF)),
}


@pytest.mark.parametrize("fault", RESUMING)
def test_a_part_with_which_nothing_can_be_done_is_removed(fault, server, tmp_path):
    server.behave = RESUMING[fault]
    server.file.parent.mkdir()
    server.part.write_bytes(CONTENT[:HALF])
    refused(lambda: get(tmp_path), "things: ")
    assert not server.part.exists() and not server.file.exists()
    server.behave = honest
    get(tmp_path)
    assert server.file.read_bytes() == CONTENT


@pytest.mark.parametrize("behave", [answers(404, b""), answers(503, b""), hang_up, answers(200, b"x" * 19)])
def test_a_good_part_outlives_a_bad_server(behave, server, tmp_path):
    server.behave = behave
    server.file.parent.mkdir()
    server.part.write_bytes(CONTENT[:HALF])
    refused(lambda: get(tmp_path), f"{HALF:,} of 300,000 bytes are kept in {server.part}")
    assert server.part.read_bytes() == CONTENT[:HALF]


def test_many_interruptions_one_file(server, tmp_path):
    """Every connection breaks after 40,000 bytes; eight of them give the file."""

    def behave(request):
        start = start_of(request)
        piece = CONTENT[start : start + 40_000]
        if not start:
            return request.answer(200, piece, length=len(CONTENT))
        rest = len(CONTENT) - start
        return request.answer(206, piece, length=rest, Content_Range=content_range(start))

    server.behave = behave
    for _ in range(7):
        refused(lambda: get(tmp_path), "ended after")
    get(tmp_path)
    assert server.file.read_bytes() == CONTENT and len(server.seen) == 8


def test_without_a_network_one_line_says_what_to_download_and_where_to_put_it(tmp_path):
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as gone:
        url = f"http://127.0.0.1:{gone.server_port}/"
    names = [file.name for file in fetch.CATALOGUE["mnist"].files]
    by_hand = f"download {', '.join(names)} from {url} by hand and put into {tmp_path / 'mnist'}"
    refused(lambda: fetch.fetch("mnist", tmp_path, url, timeout=5), "Connection refused", by_hand)
    refused(lambda: fetch.fetch("mnist", tmp_path, "ftp://127.0.0.1/", timeout=5), "no http address")
    assert not list((tmp_path / "mnist").iterdir())


def test_two_at_a_time(server, tmp_path):
    server.file.parent.mkdir()
    with open(server.part, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        refused(lambda: get(tmp_path), "another process", str(server.part))
    get(tmp_path)


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "link to nothing", "pipe", "folder"])
def test_nothing_is_written_through_what_was_planted_in_place_of_a_part(kind, server, tmp_path):
    treasure = tmp_path / "treasure"
    treasure.write_bytes(b"mine")
    server.part.parent.mkdir()
    plant = {
        "symbolic link": lambda: server.part.symlink_to(treasure),
        "hard link": lambda: server.part.hardlink_to(treasure),
        "link to nothing": lambda: server.part.symlink_to(tmp_path / "new"),
        "pipe": lambda: os.mkfifo(server.part),
        "folder": server.part.mkdir,
    }
    plant[kind]()
    refused(lambda: get(tmp_path), f"{server.part}: a link, folder or device, not the part of a file", "remove it")
    assert treasure.read_bytes() == b"mine" and not (tmp_path / "new").exists() and not server.seen


def test_no_link_is_followed_that_appears_just_before_the_part_is_opened(server, tmp_path, monkeypatch):
    treasure = tmp_path / "treasure"
    treasure.write_bytes(b"mine")
    server.part.parent.mkdir()
    server.part.symlink_to(treasure)
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    refused(lambda: get(tmp_path), "cannot write to")
    assert treasure.read_bytes() == b"mine"


def test_an_unknown_set(tmp_path):
    refused(lambda: fetch.fetch("imagenet", tmp_path), "imagenet", *fetch.CATALOGUE)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "things").write_text("a file")
    refused(lambda: get(tmp_path), "things: cannot write to", str(tmp_path / "things"))


def test_a_full_disk_stops_with_one_line_and_a_part_to_go_on_from(server, tmp_path, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            if self.file.tell() > HALF:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

    whole = fetch._download
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_download", lambda url, out, *rest: whole(url, Full(out), *rest))
        refused(lambda: get(tmp_path), "cannot write", "No space left")
    assert 0 < len(server.part.read_bytes()) < len(CONTENT)
    get(tmp_path)
    assert server.file.read_bytes() == CONTENT and server.seen[-1][1]


def test_an_interrupted_download_goes_on_later(server, tmp_path):
    def interrupt(_, done, size):
        if done > HALF:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(tmp_path, progress=interrupt)
    kept = len(server.part.read_bytes())
    assert kept > HALF
    get(tmp_path)
    assert server.file.read_bytes() == CONTENT and server.seen[-1] == ("/files/data.bin", f"bytes={kept}-")


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_line(terminal, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    for done in (10**6, 2 * 10**6, 3 * 10**6):
        fetch.show_progress("data.bin", done, 3 * 10**6)
    said = capsys.readouterr().err
    assert said.endswith("data.bin: 3.0 of 3.0 MB\n") and said.count("\n") == 1
    assert said.count("\r") == (3 if terminal else 0)


# --- the catalogue and the state of a folder --------------------------------------------------------------


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
    return {row.name: (row.state, row.detail) for row in fetch.status(data_dir)}


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
    from wtref.datasets import DATA_DIR

    assert states(DATA_DIR)["digits"][0] == "intact"


def test_a_fetched_set_can_be_loaded(small_sets, server):
    packed = {path.name: path.read_bytes() for path in (small_sets / "mnist").iterdir()}
    server.behave = lambda request: request.answer(200, packed[request.path.rpartition("/")[2]])
    elsewhere = small_sets / "elsewhere"
    with pytest.raises(InputError):
        idx.load_mnist(elsewhere)
    assert len(fetch.fetch("mnist", elsewhere, server.url, progress=silent, timeout=5)) == 4
    assert len(idx.load_mnist(elsewhere).train_labels) == published_sets.TRAIN
    assert states(elsewhere)["mnist"][0] == "intact"
