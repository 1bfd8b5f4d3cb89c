"""Several models' results as one table: ranked, with intervals, baselines and paired tests."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness import published
from usermirrorer.eval_harness.results import Score, compare, read_results

#: Column order; a domain is the mean over the scenes of its sources.
DOMAINS = published.DOMAINS
SOURCES = 11
#: The paper's settings at evaluation (section 4.1); a row notes what its run did otherwise.
USUAL = {"samples": 5, "temperature": 1.0, "top_p": 0.9, "max_gen_toks": 512, "chat_template": True}
BASELINES = {"acc_chance": "chance", "acc_popular": "most popular", "acc_nearest": "nearest"}


@dataclass(frozen=True)
class Cell:
    """A mean with its standard error (NaN: unknown) over n scenes."""

    value: float
    stderr: float
    n: int


@dataclass
class Row:
    """One line of the table. `kind` is `model`, `baseline` or `published`.

    `acc` and `entropy` map a domain, `overall` (all scenes) or `synthetic` (plain mean over the
    sources with synthetic exposures) to a cell. Accuracies are in 0..1, entropies in bits.
    """

    name: str
    kind: str
    acc: dict[str, Cell] = field(default_factory=dict)
    entropy: dict[str, Cell] = field(default_factory=dict)
    malformed: Cell | None = None
    estimated: bool = False
    p_value: float | None = None
    note: str = ""


def pool(cells: Sequence[Cell], *, by_scenes: bool = True) -> Cell:
    """Return the mean of independent means, weighted by their scenes or all alike."""
    weights = [c.n if by_scenes else 1 for c in cells]
    total = sum(weights)
    value = sum(w * c.value for w, c in zip(weights, cells, strict=True)) / total
    error = math.sqrt(sum((w * c.stderr) ** 2 for w, c in zip(weights, cells, strict=True)))
    return Cell(value, error / total, sum(c.n for c in cells))


def build(models: Mapping[str, Path], family: str = "usermirror") -> list[Row]:
    """Return the ranked rows of several models, then baselines, then the published ones.

    Args:
        models: Display name -> folder (or file) with lm_eval's output.
        family: `usermirror` (decisions) or `usermirror-direct`.

    Raises:
        UserError: if a model has no such result, has results under several settings, or was
            scored on other scenes than the first model.
    """
    scores = {name: _of_family(name, path, family) for name, path in models.items()}
    _same_scenes(scores)
    rows = [_row(name, "model", found, "acc") for name, found in scores.items()]
    rows.sort(key=lambda row: -row.acc["overall"].value)
    best = scores[rows[0].name]
    for row in rows[1:]:
        try:
            row.p_value = compare(best, scores[row.name]).p_value
        except UserError as error:
            row.note = f"not tested: {error} {row.note}".strip()
    rows += [_row(title, "baseline", best, metric) for metric, title in BASELINES.items()]
    if family != "usermirror":
        return rows
    return rows + _published(whole=len({s.source for s in best}) == SOURCES)


def _of_family(name: str, path: Path, family: str) -> list[Score]:
    found = [s for s in read_results(path) if s.task.partition("_")[0] == family]
    if not found:
        raise UserError(f"{name} has no result of {family}_*", where=path)
    for what in ("model", "settings"):
        kinds = sorted({getattr(s, what) for s in found})
        if len(kinds) > 1:
            raise UserError(
                f"{name} mixes runs of several {what}: {'; '.join(kinds)}",
                where=path,
                fix="Keep each in a folder of its own.",
            )
    return found


def _same_scenes(scores: Mapping[str, Sequence[Score]]) -> None:
    seen: dict[str, tuple[tuple, str]] = {}
    for name, found in scores.items():
        for score in found:
            key = (score.scenes_hash, score.prompt_hash, score.n)
            first = seen.setdefault(score.task, (key, name))
            if first[0] != key:
                raise UserError(
                    f"{name} and {first[1]} were not scored on the same scenes and prompts",
                    where=score.task,
                    fix="Run both on one dataset revision, with the same --limit.",
                )
    tasks: dict[str, set[str]] = {n: {s.task for s in found} for n, found in scores.items()}
    every: set[str] = set().union(*tasks.values())
    missing = {task for task in every if any(task not in found for found in tasks.values())}
    if missing:
        raise UserError(
            f"not every model has {', '.join(sorted(missing))}", fix="Run it there too."
        )


def _row(name: str, kind: str, scores: Sequence[Score], accuracy: str) -> Row:
    row = Row(name, kind, acc=_columns(scores, accuracy))
    if kind == "model":
        row.entropy = _columns(scores, "entropy")
        malformed = [Cell(s.value, s.stderr, s.n) for s in scores if s.metric == "malformed"]
        row.malformed = pool(malformed) if malformed else None
        row.estimated = any(s.metric == "entropy_is_estimate" and s.value for s in scores)
        row.note = _unusual(scores[0].settings)
    return row


def _unusual(settings: str) -> str:
    """Return the settings that are not `USUAL`, e.g. `guided, max_gen_toks 40`."""
    found = {k: v for k, v in json.loads(settings).items() if v != USUAL.get(k)}
    return ", ".join(k if v is True else f"{k} {v}".lower() for k, v in sorted(found.items()))


def _columns(scores: Sequence[Score], metric: str) -> dict[str, Cell]:
    sources = {s.source: Cell(s.value, s.stderr, s.n) for s in scores if s.metric == metric}
    found = {}
    for domain in DOMAINS:
        cells = [cell for source, cell in sources.items() if source.split("_")[0] == domain]
        if cells:
            found[domain] = pool(cells)
    found["overall"] = pool(list(sources.values()))
    synthetic = [cell for source, cell in sources.items() if source != "mind"]
    if synthetic:
        found["synthetic"] = pool(synthetic, by_scenes=False)
    return found


def _published(whole: bool) -> list[Row]:
    """Return Table 1; its means only if the models' means are over all sources too."""
    rows = []
    for name, values in published.TABLE_1.items():
        overall = "overall" if name in published.PROPRIETARY else "synthetic"
        names = (*DOMAINS, overall) if whole else DOMAINS
        row = Row(name, "published", note="as published, not run here")
        row.acc = {
            column: Cell(value / 100, math.nan, 0)
            for column, value in zip(names, values, strict=False)
        }
        if whole and name in published.TABLE_12:
            row.entropy = {"overall": Cell(published.TABLE_12[name], math.nan, 0)}
        rows.append(row)
    return rows


# -- forms ------------------------------------------------------------------------------------


def columns(rows: Sequence[Row]) -> list[str]:
    """Return the accuracy columns that any model fills, in table order."""
    there = {name for row in rows if row.kind == "model" for name in row.acc}
    return [name for name in ("overall", "synthetic", *DOMAINS) if name in there]


def percent(cell: Cell | None) -> str:
    """Return `12.3 ± 1.9`: percent with the half-width of the 95 % interval, if known."""
    if cell is None:
        return ""
    if math.isnan(cell.stderr) or cell.stderr < 1e-9:  # rounding of a constant
        return f"{100 * cell.value:.1f}"
    return f"{100 * cell.value:.1f} ± {196 * cell.stderr:.1f}"


def bits(cell: Cell | None, estimated: bool = False) -> str:
    """Return the entropy in bits with its 95 % half-width; `~` marks an estimate from samples."""
    if cell is None:
        return ""
    mark = "~" if estimated else ""
    if math.isnan(cell.stderr):
        return f"{mark}{cell.value:.3f}"
    return f"{mark}{cell.value:.3f} ± {1.96 * cell.stderr:.3f}"


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells as text, the form that Markdown, CSV and the page share."""
    names = columns(rows)
    means = [name for name in names if name not in DOMAINS]
    domains = [name for name in names if name in DOMAINS]
    head = ["#", "model", *means, "entropy (bits)", "malformed", "p vs. first", "note", *domains]
    body, rank = [], 0
    for row in rows:
        rank += row.kind == "model"
        body.append(
            [
                str(rank) if row.kind == "model" else "",
                row.name,
                *(percent(row.acc.get(name)) for name in means),
                bits(row.entropy.get("overall"), row.estimated),
                percent(row.malformed),
                "" if row.p_value is None else f"{row.p_value:.3g}",
                row.note or (row.kind if row.kind == "baseline" else ""),
                *(percent(row.acc.get(name)) for name in domains),
            ]
        )
    return head, body


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    head, body = table(rows)
    lines = [head, ["---"] * len(head), *body]
    return "".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |\n" for line in lines
    )


def to_csv(rows: Sequence[Row]) -> str:
    """Return one line a row and column: name, kind, metric, column, value, stderr, n."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", "kind", "metric", "column", "value", "stderr", "n"])
    for row in rows:
        for metric, cells in (("acc", row.acc), ("entropy", row.entropy)):
            for column, cell in cells.items():
                error = "" if math.isnan(cell.stderr) else cell.stderr
                writer.writerow([row.name, row.kind, metric, column, cell.value, error, cell.n])
    return out.getvalue()


def to_json(rows: Sequence[Row]) -> str:
    """Return everything as JSON; unknown numbers are null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return None if isinstance(value, float) and math.isnan(value) else value

    return json.dumps([plain(asdict(row)) for row in rows], indent=2, ensure_ascii=False) + "\n"


def to_html(rows: Sequence[Row], title: str = "UserMirrorer leaderboard") -> str:
    """Return one self-contained page: sortable table, bars by domain, accuracy against entropy."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    head, body = table(rows)
    return environment.get_template("leaderboard.html").render(
        title=title,
        head=head,
        lines=list(zip(rows, body, strict=True)),
        bars=_bars(rows),
        scatter=_scatter(rows),
    )


def _bars(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return a domain's name and bars (name, kind, hue, percent, low, high), domain by domain."""
    found = []
    for name in columns(rows):
        bars = []
        for number, row in enumerate(r for r in rows if r.kind != "published"):
            if (cell := row.acc.get(name)) is None:
                continue
            half = 0 if math.isnan(cell.stderr) else 196 * cell.stderr
            value = 100 * cell.value
            bars.append(
                {
                    "name": row.name,
                    "kind": row.kind,
                    "hue": number % 6,
                    "value": value,
                    "low": max(value - half, 0),
                    "high": min(value + half, 100),
                }
            )
        found.append({"domain": name, "bars": bars})
    return found


def _scatter(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return places in a 760 x 380 drawing of the rows with an accuracy and an entropy.

    `label` is the height of the name, moved down where it would lie on a neighbour's.
    """
    found = []
    for row in rows:
        accuracy = row.acc.get("overall") or row.acc.get("synthetic")
        entropy = row.entropy.get("overall")
        if accuracy and entropy:
            found.append((row, entropy.value, accuracy.value))
    top = max((x for _, x, _ in found), default=1) * 1.15 or 1
    points: list[dict[str, Any]] = []
    for row, x, y in sorted(found, key=lambda item: -item[2]):
        place: dict[str, Any] = {"name": row.name, "kind": row.kind}
        place |= {"x": 50 + 690 * x / top, "y": 340 - 330 * y}
        near = [p["label"] for p in points if abs(p["x"] - place["x"]) < 190]
        place["label"] = max([place["y"] + 4, *(label + 13 for label in near)])
        points.append({**place, "top": top})
    return points
