"""The report: Markdown, one self-contained page, and its plots."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from usermirrorer.builders.common import storage
from usermirrorer.recipes.interact import arms
from usermirrorer.recipes.interact.measures import METRICS
from usermirrorer.recipes.interact.published import PRINTED

Row = Mapping[str, Any]
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
td, th { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; }
"""


def write(results: Row, folder: Path) -> None:
    """Write `report.md`, `report.html` and their plots.

    Args:
        results: Of `pipeline.run`.
        folder: Where to.
    """
    from usermirrorer.model_cards import plots

    order = [*arms.CONTROLS, *results["plan"]["simulators"]]
    scores = {r: {arm: own[arm] for arm in order} for r, own in results["scores"].items()}
    figures = {
        "improvement.png": plots.interaction_bars(scores, folder / "improvement.png"),
        "popularity.png": plots.popularity_points(results["popularity"], folder / "popularity.png"),
    }
    blocks = _blocks(results, figures)
    with storage.atomic(folder / "report.md") as temporary:
        temporary.write_text("\n\n".join(map(_markdown, blocks)) + "\n", encoding="utf-8")
    with storage.atomic(folder / "report.html") as temporary:
        temporary.write_text(_page(blocks, folder), encoding="utf-8")


#: ("heading" | "text" | "table" | "figure", content).
Block = tuple[str, Any]


def _blocks(results: Row, figures: Mapping[str, str]) -> list[Block]:
    simulators = list(results["plan"]["simulators"])
    return [
        ("title", f"Interactive simulation with recommenders: {results['source']}"),
        ("text", _people(results)),
        (
            "text",
            "Whatever is added of a recommender's own list teaches it its own opinion "
            "(self-training), whoever picks it. The controls pick from the same lists: only what "
            "lies above them is the simulator's. The ceiling knows the future.",
        ),
        ("heading", "What a simulator is worth"),
        ("text", "Differences in NDCG@10 (percentage points), over all recommenders, with 95 % "
         "bootstrap intervals over people, paired. An interval that holds 0 shows nothing."),
        ("table", _against(results["over_all"], simulators)),
        ("text", _verdict(results["over_all"], simulators)),
        ("figure", ("improvement.png", figures["improvement.png"])),
        ("heading", "Accuracy on the test part, in percent"),
        ("text", "Improve is the paper's: relative to no addition. Rows in italics are Tables 3 "
         "and 9 as published, not run here: other people, a model of 3B parameters, longer "
         "training."),
        ("table", _accuracy(results)),
        ("heading", "Do simulators order the recommenders as people do?"),
        ("text", "Kendall's tau between what a simulator thinks of each recommender's lists (the "
         "gain 1 / log2(1 + rank) expected over its choice) and NDCG@10 of the same lists on what "
         "people took later."),
        ("table", _fidelity(results["fidelity"], simulators)),
        ("heading", "What the added log does to popularity"),
        ("text", "Lift: mean popularity over that of what the same people really took next. "
         "Coverage: share of the catalogue. Diversity: how often two people's items differ."),
        ("table", _popularity(results["popularity"])),
        ("figure", ("popularity.png", figures["popularity.png"])),
        ("heading", "Cost per 1,000 simulated people"),
        ("table", _cost(results)),
    ]  # fmt: skip


def _people(results: Row) -> str:
    people, log, plan = results["people"], results["log"], results["plan"]
    trained = ", ".join(f"{name} {count}" for name, count in people["trained"].items())
    epochs = ", ".join(f"{name} {count}" for name, count in results["epochs"].items())
    return (
        f"{people['used']} people, {log['items']:,} items; {log['train']:,} interactions to learn "
        f"from, {log['valid']:,} to stop by and {log['test']:,} to measure on, each person's "
        f"oldest first. Left out: {people['removed']} who trained a simulator ({trained}) and "
        f"{people['short']} with too few interactions. Seeds: {plan['seeds']}. Hyperparameters of "
        f"Table 8; epochs until validation stopped improving or the plan's largest number was "
        f"reached: {epochs}."
    )


def _points(triple: Sequence[float]) -> str:
    mean, low, high = (100 * value for value in triple)
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _against(over_all: Row, simulators: Sequence[str]) -> list[list[str]]:
    rows = [["", *(f"above {control}" for control in arms.CONTROLS)]]
    for name in [*simulators, *(control for control in arms.CONTROLS if control != "none")]:
        own = over_all[name]["against"]
        rows.append([name, *(_points(own[c]) if c in own else "" for c in arms.CONTROLS)])
    return rows


def _verdict(over_all: Row, simulators: Sequence[str]) -> str:
    blind = [control for control in arms.CONTROLS if control != "ceiling"]
    said = []
    for name in simulators:
        own = over_all[name]["against"]
        above = [control for control in blind if own[control][1] > 0]
        below = [control for control in blind if own[control][2] < 0]
        if len(above) == len(blind):
            said.append(f"{name} lies above no addition and all controls but the ceiling.")
            continue
        parts = [f"lies above {', '.join(above)}" if above else "lies above no control"]
        if below:
            parts.append(f"below {', '.join(below)}")
        rest = [control for control in blind if control not in above and control not in below]
        if rest:
            parts.append(f"not told from {', '.join(rest)}")
        said.append(f"{name} {'; '.join(parts)}: no gain is shown to be its own.")
    return " ".join(said)


def _accuracy(results: Row) -> list[list[str]]:
    rows = [["", *METRICS, *(f"Improve {metric}" for metric in METRICS)]]
    printed = PRINTED.get(results["source"], {})
    order = [*arms.CONTROLS, *results["plan"]["simulators"]]
    for recommender, own in {**results["scores"], "mean": results["over_all"]}.items():
        for name in order:
            row = own[name]
            better = ["" if name == "none" else _share(row["improve"][m]) for m in METRICS]
            values = [f"{100 * row['mean'][metric]:.2f}" for metric in METRICS]
            rows.append([f"{recommender}: {name}", *values, *better])
        for name, numbers in printed.get(recommender, {}).items():
            start = printed[recommender]["Backbone"]
            gains = [_share(a / b - 1) for a, b in zip(numbers, start, strict=True)]
            shown = gains if name != "Backbone" else [""] * len(METRICS)
            values = [f"{number:.2f}" for number in numbers]
            rows.append([f"*{recommender}: {name}, as published, not run here*", *values, *shown])
    return rows


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f} %"


def _fidelity(fidelity: Row, simulators: Sequence[str]) -> list[list[str]]:
    rows = [["", "Kendall's tau", *fidelity["people"]]]
    people = [f"{100 * value:.2f}" for value in fidelity["people"].values()]
    rows.append(["people: NDCG@10 (%)", "", *people])
    for name in simulators:
        own = fidelity[name]
        told = own["agreement"]
        tau = f"{told['tau']:+.2f} [{told['low']:+.2f}, {told['high']:+.2f}]" if told else "-"
        rows.append([f"{name}: expected gain", tau, *(f"{v:.3f}" for v in own["gain"].values())])
    return rows


def _popularity(popularity: Row) -> list[list[str]]:
    rows = [["", "lift", "coverage", "diversity"]]
    for name in sorted(popularity, key=lambda name: (name != "real log", name)):
        row = popularity[name]
        cells = [f"{row['lift']:.2f}", f"{100 * row['coverage']:.1f} %", f"{row['diversity']:.3f}"]
        rows.append([name, *cells])
    return rows


def _cost(results: Row) -> list[list[str]]:
    rows = [["", "tokens read", "tokens written", "seconds", "picks the first label"]]
    for name, row in results["cost"].items():
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:,.0f}"
        first = f"{100 * results['first_label'][name]:.0f} % (chance 10 %)"
        rows.append([name, f"{row['tokens_in']:,}", f"{row['tokens_out']:,}", seconds, first])
    return rows


def _markdown(block: Block) -> str:
    kind, content = block
    if kind == "title":
        return f"# {content}"
    if kind == "heading":
        return f"## {content}"
    if kind == "figure":
        return f"![{content[1]}]({content[0]})"
    if kind == "table":
        head, *body = content
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return str(content)


def _page(blocks: Sequence[Block], folder: Path) -> str:
    body = "\n".join(_html(block, folder) for block in blocks)
    title = html.escape(str(blocks[0][1]))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _html(block: Block, folder: Path) -> str:
    kind, content = block
    if kind == "title":
        return f"<h1>{html.escape(content)}</h1>"
    if kind == "heading":
        return f"<h2>{html.escape(content)}</h2>"
    if kind == "figure":
        name, told = content
        image = base64.b64encode((folder / name).read_bytes()).decode()
        return f'<img alt="{html.escape(told)}" src="data:image/png;base64,{image}">'
    if kind == "table":
        return _html_table(content)
    return f"<p>{html.escape(content)}</p>"


def _html_table(content: Sequence[Sequence[str]]) -> str:
    head, *body = content
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    for row in body:
        cells = [html.escape(cell) for cell in row]
        if cells[0].startswith("*"):
            cells = [f"<em>{cell.strip('*')}</em>" for cell in cells]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(lines)}</table>"
