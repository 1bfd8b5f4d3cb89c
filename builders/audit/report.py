"""The audit of scenes beside their placebo, and its verdict.

A source *tells* its targets if one of two things is so.

(a) The placebo is found: one cue alone, or what is learned from all of them with or without the
    history, picks the placebo's target more often than chance. Nothing of this person is in that
    target, so all of it is how the list was made.
(b) What needs no history finds the real target more often than the placebo's: the target differs
    from the other options in something that the placebo does not share, such as a field that only
    targets lack or an item that nobody had met.

Each alone passes scenes that are worthless. On the exposures of the paper's Algorithm 1 (measured
on MovieLens-100K, five options) the learner without history finds the placebo in 64.5 % of scenes
and the real target in 65.6 %: (b) sees a difference of one point. A fault of the real targets
alone leaves the placebo at chance: (a) sees nothing.

Both are judged by the end of an interval, clustered by user and by target, that lies nearer to
innocence, so that the noise of few scenes condemns nothing; the margins are what is let pass with
any number of them. There are many cues, so their intervals are as wide as all of them together need
(Bonferroni).
Logged exposures have no placebo: nobody drew them. They are reported, not judged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from usermirrorer.builders.audit import learned, marks, neighbours
from usermirrorer.builders.audit.cues import OF_HISTORY, cues, taken_later
from usermirrorer.builders.audit.estimates import LEVEL, Estimate, accuracy, difference
from usermirrorer.builders.audit.lists import Lists, make_lists
from usermirrorer.builders.common.errors import UserError

#: Points by which the placebo may be found above chance, and by which what needs no history may
#: find the real target above the placebo.
MARGINS = {"placebo": 5.0, "no_history": 10.0}
#: Share of scenes, in points, that may hold a wrong answer taken within `_SOON` seconds.
_LATER_POINTS, _SOON = 5.0, 3600
#: With fewer test users an interval says nothing.
FEWEST_USERS = 5
_BASELINES = {
    "most_popular": "exposure_popularity",
    "collaborative": "exposure_collaborative",
    "sequential": "exposure_sequential",
}
_LEARNED = {"no_history": False, "all_features": True}
_TABLES = Mapping[str, pa.Table]


class _Side(NamedTuple):
    """Right guesses [scenes] by name, on real or on placebo scenes."""

    lists: Lists
    baselines: dict[str, np.ndarray]
    cues: dict[str, np.ndarray]


def audit(
    scenes: _TABLES,
    placebo: _TABLES | None = None,
    *,
    margins: Mapping[str, float] = MARGINS,
    allow_tells: bool = False,
    progress: Callable[[int], None] = lambda sources: None,
) -> dict[str, Any]:
    """Audit scenes, each source by itself; the same tables give the same numbers everywhere.

    Args:
        scenes: Split (`train`, `test`) -> scenes. Learners learn from train and are scored on test;
            of a single table, on five parts of its users in turn.
        placebo: The same for targets that another user took; without it nothing is judged.
        margins: Points that are let pass, see `MARGINS`.
        allow_tells: Whether scenes may be used in spite of tells.
        progress: Called with the number of sources just audited.

    Returns:
        `sources` (source -> `baselines`, `placebo`, `cues`, `taken_later`, `scenes`, `verdict`,
        `why`), `verdict` (`holds`, `tells` or `not judged`), `margin_points`, and `allowed_tells`:
        whether there are tells that `allow_tells` let pass.

    Raises:
        UserError: if a column is missing, or there is nothing to audit.
    """
    names = sources(scenes)
    if not names:
        raise UserError("there are no scenes to audit")
    reports = {}
    for name in names:
        reports[name] = _audit_source(_of(scenes, name), _of(placebo or {}, name), margins)
        progress(1)
    verdicts = {source["verdict"] for source in reports.values()}
    overall = next((v for v in ("tells", "holds") if v in verdicts), "not judged")
    return {
        "sources": reports,
        "verdict": overall,
        "margin_points": dict(margins),
        "allowed_tells": allow_tells and overall == "tells",
    }


def baselines_by_scene(scenes: _TABLES) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what each baseline says of each test scene of one source.

    Args:
        scenes: Split (`train`, `test`) -> scenes; learners learn from train.

    Returns:
        Scene id -> baseline -> `right` (how right its guess is; ties count in parts) and `scores`
        (a number per option, higher is likelier, to be compared within the scene: log-odds of what
        learned them, deviations from the list's mean of the others).
    """
    lists = {split: make_lists(table) for split, table in scenes.items()}
    scores = _scores(lists, "test", _fields(lists.values())[1])
    test = lists["test"]
    ids, ends = test.table["scene_id"].to_pylist(), test.starts[1:]
    told: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in ids}
    for baseline, values in scores.items():
        parts = np.split(_comparable(test, baseline, values), ends)
        for name, hit, part in zip(ids, test.hits(values).tolist(), parts, strict=True):
            told[name][baseline] = {"right": hit, "scores": part.tolist()}
    return told


def _comparable(lists: Lists, baseline: str, values: np.ndarray) -> np.ndarray:
    if baseline in _LEARNED:
        share = np.clip(values, 1e-6, 1 - 1e-6)
        return np.log(share / (1 - share))
    return np.nan_to_num(lists.standardised(values))


def sources(scenes: _TABLES) -> list[str]:
    """Return the names of the sources that scenes are of, in order."""
    return sorted({name for table in scenes.values() for name in _unique(table, "source")})


def assert_no_tells(report: Mapping[str, Any]) -> None:
    """Refuse scenes whose targets are told by something else than the person.

    Raises:
        UserError: naming the first source with tells, unless they are allowed.
    """
    for name, source in report["sources"].items():
        if source["verdict"] == "tells" and not report["allowed_tells"]:
            raise UserError(
                f"exposures tell the target: {source['why'][0]}",
                where=name,
                fix="Build other exposures, or add --allow-tells: the card will say so.",
            )


def _unique(table: pa.Table, column: str) -> list[str]:
    if column not in table.column_names:
        raise UserError(f"column {column!r} is missing")
    return sorted(pc.unique(table[column]).to_pylist())


def _of(tables: _TABLES, source: str) -> dict[str, pa.Table]:
    parts = {
        split: table.filter(pc.equal(table["source"], source)) for split, table in tables.items()
    }
    return {split: part for split, part in parts.items() if part.num_rows}


def _audit_source(
    scenes: dict[str, pa.Table], placebo: dict[str, pa.Table], margins: Mapping[str, float]
) -> dict[str, Any]:
    real = {split: make_lists(table) for split, table in scenes.items()}
    fake = {split: make_lists(table) for split, table in placebo.items()}
    if not all(len(lists) for lists in (*real.values(), *fake.values())):
        return _unjudged("no scene has lists that fit each other")
    split = "test" if "test" in real else sorted(real)[0]
    common, has = _fields((*real.values(), *fake.values()))
    sides = [_side(real, split, common, has)]
    if split in fake:
        sides.append(_side(fake, split, common, has))
    later, users = taken_later((lists.table for lists in real.values()), _SOON)
    told: dict[str, Any] = {
        "baselines": _estimates(sides[0], sides[0].baselines),
        "placebo": _estimates(sides[1], sides[1].baselines) if len(sides) > 1 else {},
        "cues": _estimates(sides[0], sides[0].cues),
        "placebo_cues": _estimates(sides[1], sides[1].cues) if len(sides) > 1 else {},
        "taken_later": accuracy(later, users).as_dict(),
        "scenes": {name: len(lists) for name, lists in real.items()},
        "users": len(np.unique(real[split].user)),
    }
    verdict, why = _verdict(real[split], sides, accuracy(later, users), margins)
    return {**told, "verdict": verdict, "why": why}


def _fields(every: Iterable[Lists]) -> tuple[list[str], dict[int, np.ndarray]]:
    """Return the fields that options of these lists have, and which has which, by `id` of lists."""
    fields = {id(lists): marks.find(lists.text) for lists in every}
    common = marks.common(list(fields.values()))
    return common, {key: marks.flags(of_lists, common) for key, of_lists in fields.items()}


def _unjudged(why: str) -> dict[str, Any]:
    empty: dict[str, Any] = {"baselines": {}, "placebo": {}, "cues": {}, "placebo_cues": {}}
    return {**empty, "verdict": "not judged", "why": [why]}


def _side(lists: dict[str, Lists], split: str, common: list[str], has: dict) -> _Side:
    test = lists[split]
    with ThreadPoolExecutor(1) as pool:  # cues are looked at while learners learn
        scores = pool.submit(_scores, lists, split, has)
        guesses = cues(test, common, has[id(test)])
        return _Side(
            test,
            {name: test.hits(values) for name, values in scores.result().items()},
            {name: test.hits(values) for name, values in guesses.items()},
        )


def _scores(lists: dict[str, Lists], split: str, has: dict) -> dict[str, np.ndarray]:
    """Return baseline -> its score of each option of a split, [options]."""
    test = lists[split]
    train = lists.get("train") if split == "test" else None
    flags = (has[id(train)] if train is not None else None, has[id(test)])
    alike = (neighbours.scores(None, train) if train else None, neighbours.scores(train, test))
    with ThreadPoolExecutor(min(len(_LEARNED), os.cpu_count() or 1)) as pool:
        fitted = {
            name: pool.submit(
                learned.scores, train, test, flags, alike if history else (None, None)
            )
            for name, history in _LEARNED.items()
        }
        scores = {"chance": np.zeros(len(test.scene))}
        scores |= {name: test.numbers[column] for name, column in _BASELINES.items()}
        scores[learned.ALIKE] = alike[1]
        return scores | {name: future.result() for name, future in fitted.items()}


def _estimates(side: _Side, hits: dict[str, np.ndarray]) -> dict[str, dict[str, float | int]]:
    return {
        name: accuracy(of_guess, side.lists.user, side.lists.item).as_dict()
        for name, of_guess in hits.items()
    }


def _verdict(
    test: Lists, sides: list[_Side], later: Estimate, margins: Mapping[str, float]
) -> tuple[str, list[str]]:
    """Return the verdict and the reasons, worst first."""
    users = len(np.unique(test.user))
    if _unique(test.table, "exposure_mode") == ["logged"]:
        return "not judged", ["the source logged these lists: nobody drew them"]
    if len(sides) < 2:
        return "not judged", ["there are no placebo scenes beside these"]
    if users < FEWEST_USERS:
        return "not judged", [f"{users} test users are too few"]
    tells = [*_found_placebos(sides[1], margins["placebo"])]
    tells += _unlike_placebos(sides[0], sides[1], margins["no_history"])
    if 100 * later.low > _LATER_POINTS:
        tells.append(
            (
                later.low,
                f"{_percent(later)} of scenes hold a wrong answer that the user took within the "
                f"hour: right answers count as wrong",
            )
        )
    if tells:
        return "tells", [why for _, why in sorted(tells, key=lambda tell: -tell[0])]
    return "holds", [_power(sides[1], margins["placebo"])]


def _found_placebos(side: _Side, margin: float) -> list[tuple[float, str]]:
    """Return (a): by how much, and in words, guesses find the placebo's target."""
    lists, chance = side.lists, float(side.lists.chance.mean())
    tells = []
    for kind, guesses in (("learned", _LEARNED), ("cue", side.cues)):
        level = 1 - (1 - LEVEL) / len(guesses)
        for name in guesses:
            hits = side.cues[name] if kind == "cue" else side.baselines[name]
            right = accuracy(hits, lists.user, lists.item, level)
            excess = right.low - chance
            if 100 * excess > margin:
                what = f"the cue {name!r}" if kind == "cue" else f"the learned baseline {name}"
                tells.append(
                    (
                        excess,
                        f"{what} finds the placebo in {_percent(right)}, chance is "
                        f"{100 * chance:.1f} %",
                    )
                )
    return tells


def _unlike_placebos(real: _Side, fake: _Side, margin: float) -> list[tuple[float, str]]:
    """Return (b): by how much, and in words, what needs no history finds only real targets."""
    _, of_real, of_fake = np.intersect1d(
        *(side.lists.table["scene_id"].to_numpy() for side in (real, fake)), return_indices=True
    )
    if not len(of_real):
        return []
    users, items = real.lists.user[of_real], fake.lists.item[of_fake]
    names = [name for name in real.cues if name in fake.cues and name not in OF_HISTORY]
    guesses = {f"the cue {name!r}": (real.cues[name], fake.cues[name]) for name in names}
    learner = (real.baselines["no_history"], fake.baselines["no_history"])
    tells = []
    for what, (right, wrong) in {"the learned baseline no_history": learner, **guesses}.items():
        level = LEVEL if right is learner[0] else 1 - (1 - LEVEL) / len(guesses)
        apart = difference(right[of_real] - wrong[of_fake], users, items, level)
        if 100 * apart.low > margin:
            tells.append(
                (
                    apart.low,
                    f"{what}, which needs no history, finds the real target in "
                    f"{100 * right.mean():.1f} %, the placebo in {100 * wrong.mean():.1f} %",
                )
            )
    return tells


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} % ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _power(side: _Side, margin: float) -> str:
    """Say which tells these scenes are too few to show."""
    chance = float(side.lists.chance.mean())
    baseline = accuracy(side.baselines["no_history"], side.lists.user, side.lists.item)
    reach = max(baseline.value - baseline.low, 0.0)
    users = len(np.unique(side.lists.user))
    return (
        f"{baseline.n:,} scenes of {users:,} users: what finds the placebo in more than about "
        f"{100 * (chance + reach) + margin:.0f} % would show"
    )
