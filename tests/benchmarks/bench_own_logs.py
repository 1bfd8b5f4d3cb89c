"""Own logs in YAML beside the built-in MovieLens reader, to 16,384 scenes, in one run.

    python tests/benchmarks/bench_own_logs.py

Both read the same made-up 1,000,000 interactions of 6,040 users with 50,000 items, one from CSV by
a YAML file, one in MovieLens-1M's layout. Embeddings are random unit vectors: computing real ones
is left out. Each runs in a process of its own. Bar: 1.2 times the built-in.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

USERS, ITEMS, ROWS, WANTED = 6_040, 50_000, 1_000_000, 16_384
YAML = """\
name: made-up
files:
  interactions: {path: log.csv}
  items: {path: items.csv}
  users: {path: users.csv}
interactions:
  user: user
  item: item
  time: {column: time, format: epoch-s}
  columns: {rating: {type: number}}
items: {id: item, title: title, columns: {genres: {}}, text: [genres]}
users: {id: user, columns: {gender: {}, age: {}, occupation: {}}}
templates:
  profile: "Gender: {{ gender }}, age: {{ age }}, occupation: {{ occupation }}"
  history: "A movie viewed {{ ago }}: {{ title }} - {{ genres }}. Rating: {{ rating }}/5.0"
  exposure: "{{ title }} - {{ genres }}"
"""


def write(folder: Path) -> None:
    """Write the same rows in both layouts."""
    draw = np.random.default_rng(0)
    number = np.arange(1, ITEMS + 1)
    items = pl.DataFrame({"item": number}).with_columns(
        title=pl.format("Film number {} (1980)", "item"),
        genres=pl.Series(draw.choice(["Drama", "Comedy|War", "Action"], ITEMS)),
    )
    users = pl.DataFrame(
        {
            "user": np.arange(1, USERS + 1),
            "gender": draw.choice(["M", "F"], USERS),
            "age": draw.choice([18, 25, 35], USERS),
            "occupation": draw.integers(0, 20, USERS),
        }
    ).with_columns(zip=pl.lit("55455"))
    log = pl.DataFrame(
        {
            "user": draw.integers(1, USERS + 1, ROWS),
            "item": np.minimum(draw.exponential(ITEMS / 8, ROWS).astype(int) + 1, ITEMS),
            "rating": draw.integers(1, 6, ROWS),
            "time": np.sort(draw.integers(960_000_000, 1_040_000_000, ROWS)),
        }
    )
    for name, frame, other in (
        ("log", log, "ratings"),
        ("items", items, "movies"),
        ("users", users, "users"),
    ):
        frame.write_csv(folder / f"{name}.csv")
        text = frame.select(pl.concat_str(pl.all(), separator="::")).to_series()
        (folder / f"{other}.dat").write_text("\n".join(text) + "\n", encoding="latin-1")
    (folder / "made-up.yaml").write_text(YAML)


def measured(name: str, folder: Path) -> dict[str, float]:
    """Return seconds to read, and to all scenes."""
    from usermirrorer.builders.raw.report import Report
    from usermirrorer.builders.raw.sources import get_source
    from usermirrorer.builders.scenes import build, world

    source = get_source(name)
    begun = time.perf_counter()
    tables = source.read(folder, Report())
    read = time.perf_counter() - begun
    drawn = np.random.default_rng(0).standard_normal((tables.items.height, 384), dtype=np.float32)
    vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    config = world.SceneConfig(train=WANTED, test=640)
    begun = time.perf_counter()
    made = build.make_scenes(source, tables, vectors, config)[0]
    seconds = time.perf_counter() - begun
    return {"read": read, "all": read + seconds, "scenes": made["train"].num_rows}


def main() -> None:
    """Measure both in turn, or one in this process."""
    if len(sys.argv) == 3:
        print(json.dumps(measured(sys.argv[1], Path(sys.argv[2]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder)
        found = {}
        for name in ("movielens", str(folder / "made-up.yaml")):
            command = [sys.executable, __file__, name, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[Path(name).name] = row = json.loads(done.stdout.splitlines()[-1])
            print(f"{Path(name).name}: {row}", flush=True)
    own, built_in = found["made-up.yaml"]["all"], found["movielens"]["all"]
    print(f"ratio {own / built_in:.2f} (bar 1.2)")


if __name__ == "__main__":
    main()
