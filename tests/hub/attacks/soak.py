"""Hours of attacks on one server, outside CI; how others' reads fare meanwhile.

    python -m tests.hub.attacks.soak fuzz --requests 1000000     # requests made by chance
    python -m tests.hub.attacks.soak corpus --seconds 3600       # the corpus, again and again

Prints a line now and then and a JSON object at the end: how many requests, the statuses, every
answer that says that the server failed (500, or none), and the seconds that a second user's reads
took. Exits with 1 if there was such an answer, or if of a hundred reads one took a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.hub.attacks import world as worlds
from tests.hub.attacks.generator import Generator, Made
from usermirrorer.hub.local import running

#: What the second user reads, and how long they wait in between.
READ = (
    "/api/datasets/eve/own",
    "/datasets/eve/own/resolve/main/README.md",
    "/api/datasets/eve/own/tree/main",
    "/datasets/eve/own",
)
_PAUSE = 0.05
#: Requests after which the repositories are made anew.
_ROUND = 5000


class Wire:
    """One connection that is used again, for requests that no client library would send."""

    def __init__(self, endpoint: str, timeout: float = 60) -> None:
        url = httpx.URL(endpoint)
        self.address, self.timeout = (url.host, url.port or 80), timeout
        self.socket: socket.socket | None = None

    def ask(self, request: Made) -> int:
        """Send a request; return the status of the answer, 0 if none came."""
        if not request.whole:
            return self._once(request.on_wire())
        for fresh in (self.socket is None, True):  # the server may have closed an idle connection
            if self.socket is None or fresh:
                self.close()
                self.socket = socket.create_connection(self.address, timeout=self.timeout)
            try:
                self.socket.sendall(request.on_wire())
                status = self._answer(request.method)
            except OSError:
                status = 0
            if status or fresh:
                break
        if not status:
            self.close()
        return status

    def _once(self, wire: bytes) -> int:
        """Send what may be no request, and nothing after it."""
        with socket.create_connection(self.address, timeout=self.timeout) as connection:
            received = b""
            with contextlib.suppress(OSError):
                connection.sendall(wire)
                connection.shutdown(socket.SHUT_WR)
                while block := connection.recv(65536):
                    received += block
        statuses = [int(line[9:12]) for line in received.splitlines() if line[:8] == b"HTTP/1.1"]
        return max(statuses, default=-1)  # to close the connection is an answer to garbage

    def _answer(self, method: str) -> int:
        assert self.socket is not None
        received = b""
        while b"\r\n\r\n" not in received:
            block = self.socket.recv(65536)
            if not block:
                return 0
            received += block
        head, _, rest = received.partition(b"\r\n\r\n")
        status = int(head[9:12])
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields.get(b"content-length", b"0"))
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            self.close()
            return status
        left = 0 if method == "HEAD" or status in (204, 304) else length - len(rest)
        while left > 0:
            block = self.socket.recv(65536)
            if not block:
                return 0
            left -= len(block)
        if fields.get(b"connection", b"").strip() == b"close":
            self.close()
        return status

    def close(self) -> None:
        """Drop the connection."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None


@dataclass
class Tally:
    """What has been answered so far."""

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    slow: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, status: int, what: str, took: float, request: str = "") -> None:
        """Count an answer."""
        with self.lock:
            self.statuses[status] += 1
            row = {"status": status, "what": what, "seconds": round(took, 2), "request": request}
            if status in (0, 500, 502, 507):
                self.failures.append(row)
                if len(self.failures) <= 200:
                    print(json.dumps(row)[:2000], flush=True)
            if took > 5:
                self.slow.append({**row, "request": request[:300]})

    @property
    def total(self) -> int:
        """How many answers were counted."""
        return sum(self.statuses.values())


def read_on(endpoint: str, done: Any, answers: Any) -> None:
    """Read as a second user until `done`; send the seconds of every read."""
    seconds: list[float] = []
    wrong: Counter[str] = Counter()
    with httpx.Client(base_url=endpoint, timeout=120) as client:
        while not done.is_set():
            for address in READ:
                begun = time.monotonic()
                try:
                    answer = client.get(address)
                    if answer.status_code != 200:
                        wrong[f"{answer.status_code} {address}"] += 1
                except httpx.HTTPError as error:
                    wrong[f"{type(error).__name__} {address}"] += 1
                seconds.append(time.monotonic() - begun)
                done.wait(_PAUSE)
    answers.put((seconds, dict(wrong)))


@contextlib.contextmanager
def second_user(endpoint: str, report: dict[str, Any]) -> Iterator[None]:
    """Read in a process of its own during the block; add what it saw to `report`."""
    context = multiprocessing.get_context("spawn")
    done, answers = context.Event(), context.Queue()
    reader = context.Process(target=read_on, args=(endpoint, done, answers))
    reader.start()
    try:
        yield
    finally:
        done.set()
        seconds, wrong = answers.get(timeout=300)
        reader.join()
    seconds.sort()
    places = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
    report["reads"] = {
        "number": len(seconds),
        **{name: round(seconds[int(part * len(seconds))], 3) for name, part in places.items()},
        "most": round(seconds[-1], 3),
        "refused": wrong,
    }


def fuzz(world: worlds.World, tally: Tally, requests: int, seconds: float, seed: int) -> None:
    """Send requests made by chance until there were so many, or the time is over."""
    end = time.monotonic() + seconds
    generators = [Generator(world, seed + number) for number in range(8)]
    while tally.total < requests and time.monotonic() < end:
        share = min(_ROUND, requests - tally.total) // len(generators) + 1
        _together(partial(_send, world, tally, share, end), generators)
        restore(world)
        print(f"{tally.total:,} requests; {dict(sorted(tally.statuses.items()))}", flush=True)


def _send(world: worlds.World, tally: Tally, count: int, end: float, made: Generator) -> None:
    wire = Wire(world.endpoint)
    for _ in range(count):
        if time.monotonic() > end:
            break
        request = made.request()
        begun = time.monotonic()
        status = wire.ask(request)
        tally.add(status, request.route, time.monotonic() - begun, repr(request.on_wire()))
    wire.close()


def _together(work: Callable[[Any], None], items: list[Any]) -> None:
    threads = [threading.Thread(target=work, args=(item,)) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def restore(world: worlds.World) -> None:
    """Make the organisation's repositories anew: much was done to them."""
    with world.client(worlds.WRITER) as client:
        for row in client.get("/api/settings/repositories").json():
            owner, _, name = row["name"].partition("/")
            body = {"organization": owner, "name": name, "type": row["type"]}
            client.request("DELETE", "/api/repos/delete", json=body)
        for row in client.get("/api/collections", params={"owner": "lab"}).json():
            client.delete(f"/api/collections/{row['slug']}")
        for kind in worlds.KINDS:
            for name, settings in worlds.REPOSITORIES.items():
                worlds.make(client, kind, name, settings)
    world.signed = worlds.signed_addresses(world)


def corpus(world: worlds.World, tally: Tally, seconds: float) -> None:
    """Play the corpus until the time is over, four entries at a time."""
    from tests.hub.attacks import corpus as entries

    end, lock = time.monotonic() + seconds, threading.Lock()
    attacks = entries.endless(world)
    rounds = Counter[str]()

    def play(_: int) -> None:
        while time.monotonic() < end:
            with lock:
                name, attack = next(attacks)
                rounds[name.partition(":")[0]] += 1
                if sum(rounds.values()) % 500 == 0:
                    print(f"{dict(rounds)}; {dict(sorted(tally.statuses.items()))}", flush=True)
            begun = time.monotonic()
            for status in attack():
                tally.add(status, name, time.monotonic() - begun)
                begun = time.monotonic()

    _together(play, list(range(4)))


def main() -> None:
    """Attack, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("what", choices=["fuzz", "corpus"])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    tally, report = Tally(), {}
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "hub") as hub:
        world = worlds.build(hub.endpoint, Path(folder) / "hub")
        begun = time.monotonic()
        with second_user(hub.endpoint, report):
            if options.what == "fuzz":
                fuzz(world, tally, options.requests, options.seconds, options.seed)
            else:
                corpus(world, tally, options.seconds)
        report["seconds"] = round(time.monotonic() - begun)
        report["log"] = (Path(folder) / "hub" / "server.log").read_text(errors="replace")[-4000:]
    report |= {"requests": tally.total, "statuses": dict(sorted(tally.statuses.items()))}
    report |= {"failures": len(tally.failures), "slow": tally.slow[:50]}
    print(json.dumps(report, indent=1))
    sys.exit(bool(tally.failures) or report["reads"]["p99"] >= 1)


if __name__ == "__main__":
    main()
