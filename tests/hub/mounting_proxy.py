"""A reverse proxy that shows a server below `/hub/`, as nginx does, and a forward one that refuses.

The path is taken away before a request is passed on; the host is kept. `tells` adds what proxies
that know their manners add: which path they took away.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATH = "/hub"
_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "date", "server"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: str, tells: bool) -> None:
        self.upstream, self.tells, self.asked = upstream.removeprefix("http://"), tells, []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _pass_on(self) -> None:
        self.server.asked.append(self.path)
        body = self._body()
        if not self.path.startswith(f"{PATH}/"):
            self._answer(404, [], b"not here")
            return
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
        headers |= {"Content-Length": str(len(body))} if body or self.command != "GET" else {}
        headers |= {"X-Forwarded-Prefix": PATH} if self.server.tells else {}
        line = http.client.HTTPConnection(self.server.upstream, timeout=60)
        line.request(self.command, self.path.removeprefix(PATH), body=body, headers=headers)
        answer = line.getresponse()
        self._answer(answer.status, answer.getheaders(), answer.read())
        line.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _pass_on

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def mounted(upstream: str, *, tells: bool) -> Iterator[_Server]:
    """Show the server at `upstream` below `url` + `PATH`."""
    with _Server(upstream, tells) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
