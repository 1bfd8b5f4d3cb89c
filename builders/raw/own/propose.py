"""Which column of which file is what: proposals, each with whether it is a guess."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.own import detect
from usermirrorer.builders.raw.own.detect import Looked

WORDS = {
    "user": (
        "userid",
        "user",
        "uid",
        "customerid",
        "customer",
        "memberid",
        "visitorid",
        "visitor",
        "reviewerid",
        "client",
        "account",
        "person",
        "member",
        "用户id",
        "用户",
        "客户",
        "会员",
    ),
    "item": (
        "itemid",
        "item",
        "productid",
        "product",
        "sku",
        "asin",
        "iid",
        "articleid",
        "article",
        "movieid",
        "videoid",
        "bookid",
        "songid",
        "appid",
        "gameid",
        "newsid",
        "商品id",
        "物品id",
        "商品编号",
        "商品",
        "物品",
        "id",
        "movie",
        "video",
        "book",
        "parentasin",
    ),
    "time": (
        "timestamp",
        "time",
        "datetime",
        "date",
        "ts",
        "unixtimestamp",
        "createdat",
        "eventtime",
        "at",
        "when",
        "day",
        "时间",
        "时间戳",
        "日期",
    ),
    "rating": ("rating", "stars", "score", "rate", "overall", "评分", "watchratio"),
    "title": (
        "title",
        "name",
        "productname",
        "itemname",
        "headline",
        "标题",
        "名称",
        "名字",
        "商品名",
    ),
    "shown": (
        "shown",
        "impressions",
        "items",
        "itemids",
        "exposure",
        "candidates",
        "slate",
        "list",
        "展示",
        "曝光",
    ),
    "clicked": ("clicked", "click", "clicks", "chosen", "selected", "label", "target", "点击"),
    "impression": ("impressionid", "requestid", "impression", "listid", "sessionid", "slateid"),
    "available": (
        "releasedate",
        "available",
        "availablefrom",
        "released",
        "publishedat",
        "published",
        "pubdate",
        "launchdate",
        "year",
        "发布时间",
        "上架时间",
    ),
}
_TAKEN = (
    "user_id",
    "item_id",
    "timestamp",
    "title",
    "text",
    "available_from",
    "ago",
    "loop",
    "line",
)


@dataclass
class Proposal:
    """What is proposed: the looked-at files, the column of each role, and what is a guess."""

    looked: dict[str, Looked]
    roles: dict[str, str] = field(default_factory=dict)  # e.g. interactions.user -> column
    formats: dict[str, str] = field(default_factory=dict)  # e.g. interactions.time -> format
    columns: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    guessed: dict[str, str] = field(default_factory=dict)  # role -> why it is not certain


def propose(looked: dict[str, Looked], given: Mapping[str, str]) -> Proposal:
    """Propose the roles of columns.

    Args:
        looked: `interactions`, `items`, and perhaps `users` and `impressions`.
        given: Role -> column, or `time_format` -> format, where a person said so.

    Raises:
        UserError: if no column fits a role that is needed, or a given one is not there.
    """
    made = Proposal(looked)
    log, items = looked["interactions"].sample, looked["items"].sample
    _items(made, items, log, given)
    taken = {made.roles["interactions.item"]}
    _named(made, "interactions", "user", log, given, taken)
    _time(made, "interactions", log, given, taken)
    if "users" in looked:
        people = looked["users"].sample
        _named(made, "users", "user", people, given, set(), key="id", beside=log)
    if "impressions" in looked:
        _impressions(made, looked["impressions"].sample, items, given)
    for kind in ("users", "items", "interactions"):
        if kind in looked:
            made.columns[kind] = _others(made, kind, looked[kind].sample)
    _unique_names(made)
    return made


def _given(made: Proposal, where: str, name: str) -> str:
    kind = where.partition(".")[0]
    if name not in made.looked[kind].sample.columns:
        from usermirrorer.builders.raw.own.check import nearest

        raise UserError(
            f"column {name!r} is missing",
            where=made.looked[kind].path,
            fix=nearest(name, made.looked[kind].sample.columns),
        )
    made.roles[where] = name
    return name


def _pick(made: Proposal, where: str, scores: Mapping[str, float], flag: str) -> str:
    best = max(scores, key=lambda name: scores[name], default="")
    kind, _, role = where.partition(".")
    if not best or scores[best] < 0.3:
        raise UserError(
            f"no column looks like the {role}: {', '.join(made.looked[kind].sample.columns)}",
            where=made.looked[kind].path,
            fix=f"Name it with --{flag} COLUMN.",
        )
    made.roles[where] = best
    rivals = [n for n in scores if n != best and scores[n] > scores[best] - 0.2]
    if rivals or scores[best] < 0.9:
        made.guessed[where] = f"or {', '.join(rivals[:3])}?" if rivals else "by its values and name"
    return best


def _items(
    made: Proposal, items: pl.DataFrame, log: pl.DataFrame, given: Mapping[str, str]
) -> None:
    """Find the pair of columns in which log and items meet, and the title."""
    names = {
        kind: detect.alike(f.columns, WORDS["item"]) for kind, f in (("log", log), ("items", items))
    }
    best, scores = ("", ""), -1.0
    for own in [given["item"]] if "item" in given else log.columns:
        for other in [given["item_id"]] if "item_id" in given else items.columns:
            if own not in log.columns or other not in items.columns:
                continue
            distinct = items[other].n_unique() / max(len(items), 1)
            met = detect.overlap(log[own], items[other]) if distinct > 0.8 else 0.0
            same = 0.2 * (own == other)
            score = met + names["log"][own] + names["items"][other] + same + 0.3 * distinct
            if detect.time_format(log[own])[0]:
                score -= 1
            best, scores = ((own, other), score) if score > scores else (best, scores)
    if "item" in given:
        _given(made, "interactions.item", given["item"])
    if "item_id" in given:
        _given(made, "items.id", given["item_id"])
    if not all(best):
        raise UserError("no column of the log holds ids of the items", fix="Name it with --item.")
    made.roles["interactions.item"], made.roles["items.id"] = best
    met = detect.overlap(log[best[0]], items[best[1]])
    if scores < 2.2 and "item" not in given:
        made.guessed["interactions.item"] = f"{met:.0%} of its first values are in the items"
    _named(made, "items", "title", items, given, {best[1]}, key="title")


def _named(
    made: Proposal,
    kind: str,
    role: str,
    frame: pl.DataFrame,
    given: Mapping[str, str],
    taken: set[str],
    *,
    key: str = "",
    beside: pl.DataFrame | None = None,
    flag: str = "",
) -> None:
    where = f"{kind}.{key or role}"
    flag = flag or ("user-id" if kind == "users" else role.replace("_", "-"))
    if name := given.get(flag.replace("-", "_")):
        taken.add(_given(made, where, name))
        return
    left = [name for name in frame.columns if name not in taken]
    scores = detect.alike(left, WORDS[role])
    for name in left:
        distinct = frame[name].n_unique() / max(len(frame), 1)
        if beside is not None:
            scores[name] += detect.overlap(frame[name], beside[made.roles["interactions.user"]])
        elif role == "title":
            plain = detect.number_type(frame[name])["type"] == "text"
            scores[name] += 0.35 * distinct * plain * (0.5 if scores[name] == 0 else 1)
        elif role == "user":
            timed = bool(detect.time_format(frame[name])[0])
            scores[name] += 0.32 * (0.0005 < distinct < 0.9) * (not timed)
    taken.add(_pick(made, where, scores, flag))


def _time(
    made: Proposal, kind: str, frame: pl.DataFrame, given: Mapping[str, str], taken: set[str]
) -> None:
    where = f"{kind}.time"
    own = given.get("time") if kind == "interactions" else given.get("impressions_time")
    if own:
        name = _given(made, where, own)
    else:
        left = [name for name in frame.columns if name not in taken]
        names = detect.alike(left, WORDS["time"])
        timed = {n: s + 0.5 for n, s in names.items() if detect.time_format(frame[n])[0]}
        name = _pick(made, where, timed or names, "time")
    taken.add(name)
    how, certain = detect.time_format(frame[name])
    how = given.get("time_format") or how
    if not how:
        raise UserError(
            f"the times of {name!r} have no format that is known, as {frame[name][0]!r}",
            where=made.looked[kind].path,
            fix="Name it with --time-format '%d.%m.%Y %H:%M'.",
        )
    made.formats[where] = how
    if not certain and "time_format" not in given:
        made.guessed[f"{where}.format"] = "day and month, or the century, may be others"


def _impressions(
    made: Proposal, frame: pl.DataFrame, items: pl.DataFrame, given: Mapping[str, str]
) -> None:
    taken: set[str] = set()
    _time(made, "impressions", frame, given, taken)
    same = made.roles["interactions.user"]
    _named(
        made, "impressions", "user", frame, {"user": same} if same in frame.columns else {}, taken
    )
    known = items[made.roles["items.id"]]
    first = {name: _first_ids(frame[name]) for name in frame.columns}
    for role in ("shown", "clicked"):
        left = [name for name in frame.columns if name not in taken]
        scores = detect.alike(left, WORDS[role])
        for name in left:
            met = detect.overlap(first[name], known)
            scores[name] += 0.5 * met + (0.5 if role == "shown" and _several(frame[name]) else 0)
        if stated := given.get(role):
            _given(made, f"impressions.{role}", stated)
        elif role == "clicked" and all(score < 0.3 for score in scores.values()):
            made.roles["impressions.clicked"] = made.roles["impressions.shown"]
            continue
        else:
            _pick(made, f"impressions.{role}", scores, role)
        taken.add(made.roles[f"impressions.{role}"])
    left = [name for name in frame.columns if name not in taken]
    scores = detect.alike(left, WORDS["impression"])
    if scores and max(scores.values()) > 0.5:
        made.roles["impressions.id"] = max(scores, key=lambda name: scores[name])
    shown = frame[made.roles["impressions.shown"]]
    made.formats["impressions.layout"] = "list" if _several(shown) else "rows"
    made.formats["impressions.separator"] = _separator(shown)


def _separator(shown: pl.Series) -> str:
    signs = (detect.text_columns.UNIT, ",", " ", "|", ";")
    best = max(signs, key=lambda sign: float(shown.str.count_matches(re.escape(sign)).sum() or 0))
    several = shown.str.contains(best, literal=True).any()
    return best if several and best != detect.text_columns.UNIT else ""


def _several(column: pl.Series) -> bool:
    return bool((column.str.count_matches(r"[\x1f, |;]").median() or 0) >= 2)  # type: ignore[operator]


def _first_ids(column: pl.Series) -> pl.Series:
    first = column.str.strip_chars("[]").str.split("\x1f").list.first().fill_null("")
    return first.str.extract(r"^[\"' ]*([^,|; \"']+)", 1).fill_null("").str.replace("-[01]$", "")


def _others(made: Proposal, kind: str, frame: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the further columns that templates can read, with their types."""
    used = {c for role, c in made.roles.items() if role.startswith(f"{kind}.")}
    columns: dict[str, dict[str, Any]] = {}
    for name in frame.columns:
        if name in used or len(columns) >= 12 or not len(detect.filled(frame[name])):
            continue
        about = detect.number_type(frame[name])
        called = re.sub(r"\W+", "_", name).strip("_").lower() or "column"
        called = f"c_{called}" if not called.isidentifier() or called in _TAKEN else called
        while called in columns:
            called += "_2"
        columns[called] = {"column": name, **about}
    return columns


def _unique_names(made: Proposal) -> None:
    """Rename columns of the log that items have too: a line of history shows both."""
    own = made.columns["interactions"]
    for name in [name for name in own if name in made.columns["items"]]:
        own[f"{name}_then"] = own.pop(name)
