"""A TCP proxy before a real server: cuts answers midway, asks to wait, refuses keys, goes away."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator, Sequence

CANNED = {
    "limit": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n",
    "key": b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n"
    b"Connection: close\r\n\r\n<html>",
}


class FlakyProxy(socketserver.ThreadingTCPServer):
    """Gives each connection the next fault of a cycle, "" for none; counts them by name."""

    daemon_threads = True

    def __init__(self, upstream: int, faults: Sequence[str]) -> None:
        self.upstream, self.met = upstream, Counter()
        self.faults, self.lock = itertools.cycle(faults), threading.Lock()
        super().__init__(("127.0.0.1", 0), _Connection)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Connection(socketserver.BaseRequestHandler):
    server: FlakyProxy

    def handle(self) -> None:
        with self.server.lock:
            fault = next(self.server.faults)
            self.server.met[fault] += 1
        if fault == "away":
            return
        if fault in CANNED:
            self._read_request()
            self.request.sendall(CANNED[fault])
            return
        with socket.create_connection(("127.0.0.1", self.server.upstream)) as upstream:
            self._pass_on(upstream, 60 if fault == "cut" else None)

    def _read_request(self) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.request.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.splitlines()
            if line.lower().startswith(b"content-length:")
        )
        while len(body) < length:
            body += self.request.recv(65536)

    def _pass_on(self, upstream: socket.socket, answer_bytes: int | None) -> None:
        """Carry bytes both ways; close both ends after so many bytes of the answer."""
        ends = {self.request: upstream, upstream: self.request}
        while True:
            for source in select.select(list(ends), [], [])[0]:
                data = source.recv(65536)
                if source is upstream and answer_bytes is not None:
                    self.request.sendall(data[:answer_bytes])
                    return
                if not data:
                    return
                ends[source].sendall(data)


@contextlib.contextmanager
def flaky(upstream: int, *faults: str) -> Iterator[FlakyProxy]:
    """Run such a proxy before the server at port `upstream`."""
    with FlakyProxy(upstream, faults) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
