"""Run the local Hub beside a job: start it on a free port, wait, hand over, stop it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from usermirrorer.builders.common import network
from usermirrorer.builders.common.errors import UserError


@dataclass(frozen=True)
class LocalHub:
    """A running local Hub: its address, and a token that may write as its user."""

    endpoint: str
    token: str = field(repr=False)

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables with which any client talks to this Hub, cache below `home`."""
        hub = {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": self.token, "HF_HOME": str(home)}
        return hub | network.past_proxies({**os.environ, **hub})


@contextmanager
def running(root: Path, user: str = "usermirrorer", *, wait: float = 60.0) -> Iterator[LocalHub]:
    """Serve the folder `root` on loopback while the block runs.

    Args:
        root: Folder of the Hub, made if missing; it keeps its repositories between runs.
        user: The user for whom a token is made; it is revoked at the end.
        wait: Seconds until the server must answer.

    Raises:
        UserError: if the server does not start.
    """
    from usermirrorer.hub.server.store import create_token, list_tokens, revoke_token

    root = Path(root)
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    before = {row["id"] for row in list_tokens(root)}
    token = create_token(root, user, label="this run")
    made = [row["id"] for row in list_tokens(root) if row["id"] not in before]
    port_file = root / f"port-{os.getpid()}"
    log = root / "server.log"
    log.touch(mode=0o600)
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "usermirrorer.hub.server", str(root), str(port_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
    try:
        yield LocalHub(_endpoint(process, port_file, log, wait), token)
    finally:
        process.terminate()
        process.communicate(timeout=30)
        port_file.unlink(missing_ok=True)
        for token_id in made:
            revoke_token(root, token_id)


def _endpoint(process: subprocess.Popen[bytes], port_file: Path, log: Path, wait: float) -> str:
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise UserError(
                f"the local Hub did not start: {lines[-1] if lines else 'no message'}",
                fix="It needs the extra: pip install 'usermirrorer[hub]'.",
            )
        if port_file.exists() and (port := port_file.read_text()):
            endpoint = f"http://127.0.0.1:{port}"
            if _healthy(endpoint):
                return endpoint
        time.sleep(0.05)
    raise UserError(f"the local Hub did not answer within {wait:.0f} s")


def _healthy(endpoint: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{endpoint}/healthz", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
