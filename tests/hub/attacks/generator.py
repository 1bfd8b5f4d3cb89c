"""Makes requests of all kinds, by chance: to every route, mostly well-formed, somewhere odd."""

from __future__ import annotations

import json
import random
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.hub.attacks.corpus import odd
from tests.hub.attacks.world import (
    ACTORS,
    KINDS,
    REPOSITORIES,
    World,
    large_file,
    routes,
    sha256_of,
)

#: What parameters of addresses are when they are good.
GOOD: dict[str, list[str]] = {
    "kinds": [f"{kind}s" for kind in KINDS],
    "namespace": ["lab"],
    "name": [*REPOSITORIES, "open", "open"],
    "revision": ["main", "main", "v1", "side", "refs/heads/main", "refs/tags/v1", "0" * 40],
    "path": ["README.md", "data/a.txt", "data", "big.bin", "", ".gitattributes", "no/such"],
    "branch": ["new", "feature/x", "main", "side"],
    "reference": ["v1", "side", "new", "main"],
    "group": ["branch", "tag"],
    "right": ["read", "write"],
    "repo_id": [*map(str, range(1, 12))],
    "day": [str(int(time.time()) // 86400), "1"],
    "prefix": ["default"],
    "xorb": ["f" * 64],
    "oid": [sha256_of("dataset", name) for name in REPOSITORIES],
    "slug": [f"a-{number:024x}" for number in range(4)],
    "item": [f"{number:024x}" for number in range(4)],
}
#: What parameters are when they are not, and the like of queries, headers and JSON.
ODD = odd()
SEGMENTS = ODD["segments"]


def _operation(chance: random.Random) -> dict[str, Any]:
    path = chance.choice(["a.txt", "data/a.txt", "README.md", ".eval_results/x.yaml", "eval.yaml"])
    text = chance.choice(["x", "---\nlicense: mit\ntags: [a]\n---\n", "- dataset: {id: lab/open}"])
    large = {"path": "big.bin", "algo": "sha256", "oid": "f" * 64, "size": 9}
    return chance.choice(
        [
            {"key": "file", "value": {"path": path, "content": text, "encoding": "utf-8"}},
            {"key": "file", "value": {"path": path, "content": "aGk=", "encoding": "base64"}},
            {"key": "deletedFile", "value": {"path": path}},
            {"key": "deletedFolder", "value": {"path": "data"}},
            {"key": "lfsFile", "value": large},
        ]
    )


def bodies(chance: random.Random, path: str) -> list[Any]:
    """Return a body as a client would send it to a route, as lines of JSON."""
    name = chance.choice([*REPOSITORIES, "new", "other"])
    kind = chance.choice(KINDS)
    oid, size = "f" * 64, chance.choice([3, len(large_file("dataset", "open"))])
    if "/commit/" in path:
        header = {"key": "header", "value": {"summary": "x", "description": "y"}}
        return [header, *(_operation(chance) for _ in range(chance.randrange(4)))]
    return [
        {
            "name": name,
            "type": kind,
            "organization": chance.choice(["lab", "eve"]),
            "private": chance.random() < 0.5,
            "fromRepo": f"lab/{name}",
            "toRepo": f"lab/{chance.choice(['moved', *REPOSITORIES])}",
            "tag": chance.choice(["v1", "v2", "a/b"]),
            "message": "m",
            "startingPoint": chance.choice(GOOD["revision"]),
            "gated": chance.choice([False, "auto", "manual"]),
            "visibility": chance.choice(["public", "private"]),
            "title": chance.choice(["a", "b"]),
            "description": "d",
            "namespace": chance.choice(["lab", "eve"]),
            "item": {"id": f"lab/{name}", "type": kind},
            "note": "n",
            "paths": chance.choices(GOOD["path"], k=3),
            "expand": chance.random() < 0.3,
            "files": [{"path": "a.txt", "size": size, "sample": "aGk="}],
            "operation": chance.choice(["upload", "download"]),
            "objects": [{"oid": oid, "size": size}],
            "oid": oid,
            "size": size,
            "content": chance.choice(["---\na: b\n---\n", "---\na: [\n---\n", "---\n&a *a\n---\n"]),
        }
    ]


@dataclass(frozen=True)
class Made:
    """A request; `whole` is false where its framing may be broken."""

    route: str
    method: str
    target: bytes
    headers: tuple[tuple[str, str], ...]
    body: bytes
    whole: bool = True

    def on_wire(self) -> bytes:
        """Return the bytes to send."""
        lines = [f"{name}: {value}".encode() for name, value in self.headers]
        head = b"\r\n".join([self.method.encode() + b" " + self.target + b" HTTP/1.1", *lines])
        return head + b"\r\n\r\n" + self.body


class Generator:
    """Makes requests to a world's routes; the same seed makes the same ones."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.chance = world, random.Random(seed)
        self.routes = [*routes(), ("OPTIONS", "/api/{kinds}"), ("PATCH", "/{namespace}/{name}")]

    def request(self) -> Made:
        """Return the next request."""
        method, path = self.chance.choice(self.routes)
        headers = {"Host": "localhost", **self.world.headers(self._actor())}
        target = self._target(path)
        if path.startswith(("/lfs/", "/xet/")) and self.chance.random() < 0.8:
            target, more = self._signed(method, path)
            headers |= more
        for _ in range(self.chance.choice((0, 0, 0, 1, 2))):
            value = self.chance.choice(ODD["header values"])
            headers[self.chance.choice(ODD["headers"])] = value.encode("utf-8").decode("latin-1")
        body = self._body(path) if method in ("POST", "PUT", "DELETE", "PATCH") else b""
        headers.pop("Expect", None)
        headers["Content-Length"] = str(len(body))
        made = Made(f"{method} {path}", method, target, tuple(headers.items()), body)
        return self._broken(made) if self.chance.random() < 0.01 else made

    def _signed(self, method: str, path: str) -> tuple[bytes, dict[str, str]]:
        """Return an address that the server itself has given out, or nearly, with its token."""
        cas, token, transfers = self.world.signed
        headers = {}
        if path.startswith("/xet/"):
            xorb = f"/v1/xorbs/default/{'f' * 64}"
            address = cas + ("/v1/shards" if path.endswith("shards") else xorb)
            headers = {"Authorization": f"Bearer {token}"}
        else:
            address = self.chance.choice([a for m, a in transfers if m == method] or ["/lfs/1/x"])
        if self.chance.random() < 0.2:
            at = self.chance.randrange(len(address))
            address = address[:at] + quote(self.chance.choice(SEGMENTS)) + address[at + 1 :]
        return re.sub(rb"[\x00-\x20\x7f]", b"", address.encode()), headers

    def _actor(self) -> str:
        """Most requests come from those who may do most: they get furthest."""
        return self.chance.choice(ACTORS) if self.chance.random() < 0.5 else ACTORS[0]

    def _target(self, path: str) -> bytes:
        def fill(match: re.Match[str]) -> str:
            name = match[1].partition(":")[0]
            odd = self.chance.random() < 0.1 or name not in GOOD
            value = self.chance.choice(SEGMENTS if odd else GOOD[name])
            keep = "/" if name == "path" and self.chance.random() < 0.8 else ""
            return value if odd and self.chance.random() < 0.1 else quote(value, safe=keep)

        target = re.sub(r"\{([^}]+)\}", fill, path)
        if self.chance.random() < 0.25:
            keys = self.chance.choices(ODD["queries"], k=self.chance.randrange(1, 4))
            values = [*SEGMENTS, "1", "true", "main"]
            target += "?" + "&".join(f"{key}={quote(self.chance.choice(values))}" for key in keys)
        return re.sub(rb"[\x00-\x20\x7f]", b"", target.encode("utf-8", "replace"))

    def _body(self, path: str) -> bytes:
        how = self.chance.random()
        if how < 0.05:
            return self.chance.randbytes(self.chance.randrange(200))
        lines = bodies(self.chance, path)
        if how < 0.6:
            lines = [self._changed(line) for line in lines]
        text = "\n".join(json.dumps(line) for line in lines)
        if how < 0.15:
            at = self.chance.randrange(len(text))
            rest = text[at + self.chance.randrange(4) :]
            return (text[:at] + self.chance.choice(ODD["literals"]) + rest).encode(
                "utf-8", "replace"
            )
        return text.encode()

    def _changed(self, value: Any) -> Any:
        """Return a value with something in it replaced."""
        if isinstance(value, dict) and value and self.chance.random() < 0.9:
            key = self.chance.choice(list(value))
            return {**value, key: self._changed(value[key])}
        if isinstance(value, list) and value and self.chance.random() < 0.7:
            at = self.chance.randrange(len(value))
            return [*value[:at], self._changed(value[at]), *value[at + 1 :]]
        return self.chance.choice([*ODD["values"], *SEGMENTS])

    def _broken(self, made: Made) -> Made:
        """Change bytes of the request itself."""
        wire = bytearray(made.on_wire())
        for _ in range(self.chance.randrange(1, 6)):
            at = self.chance.randrange(len(wire))
            how = self.chance.random()
            if how < 0.5:
                wire[at] = self.chance.randrange(256)
            elif how < 0.75:
                del wire[at : at + self.chance.randrange(1, 40)]
            else:
                wire[at:at] = wire[at : at + 60]
        return Made(made.route, "", bytes(wire), (), b"", whole=False)
