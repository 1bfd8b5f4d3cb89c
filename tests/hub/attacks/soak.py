"""Hours of attacks on one server, outside CI; how others' reads fare meanwhile.

    python -m tests.hub.attacks.soak fuzz --requests 1000000     # requests made by chance
    python -m tests.hub.attacks.soak corpus --seconds 3600       # the corpus, again and again

Prints a line now and then and a JSON object at the end: how many requests, the statuses, every
answer that says that the server failed (500, or none), and the seconds that a second user's reads
took, with and without those in which the server had no core, beside those of a server that does
nothing and of a synced file, which say what the machine itself took. Exits with 1 if there was such
an answer, or if of a hundred reads one took a second.

`--ahead` (as root) lets the server and the second user go before the attackers, who elsewhere do
not compute on the server's machine. Where other work runs, start all of it in a session of its own,
whose share of the cores can be raised (`/proc/self/autogroup`).
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
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
#: How much the server and the second user go before the attackers.
_AHEAD = -10


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
    #: What was played, and when it began and ended.
    played: list[tuple[str, float, float]] = field(default_factory=list)
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


def read_on(endpoint: str, folder: str, ahead: bool, done: Any, answers: Any) -> None:
    """Read as a second user until `done`; send how long every read took, and when it began.

    Between the reads, time the machine itself: a server that does nothing, and a synced file.
    """
    nothing, server = _null_server(), _server_of(os.getppid())
    for process in (os.getpid(), server) if ahead else ():
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), _AHEAD)
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    wrong: Counter[str] = Counter()
    with httpx.Client(timeout=120) as client:
        while not done.is_set():
            for address in (*(f"{endpoint}{path}" for path in READ), nothing):
                begun, waited = time.monotonic(), _waited(server)
                try:
                    if client.get(address).status_code != 200:
                        wrong[address] += 1
                except httpx.HTTPError as error:
                    wrong[f"{type(error).__name__} {address}"] += 1
                name = "nothing" if address == nothing else "reads"
                took = time.monotonic() - begun
                times[name].append((took, begun))
                if name == "reads":
                    lost = max(after - waited.get(n, after) for n, after in _waited(server).items())
                    times["reads, less waiting for a core"].append((max(0, took - lost), begun))
                done.wait(_PAUSE)
            begun = time.monotonic()
            with (Path(folder) / "synced").open("wb") as file:
                file.write(b"x")
                file.flush()
                os.fsync(file.fileno())
            times["synced file"].append((time.monotonic() - begun, begun))
    answers.put((dict(times), dict(wrong)))


def _server_of(parent: int) -> int:
    """Return the process that serves, which `parent` has started."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next(
        int(child)
        for child in children
        if "usermirrorer.hub.server" in Path(f"/proc/{child}/cmdline").read_text()
    )


def _waited(process: int) -> dict[str, float]:
    """Return how many seconds each thread of a process could run and had no core."""
    waited = {}
    for thread in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            waited[thread.parent.name] = int(thread.read_text().split()[1]) / 1e9
    return waited


def _null_server() -> str:
    """Start a server that answers nothing to everybody; return its address."""

    class Nothing(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Nothing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


@contextlib.contextmanager
def second_user(endpoint: str, tally: Tally, report: dict[str, Any], ahead: bool) -> Iterator[None]:
    """Read in a process of its own during the block; add what it saw to `report`."""
    context = multiprocessing.get_context("spawn")
    done, answers = context.Event(), context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        reader = context.Process(target=read_on, args=(endpoint, folder, ahead, done, answers))
        reader.daemon = True
        reader.start()
        try:
            yield
        finally:
            done.set()
            times, wrong = answers.get(timeout=300)
            reader.join()
    report |= {name: _spread([took for took, _ in rows]) for name, rows in times.items()}
    report["refused reads"] = wrong
    report["played during reads of over a second"] = Counter(
        name
        for took, begun in times["reads"]
        if took >= 1
        for name, start, end in tally.played
        if start < begun + took and begun < end
    ).most_common(20)


def _spread(seconds: list[float]) -> dict[str, float]:
    """Return the number of times, and those that so many percent of them do not exceed."""
    seconds = sorted(seconds)
    places = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "most": 1.0}
    at = {name: min(len(seconds) - 1, int(part * len(seconds))) for name, part in places.items()}
    return {"number": len(seconds), **{name: round(seconds[n], 3) for name, n in at.items()}}


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
    """Play the corpus until the time is over, two entries at a time."""
    from tests.hub.attacks.play import endless

    end, lock = time.monotonic() + seconds, threading.Lock()
    attacks = endless(world)
    rounds = Counter[str]()

    def play(_: int) -> None:
        while time.monotonic() < end:
            with lock:
                name, attack = next(attacks)
                rounds[name.partition(":")[0]] += 1
                if sum(rounds.values()) % 500 == 0:
                    print(f"{dict(rounds)}; {dict(sorted(tally.statuses.items()))}", flush=True)
            first = begun = time.monotonic()
            try:
                for status in attack():
                    tally.add(status, name, time.monotonic() - begun)
                    begun = time.monotonic()
            except (OSError, httpx.TransportError) as error:
                tally.add(0, name, time.monotonic() - begun, repr(error))
            tally.played.append((name, first, begun))

    _together(play, list(range(2)))


def main() -> None:
    """Attack, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("what", choices=["fuzz", "corpus"])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ahead", action="store_true")
    options = parser.parse_args()
    tally, report = Tally(), {}
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "hub") as hub:
        world = worlds.build(hub.endpoint, Path(folder) / "hub")
        begun = time.monotonic()
        with second_user(hub.endpoint, tally, report, options.ahead):
            if options.what == "fuzz":
                fuzz(world, tally, options.requests, options.seconds, options.seed)
            else:
                corpus(world, tally, options.seconds)
        report["seconds"] = round(time.monotonic() - begun)
        report["log"] = (Path(folder) / "hub" / "server.log").read_text(errors="replace")[-20_000:]
    report |= {"requests": tally.total, "statuses": dict(sorted(tally.statuses.items()))}
    report |= {"failures": len(tally.failures), "slow": tally.slow[:50]}
    print(json.dumps(report, indent=1))
    sys.exit(bool(tally.failures) or report["reads"]["p99"] >= 1)


if __name__ == "__main__":
    main()
