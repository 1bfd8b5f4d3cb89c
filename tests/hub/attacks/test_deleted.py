"""Promise: what is deleted while somebody writes to it is gone, and they are told so."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.hub.attacks import world as worlds
from tests.hub.attacks.conftest import serving, sign_in
from tests.hub.attacks.corpus import calls
from usermirrorer.hub.local import running
from usermirrorer.hub.server import access

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


def test_what_is_being_deleted_is_not_found(tmp_path, monkeypatch):
    """Its folder goes before its record; in between it is still named."""
    check = access.check

    def check_and_step_aside(*arguments: Any, **named: Any) -> Any:
        repo = check(*arguments, **named)
        folder = tmp_path / "repos" / str(repo.id)
        if repo.name == "brief" and folder.exists():
            folder.rename(folder.with_name(f".deleted-{repo.id}"))
        return repo

    with serving(tmp_path) as endpoint:
        world = worlds.build(endpoint, tmp_path)
        body = {"name": "brief", "type": "dataset"}
        with world.client(worlds.WRITER) as client:
            client.post("/api/repos/create", json=body).raise_for_status()
            given = client.get("/api/datasets/lab/brief/xet-write-token/main").json()
            monkeypatch.setattr(access, "check", check_and_step_aside)
            headers = {"Authorization": f"Bearer {given['accessToken']}"}
            xorb = f"{given['casUrl']}/v1/xorbs/default/{'f' * 64}"
            assert client.post(xorb, content=b"x", headers=headers).status_code == 404
            for address in ("refs", "lfs-files", "tree/main"):
                assert client.get(f"/api/datasets/lab/brief/{address}").status_code == 404


def test_what_is_deleted_and_made_anew_under_a_request_fails_nothing(tmp_path, monkeypatch):
    """By every route: between the question who may do it and the doing, another is made."""
    replace: list[Callable[[], None]] = []
    check = access.check

    def check_and_replace(*arguments: Any, **named: Any) -> Any:
        repo = check(*arguments, **named)
        while replace:
            replace.pop()()
        return repo

    monkeypatch.setattr(access, "check", check_and_replace)
    with serving(tmp_path) as endpoint:
        world = worlds.build(endpoint, tmp_path)
        with world.client(worlds.WRITER) as client:
            for call in calls():
                if call.of != "repository" or call.right not in ("see", "read", "write"):
                    continue
                body = {"name": "brief", "type": call.kind}

                def anew(body: dict[str, str] = body) -> None:
                    client = world.client(worlds.WRITER)
                    client.request("DELETE", "/api/repos/delete", json=body).raise_for_status()
                    client.post("/api/repos/create", json=body).raise_for_status()

                client.post("/api/repos/create", json=body)
                replace.append(anew)
                answer = call.send(client, world, "brief")
                assert not replace and answer.status_code < 502, (call, answer.text)
                assert answer.status_code != 500, call
