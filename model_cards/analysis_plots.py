"""Plots of the analyses: tables of a `Result` -> PNG files and what they show, in words.

Two kinds: rows of points with their intervals, and points with intervals against a number.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usermirrorer.eval_harness.analysis.result import Result, Row
from usermirrorer.model_cards.plots import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    YELLOW,
    axes_grid,
    write_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Rows of one panel, at most: the most frequent factors.
MOST_ROWS = 12
#: Panels beside each other, at most.
MOST_COLUMNS = 3
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, BLACK, GREY)
_MARKS = "osD^vPX*"


@dataclass(frozen=True)
class Points:
    """A series: places (names, or numbers) with values and the ends of their intervals."""

    name: str
    places: Sequence[Any]
    values: Sequence[float]
    lows: Sequence[float | None]
    highs: Sequence[float | None]

    @classmethod
    def of(
        cls, name: str, rows: Iterable[Row], place: str, value: str, scale: float = 100
    ) -> Points:
        """Take them from rows; shares become percent."""
        kept = [row for row in rows if row.get(value) is not None]

        def scaled(key: str) -> list[float | None]:
            numbers = [row.get(key) for row in kept]
            return [None if x is None else scale * x for x in numbers]

        ends = (scaled(f"{value}_low"), scaled(f"{value}_high"))
        values = [scale * row[value] for row in kept]
        return cls(name, [row[place] for row in kept], values, *ends)


@dataclass(frozen=True)
class Panel:
    """Axes: their title, series, and lines or curves to compare with (name -> values)."""

    title: str
    series: Sequence[Points]
    label: str
    lines: Mapping[str, float]


def draw(name: str, result: Result, folder: Path) -> dict[str, str]:
    """Draw the plots of an analysis.

    Args:
        name: Of the analysis.
        result: What it says.
        folder: Where the PNG files go.

    Returns:
        File name -> alt text.
    """
    stored = {key: table.stored()["rows"] for key, table in result.tables.items()}
    return _DRAWN[name](stored, folder)


Stored = Mapping[str, Sequence[Row]]


def _groups(rows: Iterable[Row], key: str) -> dict[Any, list[Row]]:
    grouped: dict[Any, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row[key], []).append(row)
    return grouped


def _columns(shown: Sequence[Panel]) -> int:
    """Return how many panels stand beside each other."""
    return 2 if len(shown) == 4 else min(len(shown), MOST_COLUMNS)


def _axes(shown: Sequence[Panel], width: float, height: float) -> tuple[Any, list[Axes]]:
    """Return axes for the panels, row by row, sizes in inches a panel."""
    columns = _columns(shown)
    rows = -(-len(shown) // columns)
    figure, every = axes_grid(rows, columns, width * columns + 1, height * rows + 0.6)
    for spare in every[len(shown) :]:
        spare.set_visible(False)
    return figure, every[: len(shown)]


def rows_of_points(shown: Sequence[Panel], path: Path) -> None:
    """Draw panels, each with a row for every place.

    Args:
        shown: Panels.
        path: PNG to write.
    """
    most = max(len({p for s in panel.series for p in s.places}) for panel in shown)
    figure, every = _axes(shown, 4.2, 1.0 + 0.28 * max(most, 3))
    for axes, panel in zip(every, shown, strict=True):
        names = list(dict.fromkeys(p for s in panel.series for p in s.places))
        several = len(panel.series)
        for index, series in enumerate(panel.series):
            shift = (index - (several - 1) / 2) * 0.6 / several
            colour, mark = _COLOURS[index % len(_COLOURS)], _MARKS[index % len(_MARKS)]
            heights = [len(names) - 1 - names.index(p) - shift for p in series.places]
            ends = zip(heights, series.lows, series.highs, strict=True)
            for height, low, high in ends:
                if low is not None and high is not None:
                    axes.plot([low, high], [height] * 2, color=colour, linewidth=1.4)
            axes.plot(series.values, heights, mark, color=colour, label=series.name, markersize=5)
        for line, (text, value) in enumerate(panel.lines.items()):
            axes.axvline(value, color=BLACK, linestyle="-:"[line % 2], linewidth=1, label=text)
        axes.set_yticks(range(len(names) - 1, -1, -1), names)
        axes.set_ylim(-0.7, len(names) - 0.3)
        axes.set_xlabel(panel.label)
        axes.set_title(panel.title, fontsize=10)
    _legend(figure, every)
    write_png(figure, path)


def _legend(figure: Any, every: Sequence[Axes]) -> None:
    """Put the names of all panels above them, each once."""
    handles: dict[str, Any] = {}
    for axes in every:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if len(handles) > 1:
        figure.legend(
            list(handles.values()), list(handles), loc="outside upper left", ncols=4, frameon=False
        )


def points_by_number(
    shown: Sequence[Panel],
    ylabel: str,
    path: Path,
    *,
    more: Callable[[Axes, int], None] = lambda axes, index: None,
) -> None:
    """Draw panels, points with intervals against a number.

    Args:
        shown: Panels; `label` names the horizontal axis.
        ylabel: Of the vertical axis.
        path: PNG to write.
        more: Called with the axes and index of each panel, draws what else there is.
    """
    figure, every = _axes(shown, 3.4 if len(shown) > 1 else 5.0, 3.2)
    for number, (axes, panel) in enumerate(zip(every, shown, strict=True)):
        looks = zip(panel.series, itertools.cycle(_COLOURS), itertools.cycle(_MARKS), strict=False)
        for series, colour, mark in looks:
            ends = zip(series.places, series.lows, series.highs, strict=True)
            for place, low, high in ends:
                if low is not None and high is not None:
                    axes.plot([place] * 2, [low, high], color=colour, linewidth=1.2, alpha=0.7)
            axes.plot(
                series.places, series.values, mark, color=colour, label=series.name, markersize=5
            )
        more(axes, number)
        axes.set_xlabel(panel.label)
        axes.set_title(panel.title, fontsize=10)
    for axes in every[:: _columns(shown)]:
        axes.set_ylabel(ylabel)
    _legend(figure, every)
    write_png(figure, path)


def _factors(stored: Stored, folder: Path) -> dict[str, str]:
    told = {}
    stages = ("stimulus", "knowledge", "evaluation")
    kinds = (
        ("frequencies", "share", "share of mentions (%)", "How often factors are named"),
        ("accuracy", "accuracy", "right decisions (%)", "Accuracy of decisions by factor"),
    )
    for table, value, label, title in kinds:
        shown = []
        for stage in stages:
            by_result = _groups((r for r in stored[table] if r["stage"] == stage), "result")
            first = next(iter(by_result.values()))[:MOST_ROWS]
            kept = {row["factor"] for row in first}
            series = [
                Points.of(name, [r for r in rows if r["factor"] in kept], "factor", value)
                for name, rows in by_result.items()
            ]
            shown.append(Panel(stage, series, label, {}))
        rows_of_points(shown, folder / f"{table}.png")
        names = {row["factor"] for row in stored[table]}
        told[f"{table}.png"] = f"{title}, with 95 % intervals: {len(names)} factors and styles."
    shown = [
        Panel("", _beside(rows), quantity.replace("_", " "), {})
        for quantity, rows in _groups(stored["bins"], "quantity").items()
        if len({row["low"] for row in rows}) > 1
    ]
    if not shown:
        return told
    points_by_number(shown, "right decisions (%)", folder / "amount.png")
    told["amount.png"] = "Accuracy of decisions by their length and number of factors, in fifths."
    return told


def _beside(rows: Sequence[Row]) -> list[Points]:
    """Return the bins of each result at their middles, a little apart from those of the others."""
    step = (max(row["high"] for row in rows) - min(row["low"] for row in rows)) / 80
    series = []
    for number, (name, own) in enumerate(_groups(rows, "result").items()):
        middles = [{**row, "middle": (row["low"] + row["high"]) / 2 + number * step} for row in own]
        series.append(Points.of(name, middles, "middle", "accuracy"))
    return series


def _ablation(stored: Stored, folder: Path) -> dict[str, str]:
    rows, base = stored["features"], stored["base"][0]
    lines = {"all features": 100 * base["accuracy"], "chance": 100 * base["chance"]}
    series = [
        Points.of("alone", rows, "feature", "retained"),
        Points.of("removed", rows, "feature", "removed"),
    ]
    names = [s for s in series if s.places]
    rows_of_points([Panel("", names, "accuracy (%)", lines)], folder / "features.png")
    costs = ", ".join(
        f"{row['feature']} {100 * row['loss']:+.1f}" for row in rows if row["loss"] is not None
    )
    told = f"Accuracy with each feature alone and without it; removing costs, in points: {costs}."
    return {"features.png": told}


def _calibration(stored: Stored, folder: Path) -> dict[str, str]:
    centred = [{**row, "percent": 100 * row["confidence"]} for row in stored["curve"]]
    series = [
        Points.of(name, rows, "percent", "right")
        for name, rows in _groups(centred, "result").items()
    ]

    def diagonal(axes: Axes, _: int) -> None:
        axes.plot([0, 100], [0, 100], color=GREY, linestyle=":", linewidth=1)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)

    panel = Panel("", series, "probability of the likeliest option (%)", {})
    points_by_number([panel], "how often it is right (%)", folder / "curve.png", more=diagonal)
    entropies = [Points.of("entropy", stored["entropy"], "result", "entropy", 1)]
    rows_of_points([Panel("", entropies, "entropy (bits)", {})], folder / "entropy.png")
    errors = ", ".join(f"{row['result']} {row['ece']:.3f}" for row in stored["errors"])
    bits = ", ".join(f"{row['result']} {row['entropy']:.3f}" for row in stored["entropy"])
    return {
        "curve.png": f"Calibration curves, dotted: perfect. Expected calibration error: {errors}.",
        "entropy.png": f"Entropy of the behavior given the decision, in bits: {bits}.",
    }


def _style(stored: Stored, folder: Path) -> dict[str, str]:
    rows = stored["style"]
    labels = {"rouge_l": "ROUGE-L", "rouge_2": "ROUGE-2", "bleu_2": "BLEU-2"}
    labels |= {"length": f"length ({rows[0]['length_unit']})"}
    shown = [
        Panel("", [Points.of("", rows, "result", key, 1)], label, {})
        for key, label in labels.items()
    ]
    rows_of_points(shown, folder / "style.png")
    likeness = ", ".join(
        f"{row['result']} {row['rouge_l']:.3f}" for row in rows if row["rouge_l"] is not None
    )
    return {"style.png": f"Likeness to the teacher and length; ROUGE-L: {likeness}."}


def _learning_curve(stored: Stored, folder: Path) -> dict[str, str]:
    import numpy as np

    from usermirrorer.eval_harness.analysis.learning_curve import Fit

    grouped = _groups(stored["points"], "curve")
    series = [Points.of(name, rows, "pairs", "accuracy") for name, rows in grouped.items()]

    def curves(axes: Axes, _: int) -> None:
        looks = itertools.cycle(_COLOURS)
        for row, points, colour in zip(stored["curves"], series, looks, strict=False):
            if row["a"] is not None and len(set(points.places)) > 1:
                x = np.geomspace(min(points.places), max(points.places), 100)
                fitted = Fit(row["a"], row["b"], row["c"]).at(x)
                axes.plot(x, 100 * fitted, color=colour, linewidth=1.2)
        axes.set_xscale("log")
        ticks = sorted({place for points in series for place in points.places})
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=30, ha="right")
        axes.minorticks_off()

    panel = Panel("", series, "training pairs (logarithmic)", {})
    points_by_number([panel], "accuracy (%)", folder / "curve.png", more=curves)
    told = "; ".join(
        f"{name}: " + ", ".join(f"{row['pairs']:,} {100 * row['accuracy']:.1f} %" for row in rows)
        for name, rows in grouped.items()
    )
    return {"curve.png": f"Accuracy by training pairs with fitted curves. {told}."}


def _transfer(stored: Stored, folder: Path) -> dict[str, str]:
    shown = []
    for group, rows in _groups(stored["sources"], "group").items():
        series = [Points.of(name, rows, "source", name) for name in ("base", "full", "cross")]
        kept = [points for points in series if points.places]
        shown.append(Panel(f"group {group}, trained on the other", kept, "accuracy (%)", {}))
    rows_of_points(shown, folder / "transfer.png")
    told = ", ".join(f"{row['source']} {100 * row['over_base']:+.1f}" for row in stored["sources"])
    return {"transfer.png": f"Accuracy on unseen domains; cross minus base, in points: {told}."}


_DRAWN: dict[str, Callable[[Stored, Path], dict[str, str]]] = {
    "factors": _factors,
    "ablation": _ablation,
    "calibration": _calibration,
    "style": _style,
    "learning-curve": _learning_curve,
    "transfer": _transfer,
}
