"""What was on the screen and what was clicked, in whichever way a log writes it.

A row is a whole list, `[a, b]` beside the taken ids, beside as many labels, or with labels behind
the ids (`a-0 b-1`); or it is one item of a list (`layout: rows`). Lists that cannot be read are
left out with a reason, never half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from usermirrorer.builders.raw.columns import LINE
from usermirrorer.builders.raw.own import values
from usermirrorer.builders.raw.own.text_columns import UNIT

SHOWN, CLICKED, FAULT = "_shown", "_clicked", "_fault"
_LABELS = (*values.YES, *values.NO)
#: Of a reason and the key of the section that it is about: the reason with the YAML's line.
Tell = Callable[[str, str], str]


def lists(rows: pl.DataFrame, about: Mapping[str, Any], tell: Tell) -> pl.DataFrame:
    """Return rows with `item_ids` and `clicked` (lists of text and of yes or no), and `_fault`.

    Args:
        rows: Have `_shown` and `_clicked` as text; with `layout: rows` `impression_id` as well.
        about: The section `impressions` of a definition.
        tell: Makes a reason of what is wrong and the key it is about.

    Returns:
        A row for each list; `_fault` says why it cannot be used, null where it can.
    """
    if about.get("layout") == "rows":
        made = _of_rows(rows, about, tell)
    elif about["shown"] == about["clicked"]:
        made = _labelled(rows, about, tell)
    else:
        made = _apart(rows, about, tell)
    empty = pl.col("item_ids").list.len() == 0
    nothing = pl.lit(tell(f"column {about['shown']!r} shows nothing", "shown"))
    return made.with_columns(pl.when(empty).then(nothing).otherwise(pl.col(FAULT)).alias(FAULT))


def _split(name: str, separator: str) -> pl.Expr:
    text = pl.col(name).str.strip_chars("[](){} \t\n")
    if separator:
        text = text.str.replace_all(separator, UNIT, literal=True)
    parts = text.str.split(UNIT).list.eval(pl.element().str.strip_chars(" '\""))
    return parts.list.eval(pl.element().filter(pl.element() != ""))


def _whole(column: pl.Expr) -> pl.Expr:
    """Ids in a list, as those that stand alone."""
    return column.list.eval(values.whole(pl.element()))


def _labelled(rows: pl.DataFrame, about: Mapping[str, Any], tell: Tell) -> pl.DataFrame:
    """Labels behind the ids: `N1-0 N2-1`."""
    parts = _split(SHOWN, about.get("separator", ""))
    listed = rows.with_columns(parts.alias("_parts"))
    ids = pl.col("_parts").list.eval(pl.element().str.replace(r"[-:][01]$", ""))
    good = pl.col("_parts").list.eval(pl.element().str.contains(r"[-:][01]$")).list.all()
    fault = pl.lit(
        tell(f"column {about['shown']!r} has an item without its label, as N1-0", "shown")
    )
    return listed.with_columns(
        _whole(ids).alias("item_ids"),
        pl.col("_parts").list.eval(pl.element().str.contains(r"[-:]1$")).alias("clicked"),
        pl.when(~good).then(fault).alias(FAULT),
    ).drop("_parts")


def _apart(rows: pl.DataFrame, about: Mapping[str, Any], tell: Tell) -> pl.DataFrame:
    """Labels in their own list, or the ids of what was taken: whichever more rows fit."""
    separator, name = about.get("separator", ""), about["clicked"]
    parts = rows.with_columns(
        _whole(_split(SHOWN, separator)).alias("item_ids"),
        _whole(_split(CLICKED, separator)).alias("_taken"),
    )
    small = pl.col("_taken").list.eval(pl.element().str.to_lowercase())
    labels = small.list.eval(pl.element().is_in(_LABELS)).list.all()
    labels = labels & (pl.col("_taken").list.len() == pl.col("item_ids").list.len())
    named = pl.col("_taken").list.set_difference("item_ids").list.len() == 0
    filled = parts.filter(pl.col("_taken").list.len() > 0)
    by_label, by_id = filled.select(labels.sum().alias("l"), named.sum().alias("i")).row(0)
    if (by_label or 0) > (by_id or 0):
        wrong = f"column {name!r} has not one yes or no for each item shown"
        taken = small.list.eval(pl.element().is_in(values.YES))
        bad = pl.when(~labels).then(pl.lit(tell(wrong, "clicked"))).alias(FAULT)
        return parts.with_columns(taken.alias("clicked"), bad).drop("_taken")
    fault = pl.lit(tell(f"column {name!r} names what was not shown", "clicked"))
    made = parts.with_columns(pl.when(~named).then(fault).alias(FAULT)).with_row_index("_row")
    flat = made.select("_row", "item_ids", "_taken").explode("item_ids")
    hit = flat.with_columns(pl.col("item_ids").is_in(pl.col("_taken")).alias("clicked"))
    of_row = hit.group_by("_row", maintain_order=True).agg("clicked")
    joined = made.join(of_row, on="_row", how="left", maintain_order="left")
    return joined.drop("_row", "_taken")


def _of_rows(rows: pl.DataFrame, about: Mapping[str, Any], tell: Tell) -> pl.DataFrame:
    """One row per shown item: the rows of an impression together."""
    small = pl.col(CLICKED).str.strip_chars().str.to_lowercase()
    fault = pl.lit(tell(f"column {about['clicked']!r} is neither yes nor no", "clicked"))
    one = rows.with_columns(
        values.whole(pl.col(SHOWN).str.strip_chars()),
        small.is_in(values.YES).alias("_yes"),
        pl.when(~small.is_in([*_LABELS, ""])).then(fault).alias(FAULT),
    )
    return one.group_by("impression_id", maintain_order=True).agg(
        pl.col("user_id").first(),
        pl.col("timestamp").min(),
        pl.col(LINE).first(),
        pl.col(SHOWN).filter(pl.col(SHOWN) != "").alias("item_ids"),
        pl.col("_yes").filter(pl.col(SHOWN) != "").alias("clicked"),
        pl.col(FAULT).drop_nulls().first(),
    )
