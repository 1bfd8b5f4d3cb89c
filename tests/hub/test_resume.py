"""Promise: an upload that was cut goes on at the next try; what arrived whole is not sent again."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from urllib.parse import urlsplit

import httpx
import pytest

PUSH = """
import sys
from pathlib import Path
from huggingface_hub.utils import _http
from usermirrorer.builders.common.errors import UserError
from usermirrorer.hub import releases
_http.time.sleep = lambda seconds: None  # the client tries again, with growing waits
try:
    releases.push_model(Path(sys.argv[1]), "usermirrorer/m", version="1.0.0")
except UserError as error:
    sys.exit(str(error))
"""
MAKE = """
import sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
folder = Path(sys.argv[1])
folder.mkdir()
for name, count in (("model", 2_000_000), ("a", 2_000), ("b", 3_000)):
    save_file({"w": np.random.rand(count)}, folder / f"{name}.safetensors")
for path, text in {"config.json": "{}", "tokenizer.json": "{}", "README.md": "# x\\n"}.items():
    (folder / path).write_text(text)
"""


class Line:
    """A line to the Hub on loopback that tells what went up, and breaks after so many bytes."""

    def __init__(self, endpoint: str) -> None:
        self.target = urlsplit(endpoint)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.left, self.up = 0, b""
        self.lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def restore(self, breaks_after: int) -> None:
        self.left, self.up = breaks_after, b""

    def uploads(self) -> list[str]:
        """Return the SHA-256 of each large file whose upload began."""
        return [oid.decode() for oid in re.findall(rb"PUT /lfs/\d+/([0-9a-f]{64})", self.up)]

    def _accept(self) -> None:
        while True:
            here, _ = self.listener.accept()
            there = socket.create_connection((self.target.hostname, self.target.port))
            threading.Thread(target=self._pass, args=(here, there, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(there, here, False), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, upwards: bool) -> None:
        try:
            while block := source.recv(65536):
                with self.lock:
                    if upwards:
                        self.left -= len(block)
                        self.up += block
                    if self.left < 0:
                        break
                sink.sendall(block)
        except OSError:
            pass
        for end in (source, sink):
            # Closing alone says nothing to the far end while the other thread still reads here.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def line(local_hub):
    return Line(local_hub.endpoint)


def test_what_arrived_whole_is_not_sent_again(run, line, tmp_path):
    folder = tmp_path / "model"
    run(MAKE, folder)
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
    line.restore(breaks_after=sum(sizes.values()) // 2)
    cut = run(PUSH, folder, check=False, HF_ENDPOINT=line.endpoint)
    assert "the Hub cannot be reached" in cut.stderr.splitlines()[-1]
    first = line.uploads()
    assert len(set(first)) == 3

    line.restore(breaks_after=10 * sum(sizes.values()))
    run(PUSH, folder, HF_ENDPOINT=line.endpoint)
    again = line.uploads()
    assert len(again) == 1 and again[0] in first  # only the one that was cut
    got = httpx.get(f"{line.endpoint}/usermirrorer/m/resolve/v1.0.0/model.safetensors")
    assert got.content == (folder / "model.safetensors").read_bytes()
