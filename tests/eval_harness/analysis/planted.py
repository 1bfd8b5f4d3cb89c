"""Results with known truths: scenes, and decisions whose factors, options and texts are planted."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from usermirrorer.builders.common.schema import DECISION, LABELS
from usermirrorer.builders.common.storage import write_table
from usermirrorer.eval_harness.analysis.answers import Run, read_run

SAID = """Thought:
Stimulus: I want something
Stimulus Factors: {stimulus}
Knowledge: I look at {knowing}
Knowledge Factors: {knowledge}
Evaluation: it fits
Evaluation Style: {style}
Behavior: [{label}]"""


def said(label: str, **parts: str) -> str:
    """A well-formed decision."""
    usual = {"stimulus": "Curiosity", "knowing": "it", "knowledge": "Price", "style": "Logical"}
    return SAID.format(**(usual | parts), label=label)


def scenes(
    n: int,
    *,
    per_user: int = 1,
    source: str = "movielens",
    domain: str = "",
    options: int = 5,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Scenes with random answers."""
    draw = random.Random(f"{source}/{seed}")
    return [
        {
            "scene_id": f"{source}-{number}",
            "user_id": f"u{number // per_user}",
            "source": source,
            "domain": domain or source,
            "exposure": [f"Item {i}" for i in range(options)],
            "answer": draw.randrange(options),
        }
        for number in range(n)
    ]


Choose = Callable[[dict[str, Any], int], dict[str, Any]]


def decide(
    rows: Sequence[dict[str, Any]], choose: Choose, *, model: str = "m", samples: int = 1
) -> list[dict[str, Any]]:
    """Decisions: `choose` gives `text`, `behavior` or `probabilities` of a scene's sample."""
    made = []
    for row in rows:
        for sample in range(samples):
            own = {"behavior": None, "probabilities": None, **choose(row, sample)}
            if "text" not in own:
                own["text"] = said(LABELS[own["behavior"]])
            made.append(
                {
                    "scene_id": row["scene_id"],
                    "model": model,
                    "sample": sample,
                    "thought": own["text"].rpartition("\n")[0],
                    "malformed": "" if own["behavior"] is not None else "no behavior",
                    "entropy": None,
                    "tokens_in": 10,
                    "tokens_out": len(own["text"].split()),
                    **own,
                }
            )
    return made


def write(folder: Path, name: str, rows: Sequence[dict[str, Any]], decisions: list) -> list[str]:
    """Write decisions and their scenes; return the words that name them on the command line."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / f"{name}.parquet", pa.Table.from_pylist(decisions, schema=DECISION))
    kept = ("scene_id", "user_id", "source", "domain", "exposure", "answer")
    table = pa.Table.from_pylist([{key: row[key] for key in kept} for row in rows])
    write_table(folder / f"{name}.scenes.parquet", table)
    return [f"{name}={folder / f'{name}.parquet'}", "--scenes", f"{folder / name}.scenes.parquet"]


def run(folder: Path, name: str, rows: Sequence[dict[str, Any]], choose: Choose, **more) -> Run:
    """The same as read by the analyses."""
    words = write(folder, name, rows, decide(rows, choose, **more))
    return read_run(words[0], [Path(words[2])])


def right_with(share: float, seed: int = 0) -> Choose:
    """Right with a probability, otherwise another option."""
    draw = random.Random(f"right/{seed}")

    def choose(row, sample):
        answer, options = row["answer"], len(row["exposure"])
        wrong = (answer + 1 + draw.randrange(options - 1)) % options
        return {"behavior": answer if draw.random() < share else wrong}

    return choose


def table(result, name: str, /, **where: str) -> list[dict[str, Any]]:
    """Rows of a table of a result with these values."""
    rows = result.tables[name].stored()["rows"]
    return [row for row in rows if all(row[key] == value for key, value in where.items())]


def one(result, name: str, /, **where: str) -> dict[str, Any]:
    """The only row with these values."""
    (row,) = table(result, name, **where)
    return row
