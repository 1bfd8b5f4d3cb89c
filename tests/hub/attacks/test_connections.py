"""Promises: half requests, heads without end and strange hosts cost others nothing."""

from __future__ import annotations

import contextlib
import socket
import time

import httpx
import pytest

from tests.hub.attacks.conftest import serving
from tests.hub.attacks.corpus import entries, text_of
from tests.hub.test_backup import create, put
from usermirrorer.hub.local import running
from usermirrorer.hub.server import app
from usermirrorer.hub.server.store import create_token


def connect(endpoint: str) -> socket.socket:
    url = httpx.URL(endpoint)
    return socket.create_connection((url.host, url.port), timeout=30)


def answer_to(endpoint: str, text: bytes) -> bytes:
    """Return what comes until the server closes the connection, or 5 seconds are over."""
    with connect(endpoint) as connection:
        connection.settimeout(5)
        with contextlib.suppress(OSError):
            connection.sendall(text)
        received = b""
        with contextlib.suppress(OSError):
            while block := connection.recv(65536):
                received += block
        return received


@pytest.mark.parametrize("row", entries("framing"))
def test_requests_that_are_framed_wrongly_are_refused_or_closed(hub, owner, stranger, row):
    received = answer_to(hub.endpoint, text_of(row).encode("latin-1"))
    statuses = [int(line.split()[1]) for line in received.splitlines() if line[:7] == b"HTTP/1."]
    assert statuses == row["statuses"], received[:2000]
    assert stranger.get("/healthz").status_code == 200


def test_half_open_connections_lock_nobody_out(hub, owner, stranger):
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = min(2500, soft - 200)
    standing = []
    try:
        for count in range(number):
            connection = connect(hub.endpoint)
            connection.sendall(b"GET / HT" if count % 2 else b"")
            standing.append(connection)
        start = time.monotonic()
        with httpx.Client(base_url=hub.endpoint, timeout=10) as client:
            assert client.get("/api/datasets/usermirrorer/board").status_code == 200
        assert time.monotonic() - start < 1
    finally:
        for connection in standing:
            connection.close()


BEGUN = b"POST /api/validate-yaml HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"
TAKEN = b"GET /datasets/lab/open/resolve/main/long.bin HTTP/1.1\r\nHost: localhost\r\n\r\n"


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_clients_that_hold_their_requests_up_lock_nobody_out(tmp_path, monkeypatch):
    """Nor those that let something move now and then, for hours."""
    monkeypatch.setattr(app, "connection_limit", lambda: 20)
    token = create_token(tmp_path, "lab")
    with serving(tmp_path) as endpoint:
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=endpoint, headers=headers, timeout=60) as client:
            create(client, "open")
            put(client, "lab/open", "long", "x", bytes(24 << 20))
        for sent in (b"", b"GET / HT", BEGUN, TAKEN):
            standing = []
            for _ in range(25):
                connection = connect(endpoint)
                connection.sendall(sent)
                time.sleep(0.02)
                standing.append(connection)
            for _ in range(3):
                answer = httpx.get(f"{endpoint}/api/datasets/lab/open", timeout=5)
                assert answer.status_code == 200
                standing[-1].setblocking(False)
                with contextlib.suppress(OSError):
                    standing[-1].send(b" ")
                with contextlib.suppress(OSError):
                    standing[-1].recv(100)
            given_up = sum(is_closed(connection) for connection in standing)
            assert given_up >= 5 or sent is TAKEN  # whose answers are still to be read
            for connection in standing:
                connection.close()


def test_who_leaves_in_the_middle_of_a_body_is_no_failure_of_the_server(tmp_path):
    root = tmp_path / "hub"
    with running(root) as hub:
        for address in ("/api/validate-yaml", "/api/models/a/b/commit/main", "/login"):
            with connect(hub.endpoint) as connection:
                head = f"POST {address} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
                connection.sendall(head.encode() + b"{")
                time.sleep(0.1)
        assert httpx.get(f"{hub.endpoint}/healthz").status_code == 200
    assert "Traceback" not in (root / "server.log").read_text()


def test_a_head_that_never_ends_is_cut_off(hub):
    with connect(hub.endpoint) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises(OSError):
            for _ in range(1000):
                connection.sendall(b"X-Any: " + b"y" * 1000 + b"\r\n")
                time.sleep(0.001)
    received = answer_to(hub.endpoint, b"GET / HTTP/1.1\r\nX: " + b"y" * (1 << 18))
    assert received == b"" or received.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "name",
    ["evil.example", "evil.example:80", "localhost.evil.example", "[::1", "10.0.0.1", "", "a:b"],
)
@pytest.mark.parametrize("path", ["/", "/api/datasets", "/healthz", "/datasets/usermirrorer/board"])
def test_requests_meant_for_another_host_are_refused(stranger, name, path):
    assert stranger.get(path, headers={"Host": name}).status_code in (400, 421)


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:1", "127.0.0.1:7861", "[::1]:80"])
def test_requests_by_a_loopback_name_are_answered(stranger, name):
    assert stranger.get("/healthz", headers={"Host": name}).status_code == 200


def test_a_server_answers_to_names_that_it_was_given():
    from usermirrorer.hub.server.hosts import Hosts

    behind_proxy = Hosts(None, names=["hub.lab.example"])  # type: ignore[arg-type]
    assert behind_proxy.knows("Hub.Lab.example:443")
    assert not behind_proxy.knows("192.168.1.2")
    open_to_all = Hosts(None, "0.0.0.0")  # type: ignore[arg-type]
    assert open_to_all.knows("192.168.1.2:7861")
    assert open_to_all.knows(socket.gethostname())
    assert not open_to_all.knows("evil.example")


@pytest.mark.parametrize("path", ["/", "/login", "/datasets/usermirrorer/board", "/no/such"])
def test_pages_cannot_be_framed(owner, stranger, path):
    answer = stranger.get(path, headers={"Accept": "text/html"})
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
