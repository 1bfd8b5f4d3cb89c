"""A Hub that does nothing: the floor that a client cannot get below, whatever the server.

    python tests/benchmarks/null_hub.py FOLDER

It swallows uploads without hashing or storing them and sends the files of FOLDER by `sendfile`. It
prints its port and serves until it is killed.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMIT = "a" * 40


class NullHub(BaseHTTPRequestHandler):
    """Answer what `release push`, `upload_folder` and `snapshot_download` ask for."""

    protocol_version = "HTTP/1.1"
    folder = Path()

    def do_POST(self) -> None:
        data = self._body()
        binary = any(part in self.path for part in ("/commit/", "/v1/", "/v2/"))
        body = {} if binary else json.loads(data or b"{}")
        base = f"http://{self.headers['host']}"
        if "/v2/" in self.path:
            self._send({}, 404)
        elif self.path.endswith("/batch"):
            rows = [
                {**o, "actions": {"upload": {"href": f"{base}/put/{o['oid']}"}}}
                for o in body["objects"]
            ]
            self._send({"transfer": "basic", "objects": rows})
        elif "/preupload/" in self.path:
            rows = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["size"] > 1 << 20 else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for f in body["files"]
            ]
            self._send({"files": rows, "commitOid": COMMIT})
        else:
            name = f"{base}/datasets/null/null"
            made = {"url": name, "name": "null/null", "commitOid": COMMIT, "commitUrl": name}
            self._send({**made, "was_inserted": True, "result": 1})

    def do_PUT(self) -> None:
        self._body()
        self._send({})

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if "/resolve/" in path:
            self._file(path)
        elif path.endswith("/refs"):
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": COMMIT}
            self._send({"branches": [branch], "tags": [], "converts": []})
        elif "/xet-write-token/" in path:
            base, far = f"http://{self.headers['host']}", 2_000_000_000
            self._send({"casUrl": base, "accessToken": "none", "exp": far})
        elif "/tree/" in path:
            self._send([{**f, "type": "file", "oid": COMMIT} for f in self._files()])
        elif path.endswith("whoami-v2"):
            self._send({"type": "user", "name": "null"})
        elif "/revision/" in path:
            files = [{"rfilename": f["path"]} for f in self._files()]
            self._send({"id": "null/null", "sha": COMMIT, "private": False, "siblings": files})
        else:
            self._send({"error": "nothing here"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self._file(unquote(self.path.partition("?")[0]))

    def _files(self) -> list[dict[str, Any]]:
        found = sorted(p for p in self.folder.rglob("*") if p.is_file())
        return [
            {"path": p.relative_to(self.folder).as_posix(), "size": p.stat().st_size} for p in found
        ]

    def _file(self, path: str) -> None:
        name = path.partition("/resolve/")[2].partition("/")[2]
        source = self.folder / name
        size = source.stat().st_size
        self.send_response(200)
        etag = f"{abs(hash(name)):064d}"
        for key, value in {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command == "GET":
            self.wfile.flush()
            with source.open("rb") as file:
                at = 0
                while at < size:
                    at += os.sendfile(self.connection.fileno(), file.fileno(), at, size - at)

    def _body(self) -> bytes:
        """Read the body; of one that is large only its length."""
        left = int(self.headers.get("content-length", 0))
        if left < 1 << 20:
            if self.headers.get("transfer-encoding") == "chunked":
                return self._chunks()
            return self.rfile.read(left)
        block = memoryview(bytearray(1 << 20))
        while left:
            left -= self.rfile.readinto(block[: min(left, len(block))])
        return b""

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _send(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for key, content in (headers or {}).items():
            self.send_header(key, content)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    NullHub.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), NullHub)
    print(server.server_address[1], flush=True)
    server.serve_forever()
