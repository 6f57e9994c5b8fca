"""Downloads: complete, resumed, verified, and to no other place than their own."""

import fcntl
import http.server
import os

import pytest

from file_server import CONTENT, HALF, OTHER, Handler, get, honest, publish
from published_sets import refused
from wtref.datasets import fetch


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


def test_where_the_first_home_refuses_the_second_is_asked(server, tmp_path, monkeypatch):
    publish(monkeypatch, f"http://127.0.0.1:{server.server_port}/closed/", server.url)
    server.behave = lambda request: request.answer(403, b"") if "closed" in request.path else honest(request)
    get(tmp_path)
    assert [path for path, _ in server.seen] == ["/closed/data.bin", "/files/data.bin"]


def test_another_home_can_be_named(server, tmp_path):
    get(tmp_path, base_url=f"http://127.0.0.1:{server.server_port}/mirror")
    assert server.seen == [("/mirror/data.bin", None)]


def test_without_a_network_one_line_says_what_to_download_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as gone:
        url = f"http://127.0.0.1:{gone.server_port}/"
    names = [file.name for file in fetch.CATALOGUE["mnist"].files]
    by_hand = f"download {', '.join(names)} from {url} by hand into {tmp_path / 'mnist'}"
    refused(lambda: fetch.fetch("mnist", tmp_path, url, timeout=5), "Connection refused", by_hand)
    refused(lambda: fetch.fetch("mnist", tmp_path, "ftp://127.0.0.1/", timeout=5), "not an http address")
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
    refused(lambda: get(tmp_path), f"{server.part}: a link, folder or device, not the partial file of a download; remove it")
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
