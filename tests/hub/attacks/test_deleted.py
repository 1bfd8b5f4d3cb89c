"""Promise: what is deleted while somebody writes to it is gone, and they are told so."""

from __future__ import annotations

import hashlib
import socket
import time
from pathlib import Path

import httpx
import pytest

from tests.hub.attacks.conftest import sign_in
from usermirrorer.hub.local import running

NAME = "/api/models/usermirrorer/brief"


def begin(request: httpx.Request, body: bytes) -> socket.socket:
    """Send the head of a request and the first byte of its body, and wait until they are read."""
    url = request.url
    connection = socket.create_connection((url.host, url.port or 80), timeout=30)
    head = f"{request.method} {url.raw_path.decode()} HTTP/1.1\r\nHost: localhost\r\n"
    if "authorization" in request.headers:
        head += f"Authorization: {request.headers['authorization']}\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:1])
    time.sleep(0.5)
    return connection


CONTENT = b"whole, but too late"


def upload(client: httpx.Client) -> httpx.Request:
    objects = [{"oid": hashlib.sha256(CONTENT).hexdigest(), "size": len(CONTENT)}]
    batch = "/usermirrorer/brief.git/info/lfs/objects/batch"
    answer = client.post(batch, json={"operation": "upload", "objects": objects}).json()
    return httpx.Request("PUT", answer["objects"][0]["actions"]["upload"]["href"])


def xorb(client: httpx.Client) -> httpx.Request:
    given = client.get(f"{NAME}/xet-write-token/main").json()
    headers = {"Authorization": f"Bearer {given['accessToken']}"}
    address = f"{given['casUrl']}/v1/xorbs/default/{'f' * 64}"
    return httpx.Request("POST", address, headers=headers)


def commit(client: httpx.Client) -> httpx.Request:
    return client.build_request("POST", f"{NAME}/commit/main")


@pytest.mark.parametrize("write", [upload, xorb, commit])
def test_what_is_deleted_while_it_is_written_to_stays_gone(tmp_path: Path, write):
    with running(tmp_path / "hub") as hub, sign_in(hub) as client:
        body = {"name": "brief", "type": "model"}
        client.post("/api/repos/create", json=body).raise_for_status()
        text = {commit: b'{"key": "header", "value": {"summary": "x"}}\n'}.get(write, CONTENT)
        connection = begin(write(client), text)
        client.request("DELETE", "/api/repos/delete", json=body).raise_for_status()
        connection.sendall(text[1:])
        status = int(connection.recv(4096)[9:12])
        connection.close()
        assert status in (400, 404) if write is xorb else status == 404
        assert not list((tmp_path / "hub" / "repos").iterdir())
