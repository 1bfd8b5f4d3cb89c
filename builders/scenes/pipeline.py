"""Raw files to scenes in one call: tables -> embeddings -> scenes, what is there already reused.

OUT/tables/       canonical tables (`tables.py`) and the embeddings of their items
OUT/train.parquet, test.parquet
OUT/scenes.json   what they were made from and what was left out
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from usermirrorer.builders.common import progress, storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw import tables
from usermirrorer.builders.raw.source import Source, Tables
from usermirrorer.builders.scenes.build import make_scenes, summary
from usermirrorer.builders.scenes.embed import Encoding
from usermirrorer.builders.scenes.world import SceneConfig

#: (text, total) -> a progress bar, as `progress.bar`.
Bar = Callable[[str, int], AbstractContextManager[Callable[..., None]]]


def raw_to_scenes(
    source: Source,
    raw: Path,
    out: Path,
    config: SceneConfig,
    *,
    embedder: str,
    encoding: Encoding | None = None,
    interactions: int = 0,
    strict: bool = False,
    workers: int = 1,
    ray: bool = False,
    bar: Bar = progress.bar,
) -> dict[str, Any]:
    """Make the scenes of one source; what is there from the same inputs is used again.

    Args:
        source: The source.
        raw: Its raw files, or a folder of its canonical tables.
        out: Folder for everything that is made.
        config: Counts, seed, lengths.
        embedder: Encoder: a known part, a folder or a Hub id.
        encoding: Pooling and prompt of the encoder; by default its own.
        interactions: Most interactions to keep, see `limited`; 0 keeps all.
        strict: Bad rows are an error.
        workers: Processes that make scenes; the rows do not depend on it.
        ray: Whether to make them on Ray Data instead.
        bar: Makes progress bars.

    Returns:
        What `scenes.json` holds.

    Raises:
        UserError: see `tables.write`, `build.make_scenes` and `assets.resolve_model`.
    """
    folder = _tables_folder(source, Path(raw), Path(out), strict)
    dropped: Counter[str] = Counter()
    kept = answerable(limited(tables.read(folder), interactions, dropped), config, dropped)
    vectors = embeddings(kept.items["text"], embedder, folder, bar, encoding)
    spread: dict[str, Any] = {"workers": workers, "ray": ray, "parts": Path(out) / "scenes.parts"}
    with bar("building scenes", config.train + config.test) as advance:
        made, more = make_scenes(source, kept, vectors, config, advance, **spread)
    facts = {
        **_origin(source, tables.manifest(folder), kept),
        "configuration": {**asdict(config), "interactions": interactions},
        "dropped": dict(dropped + more),
    }
    facts = _written(Path(out), made, facts)
    shutil.rmtree(spread["parts"], ignore_errors=True)
    return facts


def _origin(source: Source, manifest: Mapping[str, Any], kept: Tables) -> dict[str, Any]:
    """Return what `scenes.json` says of the tables that the scenes were made from."""
    told = {name: getattr(source, name) for name in ("title", "homepage", "licence")}
    own = {"redistributable": source.redistributable, "about": told} if source.definition else {}
    return {
        "source": source.name,
        **own,
        "inputs": manifest["inputs"],
        "skipped": tables.left_out(manifest),
        "interactions": kept.interactions.height,
        "items": kept.items.height,
        "users": kept.users.height,
    }


def _written(out: Path, made: Mapping[str, pa.Table], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write the scenes of each split, then `scenes.json`; return what it holds."""
    for split, table in made.items():
        storage.write_table(out / f"{split}.parquet", table)
    hashes = {split: storage.file_hash(out / f"{split}.parquet") for split in made}
    whole = {**facts, "files": hashes, **summary(made)}
    storage.write_json(out / "scenes.json", whole)
    return whole


def _tables_folder(source: Source, raw: Path, out: Path, strict: bool) -> Path:
    if not (raw / tables.MANIFEST).is_file():
        tables.write(source, raw, out / "tables", strict=strict)
        return out / "tables"
    told = tables.manifest(raw)
    if told.get("source") != source.name:
        raise UserError(f"holds tables of {told.get('source')}, not {source.name}", where=raw)
    if strict and told["skipped"]:
        raise UserError(
            f"tables were made with rows left out: {tables.left_out(told)[0]}", where=raw
        )
    return raw


def embeddings(
    texts: pl.Series, embedder: str, folder: Path, bar: Bar, encoding: Encoding | None = None
) -> np.ndarray:
    """Return float32 [n, d] for n texts, from `folder` if they were embedded there before.

    Vectors are also kept in the cache of fetched parts, so that what is embedded of a catalogue
    survives a kill, and a few new texts are all that is embedded the next time.

    Raises:
        UserError: if the encoder cannot be loaded.
    """
    from usermirrorer.builders.common import assets
    from usermirrorer.builders.scenes import embed, embed_batches

    encoder = assets.resolve_model(embedder)
    encoding = embed.resolved(encoder, encoding)
    files = sorted(path for path in Path(encoder).iterdir() if path.is_file())
    unique = texts.unique().sort()
    how = {
        "encoder": {path.name: storage.file_hash(path) for path in files},
        "encoding": asdict(encoding),
        "code": [storage.file_hash(Path(str(m.__file__))) for m in (embed, embed_batches)],
    }
    texts_hash = hashlib.sha256("\0".join(unique).encode()).hexdigest()
    stored = folder / f"embeddings-{storage.fingerprint({**how, 'texts': texts_hash})}.npy"
    if not stored.exists():
        kept = embed_batches.Kept(assets.cache_folder() / "embeddings" / storage.fingerprint(how))
        with bar("embedding items", len(unique)) as advance:
            vectors = embed.embed(unique.to_list(), encoder, advance, encoding, kept)
        with storage.atomic(stored) as temporary:
            np.save(temporary, vectors, allow_pickle=False)
    return np.load(stored, allow_pickle=False)[unique.search_sorted(texts).to_numpy()]


def limited(tables: Tables, most: int, dropped: Counter[str] | None = None) -> Tables:
    """Keep at most so many interactions (logged lists, where there are some), of whole users.

    Users are taken in the order of a hash of their ids; one who no longer fits is passed over, so
    that a few people with very many interactions do not keep all later ones out. Those with a
    single interaction, who can be in no scene, are passed over as well. Items that then nobody met
    are left out. Nothing changes where `most` suffices or is 0.

    Args:
        tables: Of one source.
        most: How many to keep.
        dropped: Counts the users who were passed over before the last one that was taken.

    Raises:
        UserError: if every user has more than `most`.
    """
    counted = tables.interactions if tables.impressions is None else tables.impressions
    if not most or counted.height <= most:
        return tables
    often = tables.interactions.group_by("user_id").len().filter(pl.col("len") > 1)["user_id"]
    rows = counted.filter(pl.col("user_id").is_in(often.implode())).group_by("user_id").len()
    order = [hashlib.blake2b(user.encode(), digest_size=8).digest() for user in rows["user_id"]]
    ranked = rows.with_columns(pl.Series("order", order)).sort("order")
    taken = _fitting(ranked["len"].to_list(), most)
    if not taken:
        raise UserError(
            f"every user has more than {most:,} interactions", fix="Keep more: another preset."
        )
    if dropped is not None and (passed := taken[-1] + 1 - len(taken)):
        dropped[f"user with more interactions than are left of {most:,}"] += passed
    users = ranked[taken].select("user_id")

    def theirs(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.join(users, on="user_id", how="semi", maintain_order="left")

    interactions = theirs(tables.interactions)
    impressions = None if tables.impressions is None else theirs(tables.impressions)
    met = interactions["item_id"].unique()
    if impressions is not None:
        met = pl.concat([met, impressions["item_ids"].explode().unique()])
    return replace(
        tables,
        users=theirs(tables.users),
        items=tables.items.filter(pl.col("item_id").is_in(met.implode())),
        interactions=interactions,
        impressions=impressions,
    )


def _fitting(sizes: list[int], most: int) -> list[int]:
    """Return the places of the sizes that fit, taken in order, into what the ones before leave."""
    taken, left = [], most
    for place, size in enumerate(sizes):
        if size <= left:
            taken.append(place)
            left -= size
    return taken


def answerable(tables: Tables, config: SceneConfig, dropped: Counter[str]) -> Tables:
    """Keep the logged lists that scenes can be made of, counting the others in `dropped`.

    The rule: exactly one article of the list was clicked, it has at least as many articles as a
    test scene shows (longer ones are drawn from), its user has enough earlier interactions, and the
    same user did not click the same article at the same moment in another list.
    """
    if tables.impressions is None:
        return tables
    shown, clicks = pl.col("item_ids").list.n_unique(), pl.col("clicked").list.sum()
    shortest = max(config.test_others, config.train_others[0]) + 1
    rules = {
        "logged list without a click": clicks > 0,
        "logged list with several clicks": clicks == 1,
        f"logged list of fewer than {shortest} items": shown >= shortest,
        f"logged list after fewer than {config.history[0]} interactions": pl.col("earlier")
        >= config.history[0],
    }
    lists = tables.impressions.with_columns(_earlier(tables))
    for reason, good in rules.items():
        kept = lists.filter(good)
        dropped[reason] += lists.height - kept.height
        lists = kept
    clicked = pl.col("item_ids").list.get(pl.col("clicked").list.arg_max()).alias("target")
    once = lists.with_columns(clicked).unique(
        ["user_id", "target", "timestamp"], keep="first", maintain_order=True
    )
    dropped["logged list with the same click at the same moment"] += lists.height - once.height
    return replace(tables, impressions=once.select(tables.impressions.columns))


def _earlier(tables: Tables) -> pl.Series:
    """How many interactions each list's user had strictly before it."""
    assert tables.impressions is not None
    times = tables.interactions.sort("timestamp").select("user_id", "timestamp")
    counted = times.with_columns(pl.int_range(1, pl.len() + 1).over("user_id").alias("earlier"))
    asked = tables.impressions.select("user_id", "timestamp").with_row_index("row")
    joined = asked.sort("timestamp").join_asof(
        counted,
        on="timestamp",
        by="user_id",
        strategy="backward",
        allow_exact_matches=False,
        check_sortedness=False,
    )
    return joined.sort("row")["earlier"].fill_null(0)
