"""A Hub under attack, by its owner's hostile files and by strangers; and somebody who reads."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from usermirrorer.hub.local import LocalHub, running
from usermirrorer.hub.server.app import configuration


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    with running(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """Serve a folder in this process; yield the address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(configuration(root))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def sign_in(hub: LocalHub) -> httpx.Client:
    """Return a client that writes as the user `usermirrorer`."""
    headers = {"Authorization": f"Bearer {hub.token}"}
    return httpx.Client(base_url=hub.endpoint, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def owner(hub: LocalHub) -> Iterator[httpx.Client]:
    with sign_in(hub) as client:
        for kind, name in (("dataset", "board"), ("model", "m"), ("dataset", "d"), ("space", "s")):
            body = {"name": name, "type": kind}
            client.post("/api/repos/create", json=body).raise_for_status()
        yield client


@pytest.fixture(scope="module")
def stranger(hub: LocalHub) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hub.endpoint, timeout=60) as client:
        yield client


@pytest.fixture
def read_meanwhile(hub: LocalHub) -> Callable[..., AbstractContextManager[list[float]]]:
    """Return what reads an address all the time during a block, as a second user would."""

    @contextmanager
    def reading(address: str = "/api/datasets/usermirrorer/board") -> Iterator[list[float]]:
        seconds: list[float] = []
        done = threading.Event()

        def read() -> None:
            with httpx.Client(base_url=hub.endpoint, timeout=60) as client:
                while not seconds or not done.is_set():
                    start = time.monotonic()
                    status = client.get(address).status_code
                    seconds.append(time.monotonic() - start if status == 200 else 1000 + status)
                    done.wait(0.02)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield seconds
        finally:
            done.set()
            thread.join()

    return reading
