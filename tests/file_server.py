"""A local web server for the tests of downloads, with one file, whose behaviour each test sets."""

import contextlib
import hashlib
import http.server
import re

import numpy as np

from wtref.datasets import fetch

CONTENT = bytes(np.random.default_rng(0).integers(256, size=300_000, dtype=np.uint8))
OTHER = bytes(np.random.default_rng(1).integers(256, size=300_000, dtype=np.uint8))
HALF = len(CONTENT) // 2


def silent(*_):
    """A progress function that shows nothing."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the server's function `behave` and notes the path and range of every request."""

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
        """Write no log."""


def start_of(request):
    return int(re.fullmatch(r"bytes=(\d+)-", request.headers["Range"] or "bytes=0-")[1])


def content_range(start):
    return f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"


def honest(request):
    start = start_of(request)
    if not start:
        return request.answer(200, CONTENT)
    return request.answer(206, CONTENT[start:], Content_Range=content_range(start))


def publish(monkeypatch, *homes):
    file = fetch.File("data.bin", len(CONTENT), hashlib.md5(CONTENT).hexdigest())
    monkeypatch.setitem(fetch.CATALOGUE, "things", fetch.Source("things", homes, (file,)))


def get(tmp_path, **options):
    return fetch.fetch("things", tmp_path, **{"progress": silent, "timeout": 5, **options})
