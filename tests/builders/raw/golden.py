"""Canonical tables and rendered lines of the raw fixtures, as text that was checked by eye.

`python -m tests.builders.raw.golden` writes the texts anew; look at every changed line.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
from jinja2.sandbox import ImmutableSandboxedEnvironment

from usermirrorer.builders.common.text import ago, clean
from usermirrorer.builders.decisions import prompts
from usermirrorer.builders.raw import made_up, source, sources
from usermirrorer.builders.raw.report import Report
from usermirrorer.builders.scenes import build, pipeline, render, world

HERE = Path(__file__).parents[2] / "fixtures"
TEMPLATES = render.TEMPLATES
#: name of the golden text -> source, folder of raw fixtures
CASES = {
    "amazon-2018": ("amazon_fashion", "amazon/2018"),
    "amazon-2023": ("amazon_beauty", "amazon/2023"),
    "goodreads": ("goodreads", "goodreads"),
    "kuairec": ("kuairec", "kuairec"),
    "lastfm": ("lastfm", "lastfm"),
    "mind": ("mind", "mind"),
    "mobilerec": ("mobilerec", "mobilerec"),
    "movielens-1m": ("movielens", "movielens/ml-1m"),
    "movielens-100k": ("movielens", "movielens/ml-100k"),
    "movielens-atomic": ("movielens", "movielens/atomic"),
    "steam": ("steam", "steam"),
}
_ENVIRONMENT = ImmutableSandboxedEnvironment(finalize=lambda value: "" if value is None else value)


def rendered(domain: str, kind: str, **values: object) -> str:
    """Render one template as scenes are rendered: one clean line, or lines for a profile."""
    template = _ENVIRONMENT.from_string((TEMPLATES / domain / f"{kind}.jinja").read_text())
    lines = template.render(values).splitlines() if kind == "profile" else [template.render(values)]
    return "\n".join(text for line in lines if (text := clean(line)))


def at(frame: pl.DataFrame, moment: object) -> pl.DataFrame:
    """Set the time of every row: the rows that `as_of` functions are asked about."""
    time = pl.lit(moment, pl.Datetime("ms", "UTC"))
    return frame.with_columns(time.alias("timestamp"))


def lines(source: source.Source, tables: source.Tables, moment: object) -> list[str]:
    """Render every interaction and item, and every profile, as of `moment`."""
    asked = at(tables.interactions.select("user_id", "item_id"), moment)
    events = tables.interactions.join(
        tables.items, on="item_id", how="left", maintain_order="left"
    ).with_columns(
        pl.when(pl.col(known) <= pl.lit(moment)).then(pl.col(column)).alias(column)
        for column, known in source.known_from.items()
    )
    if source.item_as_of:
        events = events.hstack(source.item_as_of(tables, asked))
    users = tables.users
    if source.user_as_of:
        users = users.hstack(source.user_as_of(tables, at(users.select("user_id"), moment)))
    out = []
    for row in events.iter_rows(named=True):
        past = (moment - row["timestamp"]).total_seconds()
        if past >= 0:
            out.append(f"history:  {rendered(source.domain, 'history', **row, ago=ago(past))}")
        out.append(f"exposure: {rendered(source.domain, 'exposure', **row, new_release=False)}")
    for row in users.iter_rows(named=True):
        out.append(f"profile:  {rendered(source.domain, 'profile', **row)}")
    return out


def dump(case: str, folder: Path) -> str:
    """Read raw files and write down everything that comes of them."""
    source = sources.get_source(CASES[case][0])
    report = Report()
    tables = source.read(folder, report)
    named = {"users": tables.users, "items": tables.items, "interactions": tables.interactions}
    if tables.impressions is not None:
        named["impressions"] = tables.impressions
    parts = []
    for name, frame in {**named, **tables.extras}.items():
        rows = (json.dumps(r, default=str, ensure_ascii=False) for r in frame.to_dicts())
        parts += [f"# {name}", *rows, ""]
    last = tables.interactions["timestamp"].max()
    parts += [f"# lines as of {last}", *lines(source, tables, last), ""]
    parts += ["# left out", *sorted(report.lines()), ""]
    return "\n".join(parts)


def scene(name: str, folder: Path) -> str:
    """Build scenes of a made-up source and return the prompt of its first test scene."""
    source = sources.get_source(name)
    made_up.write(name, folder, made_up.Size(users=60, items=80, interactions=900))
    config = world.SceneConfig(train=20, test=6, history=(1, 3))
    tables = pipeline.answerable(source.read(folder, Report()), config, Counter())
    drawn = np.random.default_rng(0).standard_normal((tables.items.height, 8))
    vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    first = build.make_scenes(source, tables, vectors, config)[0]["test"].to_pylist()[0]
    return f"{prompts.messages(first)[-1]['content']}\n\nanswer: {first['answer']}\n"


if __name__ == "__main__":
    for name in sources.all_sources():
        target = HERE / "golden" / "scenes" / f"{name}.txt"
        target.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as made:
            target.write_text(scene(name, Path(made)), encoding="utf-8")
    for name, (_, raw) in CASES.items():
        target = HERE / "golden" / f"{name}.txt"
        target.parent.mkdir(exist_ok=True)
        target.write_text(dump(name, HERE / "raw" / raw), encoding="utf-8")
