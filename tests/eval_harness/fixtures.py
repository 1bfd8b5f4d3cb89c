"""Small worlds for the evaluation tests: scenes, models, lm_eval runs."""

from __future__ import annotations

import datetime as dt
import random
from pathlib import Path

import pyarrow as pa
from usermirrorer.builders.schema import SCENE
from usermirrorer.builders.shards import write_table

GENRES = ("drama", "comedy", "thriller", "war", "romance", "western", "horror", "musical")


def make_scenes(
    n: int, *, source: str = "movielens", options: int = 5, seed: int = 0, history: int = 3
) -> list[dict]:
    """n scenes whose answers are uniform and independent of their texts."""
    draw = random.Random(f"{seed}/{source}")
    rows = []
    for number in range(n):
        titles = [f"{draw.choice(GENRES).title()} {draw.randrange(1000)}" for _ in range(options)]
        answer = draw.randrange(options)
        origins = ["random"] * options
        origins[answer] = "target"
        rows.append(
            {
                "scene_id": f"{source}-{seed}-{number}",
                "domain": source.split("_", maxsplit=1)[0],
                "source": source,
                "user_id": f"u{number}",
                "item_id": f"i{answer}",
                "timestamp": dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
                "profile": f"Age: {draw.randrange(18, 70)}",
                "history": [f"Seen: {draw.choice(GENRES)} film, rating 4" for _ in range(history)],
                "exposure": [f"{t} ({draw.randrange(1930, 2000)})" for t in titles],
                "exposure_item_ids": [f"i{j}" for j in range(options)],
                "exposure_origin": origins,
                "exposure_popularity": [draw.randrange(100) for _ in range(options)],
                "history_similarity": [draw.random() for _ in range(options)],
                "answer": answer,
                "real_exposure": source == "mind",
            }
        )
    return rows


def write_scenes(path: Path, rows: list[dict]) -> str:
    write_table(path, pa.Table.from_pylist(rows, schema=SCENE))
    return str(path)
