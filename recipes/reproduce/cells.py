"""Results of finished steps to the tables of an item's page, ours beside the paper's.

One function per `kind` of an item's `page`; each gives tables as the analyses do
(`eval_harness/analysis/result.py`), so that one renderer shows them all. Every row says in `made
by` which step, under which key, made its numbers; a row that was not run says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import read_json
from usermirrorer.eval_harness import leaderboard, metrics
from usermirrorer.eval_harness import published as scores_printed
from usermirrorer.eval_harness.analysis.result import Column, Table, ends
from usermirrorer.eval_harness.results import Score, read_results, read_samples
from usermirrorer.recipes.reproduce.plan import Item
from usermirrorer.recipes.reproduce.published import printed
from usermirrorer.recipes.reproduce.runner import Run

PUBLISHED, NOT_RUN = "as published, not run here", "not run"
#: Name of a mode of exposures -> what a page calls it.
MODES = {
    "paper": "the paper's exposures",
    "exchangeable": "exposures without tells (the default)",
    "retrieved": "retrieved exposures",
}
_STAGES = {"sft": " +SFT", "dpo": " +SFT+DPO", "grpo": " +SFT+GRPO", "behave": " +SFT on behaviors"}
Row = dict[str, Any]


@dataclass
class Content:
    """What a page shows: tables by name, notes, and pictures (file -> what it shows)."""

    tables: dict[str, Table] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pictures: dict[Path, str] = field(default_factory=dict)


def content(run: Run, item: Item) -> Content:
    """Return what the page of an item shows.

    Raises:
        UserError: if its `page` names no kind.
    """
    kind = str(item.page.get("kind", ""))
    if kind not in KINDS:
        raise UserError(f"a page has no kind {kind!r}", where=item.name)
    return KINDS[kind](run, item)


def made_by(run: Run, step: str) -> Row:
    """Return the cells that say what made a row, or why there is nothing in it."""
    if step in run.state.done:
        return {"made by": f"{step}-{run.state.places[step].key}", "state": "here"}
    return {"made by": step, "state": f"{NOT_RUN}: {run.state.reasons.get(step, 'not asked for')}"}


def folder_of(run: Run, step: str) -> Path | None:
    """Return the folder of a finished step; None of others."""
    return run.state.places[step].folder if step in run.state.done else None


_TEXTS = (Column("state", "here, as published, or why not run"),)
_MADE = Column("made by", "step and key; manifest.json has its command and inputs")


# --- accuracies ---------------------------------------------------------------------------------


def _accuracy(run: Run, item: Item) -> Content:
    family = item.page.get("family", "usermirror")
    made = Content()
    for mode in run.plan.values["exposures"]:
        steps = {
            name: step
            for template in item.page.get("steps", ["score", "ask"])
            for step in item.needs
            if (name := _middle(step, template, mode))
        }
        scored = {n: s for n, s in steps.items() if s in run.state.done}
        rows, domains = _board(run, scored, family)
        made.tables[mode] = _accuracy_table(run, item, mode, steps, rows, domains)
        if mode != "paper" and rows:
            made.tables[f"{mode}_placebo"] = _placebo_table(run, mode, scored, rows)
    made.notes += [
        "Overall is the plain mean over sources without logged lists (all but MIND), which is how "
        "the paper's Overall of open and fine-tuned models comes out; of proprietary ones it is "
        "the mean over all scenes.",
        "What of an accuracy on the paper's exposures is preference cannot be told: they have "
        "tells. On the default ones the placebo, whose target another user took, says it.",
    ]
    return made


def _middle(step: str, template: str, mode: str) -> str:
    start, end = f"{template}-", f"-{mode}"
    fits = step.startswith(start) and step.endswith(end)
    return step[len(start) : -len(end)] if fits else ""


def _board(
    run: Run, scored: Mapping[str, str], family: str
) -> tuple[dict[str, leaderboard.Row], list[str]]:
    """Return the leaderboard's row of each model, and the domains in order."""
    rows: dict[str, leaderboard.Row] = {}
    domains: list[str] = []
    for name, step in scored.items():
        board = leaderboard.build({name: run.state.places[step].folder}, family)
        rows |= {row.name: row for row in board.rows if row.kind in ("model", "baseline")}
        domains = board.domains
    return rows, domains


def label_of(run: Run, name: str) -> tuple[str, str]:
    """Return what a page calls a scored model, and its name in Table 1 ("" if it has none)."""
    stage, _, trainee = name.rpartition("-")
    models, like = run.plan.settings["models"], run.plan.values.get("like", {})
    public = Path(str(models.get(trainee, trainee))).name
    if name == "teacher":
        return f"teacher ({Path(str(models['teacher'])).name})", "Qwen2.5-32B-Instruct"
    if stage:
        return public + _STAGES.get(stage, f" {stage}"), like.get(trainee, "") + _STAGES[stage]
    return public, f"{like[trainee]}-Instruct" if trainee in like else public


def _accuracy_table(
    run: Run,
    item: Item,
    mode: str,
    steps: Mapping[str, str],
    rows: Mapping[str, leaderboard.Row],
    domains: Sequence[str],
) -> Table:
    columns = [*domains, leaderboard.SYNTHETIC] if domains else list(scores_printed.DOMAINS)
    beside = mode == "paper" and item.page.get("published") != "none"
    body, shown = [], set()
    for name, step in steps.items():
        label, counterpart = label_of(run, name)
        row = _cells(rows[name], "acc", columns) if name in rows else {}
        body.append({"model": label, **made_by(run, step), **row})
        if beside and counterpart in scores_printed.TABLE_1:
            body.append(_printed_row(counterpart))
            shown.add(counterpart)
    baselines = [(n, r) for n, r in rows.items() if r.kind == "baseline"]
    body += [{"model": n, "state": "baseline", **_cells(r, "acc", columns)} for n, r in baselines]
    if beside:
        body += [_printed_row(name) for name in scores_printed.TABLE_1 if name not in shown]
    heads = [Column("model", "what answers"), *_TEXTS]
    heads += [Column(_head(c), f"accuracy on {c}", "share", True) for c in columns]
    text = f"Accuracy on {MODES.get(mode, mode)}."
    return Table(f"Accuracy, {MODES.get(mode, mode)}", text, [*heads, _MADE], body)


def _head(column: str) -> str:
    return "Overall" if column == leaderboard.SYNTHETIC else column


def _cells(row: leaderboard.Row, metric: str, columns: Iterable[str]) -> Row:
    cells: Row = {}
    for column in columns:
        cell = row.cell(metric, column)
        if cell:
            cells |= ends(_head(column), cell.value, *cell.interval)
    return cells


def _printed_row(name: str) -> Row:
    values = zip((*scores_printed.DOMAINS, "Overall"), scores_printed.TABLE_1[name], strict=True)
    return {"model": name, "state": PUBLISHED, **{c: v / 100 for c, v in values}}


def _placebo_table(
    run: Run, mode: str, scored: Mapping[str, str], rows: Mapping[str, leaderboard.Row]
) -> Table:
    kinds = {
        "accuracy": "acc",
        "placebo": "acc_placebo",
        "accuracy minus placebo": "acc_over_placebo",
        "loss without history": "acc_loss_no_history",
        "loss with another's": "acc_loss_swapped",
    }
    body = []
    for name, step in scored.items():
        cells: Row = {}
        for head, metric in kinds.items():
            cell = rows[name].cell(metric)
            cells |= ends(head, cell.value, *cell.interval) if cell else {}
        body.append({"model": label_of(run, name)[0], **cells, **made_by(run, step)})
    heads = [Column("model", "what answers")]
    for head, metric in kinds.items():
        form = "share" if metric in ("acc", "acc_placebo") else "points"
        heads.append(Column(head, metric, form, True))  # type: ignore[arg-type]
    text = "Over all scenes: what is left of the accuracy when what lists tell is taken off."
    return Table("What of it is preference", text, [*heads, _MADE], body)


# --- Table 2 ------------------------------------------------------------------------------------


def _selection(run: Run, item: Item) -> Content:
    made = Content()
    for mode in run.plan.values["exposures"]:
        made.tables[mode] = _selection_table(run, mode)
    made.notes += [
        "Deviations are over seeds. The difference to equation 3's strategy is paired by scene, "
        "the mean over seeds, by a test that flips whole users, corrected for the number of "
        "strategies (Holm).",
        "`random_direct` has no decision processes and is scored on the likeliest label.",
    ]
    return made


def _selection_table(run: Run, mode: str) -> Table:
    values = run.plan.values
    own = {
        strategy: [f"picked-{strategy}-{seed}-{mode}" for seed in values["selection_seeds"]]
        for strategy in values["strategies"]
    }
    scores = {
        strategy: [
            read_results(folder) for step in steps if (folder := folder_of(run, step)) is not None
        ]
        for strategy, steps in own.items()
    }
    tests = _against_first(scores, values["strategies"][0])
    paper = printed("table2") if mode == "paper" else {"rows": {}}
    body: list[Row] = []
    for strategy, steps in own.items():
        row: Row = {"strategy": strategy, **made_by(run, steps[0]), **tests.get(strategy, {})}
        row["seeds"] = len(scores[strategy])
        for head, logged in (("MIND", True), ("Overall", False)):
            row |= _over_seeds(head, scores[strategy], logged)
        body.append(row)
        if strategy in paper["rows"]:
            body.append(_printed_selection(strategy, paper["rows"][strategy]))
    if "base" in paper["rows"]:
        body.append(_printed_selection("Llama-3.2-3B-Instruct, untrained", paper["rows"]["base"]))
    heads = [Column("strategy", "of distil"), *_TEXTS, Column("seeds", "trained so often", "count")]
    for head, told in (("MIND", "MIND"), ("Overall", "sources without logged lists, each alike")):
        heads.append(Column(head, f"accuracy, {told}, mean over seeds", "share", True))
        heads.append(Column(f"{head} deviation", "standard deviation over seeds", "share"))
    heads.append(Column("difference", "to delta_eu, paired by scene", "points", True))
    heads += [Column("p", "of it, corrected (Holm)", "p"), _MADE]
    name = MODES.get(mode, mode)
    return Table(f"Strategies, {name}", f"Accuracy on {name}.", heads, body)


def _over_seeds(head: str, runs: Sequence[Sequence[Score]], logged: bool) -> Row:
    """Return the mean over seeds with the interval of the scenes, and the deviation over seeds."""
    cells = []
    for scores in runs:
        parts = [s for s in scores if s.metric == "acc" and (s.source == "mind") == logged]
        if parts:
            told = [leaderboard.Cell(s.value, s.stderr, s.n, s.users) for s in parts]
            cells.append(leaderboard.pool(told, [1.0] * len(told)))
    if not cells:
        return {}
    values = [cell.value for cell in cells]
    mean = sum(values) / len(values)
    # The seeds are scored on the same scenes: their mean is no surer than one of them.
    error = sum(cell.stderr for cell in cells) / len(cells)
    low, high = metrics.interval(mean, error, cells[0].users, "share")
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1 or 1))
    return {**ends(head, mean, low, high), f"{head} deviation": spread if len(values) > 1 else None}


def _against_first(scores: Mapping[str, Sequence[Sequence[Score]]], first: str) -> dict[str, Row]:
    """Return the paired difference of every strategy to the first one."""
    hits = {name: _hits(runs) for name, runs in scores.items() if runs}
    if first not in hits:
        return {}
    tests = {}
    for name, own in hits.items():
        common = sorted(own.keys() & hits[first].keys())
        if name != first and common:
            pairs = ([hits[first][s][0] for s in common], [own[s][0] for s in common])
            tests[name] = metrics.paired_test(*pairs, [own[s][1] for s in common])
    corrected = metrics.holm([test.p_value for test in tests.values()])
    return {
        name: {**ends("difference", test.difference, test.low, test.high), "p": p}
        for (name, test), p in zip(tests.items(), corrected, strict=True)
    }


def _hits(runs: Sequence[Sequence[Score]]) -> dict[str, tuple[float, str]]:
    """Return scene -> mean accuracy over seeds, and its user."""
    seen: dict[str, list[float]] = {}
    users: dict[str, str] = {}
    for scores in runs:
        for score in scores:
            if score.metric == "acc":
                for scene, row in read_samples(score).items():
                    seen.setdefault(scene, []).append(float(row["acc"]))
                    users[scene] = f"{score.source}/{row['user_id']}"
    return {scene: (sum(v) / len(v), users[scene]) for scene, v in seen.items()}


def _printed_selection(name: str, values: Sequence[float]) -> Row:
    heads = ("MIND", "MIND deviation", "Overall", "Overall deviation")
    cells = {head: value / 100 for head, value in zip(heads, values, strict=True)}
    return {"strategy": name, "state": PUBLISHED, **cells}


# --- Figure 3, Tables 5 and 6 -------------------------------------------------------------------


def _distilled(run: Run, item: Item) -> Content:
    part = item.page["part"]
    made = Content()
    for mode in run.plan.values["exposures"]:
        folder = folder_of(run, step := f"report-{mode}")
        facts = read_json(folder / "report.json") if folder else {}
        made.tables[mode] = _PARTS[part](run, mode, facts, made_by(run, step))
        pictures = {"uncertainty": ["epistemic.png"], "tokens": ["lengths.png"]}.get(part, [])
        if folder:
            for name in (name for name in pictures if (folder / name).exists()):
                made.pictures[folder / name] = f"{MODES.get(mode, mode)}: {facts['alts'][name]}"
    return made


def _uncertainty(run: Run, mode: str, facts: Row, made: Row) -> Table:
    heads = [
        Column("source", "of the scenes"),
        *_TEXTS,
        Column("scenes", "of both models", "count"),
    ]
    for role in ("weak", "strong"):
        for name in ("total", "mutual", "epistemic"):
            heads.append(Column(f"{role}_{name}", "mean over scenes, equation 2", "bits"))
    heads += [Column("delta", "equation 3, weak minus strong", "bits")]
    heads += [Column("higher", "scenes in which the weak one is less sure", "share"), _MADE]
    body = [{**row, **made} for row in facts.get("uncertainty", [])] or [{"source": "", **made}]
    text = "Means by source; what the paper shows as a histogram is the picture above."
    return Table(f"Uncertainty, {MODES.get(mode, mode)}", text, heads, body)


def _tokens(run: Run, mode: str, facts: Row, made: Row) -> Table:
    heads = [Column("source", "of the scenes"), Column("model", "that decides"), *_TEXTS]
    heads += [Column("scenes", "with a decision", "count")]
    heads += [Column(n, f"tokens {n} a scene or decision", "number") for n in ("input", "output")]
    heads += [Column(f"total_{n}", "tokens in all", "count") for n in ("input", "output")]
    body = [{**row, **made} for row in facts.get("tokens", [])] or [{"source": "", **made}]
    if mode == "paper":
        for source, row in printed("table5")["rows"].items():
            values = dict(zip(printed("table5")["columns"], row, strict=True))
            for role, model in (
                ("strong", "Qwen2.5-32B-Instruct"),
                ("weak", "Llama-3.2-3B-Instruct"),
            ):
                cells: Row = {n: values[f"{role}_{n}"] for n in ("input", "output")}
                cells |= {f"total_{n}": 1e6 * values[f"{role}_total_{n}"] for n in cells}
                head = {"source": source, "model": model, "state": PUBLISHED}
                body.append({**head, "scenes": values["scenes"], **cells})
    title = f"Tokens, {MODES.get(mode, mode)}"
    return Table(title, "Input once a scene, output for every decision.", [*heads, _MADE], body)


def _composition(run: Run, mode: str, facts: Row, made: Row) -> Table:
    from usermirrorer.builders.scenes.presets import PAPER

    pairs = {row["source"]: row["pairs"] for row in facts.get("composition", [])}
    folder, tests = folder_of(run, f"mix-{mode}"), dict[str, int]()
    if folder:
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        column = pq.read_table(folder / "test.parquet", columns=["source"])["source"]
        tests = {row["values"]: row["counts"] for row in pc.value_counts(column).to_pylist()}
    body: list[Row] = []
    for source in [*run.plan.values["sources"], "all"]:
        own = {"source": source, **made}
        if facts:
            own["pairs"] = pairs.get(source, 0) if source != "all" else facts["pairs"]
        if tests:
            own["test scenes"] = tests.get(source, 0) if source != "all" else sum(tests.values())
        paper = [p for s, p in PAPER.items() if source in (s, "all")]
        counts = {"pairs": sum(p.pairs for p in paper), "test scenes": sum(p.test for p in paper)}
        body += [own, {"source": source, "state": PUBLISHED, **counts}]
    heads = [Column("source", "of feedback"), *_TEXTS, Column("pairs", "to train on", "count")]
    heads += [Column("test scenes", "to be scored", "count"), _MADE]
    return Table(f"Composition, {MODES.get(mode, mode)}", "Pairs and test scenes.", heads, body)


_PARTS: dict[str, Callable[[Run, str, Row, Row], Table]] = {
    "uncertainty": _uncertainty,
    "tokens": _tokens,
    "composition": _composition,
}


# --- analyses, recommenders, the grid -----------------------------------------------------------


def _analysis(run: Run, item: Item) -> Content:
    """Show the tables of `usermirrorer analyse`, for each mode, and its published ones once."""
    made, wanted = Content(), item.page.get("tables")
    for template in item.page["steps"]:
        for step in item.needs:
            if not step.startswith(f"{template}-"):
                continue
            mode = step.rpartition("-")[2]
            folder, title = folder_of(run, step), MODES.get(mode, mode)
            if folder is None:
                made.tables[step] = _missing(run, step)
                continue
            stored = read_json(folder / "analysis.json")
            for name, table in stored["tables"].items():
                if not wanted or name in wanted:
                    made.tables[f"{name}_{step}"] = _of_stored(table, title, made_by(run, step))
            for name, table in stored["published"].items():
                made.tables[f"published_{name}"] = _of_stored(table, PUBLISHED, {})
            made.notes += [note for note in stored["notes"] if note not in made.notes]
            for name, told in stored["plots"].items():
                made.pictures[folder / name] = f"{title}: {told}"
    return made


def _of_stored(table: Mapping[str, Any], title: str, made: Row) -> Table:
    columns = [Column(**column) for column in table["columns"]] + ([_MADE] if made else [])
    rows = [{**row, **made} for row in table["rows"]]
    return Table(f"{table['title']}, {title}", table["text"], columns, rows)


def _missing(run: Run, step: str) -> Table:
    return Table(step, "", [*_TEXTS, _MADE], [made_by(run, step)])


def _interact(run: Run, item: Item) -> Content:
    from usermirrorer.recipes.interact.measures import METRICS
    from usermirrorer.recipes.interact.published import PRINTED

    made = Content()
    heads = [Column("recommender", "of Table 8"), Column("added", "to its log"), *_TEXTS]
    heads += [Column(metric, "on the test part, in percent", "share") for metric in METRICS]
    heads += [Column("N@10 difference", "to no addition, paired by person", "points", True), _MADE]
    for step in item.needs:
        source, folder = step.partition("-")[2], folder_of(run, step)
        results = read_json(folder / "results.json") if folder else {"scores": {}}
        body: list[Row] = []
        for name in item.page["recommenders"]:
            arms = results["scores"].get(name, {})
            for arm, own in arms.items():
                row = {"recommender": name, "added": arm, **own["mean"], **made_by(run, step)}
                against = own["against"].get("none")
                body.append({**row, **(ends("N@10 difference", *against) if against else {})})
            if not arms:
                body.append({"recommender": name, **made_by(run, step)})
            for arm, values in PRINTED.get(source, {}).get(name, {}).items():
                cells = {m: v / 100 for m, v in zip(METRICS, values, strict=True)}
                body.append({"recommender": name, "added": arm, "state": PUBLISHED, **cells})
        made.tables[source] = Table(f"Recommenders, {source}", "", heads, body)
        if folder:
            made.pictures[folder / "improvement.png"] = f"What each addition gains, {source}"
    made.notes.append("The published rows are of other people, a model of 3B and longer training.")
    return made


def _sweep(run: Run, item: Item) -> Content:
    made = Content()
    body: list[Row] = []
    for step in item.needs:
        stage, folder = step.partition("-")[2], folder_of(run, step)
        points = read_json(folder / "sweep.json")["points"] if folder else []
        for point in points:
            told = metrics.interval(point["accuracy"], point["stderr"], point["scenes"], "share")
            row = {"stage": stage, "learning rate": f"{point['learning_rate']:g}"}
            row |= {"epochs": str(point["epochs"]), "scenes": point["scenes"]}
            body.append({**row, **ends("accuracy", point["accuracy"], *told), **made_by(run, step)})
        if not points:
            body.append({"stage": stage, **made_by(run, step)})
        if folder and (folder / "sweep.png").exists():
            made.pictures[folder / "sweep.png"] = f"The grid of {stage}"
    for stage, values in printed("table7")["rows"].items():
        row = dict(zip(printed("table7")["columns"], values, strict=True))
        rates = {"learning rate": row["learning_rate"], "epochs": row["epochs"]}
        body.append({"stage": stage, "state": PUBLISHED, **rates})
    heads = [
        Column("stage", "of training"),
        *_TEXTS,
        Column("learning rate", ""),
        Column("epochs", ""),
    ]
    heads += [Column("accuracy", "on held-out train users", "share", True)]
    heads += [Column("scenes", "they are judged on", "count"), _MADE]
    made.tables["grid"] = Table("The grid", "", heads, body)
    made.notes.append("The paper prints the grid, but no accuracies and not which point it took.")
    return made


KINDS: dict[str, Callable[[Run, Item], Content]] = {
    "accuracy": _accuracy,
    "selection": _selection,
    "distilled": _distilled,
    "analysis": _analysis,
    "interact": _interact,
    "sweep": _sweep,
}
