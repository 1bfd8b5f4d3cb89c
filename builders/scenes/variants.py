"""The same scenes with features left out: what Tables 10 and 11 (section D.3) are scored on.

A feature is what a scene shows under one name: a value that the domain's templates read, several
that `Source.features` puts together, `history` (all of its lines) or `profile`.

    without-F   F is left out, in options and history alike
    only-F      options show F alone, without history and profile; a feature that only lines of the
                history show (a rating, a review) stands there alone, and no option shows anything

Ids, options, their order and answers stay: results can be compared scene by scene.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from usermirrorer.builders.common import scene_rows, storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import OPTION_FEATURES, SCENE
from usermirrorer.builders.raw import tables
from usermirrorer.builders.raw.source import Source, Tables
from usermirrorer.builders.scenes.pipeline import limited
from usermirrorer.builders.scenes.render import Drafts, Texts
from usermirrorer.builders.scenes.world import SceneConfig, train_users, visible_tables

FULL, HISTORY, PROFILE = "full", "history", "profile"
_WHOLE = (HISTORY, PROFILE)


@dataclass(frozen=True)
class Variant:
    """Which values a variant leaves out.

    Args:
        name: `full`, `only-<feature>` or `without-<feature>`.
        exposure: Values that options do not show.
        history: Values that lines of the history do not show; None: there are no lines.
        profile: Whether the profile is shown.
    """

    name: str
    exposure: frozenset[str] = frozenset()
    history: frozenset[str] | None = frozenset()
    profile: bool = True


def features(
    source: Source, exposure: frozenset[str], history: frozenset[str]
) -> dict[str, frozenset[str]]:
    """Return feature -> the values that it consists of, without `history` and `profile`.

    Args:
        source: May put values together under a name (`Source.features`).
        exposure: What the template of options reads.
        history: What the template of the history's lines reads.
    """
    shown = exposure | history
    named = {name: frozenset(values) & shown for name, values in source.features.items()}
    rest = shown - frozenset().union(*named.values())
    every = {name: values for name, values in named.items() if values}
    return every | {name: frozenset((name,)) for name in sorted(rest)}


def variants(
    source: Source, exposure: frozenset[str], history: frozenset[str], wanted: Sequence[str] = ()
) -> list[Variant]:
    """Return the full variant, then `only-F` and `without-F` of each feature.

    Args:
        source: As in `features`.
        exposure: As in `features`.
        history: As in `features`.
        wanted: Features; by default all.

    Raises:
        UserError: if a feature is not one of the source.
    """
    known = features(source, exposure, history)
    if unknown := [name for name in wanted if name not in (*known, *_WHOLE)]:
        raise UserError(
            f"{source.name} has no feature {unknown[0]!r}",
            fix=f"Choose from {', '.join((*known, *_WHOLE))}.",
        )
    made = [Variant(FULL)]
    for name in wanted or (*known, *_WHOLE):
        made += _both(name, known.get(name, frozenset()), exposure, history)
    return made


def _both(
    name: str, values: frozenset[str], exposure: frozenset[str], history: frozenset[str]
) -> tuple[Variant, Variant]:
    only, without = f"only-{name}", f"without-{name}"
    if name == HISTORY:
        return Variant(only, exposure, profile=False), Variant(without, history=None)
    if name == PROFILE:
        return Variant(only, exposure, None), Variant(without, profile=False)
    lines = None if values & exposure else history - values
    return Variant(only, exposure - values, lines, profile=False), Variant(without, values, values)


class Rendering:
    """Renders stored scenes again, from the tables that they were made from.

    Args:
        source: The scenes' source.
        stored: Its canonical tables.
        facts: What `scenes.json` says: which interactions were kept, who is a test user.
        scenes: Rows of schema `SCENE`, all of one exposure mode.

    Raises:
        UserError: if the tables are not those that the scenes were made from.
    """

    def __init__(
        self, source: Source, stored: Tables, facts: Mapping[str, Any], scenes: pa.Table
    ) -> None:
        settings = dict(facts["configuration"])
        kept = limited(stored, int(settings.pop("interactions")))
        lists = {name: tuple(v) for name, v in settings.items() if isinstance(v, list)}
        config = SceneConfig(**(settings | lists))
        self._users = kept.interactions["user_id"].unique().sort()
        train = train_users(len(self._users), config, source)
        self._source, self._tables = source, kept
        self._visible = visible_tables(source, kept, self._users, train)
        self._scenes = scenes
        self._drafts = _drafts(scenes, kept, self._users)
        whole = Texts(source, kept, self._visible, self._users)
        self.exposure, self.history = whole.read("exposure"), whole.read("history")
        told = [name for name in SCENE.names if name not in OPTION_FEATURES]  # those may be NaN
        if not whole.complete(self._drafts).select(told).equals(scenes.select(told)):
            raise UserError(
                "the tables do not give these scenes again",
                where=source.name,
                fix="Give the tables, and keep the version, that they were made with.",
            )

    def render(self, variant: Variant) -> pa.Table:
        """Return the scenes as a variant shows them."""
        hidden = {"exposure": variant.exposure, "history": variant.history or frozenset()}
        texts = Texts(self._source, self._tables, self._visible, self._users, hidden=hidden)
        table = texts.complete(self._drafts)
        blank: dict[str, Any] = {} if variant.profile else {"profile": ""}
        if variant.history is None:
            lines = ("history", "history_item_ids", "history_timestamps")
            blank |= {"history_gap": None, **{name: [] for name in lines}}
        for name, value in blank.items():
            place, field = SCENE.get_field_index(name), SCENE.field(name)
            table = table.set_column(place, field, pa.array([value] * len(table), field.type))
        return table


def _drafts(scenes: pa.Table, stored: Tables, users: pl.Series) -> Drafts:
    """Return stored scenes as they were before their texts."""
    frame = pl.from_arrow(scenes.select([n for n in SCENE.names if n != "profile"]))
    assert isinstance(frame, pl.DataFrame)
    if frame["exposure_mode"].n_unique() > 1:
        raise UserError("the scenes have exposures of several modes", fix="Give those of one.")
    times = frame["timestamp"].dt.epoch("s").to_numpy()
    rows = _events(frame, stored)
    flat = frame.select("exposure_item_ids", "exposure_origin", *OPTION_FEATURES)
    options = flat.explode(flat.columns)
    return Drafts(
        scene_id=frame["scene_id"].to_list(),
        user=_places(frame["user_id"], users),
        item=_places(frame["item_id"], stored.items["item_id"]),
        time=times,
        shown=frame["history_item_ids"].list.len().to_numpy().astype(np.int64),
        events=rows,
        event_items=_places(stored.interactions["item_id"].gather(rows), stored.items["item_id"]),
        options=frame["exposure_item_ids"].list.len().to_numpy().astype(np.int64),
        items=_places(options["exposure_item_ids"], stored.items["item_id"]),
        origins=options["exposure_origin"],
        features={name: options[name].to_numpy() for name in OPTION_FEATURES},
        answer=frame["answer"].to_numpy(),
        mode=str(frame["exposure_mode"].first()),
    )


def _places(values: pl.Series, among: pl.Series) -> np.ndarray:
    """Return the row of each value in a series without repetitions."""
    rows = pl.DataFrame({"value": among}).with_row_index("place")
    places = pl.DataFrame({"value": values}).join(
        rows, on="value", how="left", maintain_order="left"
    )["place"]
    if places.null_count():
        raise UserError(
            f"the tables lack {places.null_count():,} users or items of the scenes",
            fix="Give the tables that the scenes were made from.",
        )
    return places.to_numpy().astype(np.int64)


def _events(scenes: pl.DataFrame, stored: Tables) -> np.ndarray:
    """Return the row in the interactions of each line of each history.

    Of interactions of one user with one item at one moment, the last are the ones shown, since a
    history is the end of what came before its scene.
    """
    keys = ["user_id", "item_id", "timestamp"]
    log = stored.interactions.select(keys).with_row_index("row")
    log = log.with_columns(nth=pl.int_range(pl.len(), 0, -1).over(keys))
    lines = (
        scenes.select("user_id", "history_item_ids", "history_timestamps")
        .with_row_index("scene")
        .filter(pl.col("history_item_ids").list.len() > 0)
        .explode("history_item_ids", "history_timestamps")
        .rename({"history_item_ids": "item_id", "history_timestamps": "timestamp"})
        .with_columns(nth=pl.int_range(pl.len(), 0, -1).over(["scene", *keys]))
    )
    lines = lines.cast({"timestamp": log.schema["timestamp"], "nth": log.schema["nth"]})
    rows = lines.join(log, on=[*keys, "nth"], how="left", maintain_order="left")["row"]
    if rows.null_count():
        raise UserError(
            f"the tables lack {rows.null_count():,} interactions of the histories",
            fix="Give the tables that the scenes were made from.",
        )
    return rows.to_numpy().astype(np.int64)


def write(
    scenes: Path,
    out: Path,
    source: Source,
    stored: Path,
    *,
    wanted: Sequence[str] = (),
    limit: int = 0,
) -> Iterator[tuple[str, int]]:
    """Write a Parquet file per variant, then `variants.json`; yield each's name and scenes.

    What was written by an earlier call with the same inputs is kept.

    Args:
        scenes: Parquet file of scenes, with the `scenes.json` of `usermirrorer scenes` beside it.
        out: Folder for `full.parquet`, `only-<feature>.parquet`, `without-<feature>.parquet`.
        source: Of the scenes.
        stored: Folder of its canonical tables.
        wanted: Features; by default all.
        limit: Only the first so many scenes; 0: all.

    Raises:
        UserError: if something is missing or does not fit together.
    """
    facts = storage.read_json(scenes.with_name("scenes.json"))
    table = scene_rows.read_scenes(scenes, SCENE.names, SCENE.names)
    table = table.slice(0, limit) if limit else table
    rendering = Rendering(source, tables.read(stored), facts, table)
    chosen = variants(source, rendering.exposure, rendering.history, wanted)
    inputs = {
        "source": source.name,
        "scenes": storage.file_hash(scenes),
        "limit": limit,
        "tables": tables.manifest(stored)["inputs"],
        "features": {
            name: sorted(values)
            for name, values in features(source, rendering.exposure, rendering.history).items()
        },
    }
    for variant in chosen:
        file = out / f"{variant.name}.parquet"
        key = storage.fingerprint([inputs, variant.name])
        if not storage.done(file, key):
            storage.write_table(file, rendering.render(variant))
            storage.mark_done(file, key)
        yield variant.name, table.num_rows
    hashes = {v.name: storage.file_hash(out / f"{v.name}.parquet") for v in chosen}
    storage.write_json(out / "variants.json", {**inputs, "variants": hashes})
