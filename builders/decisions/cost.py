"""What a stage of decisions costs: tokens as in Table 5, seconds, money; shown and stored."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from usermirrorer.builders.common import storage

Prices = tuple[float, float]  # of a million tokens in, of a million tokens out


class DecisionMeter:
    """Counts the parts of one run as they are finished, and keeps the counts beside the output.

    `<output>.stats.json` holds one entry per run, rewritten with each part, so that a killed run is
    counted as well. The seconds include loading the model.

    Args:
        output: The Parquet file of the stage.
        prices: Of a million tokens in and out, in any currency; both 0 where nobody pays.
    """

    def __init__(self, output: Path, prices: Prices = (0.0, 0.0)) -> None:
        self.path = output.with_name(f"{output.name}.stats.json")
        self.prices = prices
        self.earlier: list[dict[str, Any]] = []
        self.counts = dict.fromkeys(("scenes", "decisions", "tokens_in", "tokens_out"), 0)
        self.scenes = 0
        self.key = ""

    def start(self, scenes: int, config: dict[str, Any]) -> None:
        """Begin a run over so many scenes; earlier runs count if they had the same `config`."""
        self.scenes, self.key = scenes, storage.fingerprint(config)
        self.began = time.monotonic()
        stored = storage.read_json(self.path) if self.path.exists() else {}
        if stored.get("config") == self.key:
            self.earlier = stored["runs"]

    def add(self, scenes: int, table: pa.Table) -> None:
        """Count a finished part."""
        self.counts["scenes"] += scenes
        self.counts["decisions"] += table.num_rows
        for name in ("tokens_in", "tokens_out"):
            self.counts[name] += int(np.sum(table[name].to_numpy()))
        storage.write_json(self.path, self.stored())

    @property
    def run(self) -> dict[str, Any]:
        """Counts, seconds and tokens per second of this run."""
        return _with_rates(self.counts, time.monotonic() - self.began)

    def stored(self) -> dict[str, Any]:
        """Return what the file holds: every run, their sum, the mean decision, time left, cost."""
        runs = [*self.earlier, self.run]
        total = {name: sum(run[name] for run in runs) for name in self.counts}
        whole = _with_rates(total, sum(run["seconds"] for run in runs))
        count = max(1, total["decisions"])
        facts = {
            "config": self.key,
            "runs": runs,
            "total": whole,
            "tokens_in_per_decision": round(total["tokens_in"] / count, 1),
            "tokens_out_per_decision": round(total["tokens_out"] / count, 1),
            "seconds_left": round(self._seconds_left(total["scenes"])),
        }
        if any(self.prices):
            cost = self._cost(total)
            facts["prices_per_million"] = {"in": self.prices[0], "out": self.prices[1]}
            facts["cost"] = round(cost, 4)
            facts["cost_of_all"] = round(cost / max(1, total["scenes"]) * self.scenes, 4)
        return facts

    def progress(self) -> str:
        """Return the speed so far and, with prices, the cost so far and in the end."""
        facts = self.stored()
        text = f"{facts['runs'][-1]['tokens_out_per_second']:,.0f} tokens/s out"
        if "cost" in facts:
            text += f", {facts['cost']:,.2f} of {facts['cost_of_all']:,.2f}"
        return text

    def summary(self) -> str:
        """Return one line for the end: all runs, their speed and cost."""
        facts = storage.read_json(self.path) if self.path.exists() else self.stored()
        total = facts["total"]
        text = f"{total['seconds']:,.0f} s, {total['tokens_out_per_second']:,.0f} tokens/s out"
        if "cost" in facts:
            text += f", cost {facts['cost']:,.2f}"
        return text

    def _seconds_left(self, done: int) -> float:
        """Return the time for the scenes that are not done, at the speed of this run."""
        own = self.run
        return (self.scenes - done) * own["seconds"] / max(1, own["scenes"])

    def _cost(self, counts: dict[str, int]) -> float:
        paid = zip(self.prices, (counts["tokens_in"], counts["tokens_out"]), strict=True)
        return sum(price * tokens for price, tokens in paid) / 1e6


def _with_rates(counts: dict[str, int], seconds: float) -> dict[str, Any]:
    rates = {
        f"{name}_per_second": round(counts[name] / max(seconds, 1e-9), 2)
        for name in ("scenes", "tokens_in", "tokens_out")
    }
    return {**counts, "seconds": round(seconds, 2), **rates}
