"""Made-up scenes and decisions, and the three files that distillation reads."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from usermirrorer.builders.common.schema import DECISION, OPTION_FEATURES, SCENE

THOUGHT = (
    "Thought:\nStimulus: {0}\nStimulus Factors: b\nKnowledge: c\nKnowledge Factors: d\n"
    "Evaluation: e\nEvaluation Style: Logical"
)


def scene(name, answer=0, options=4, source="movielens"):
    return {
        "scene_id": name,
        "domain": source,
        "source": source,
        "user_id": f"user of {name}",
        "item_id": str(answer),
        "timestamp": datetime(2020, 1, 1, tzinfo=UTC),
        "profile": f"profile of {name}",
        "history": ["h"],
        "history_item_ids": ["x"],
        "history_timestamps": [datetime(2019, 1, 1, tzinfo=UTC)],
        "exposure": [f"film {i}" for i in range(options)],
        "exposure_item_ids": [str(i) for i in range(options)],
        "exposure_origin": ["target" if i == answer else "random" for i in range(options)],
        **{name: [0.0] * options for name in OPTION_FEATURES},
        "exposure_popularity": list(range(options)),
        "history_gap": 86_400,
        "answer": answer,
        "exposure_mode": "exchangeable",
        "real_exposure": False,
    }


def decision(name, model, sample, behavior, entropy, malformed="", k=4, own=0.7):
    """Return a row; its probabilities are flat from 1.5 bits on, below its own behavior has `own`.

    The others share the rest alike. `entropy` is what is stored, not what would come of these.
    """
    p = [own if i == behavior else (1 - own) / (k - 1) for i in range(k)]
    p = p if entropy < 1.5 else [1 / k] * k
    return {
        "scene_id": name,
        "model": model,
        "sample": sample,
        "text": "t",
        "thought": "" if malformed else THOUGHT.format(f"{model} {sample}"),
        "behavior": None if malformed else behavior,
        "malformed": malformed,
        "probabilities": None if malformed else p,
        "entropy": None if malformed else entropy,
        "tokens_in": 10,
        "tokens_out": 5,
    }


def many(count=12):
    """Scenes with growing uncertainty of the weak model, in two sources of unequal size."""
    scenes, weak, strong = [], [], []
    for i in range(count):
        name = f"s{i:02d}"
        scenes.append(scene(name, source="steam" if i % 3 == 0 else "movielens"))
        weak.append(decision(name, "weak", 0, 1, 1.9 if i >= count // 2 else 1.0))
        strong += [decision(name, "strong", 0, 0, 1.0), decision(name, "strong", 1, 2, 1.0)]
    return scenes, weak, strong


def write(
    folder: Path, scenes, weak, strong, row_group_size: int | None = None
) -> tuple[Path, Path, Path]:
    """Write the files and return their paths."""
    paths = tuple(folder / f"{name}.parquet" for name in ("scenes", "weak", "strong"))
    for path, rows, schema in zip(
        paths, (scenes, weak, strong), (SCENE, DECISION, DECISION), strict=True
    ):
        table = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(table, path, row_group_size=row_group_size)
    return paths
