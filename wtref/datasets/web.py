"""Downloads over HTTP from servers that may be slow, broken or hostile.

Everything has a limit: the header of a response must arrive within a timeout, the bytes after it must arrive at a minimal
rate, and redirections are followed only to HTTP, and from https only to https.
"""

import http.client
import io
import time
import urllib.error
import urllib.parse
import urllib.request

from wtref import __version__

TIMEOUT = 30.0  # seconds that a server may be silent, or may take to send a header
SLOWEST = 1024  # bytes per second, the least average over a timeout
PIECE = 1 << 16


class Failed(Exception):
    """A download that failed; keep: True if the next attempt may continue after the bytes received so far."""

    def __init__(self, reason, keep=True):
        super().__init__(reason)
        self.keep = keep


def request(url, have, timeout):
    """Open the response to a request for all bytes after the first `have`.  Raises Failed."""
    headers = {"User-Agent": f"wtref/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    if not url.startswith(("http://", "https://")):
        raise Failed("is not an http address")
    opener = urllib.request.build_opener(_Handler, _SecureHandler, _Redirections)
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        reason = http.client.responses.get(error.code, "")
        raise Failed(f"answers {error.code} {reason}", keep=error.code != 416) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Failed(f"does not respond ({_why(error)})") from None


def pieces(response, size, timeout):
    """Yield up to `size` bytes in pieces as they arrive.  Raises Failed if the server is silent or too slow."""
    since, came = time.monotonic(), 0
    while size:
        try:
            response.must_answer_within(timeout)
            piece = response.read1(min(PIECE, size))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Failed(f"broke off ({_why(error)})") from None
        if not piece:
            return
        yield piece
        size, came, now = size - len(piece), came + len(piece), time.monotonic()
        if now - since > timeout:
            if came < SLOWEST * (now - since):
                raise Failed(f"sends less than {SLOWEST} bytes per second")
            since, came = now, 0


def _why(error):
    reason = getattr(error, "reason", error)
    return " ".join(str(getattr(reason, "strerror", None) or reason).split()) or type(reason).__name__


class _Stream(io.RawIOBase):
    """The bytes of a socket, which can be read until the time `end`.

    The timeout of a socket is no such limit, because it starts anew with each byte.
    """

    def __init__(self, stream, sock):
        self.stream, self.sock, self.end = stream, sock, time.monotonic() + sock.gettimeout()

    def readable(self):
        return True

    def readinto(self, buffer):
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.sock.settimeout(left)
        return self.stream.readinto(buffer)

    def close(self):
        self.stream.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """A response whose header must arrive within the timeout of its socket."""

    def __init__(self, sock, *args, **kwargs):
        super().__init__(sock, *args, **kwargs)
        self.stream = _Stream(self.fp.detach(), sock)
        self.fp = io.BufferedReader(self.stream)

    def must_answer_within(self, seconds):
        """Make all reads fail that end more than so many seconds from now."""
        self.stream.end = time.monotonic() + seconds


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _SecureConnection(http.client.HTTPSConnection):
    response_class = _Response


class _Handler(urllib.request.HTTPHandler):
    def http_open(self, request):
        return self.do_open(_Connection, request)


class _SecureHandler(urllib.request.HTTPSHandler):
    def https_open(self, request):
        return self.do_open(_SecureConnection, request)


class _Redirections(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, response, code, message, headers, url):
        response.close()  # its body is not needed and may be endless
        found = urllib.parse.urlsplit(url).scheme
        if found != "https" and (found != "http" or request.type == "https"):
            raise Failed(f"redirects to {url}; only an https address may follow an https one, or either an http one")
        return super().redirect_request(request, response, code, message, headers, url)
