"""Several models' results as ranked rows, with intervals, baselines, and tests against the best."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness import metrics, published, verdict
from usermirrorer.eval_harness.metric_table import BASELINES, GAPS, Unit, lookup, tell_gaps
from usermirrorer.eval_harness.results import Score, compare, read_results

#: The paper's settings at evaluation (section 4.1); a row notes what its run did otherwise.
USUAL = {"samples": 5, "temperature": 1.0, "top_p": 0.9, "max_gen_toks": 512, "chat_template": True}
#: Column of the mean over all scenes, and of the plain mean over sources without logged lists.
OVERALL, SYNTHETIC = "overall", "synthetic"
HEADLINE = "acc_over_placebo"


@dataclass(frozen=True)
class Cell:
    """A mean over n scenes of so many users; its standard error is NaN where it is not known."""

    value: float
    stderr: float
    n: int
    users: int = 0
    unit: Unit = "share"

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval; NaN where there is none."""
        return metrics.interval(self.value, self.stderr, self.users, self.unit)


@dataclass
class Row:
    """One line of the table. `kind` is `model`, `baseline` or `published`.

    `cells` maps a metric and a column (a domain, `overall`, `synthetic`) to a cell; metrics by gap
    have the column `overall` only. Accuracies are in 0..1, entropies in bits. `p_value` is that of
    a paired test against the first model, by user, corrected for the number of tests (Holm).
    `verdict` says in a few words whether its ablations show taste, `taste` in a sentence.
    """

    name: str
    kind: str
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    estimated: bool = False
    p_value: float | None = None
    verdict: str = ""
    taste: str = ""
    note: str = ""

    def cell(self, metric: str, column: str = OVERALL) -> Cell | None:
        """Return one cell; None if the row has no such."""
        return self.cells.get(metric, {}).get(column)


@dataclass(frozen=True)
class Board:
    """Rows (models by rank, baselines, published), and what the scenes are.

    `domains` are in table order, `logged` those of them with logged lists. `scenes` says what was
    scored, `reference` what accuracy is compared with.
    """

    rows: list[Row]
    domains: list[str]
    logged: list[str]
    scenes: str
    reference: str


def pool(cells: Sequence[Cell], weights: Sequence[float] | None = None) -> Cell:
    """Return the mean of independent means.

    Args:
        cells: Of one metric.
        weights: Of each; their numbers of scenes, if not given.
    """
    weights = [c.n for c in cells] if weights is None else weights
    total = sum(weights) or 1
    value = sum(w * c.value for w, c in zip(weights, cells, strict=True)) / total
    error = math.sqrt(sum((w * c.stderr) ** 2 for w, c in zip(weights, cells, strict=True)))
    n, users = sum(c.n for c in cells), sum(c.users for c in cells)
    return Cell(value, error / total, n, users, cells[0].unit)


def build(models: Mapping[str, Path], family: str = "usermirror") -> Board:
    """Return the ranked rows of several models, then baselines, then the published ones.

    Models are ranked by accuracy minus placebo over all scenes. The published rows are on the
    paper's exposures and stand only beside such.

    Args:
        models: Display name -> folder (or file) with lm_eval's output.
        family: Of `task_names.FAMILIES`.

    Raises:
        UserError: if a model has no such result, has results under several settings, or was
            scored on other scenes than the first model.
    """
    scores = {name: _of_family(name, path, family) for name, path in models.items()}
    _same_scenes(scores)
    rows = [_model_row(name, own) for name, own in scores.items()]
    rows.sort(key=lambda row: -_rank_key(row))
    best = scores[rows[0].name]
    _test_against(best, rows[1:], scores)
    rows += _baseline_rows(best)
    if {mode for s in best for mode in s.facts.get("exposure_modes", {})} <= {"paper", "logged"}:
        rows += _published({s.source for s in best})
    return Board(rows, _domains(best), _logged(best), _scenes(best), _reference(best))


def _reference(scores: Sequence[Score]) -> str:
    """Say what accuracy is compared with: `placebo`, or `placebo (mind: chance)`."""
    sources: dict[str, list[str]] = {}
    for score in scores:
        if score.metric == HEADLINE:
            sources.setdefault(str(score.facts.get("reference", "chance")), []).append(score.source)
    if set(sources) == {"placebo", "chance"}:
        return f"placebo ({', '.join(sorted(sources['chance']))}: chance)"
    return next(iter(sources), "chance")


def _rank_key(row: Row) -> float:
    cell = row.cell(HEADLINE) or row.cell("acc")
    return cell.value if cell else -math.inf


def _test_against(
    best: Sequence[Score], rows: Sequence[Row], scores: Mapping[str, Sequence[Score]]
) -> None:
    p_values: dict[str, float] = {}
    metric = HEADLINE if any(s.metric == HEADLINE for s in best) else "acc"
    for row in rows:
        try:
            p_values[row.name] = compare(best, scores[row.name], metric).p_value
        except UserError as error:
            row.note = f"not tested: {error} {row.note}".strip()
    corrected = dict(zip(p_values, metrics.holm(list(p_values.values())), strict=True))
    for row in rows:
        row.p_value = corrected.get(row.name)


def _of_family(name: str, path: Path, family: str) -> list[Score]:
    scores = [s for s in read_results(path) if s.task.partition("_")[0] == family]
    if not scores:
        raise UserError(f"{name} has no result of {family}_*", where=path)
    for what in ("model", "settings"):
        kinds = sorted({getattr(s, what) for s in scores})
        if len(kinds) > 1:
            raise UserError(
                f"{name} mixes runs of several {what}: {'; '.join(kinds)}",
                where=path,
                fix="Keep each in a folder of its own.",
            )
    return scores


def _same_scenes(scores: Mapping[str, Sequence[Score]]) -> None:
    seen: dict[str, tuple[tuple, str]] = {}
    for name, own in scores.items():
        for score in own:
            placebo = score.facts.get("placebo_hash", "")
            key = (score.scenes_hash, score.prompt_hash, score.n, placebo)
            first = seen.setdefault(score.task, (key, name))
            if first[0] != key:
                raise UserError(
                    f"{name} and {first[1]} were not scored on the same scenes, placebos and "
                    "prompts",
                    where=score.task,
                    fix="Run both on one dataset revision, with the same --limit.",
                )
    tasks: dict[str, set[str]] = {n: {s.task for s in own} for n, own in scores.items()}
    every: set[str] = set().union(*tasks.values())
    missing = {task for task in every if any(task not in own for own in tasks.values())}
    if missing:
        raise UserError(
            f"not every model has {', '.join(sorted(missing))}", fix="Run it there too."
        )


def _model_row(name: str, scores: Sequence[Score]) -> Row:
    row = Row(name, "model")
    for metric in dict.fromkeys(s.metric for s in scores):
        row.cells[metric] = _columns(scores, metric)
    row.estimated = any(s.metric == "entropy_is_estimate" and s.value for s in scores)
    row.note = _unusual(scores[0].settings)
    losses = [_loss(row, f"acc_loss_{name}") for name in ("no_history", "swapped")]
    row.verdict, row.taste = verdict.in_short(*losses), verdict.in_words(*losses)
    return row


def _loss(row: Row, metric: str) -> verdict.Loss | None:
    cell = row.cell(metric)
    return verdict.Loss(cell.value, *cell.interval) if cell else None


def _baseline_rows(scores: Sequence[Score]) -> list[Row]:
    rows = []
    for metric, title in BASELINES.items():
        if cells := _columns(scores, metric):
            rows.append(Row(title, "baseline", {"acc": cells}))
    return rows


def _unusual(settings: str) -> str:
    """Return the settings that are not `USUAL`, e.g. `guided, max_gen_toks 40`."""
    unusual = {k: v for k, v in json.loads(settings).items() if v != USUAL.get(k)}
    return ", ".join(k if v is True else f"{k} {v}".lower() for k, v in sorted(unusual.items()))


def _cell(score: Score) -> Cell:
    gap = score.metric.removeprefix("acc_gap_")
    n = score.facts.get("gaps", {}).get(gap, score.n) if gap in GAPS else score.n
    return Cell(score.value, score.stderr, n, score.users, score.of.unit)


def _columns(scores: Sequence[Score], metric: str) -> dict[str, Cell]:
    own = [s for s in scores if s.metric == metric]
    if not own:
        return {}
    if lookup(metric).group == "gap":
        return {OVERALL: pool([_cell(s) for s in own])}
    columns = {}
    if not (_is_partial(metric) and _lacks(scores, own)):
        columns[OVERALL] = pool([_cell(s) for s in own])
    for domain in dict.fromkeys(s.domain for s in own):
        columns[domain] = pool([_cell(s) for s in own if s.domain == domain])
    drawn, every = ([s for s in some if not _is_logged(s)] for some in (own, scores))
    if drawn and not (_is_partial(metric) and _lacks(every, own)):
        columns[SYNTHETIC] = pool([_cell(s) for s in drawn], [1.0] * len(drawn))
    return columns


def _is_partial(metric: str) -> bool:
    """Say whether the mean of some sources would pass for that of all: not so of ablations."""
    return lookup(metric).group == "baseline" or metric == "acc_placebo"


def _lacks(scores: Sequence[Score], own: Sequence[Score]) -> bool:
    return {s.task for s in scores} > {s.task for s in own}


def _is_logged(score: Score) -> bool:
    """Say whether all exposures were logged; where a run did not record it, as its source is."""
    from usermirrorer.builders.raw.sources import all_sources

    if modes := score.facts.get("exposure_modes"):
        return set(modes) == {"logged"}
    known = all_sources().get(score.source)
    return bool(known and known.logged)


def _logged(scores: Sequence[Score]) -> list[str]:
    return sorted({s.domain for s in scores if _is_logged(s)})


def _domains(scores: Sequence[Score]) -> list[str]:
    """Return the domains in table order: logged lists first, then as in Table 1, then others."""
    logged = _logged(scores)
    order = {domain: number for number, domain in enumerate(published.DOMAINS)}
    domains = {s.domain for s in scores}
    return sorted(domains, key=lambda d: (d not in logged, order.get(d, len(order)), d))


def _scenes(scores: Sequence[Score]) -> str:
    """Say what was scored: scenes, users, exposure modes, and the time since the history."""
    first = {s.task: s for s in scores if s.metric == "acc"}.values()
    modes: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for score in first:
        modes.update(score.facts.get("exposure_modes", {}))
        seconds.update(score.facts.get("gaps", {}))
    text = f"{sum(s.n for s in first):,} scenes of {sum(s.users for s in first):,} users"
    if modes:
        text += f"; exposures: {', '.join(sorted(modes))}"
    ordered = {name: seconds[name] for name in (*GAPS, "unknown") if seconds[name]}
    return text + (f"; time since the history: {tell_gaps(ordered)}" if ordered else "") + "."


def _published(sources: set[str]) -> list[Row]:
    """Return Table 1; its means only if the models' means are over the same sources."""
    from usermirrorer.builders.scenes.presets import PAPER

    whole = sources == set(PAPER)
    rows = []
    for name, values in published.TABLE_1.items():
        mean = OVERALL if name in published.PROPRIETARY else SYNTHETIC
        names = (*published.DOMAINS, mean) if whole else published.DOMAINS
        row = Row(name, "published", note="as published, not run here")
        row.cells["acc"] = {
            column: Cell(value / 100, math.nan, 0)
            for column, value in zip(names, values, strict=False)
        }
        if whole and name in published.TABLE_12:
            cell = Cell(published.TABLE_12[name], math.nan, 0, unit="bits")
            row.cells["entropy"] = {OVERALL: cell}
        rows.append(row)
    return rows
