"""Rows to text by the domain's templates (appendix E.1): `templates/<domain>/*.jinja`.

Item and user text is passed to the templates as data and cleaned once more afterwards, so that no
title can become template code, a second line, an option label or a chat control token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import TemplateError, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from usermirrorer.builders.errors import UserError
from usermirrorer.builders.sources import Source, Tables
from usermirrorer.builders.text import ago, clean

TEMPLATES = Path(__file__).parent / "templates"
_DAY = 86_400
_NEW_RELEASE_DAYS = 30


@dataclass(frozen=True)
class Draft:
    """A scene before its texts: row numbers into the canonical tables."""

    scene_id: str
    user_id: str
    time: int
    interaction_rows: list[int]  # history, oldest first
    items: list[int]  # exposure, in label order
    origins: list[str]
    popularity: list[int]
    similarity: list[float]
    answer: int
    real_exposure: bool


def _blank(value: Any) -> Any:
    missing = value is None or isinstance(value, Undefined)
    return "" if missing or (isinstance(value, float) and math.isnan(value)) else value


class Texts:
    """Renders the drafts of one source.

    Args:
        source: Names the templates and what is computed as of the scene's time.
        tables: Canonical tables.
        visible: The same with the interactions of train users only: all that values of items as of
            a time may be computed from.
        folder: Where the templates lie.

    Raises:
        UserError: on construction, if a template of the domain is missing or broken.
    """

    def __init__(
        self, source: Source, tables: Tables, visible: Tables, folder: Path = TEMPLATES
    ) -> None:
        environment = ImmutableSandboxedEnvironment(finalize=_blank, autoescape=False)
        self._source, self._tables, self._visible = source, tables, visible
        self._templates = {
            kind: _load(environment, folder / source.domain / f"{kind}.jinja")
            for kind in ("profile", "history", "exposure")
        }
        self._items = tables.items.with_columns(_available=pl.col("available_from").dt.epoch("s"))

    def complete(self, drafts: Sequence[Draft]) -> Iterator[dict[str, Any]]:
        """Yield the drafts as rows of schema `SCENE`."""
        if not drafts:
            return
        users, events, options = (
            iter(self._users(drafts)),
            iter(self._events(drafts)),
            iter(self._options(drafts)),
        )
        for draft in drafts:
            profile = self._profile(next(users))
            past = [next(events) for _ in draft.interaction_rows]
            shown = [next(options) for _ in draft.items]
            yield {
                "scene_id": draft.scene_id,
                "domain": self._source.domain,
                "source": self._source.name,
                "user_id": draft.user_id,
                "item_id": shown[draft.answer]["item_id"],
                "timestamp": datetime.fromtimestamp(draft.time, UTC),
                "profile": profile,
                "history": [self._event(row, draft.time) for row in past],
                "history_item_ids": [row["item_id"] for row in past],
                "history_timestamps": [datetime.fromtimestamp(row["_when"], UTC) for row in past],
                "exposure": [self._option(row, draft.time) for row in shown],
                "exposure_item_ids": [row["item_id"] for row in shown],
                "exposure_origin": draft.origins,
                "exposure_popularity": draft.popularity,
                "history_similarity": draft.similarity,
                "answer": draft.answer,
                "real_exposure": draft.real_exposure,
            }

    def _users(self, drafts: Sequence[Draft]) -> list[dict[str, Any]]:
        frame = _frame([d.user_id for d in drafts], [d.time for d in drafts])
        joined = frame.join(self._tables.users, on="user_id", how="left", maintain_order="left")
        if self._source.user_as_of:
            joined = joined.hstack(self._source.user_as_of(self._tables, frame))
        return joined.to_dicts()

    def _options(self, drafts: Sequence[Draft]) -> list[dict[str, Any]]:
        frame = _frame(
            [d.user_id for d in drafts for _ in d.items], [d.time for d in drafts for _ in d.items]
        )
        items = self._items[[item for d in drafts for item in d.items]]
        return self._with_values(frame, items).to_dicts()

    def _events(self, drafts: Sequence[Draft]) -> list[dict[str, Any]]:
        rows = [row for d in drafts for row in d.interaction_rows]
        times = [d.time for d in drafts for _ in d.interaction_rows]
        events = self._tables.interactions[rows].rename({"timestamp": "_when"})
        frame = _frame(events["user_id"].to_list(), times)
        items = events.select("item_id").join(
            self._items, on="item_id", how="left", maintain_order="left"
        )
        joined = self._with_values(frame, items).hstack(
            events.drop("user_id", "item_id").with_columns(pl.col("_when").dt.epoch("s"))
        )
        for column, known in self._source.known_from.items():
            later = pl.col(known) >= pl.col("timestamp")
            joined = joined.with_columns(pl.when(later.not_()).then(pl.col(column)).alias(column))
        return joined.to_dicts()

    def _with_values(self, frame: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
        """Put the items' columns, and their values as of the scene's time, beside the rows."""
        joined = frame.hstack(items)
        if self._source.item_as_of:
            keys = joined.select("user_id", "item_id", "timestamp")
            joined = joined.hstack(self._source.item_as_of(self._visible, keys))
        return joined

    def _profile(self, row: dict[str, Any]) -> str:
        lines = self._templates["profile"].render(row).splitlines()
        return "\n".join(text for line in lines if (text := clean(line)))

    def _event(self, row: dict[str, Any], now: int) -> str:
        return clean(self._templates["history"].render(row, ago=ago(now - row["_when"])))

    def _option(self, row: dict[str, Any], now: int) -> str:
        since = row["_available"]
        days = None if since is None else (now - since) // _DAY
        new = days is not None and 0 <= days < _NEW_RELEASE_DAYS
        return clean(self._templates["exposure"].render(row, new_release=new))


def _frame(users: list[str], times: list[int]) -> pl.DataFrame:
    stamp = pl.from_epoch(pl.Series("timestamp", times, pl.Int64), time_unit="s")
    return pl.DataFrame({"user_id": pl.Series(users, dtype=pl.String)}).with_columns(
        stamp.dt.cast_time_unit("ms").dt.replace_time_zone("UTC")
    )


def _load(environment: ImmutableSandboxedEnvironment, path: Path) -> Any:
    try:
        return environment.from_string(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("template is missing", where=path) from None
    except TemplateError as error:
        raise UserError(f"template is broken: {error}", where=path) from error
