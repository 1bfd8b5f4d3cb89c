"""A service of a tiny model in a process of its own, as people start it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Service:
    process: subprocess.Popen
    address: str
    log: Path

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)


@contextlib.contextmanager
def serving(model: Path, log: Path, *more: str, env: dict[str, str] | None = None) -> Iterator:
    command = [sys.executable, "-m", "usermirrorer.recipes.cli", "serve", "--model", str(model)]
    command += ["--port", "0", *more]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
        )
        try:
            yield Service(process, _address(process, log), log)
        finally:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen, log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        text = log.read_text(errors="replace")
        assert process.poll() is None, text
        if said := re.search(r"^http://\S+$", text, re.M):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(said.group() + "/health", timeout=5).close()
                return said.group()
        time.sleep(0.1)
    raise AssertionError(log.read_text(errors="replace"))


@pytest.fixture(scope="module")
def service(tiny_chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("service") / "log"
    with serving(tiny_chat_model, log, "--guided", "--name", "tiny") as running:
        yield running
