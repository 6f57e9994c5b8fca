"""The local web server of the tests of downloads."""

import http.server
import threading

import pytest

from file_server import Handler, honest, publish


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server on this machine with one file; `file` and `part` are the paths to which that is fetched."""
    monkeypatch.setenv("no_proxy", "*")
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
