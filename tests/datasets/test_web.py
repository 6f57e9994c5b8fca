"""Downloads from a local server that stalls, cuts off, lies and breaks."""

import hashlib
import io
import itertools
import urllib.request

import pytest

from file_server import CONTENT, HALF, OTHER, content_range, get, honest, start_of
from published_sets import refused
from wtref.datasets import web


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
    """A server that sends `start` at once and then repeats a text without end, one byte at a time."""

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
    "hangs up": (hang_up, GONE, "does not respond"),
    "is no web server": (babble, GONE, "does not respond"),
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
    "answers with a part that was not requested": (answers(206, CONTENT[1:]), GONE, "None instead of 'bytes"),
    "sends one round": (answers(302, b"", Location="data.bin"), GONE, "answers 302"),
    "sends one to a file": (answers(302, b"", Location="file:///etc/hostname"), GONE, "answers 302"),
    "sends one to ftp": (answers(302, b"", Location="ftp://127.0.0.1/data.bin"), GONE, "redirects to ftp://127.0.0.1/"),
    "sends one round with pages that have no end": (redirect_without_end, GONE, "answers 302"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that(fault, server, tmp_path):
    server.behave, kept, *wanted = FAULTS[fault]
    timeout = 1 if "stall" in fault or "drips" in fault else 5
    line = refused(lambda: get(tmp_path, timeout=timeout), *wanted)
    assert line.startswith(f"things: {server.url}data.bin ") and "run it again" in line
    assert f"download data.bin from {server.url} by hand into {server.file.parent}" in line
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
