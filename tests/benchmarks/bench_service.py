"""The service against the same engine offline: throughput of concurrent clients, latency of a page.

    python tests/benchmarks/bench_service.py --model smollm2-135m-instruct --clients 16 --scenes 96

Both run in this process, one after another, on the same questions. The bar is 0.9 of the offline
throughput. The p99 is that of the page's own requests (its parts and its settings) while the
clients keep the engine busy.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import uvicorn

from usermirrorer import Simulator
from usermirrorer.hub.commands import listen
from usermirrorer.recipes.service.app import create_app

BAR = 0.9
PAGE = ("/", "/page/app.js", "/page/style.css", "/page/example.json", "/page/settings/model.json")


def questions(count: int, offset: int) -> list[dict]:
    rng = np.random.default_rng(offset)
    films = [f"Film number {n} ({1930 + n % 80}) - Drama|Romance" for n in range(400)]
    return [
        {
            "profile": f"Gender: female\nAge: {20 + n % 40}",
            "history": [f"A movie viewed 1 day ago: {films[i]}" for i in rng.integers(0, 400, 8)],
            "exposure": [films[i] for i in rng.choice(400, 5, replace=False)],
        }
        for n in range(count)
    ]


def ask(address: str, body: dict) -> None:
    request = urllib.request.Request(
        f"{address}/v1/choose", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        assert json.load(answer)["choices"]


def page_times(address: str, stop: threading.Event) -> list[float]:
    seconds = []
    while not stop.is_set():
        for part in PAGE:
            start = time.perf_counter()
            urllib.request.urlopen(address + part, timeout=60).read()
            seconds.append(time.perf_counter() - start)
        time.sleep(0.1)
    return seconds


def served(simulator: Simulator, asked: list[dict], how: dict, clients: int) -> tuple[float, list]:
    listener = listen("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(create_app(simulator), log_level="warning"))
    running = threading.Thread(target=server.run, args=([listener],))
    running.start()
    while not server.started:
        time.sleep(0.05)
    stop = threading.Event()
    with ThreadPoolExecutor(clients + 1) as threads:
        page = threads.submit(page_times, address, stop)
        start = time.perf_counter()
        list(threads.map(lambda one: ask(address, one | how), asked))
        seconds = time.perf_counter() - start
        stop.set()
        times = page.result()
    server.should_exit = True
    running.join()
    return seconds, times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--scenes", type=int, default=96)
    parser.add_argument("--mode", choices=["direct", "decision"], default="direct")
    parser.add_argument("--max-tokens", type=int, default=48)
    given = parser.parse_args()
    simulator = Simulator.from_pretrained(given.model)
    how = {"mode": given.mode, "max_tokens": given.max_tokens, "guided": True}
    list(simulator.choose(questions(4, 9), **how))  # warm
    start = time.perf_counter()
    list(simulator.choose(questions(given.scenes, 1), **how))
    offline = given.scenes / (time.perf_counter() - start)
    seconds, page = served(simulator, questions(given.scenes, 2), how, given.clients)
    service = given.scenes / seconds
    print(f"offline {offline:.2f} scenes/s, {given.clients} clients {service:.2f} scenes/s")
    print(f"ratio {service / offline:.2f} (bar {BAR})")
    print(f"page: {len(page)} requests, p50 {1000 * np.percentile(page, 50):.0f} ms, "
          f"p99 {1000 * np.percentile(page, 99):.0f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
