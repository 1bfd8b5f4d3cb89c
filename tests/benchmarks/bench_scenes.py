"""Raw files to scenes at published sizes, and beside the published implementation's way.

    python tests/benchmarks/bench_scenes.py steps movielens kuairec goodreads --workers 2
    python tests/benchmarks/bench_scenes.py compare --workers 2
    python tests/benchmarks/bench_scenes.py growth
    python tests/benchmarks/bench_scenes.py heavy

`steps` writes made-up raw data in the publishers' exact layouts at the published sizes, then
measures in a process of its own: reading, indexing, time to the first scenes, all scenes, the
largest memory (that of the workers beside it). Embeddings are random unit vectors: computing real
ones is left out. `compare` builds from the same data in the way of the paper's published code
(`dense_way`): dense scores of all items for all scenes, then pandas row by row. `growth` makes the
same scenes from 0.25 to 2 million interactions. `heavy` builds from 100,000 interactions of
ordinary users, and from as many of which one user has 50,000.
Bars: 16,384 scenes of a source of 1M in 60 s and 3 GB; KuaiRec in 10 minutes and 8 GB; 20 times as
fast a scene and 5 times as fast to the first as the published way; time linear in interactions; one
user of 50,000 events takes no more than twice the time and memory of ordinary ones.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).parents[2]
WIDTH = 384  # of the embeddings, as of all-MiniLM-L6-v2
ONE_MILLION = (6_040, 3_700, 1_000_000)
#: Users, items and interactions of `heavy`, and the events of its one user.
ORDINARY, EVENTS = (2_000, 50_000, 100_000), 50_000


def vectors(items: int) -> np.ndarray:
    """Random vectors of length 1 in place of sentence embeddings."""
    drawn = np.random.default_rng(0).standard_normal((items, WIDTH), dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def measured(source: str, folder: str, wanted: int, workers: int) -> dict[str, float]:
    """Raw files to scenes by this package; seconds from the start of reading."""
    from usermirrorer.builders.raw.report import Report
    from usermirrorer.builders.raw.sources import get_source
    from usermirrorer.builders.scenes import build, world

    begun = time.perf_counter()
    chosen = get_source(source)
    tables = chosen.read(Path(folder), Report())
    read = time.perf_counter() - begun
    embeddings = vectors(tables.items.height)
    config = world.SceneConfig(train=wanted, test=640)
    begun = time.perf_counter()
    first, made = 0.0, 0
    for _, table in build.stream_scenes(chosen, tables, embeddings, config, workers=workers):
        first = first or time.perf_counter() - begun
        made += table.num_rows
    built = time.perf_counter() - begun
    return {
        "cpu_s": time.process_time(),
        "interactions": tables.interactions.height,
        "items": tables.items.height,
        "read_s": read,
        "read_rows_per_s": tables.interactions.height / read,
        "first_scenes_s": read + first,
        "scenes": made,
        "build_s": built,
        "scenes_per_s": made / built,
        **_memory(),
    }


def _memory() -> dict[str, float]:
    own, workers = (
        resource.getrusage(who).ru_maxrss / 2**20
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {"peak_gb": own, "peak_worker_gb": workers}


def dense_way(source: str, folder: str, wanted: int, _: int) -> dict[str, float]:
    """The published way: dense scores of all items for all scenes, then pandas row by row.

    Written by us after its code (github.com/UserMirrorer/UserMirrorer, MIT) was read, with its
    data structures: JSON lines that a preprocessing script has made (its time is not counted),
    loaded once for the sampler and once for the texts; id lists and filters in Python for each row;
    a lookup of the user's events and an `apply` over items and events for each text. Histories have
    2 to 10 events there, 1 to 20 in ours.
    """
    raw = _json_lines(Path(folder) / "ml-1m")
    begun = time.perf_counter()
    events = _loaded(raw, "interactions").set_index("user_id")  # for the texts
    films = _loaded(raw, "items").set_index("item_id")
    people = _loaded(raw, "users").set_index("user_id")
    log, catalog = _loaded(raw, "interactions"), _loaded(raw, "items")  # for the sampler
    known = log.groupby("user_id")["item_id"].agg(list)
    loaded = time.perf_counter() - begun
    users = {user: n for n, user in enumerate(known.index)}
    items = {item: n for n, item in enumerate(catalog["item_id"])}
    seen, basis = _factors(log["user_id"].map(users), log["item_id"].map(items), len(items))
    fitted = time.perf_counter() - begun - loaded

    embeddings, rng = vectors(len(items)), random.Random(0)
    begun = time.perf_counter()
    scenes = log[log["order"] >= 3].sample(n=wanted, random_state=0).reset_index(drop=True)
    target = scenes["item_id"].map(items).to_numpy()
    interest = seen[scenes["user_id"].map(users).to_numpy()].toarray() @ basis @ basis.T
    near = embeddings[target] @ embeddings.T
    lists = []
    for scores in (np.random.default_rng(0).random(near.shape), interest, near):
        best = np.argsort(-_softmax(scores), axis=1)[:, :36].tolist()
        lists.append([[catalog["item_id"].iloc[item] for item in row] for row in best])
    released = catalog.set_index("item_id")["year"]
    scenes["shown"] = [_mixed(ranked, rng) for ranked in zip(*lists, strict=True)]
    scenes["shown"] = scenes.apply(
        lambda x: [i for i in x["shown"] if released.loc[i] <= x["time"]], axis=1
    )
    scenes["shown"] = scenes.apply(
        lambda x: [i for i in x["shown"] if i not in known.loc[x["user_id"]]], axis=1
    )
    scenes["shown"] = scenes["shown"].apply(lambda x: x[: rng.randint(1, 11)])
    scenes["shown"] = scenes.apply(lambda x: _inserted(x["shown"], x["item_id"], rng), axis=1)
    sampled = time.perf_counter() - begun
    texts = scenes.apply(lambda x: _texts(x, events, films, people, rng), axis=1)
    assert len(texts) == wanted and all(texts.iloc[0])
    took = time.perf_counter() - begun
    return {
        "interactions": len(log),
        "items": len(items),
        "read_s": loaded,
        "factors_s": fitted,
        "first_scenes_s": loaded + fitted + sampled,
        "scenes": wanted,
        "build_s": took,
        "scenes_per_s": wanted / took,
        **_memory(),
    }


def _json_lines(raw: Path) -> Path:
    """Write the users, films and ratings of MovieLens-1M files as JSON lines, once."""
    import polars as pl

    def table(name: str, columns: list[str]) -> pl.DataFrame:
        lines = (raw / f"{name}.dat").read_text("latin-1").splitlines()
        return pl.DataFrame([line.split("::") for line in lines], columns, orient="row")

    folder = raw.with_name("json-lines")
    if not folder.exists():
        folder.mkdir()
        users = table("users", ["user_id", "gender", "age", "occupation", "zip"])
        users.write_ndjson(folder / "users.jsonl")
        films = table("movies", ["item_id", "title", "genres"])
        year = pl.col("title").str.extract(r"\((\d{4})\)")
        films.with_columns(year.alias("year")).write_ndjson(folder / "items.jsonl")
        ratings = table("ratings", ["user_id", "item_id", "rating", "time"])
        when = pl.from_epoch(pl.col("time").cast(pl.Int64)).dt.strftime("%Y-%m-%d %H:%M:%S")
        rating = pl.struct(pl.col("rating").cast(pl.Float64))
        ratings.select("user_id", "item_id", time=when, behavior=rating).write_ndjson(
            folder / "interactions.jsonl"
        )
    return folder


def _loaded(folder: Path, name: str) -> pd.DataFrame:
    import pandas as pd

    frame = pd.read_json(folder / f"{name}.jsonl", lines=True, convert_dates=["time"])
    if name == "interactions":
        frame["order"] = frame.sort_values("time").groupby("user_id").cumcount()
    if name == "items":
        frame["year"] = pd.to_datetime(frame["year"].astype(str), format="%Y")
    return frame


def _factors(rows: Any, columns: Any, items: int) -> tuple[Any, np.ndarray]:
    from scipy import sparse
    from scipy.sparse.linalg import svds

    seen = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)))
    seen.resize(seen.shape[0], items)
    by_user, by_item = (np.asarray(seen.sum(axis)).ravel().clip(1) for axis in (1, 0))
    normal = sparse.diags(by_user**-0.5) @ seen @ sparse.diags(by_item**-0.5)
    basis = svds(normal.astype(np.float32), k=64)[2].T
    return seen, (basis * by_item[:, None] ** 0.5).astype(np.float32)


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _mixed(lists: tuple[list[Any], ...], rng: random.Random) -> list[Any]:
    """Interleave lists at random, each in its order; items that come again are dropped."""
    turns = [n for n, ranked in enumerate(lists) for _ in ranked]
    rng.shuffle(turns)
    ranked = [iter(one) for one in lists]
    return list(dict.fromkeys(next(ranked[turn]) for turn in turns))


def _inserted(shown: list[Any], item: Any, rng: random.Random) -> list[Any]:
    position = rng.randint(0, len(shown))
    return [*shown[:position], item, *shown[position:]]


def _texts(scene: Any, events: Any, films: Any, people: Any, rng: random.Random) -> tuple[Any, ...]:
    """Profile, history and options of a scene by `str.format`, from frames."""
    from usermirrorer.builders.common.text import ago

    profile = "Gender: {gender}\nAge: {age}\nOccupation: {occupation}\nZIP code: {zip}"
    past = events.loc[[scene["user_id"]]]
    past = past.loc[past["time"] < scene["time"], ["item_id", "time", "behavior"]]
    past = past.sort_values("time").iloc[-rng.randint(2, 10) :].join(films, on="item_id")
    viewed = "A movie viewed {ago}: {title} - {genres}. Rating: {rating}/5.0"
    history = past.apply(
        lambda x: viewed.format(
            ago=ago((scene["time"] - x["time"]).total_seconds()), **x, **x["behavior"]
        ),
        axis=1,
    )
    new = "{release}{title} - {genres}"
    options = films.loc[scene["shown"]].apply(
        lambda x: new.format(
            release="NEW RELEASE " if (scene["time"] - x["year"]).days <= 365 else "", **x
        ),
        axis=1,
    )
    return profile.format(**people.loc[scene["user_id"]]), options.to_list(), history.to_list()


def add_user(raw: Path, events: int) -> Path:
    """Let one more person rate so many films of MovieLens-1M files, one every ten minutes."""
    films = (raw / "ml-1m" / "movies.dat").read_text("latin-1").splitlines()[:events]
    who, begun = 999_999, 978_000_000
    with (raw / "ml-1m" / "users.dat").open("a", encoding="latin-1") as users:
        users.write(f"{who}::F::25::1::55117\n")
    with (raw / "ml-1m" / "ratings.dat").open("a", encoding="latin-1") as ratings:
        for number, film in enumerate(films):
            name = film.partition("::")[0]
            ratings.write(f"{who}::{name}::4::{begun + 600 * number}\n")
    return raw


WAYS = {"ours": measured, "dense": dense_way}


def alone(way: str, source: str, folder: Path, wanted: int, workers: int) -> dict[str, float]:
    """Run one measurement in a process of its own and print it."""
    command = [sys.executable, __file__, "one", way, source, str(folder), str(wanted)]
    done = subprocess.run(
        [*command, str(workers)], check=True, capture_output=True, text=True, cwd=ROOT
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    values = ", ".join(f"{name} {value:,.2f}" for name, value in found.items())
    print(f"{way} {source} workers={workers}: {values}", flush=True)
    return found


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("steps", "compare", "growth", "heavy"):
        command = commands.add_parser(name)
        if name == "steps":
            command.add_argument("sources", nargs="+")
        command.add_argument("--workers", type=int, default=1)
        command.add_argument("--scenes", type=int, default=16_384)
        command.add_argument("--folder", type=Path, help="Keep the raw files here and reuse them.")
    command = commands.add_parser("one")
    for name, kind in (("way", str), ("source", str), ("folder", str), ("n", int), ("w", int)):
        command.add_argument(name, type=kind)
    asked = parser.parse_args()
    if asked.command == "one":
        print(json.dumps(WAYS[asked.way](asked.source, asked.folder, asked.n, asked.w)))
        return
    sys.path.insert(0, str(ROOT))
    from usermirrorer.builders.raw import made_up

    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)

        def made(source: str, name: str, size: made_up.Size) -> Path:
            path: Path = folder / name
            return path if path.exists() else made_up.write(source, path, size)

        million = made_up.Size(*ONE_MILLION)
        if asked.command == "steps":
            for source in asked.sources:
                size = million if source == "movielens" else made_up.PUBLISHED[source]
                alone("ours", source, made(source, source, size), asked.scenes, asked.workers)
        elif asked.command == "compare":
            path = made("movielens", "movielens", million)
            dense = alone("dense", "movielens", path, 1024, 1)
            ours = alone("ours", "movielens", path, asked.scenes, asked.workers)
            each = ours["scenes_per_s"] / dense["scenes_per_s"]
            first = dense["first_scenes_s"] / ours["first_scenes_s"]
            print(f"per scene {each:.1f} times as fast, to the first scene {first:.1f} times")
        elif asked.command == "heavy":
            ordinary = made("movielens", "ordinary", made_up.Size(*ORDINARY))
            half = made_up.Size(ORDINARY[0] // 2, ORDINARY[1], ORDINARY[2] - EVENTS)
            path = folder / "heavy"
            if not path.exists():
                add_user(made_up.write("movielens", path, half), EVENTS)
            few, one = (alone("ours", "movielens", p, 1024, 1) for p in (ordinary, path))
            times = {key: one[key] / few[key] for key in ("cpu_s", "peak_gb")}
            told = ", ".join(f"{name} {value:.2f}" for name, value in times.items())
            print(f"of ordinary users': {told}")
        else:
            for part in (0.25, 0.5, 1.0, 2.0):
                path = made("movielens", f"movielens-{part}", million.share(part))
                alone("ours", "movielens", path, asked.scenes, asked.workers)


if __name__ == "__main__":
    main()
