"""Rows to text by the domain's templates (appendix E.1): `templates/<domain>/*.jinja`.

Item and user text is passed to the templates as data and cleaned once more afterwards, so that no
title can become template code, a second line, an option label or a chat control token.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from jinja2 import Template, TemplateError, Undefined, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import SCENE
from usermirrorer.builders.common.text import ago, clean, clean_column
from usermirrorer.builders.raw.own import templates
from usermirrorer.builders.raw.source import Source, Tables

TEMPLATES = Path(__file__).parent / "templates"
_DAY = 86_400
#: An item is a new release for so many days from `available_from`. Of films the year alone is known
#: and stands for its 1 January, so that a month would flag those of one January and no others.
NEW_RELEASE_DAYS = 365
_END = "\0"  # behind the text of each row; cleaned values have no control characters


@dataclass(frozen=True)
class Drafts:
    """Scenes before their texts, as columns.

    Flat columns hold the values of all scenes one after the other: `shown` [b] says how many of
    `events` and `event_items` each scene has (its history, oldest first), `options` [b] how many of
    `items`, `origins` and each of `features` (its exposure, in label order).
    """

    scene_id: list[str]
    user: np.ndarray  # user numbers
    item: np.ndarray  # item numbers: rows of the items table
    time: np.ndarray  # seconds
    shown: np.ndarray
    events: np.ndarray  # rows of the interactions table
    event_items: np.ndarray
    options: np.ndarray
    items: np.ndarray
    origins: pl.Series
    features: Mapping[str, np.ndarray]  # of the options, by column of `SCENE`
    answer: np.ndarray
    mode: str  # how the exposures were made


def _blank(value: Any) -> Any:
    missing = value is None or isinstance(value, Undefined)
    return "" if missing or (isinstance(value, float) and math.isnan(value)) else value


@dataclass(frozen=True)
class _Template:
    """A template of one row, rendered for many rows at once: a call each would take twice as long.

    `names` are the values that it reads.
    """

    environment: ImmutableSandboxedEnvironment
    text: str
    names: frozenset[str]

    def render(self, names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> list[str]:
        """Return the text of each row; `names` say what the values of a row are."""
        template = self._loop(tuple(names))
        values = [row[0] for row in rows] if len(names) == 1 else rows
        try:
            texts = template.render(_rows=values, _end=_END).split(_END)[:-1]
        except (TemplateError, ArithmeticError, TypeError, ValueError) as error:
            what = f"a template cannot be filled: {error}"
            raise UserError(what, where=self.text[:60], fix="Mend the template.") from error
        if len(texts) != len(rows):  # a value has that character itself
            return [template.render(_rows=[value], _end="") for value in values]
        return texts

    @functools.lru_cache(maxsize=64)  # noqa: B019 - templates live as long as the process
    def _loop(self, names: tuple[str, ...]) -> Template:
        given = ", ".join(names) or "_"
        source = f"{{% for {given} in _rows %}}{self.text}{{{{ _end }}}}{{% endfor %}}"
        return self.environment.from_string(source)


class Texts:
    """Renders the drafts of one source: each text that differs once, whatever the batch repeats.

    Args:
        source: Names the templates and what is computed as of the scene's time.
        tables: Canonical tables.
        visible: The same with the interactions of train users only: all that values of items as of
            a time may be computed from.
        user_ids: Id of each user number.
        folder: Where the templates lie; by default `TEMPLATES`.
        hidden: Template (`history`, `exposure`) -> values that are rendered as if missing.

    Raises:
        UserError: on construction, if a template of the domain is missing or broken.
    """

    def __init__(
        self,
        source: Source,
        tables: Tables,
        visible: Tables,
        user_ids: pl.Series,
        folder: Path | None = None,
        *,
        hidden: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self._hidden = dict(hidden or {})
        environment = ImmutableSandboxedEnvironment(finalize=_blank, autoescape=False)
        self._source, self._tables, self._visible = source, tables, visible
        if source.templates is not None:
            self._templates = _own(source)
        else:
            self._templates = {
                kind: _load(environment, (folder or TEMPLATES) / source.domain / f"{kind}.jinja")
                for kind in ("profile", "history", "exposure")
            }
        self._users = user_ids.to_frame("user_id").join(
            tables.users, on="user_id", how="left", maintain_order="left"
        )
        self._items = tables.items.with_columns(_available=pl.col("available_from").dt.epoch("s"))

    def read(self, kind: str) -> frozenset[str]:
        """Return the names of the values that a template reads."""
        return self._templates[kind].names

    def complete(self, drafts: Drafts) -> pa.Table:
        """Return the drafts as a table of schema `SCENE`, in their order."""
        size = len(drafts.scene_id)
        history, seen, when = self._events(drafts)
        exposure, items = self._options(drafts)
        columns: dict[str, Any] = {
            "scene_id": drafts.scene_id,
            "domain": [self._source.domain] * size,
            "source": [self._source.name] * size,
            "user_id": self._users["user_id"].gather(drafts.user),
            "item_id": self._items["item_id"].gather(drafts.item),
            "timestamp": drafts.time * 1000,
            "profile": self._profiles(drafts),
            "history": _lists(history, drafts.shown),
            "history_item_ids": _lists(seen, drafts.shown),
            "history_timestamps": _lists(when, drafts.shown),
            "exposure": _lists(exposure, drafts.options),
            "exposure_item_ids": _lists(items, drafts.options),
            "exposure_origin": _lists(drafts.origins, drafts.options),
            **{
                name: _lists(pl.Series(values), drafts.options)
                for name, values in drafts.features.items()
            },
            "history_gap": _gaps(drafts, when),
            "answer": drafts.answer,
            "exposure_mode": [drafts.mode] * size,
            "real_exposure": [drafts.mode == "logged"] * size,
        }
        arrays = [_arrow(columns[field.name]).cast(field.type) for field in SCENE]
        return pa.Table.from_arrays(arrays, schema=SCENE)

    def _profiles(self, drafts: Drafts) -> list[str]:
        people = self._users[drafts.user]
        if self._source.user_as_of:
            frame = _frame(people["user_id"], drafts.time)
            people = people.hstack(self._source.user_as_of(self._tables, frame))
        return self._rendered("profile", people, _cleaned_lines).to_list()

    def _options(self, drafts: Drafts) -> tuple[pl.Series, pl.Series]:
        """Return the texts and ids of all options."""
        times = np.repeat(drafts.time, drafts.options)
        users = self._users["user_id"].gather(np.repeat(drafts.user, drafts.options))
        rows = self._with_values(_frame(users, times), self._items[drafts.items])
        days = (pl.Series(times) - rows["_available"]) // _DAY
        new = days.is_between(0, NEW_RELEASE_DAYS - 1).fill_null(False)
        rows = rows.with_columns(new.alias("new_release"))
        return self._rendered("exposure", rows, _cleaned), rows["item_id"]

    def _events(self, drafts: Drafts) -> tuple[pl.Series, pl.Series, pl.Series]:
        """Return the texts, item ids and times (milliseconds) of all interactions shown."""
        times = np.repeat(drafts.time, drafts.shown)
        events = self._tables.interactions[drafts.events].rename({"timestamp": "_when"})
        when = events["_when"].dt.epoch("s")
        items = self._items[drafts.event_items]
        rows = self._with_values(_frame(events["user_id"], times), items).hstack(
            events.drop("user_id", "item_id")
        )
        for column, known in self._source.known_from.items():
            later = pl.col(known) >= pl.col("timestamp")
            rows = rows.with_columns(pl.when(later.not_()).then(pl.col(column)).alias(column))
        past = pl.Series("ago", [ago(s) for s in (times - when.to_numpy()).tolist()], pl.String)
        texts = self._rendered("history", rows.hstack([past]), _cleaned)
        return texts, items["item_id"], when * 1000

    def _with_values(self, frame: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
        """Put the items' columns, and their values as of the scene's time, beside the rows."""
        joined = frame.hstack(items)
        if self._source.item_as_of:
            keys = joined.select("user_id", "item_id", "timestamp")
            joined = joined.hstack(self._source.item_as_of(self._visible, keys))
        return joined

    def _rendered(
        self, kind: str, rows: pl.DataFrame, cleaned: Callable[[pl.Series], pl.Series]
    ) -> pl.Series:
        """Render rows, each combination of the values that the template reads once."""
        template = self._templates[kind]
        hidden = self._hidden.get(kind, frozenset()).intersection(rows.columns)
        rows = rows.with_columns(_missing(rows.schema[name]).alias(name) for name in hidden)
        read = [name for name in rows.columns if name in template.names]
        if not read or not len(rows):
            same = cleaned(pl.Series(template.render([], [(None,)]), dtype=pl.String))
            return same.gather(np.zeros(len(rows), np.int64))
        groups = rows.select(read).with_row_index("_row").group_by(read).agg("_row")
        texts = template.render(read, groups.select(read).rows())
        group = np.empty(len(rows), np.int64)
        members = groups["_row"]
        group[members.explode().to_numpy()] = np.repeat(
            np.arange(len(groups)), members.list.len().to_numpy()
        )
        return cleaned(pl.Series(texts, dtype=pl.String)).gather(group)


def _missing(kind: pl.DataType) -> pl.Expr:
    """Return a value that templates render as nothing: they may put a title beside other text."""
    return pl.lit("") if kind == pl.String else pl.lit(None, dtype=kind)


def _cleaned(texts: pl.Series) -> pl.Series:
    return texts.to_frame("text").select(clean_column(pl.col("text"))).to_series()


def _cleaned_lines(texts: pl.Series) -> pl.Series:
    """Clean each line of texts by itself and leave out empty ones."""
    return pl.Series(
        [
            "\n".join(line for raw in text.splitlines() if (line := clean(raw)))
            for text in texts.to_list()
        ],
        dtype=pl.String,
    )


def _gaps(drafts: Drafts, when: pl.Series) -> pa.Array:
    """Seconds between the last line of each history and its scene, null without history."""
    last = np.cumsum(drafts.shown) - 1
    some = drafts.shown > 0
    moment = when.to_numpy()[np.maximum(last, 0)] // 1000 if len(when) else np.zeros(len(some))
    return pa.array(drafts.time - moment, pa.int64(), mask=~some)


def _arrow(values: Any) -> pa.Array:
    return values.to_arrow() if isinstance(values, pl.Series) else pa.array(values)


def _lists(values: pl.Series, lengths: np.ndarray) -> pa.Array:
    """Cut a flat column into lists of the given lengths."""
    flat = values.to_arrow(compat_level=pl.CompatLevel.oldest())
    ends = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(ends), flat)


def _frame(users: pl.Series, times: np.ndarray) -> pl.DataFrame:
    stamp = pl.Series("timestamp", times * 1000).cast(pl.Datetime("ms"))
    return pl.DataFrame([users.alias("user_id"), stamp.dt.replace_time_zone("UTC")])


def _own(source: Source) -> dict[str, _Template]:
    """Return the templates that a source brings: a user's text, in the narrower sandbox."""
    sandbox, made = templates.environment(_blank), {}
    for kind in ("profile", "history", "exposure"):
        text = (source.templates or {}).get(kind, "").removesuffix("\n")
        where = f"the {kind} template of {source.name}"
        made[kind] = _Template(sandbox, text, templates.check(text, where))
        try:
            made[kind].render([], [])
        except TemplateError as error:
            raise UserError(f"is broken: {error}", where=where) from error
    return made


def _load(environment: ImmutableSandboxedEnvironment, path: Path) -> _Template:
    try:
        text = path.read_text(encoding="utf-8")
        names = meta.find_undeclared_variables(environment.parse(text))
        template = _Template(environment, text.removesuffix("\n"), frozenset(names))
        template.render([], [])  # what is wrong in it shows now
        return template
    except FileNotFoundError:
        raise UserError("template is missing", where=path) from None
    except TemplateError as error:
        raise UserError(f"template is broken: {error}", where=path) from error
