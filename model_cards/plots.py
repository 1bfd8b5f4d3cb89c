"""Figures of the cards: small functions that write a PNG and return its alt text.

Colours are from the palette of Okabe and Ito, which people with colour-vision deficiencies can
tell apart; series differ in shape or pattern as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from usermirrorer.builders.common.schema import LABELS
from usermirrorer.builders.common.storage import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

#: Values of a histogram.
Numbers: TypeAlias = Sequence[float] | np.ndarray
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
YELLOW, BLACK = "#E69F00", "#000000"
MARKERS = (
    *(("|", ORANGE), ("x", GREEN), ("+", PURPLE), ("1", GREY)),
    *(("2", BLACK), ("4", YELLOW), ("3", GREEN), ("d", ORANGE)),
)


def _figure(width: float = 7.0, height: float = 3.6) -> tuple[Figure, Axes]:
    figure, panels = axes_grid(1, 1, width, height)
    return figure, panels[0]


def axes_grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure, sizes in inches, with its axes in rows from left to right."""
    # The object interface: no global state and no display needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="both", linewidth=0.4, alpha=0.5)
        axes.set_axisbelow(True)
    return figure, panels


def _whole_numbers(axis: Axis) -> None:
    """Put ticks where matplotlib would, but at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure, atomically."""
    with atomic(Path(path)) as temporary:
        # Without the version of matplotlib in it, the same figure gives the same bytes.
        figure.savefig(temporary, format="png", metadata={"Software": None})


def loss_curve(curve: Sequence[Mapping[str, Any]], path: Path) -> str:
    """Draw training loss (and evaluation loss, where there is one) against the step.

    Args:
        curve: Rows with `step` and `loss` or `eval_loss`, in nats a token as trainers log it.
        path: PNG to write.

    Returns:
        Alt text.
    """
    figure, axes = _figure()
    train = [(row["step"], row["loss"]) for row in curve if "loss" in row]
    held_out = [(row["step"], row["eval_loss"]) for row in curve if "eval_loss" in row]
    axes.plot(*zip(*train, strict=True), color=BLUE, marker="." if len(train) < 60 else "")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=ORANGE, marker="s", linestyle="--")
        axes.legend(["training", "held out"], frameon=False)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss")
    _whole_numbers(axes.xaxis)
    write_png(figure, path)
    return describe_loss(curve)


def describe_loss(curve: Sequence[Mapping[str, Any]]) -> str:
    """Return the alt text of `loss_curve`."""
    first, *_, last = [row for row in curve if "loss" in row]
    return (
        f"Training loss against optimizer step: {first['loss']:.3f} at step {first['step']}, "
        f"{last['loss']:.3f} at step {last['step']}."
    )


def accuracy_bars(
    rows: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]], path: Path
) -> str:
    """Draw the accuracy of one model on each task with its 95 % interval, and what to compare with.

    Args:
        rows: One a task: `task`, `value`, and where known `lower` and `upper`, as fractions.
        references: `model`, `task`, `value` of other models and baselines on those tasks.
        path: PNG to write.

    Returns:
        Alt text.
    """
    figure, axes = _figure(height=1.8 + 0.42 * len(rows))
    places = {row["task"]: len(rows) - 1 - index for index, row in enumerate(rows)}
    values = [100 * row["value"] for row in rows]
    axes.barh(
        list(places.values()), values, height=0.62, color=BLUE, alpha=0.45, label="this model"
    )
    for row in rows:
        if row.get("lower") is not None and row.get("upper") is not None:
            ends = [100 * row["lower"], 100 * row["upper"]]
            axes.plot(ends, [places[row["task"]]] * 2, color="black", linewidth=1.4, zorder=5)
    for index, name in enumerate(dict.fromkeys(row["model"] for row in references)):
        marker, colour = MARKERS[index % len(MARKERS)]
        points = [
            (100 * row["value"], places[row["task"]])
            for row in references
            if row["model"] == name and row["task"] in places
        ]
        if points:
            style = {"marker": marker, "color": colour, "linestyle": "", "label": name}
            axes.plot(*zip(*points, strict=True), markersize=14, markeredgewidth=2.4, **style)
    axes.set_yticks(list(places.values()), list(places))
    axes.set_ylim(-0.8, len(rows) - 0.2)
    axes.set_xlabel("accuracy (%), black lines: 95 % interval")
    axes.set_xlim(left=0)
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, markerscale=0.6, reverse=True)
    write_png(figure, path)
    return describe_accuracy(rows)


def describe_accuracy(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the alt text of `accuracy_bars`."""
    told = "; ".join(f"{row['task']} {100 * row['value']:.1f} %" for row in rows)
    return f"Accuracy by task with 95 % intervals: {told}."


def compared_bars(rows: Sequence[Mapping[str, Any]], chance: float, path: Path) -> str:
    """Draw what several ways of choosing are right in, on the same scenes, with 95 % intervals.

    Args:
        rows: From top to bottom: `name`, `value`, `lower`, `upper` as fractions, and `kind`:
            `baseline`, `model`, `result` (drawn strongest) or `ablation`.
        chance: Accuracy of a blind guess.
        path: PNG to write.

    Returns:
        Alt text.
    """
    colours = {"baseline": GREY, "model": GREEN, "result": BLUE, "ablation": ORANGE}
    figure, axes = _figure(height=1.2 + 0.36 * len(rows))
    places = range(len(rows) - 1, -1, -1)
    for place, row in zip(places, rows, strict=True):
        axes.barh(place, 100 * row["value"], height=0.66, color=colours[row["kind"]], alpha=0.55)
        axes.plot([100 * row["lower"], 100 * row["upper"]], [place] * 2, color="black", lw=1.3)
        end = 100 * max(row["upper"], row["value"]) + 1
        axes.text(end, place, f"{100 * row['value']:.1f}", va="center", fontsize=9)
    axes.axvline(100 * chance, color="black", linestyle=":", linewidth=1)
    axes.set_yticks(list(places), [row["name"] for row in rows])
    axes.set_xlabel("right choices (%), black lines: 95 % interval")
    axes.set_xlim(left=0)
    axes.grid(axis="y", visible=False)
    write_png(figure, path)
    told = "; ".join(f"{row['name']} {100 * row['value']:.1f} %" for row in rows)
    return f"Right choices on the same test scenes: {told}."


def points_beside(rows: Sequence[Mapping[str, Any]], path: Path) -> str:
    """Draw our accuracies with their 95 % intervals, and published ones as hollow diamonds.

    Args:
        rows: From top to bottom: `name`, `value` as a fraction, `lower` and `upper` (None where
            there is no interval), and whether it is `published`.
        path: PNG to write.

    Returns:
        Alt text.
    """
    figure, axes = _figure(height=1.2 + 0.26 * len(rows))
    places = range(len(rows) - 1, -1, -1)
    for place, row in zip(places, rows, strict=True):
        value = 100 * row["value"]
        if row["published"]:
            axes.plot(value, place, "D", mfc="none", color=ORANGE, markersize=5)
            continue
        axes.plot(value, place, "o", color=BLUE, markersize=5)
        if row["lower"] is not None and row["upper"] is not None:
            axes.plot([100 * row["lower"], 100 * row["upper"]], [place] * 2, color=BLUE, lw=1.3)
    axes.set_yticks(list(places), [row["name"] for row in rows], fontsize=8)
    own = [row for row in rows if not row["published"]]
    published = len(rows) - len(own)
    diamonds = "; diamonds: published" if published else ""
    axes.set_xlabel(f"right choices (%), lines: 95 % interval{diamonds}", fontsize=8)
    axes.set_xlim(0, 100)
    write_png(figure, path)
    told = "; ".join(f"{row['name']} {100 * row['value']:.1f} %" for row in own) or "none here"
    return f"right choices: {told}" + (f", with {published} published." if published else ".")


def entropy_histogram(
    weak: Numbers,
    strong: Numbers,
    path: Path,
    names: tuple[str, str] = ("weak", "strong"),
) -> str:
    """Draw the epistemic uncertainty of two models over the same scenes (Figure 3).

    Args:
        weak: E[H(P(Y | X + D))] of the weak model, one a scene, bits.
        strong: The same of the strong model.
        path: PNG to write.
        names: What to call the two.

    Returns:
        Alt text.
    """
    figure, axes = _figure()
    edges = np.linspace(0, max(np.max(weak), np.max(strong), 1e-3), 31).tolist()
    axes.hist(weak, edges, color=ORANGE, alpha=0.55, label=names[0], hatch="//", edgecolor=ORANGE)
    axes.hist(strong, edges, color=BLUE, alpha=0.55, label=names[1])
    for values, colour, line in ((weak, ORANGE, "--"), (strong, BLUE, "-")):
        axes.axvline(float(np.mean(values)), color=colour, linestyle=line, linewidth=1.6)
    axes.set_xlabel("epistemic uncertainty of a scene (bits), vertical lines: means")
    axes.set_ylabel("scenes")
    axes.legend(frameon=False)
    write_png(figure, path)
    return (
        f"Histogram of epistemic uncertainty over {len(weak)} scenes: mean {np.mean(weak):.3f} "
        f"bits for {names[0]}, {np.mean(strong):.3f} bits for {names[1]}."
    )


def epistemic_by_source(
    values: Mapping[str, tuple[Numbers, Numbers]],
    path: Path,
    names: tuple[str, str] = ("weak", "strong"),
) -> str:
    """Draw Figure 3: epistemic uncertainty of two models, a panel for each source.

    Args:
        values: For each source, E[H(P(Y | X + D))] of the weak and of the strong model, one a
            scene, bits.
        path: PNG to write.
        names: What to call the two.

    Returns:
        Alt text.
    """
    columns = min(len(values), 3)
    rows = -(-len(values) // columns)
    figure, panels = axes_grid(rows, columns, max(7.0, 3.2 * columns), 0.9 + 2.2 * rows)
    top = max(max(np.max(weak), np.max(strong)) for weak, strong in values.values())
    edges = np.linspace(0, max(top, 1e-3), 31).tolist()
    told = []
    for axes, (source, both) in zip(panels, values.items(), strict=False):
        looks = zip(both, (ORANGE, BLUE), ("//", ""), ("--", "-"), names, strict=True)
        for own, colour, hatch, line, name in looks:
            axes.hist(own, edges, color=colour, alpha=0.55, hatch=hatch, edgecolor=colour)
            place = float(np.mean(own))
            axes.axvline(place, color=colour, linestyle=line, linewidth=1.6, label=name)
        axes.set_title(f"{source} ({len(both[0]):,} scenes)", fontsize=10)
        told.append(f"{source} {np.mean(both[0]):.3f} and {np.mean(both[1]):.3f}")
    for axes in panels[len(values) :]:
        axes.set_visible(False)
    figure.supxlabel("epistemic uncertainty of a scene (bits), vertical lines: means", fontsize=10)
    figure.supylabel("scenes", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False)
    write_png(figure, path)
    return (
        f"Histograms of epistemic uncertainty by source, means of {names[0]} and {names[1]} in "
        f"bits: {'; '.join(told)}."
    )


def stacked_bars(parts: Mapping[str, Mapping[str, int]], xlabel: str, path: Path) -> str:
    """Draw a bar for each row, made of counts that add up.

    Args:
        parts: Row name to the counts of its parts, the same parts in every row, at most five.
        xlabel: What is counted.
        path: PNG to write.

    Returns:
        Alt text.
    """
    names = list(next(iter(parts.values())))
    figure, axes = _figure(height=1.4 + 0.2 * len(names) + 0.4 * len(parts))
    left = np.zeros(len(parts))
    places = np.arange(len(parts))[::-1]
    looks = zip(
        names, (BLUE, GREEN, ORANGE, PURPLE, GREY), ("", "//", "..", "xx", "--"), strict=False
    )
    for name, colour, hatch in looks:
        counts = np.array([row[name] for row in parts.values()])
        axes.barh(
            places,
            counts,
            0.62,
            left,
            color=colour,
            alpha=0.6,
            hatch=hatch,
            edgecolor=colour,
            label=name,
        )
        left += counts
    axes.set_yticks(places, list(parts))
    axes.set_xlabel(xlabel)
    axes.set_xlim(0, 1.02 * max(left.max(), 1))
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper left", frameon=False)
    write_png(figure, path)
    told = ", ".join(f"{sum(row[name] for row in parts.values()):,} {name}" for name in names)
    return f"Bars of {xlabel} of {', '.join(parts)}, together {told}."


def length_histograms(
    panels: Mapping[str, tuple[Numbers, Numbers]],
    path: Path,
    names: tuple[str, str] = ("weak", "strong"),
) -> str:
    """Draw how long texts of two models are, a panel for each kind of text.

    Args:
        panels: Label of the horizontal axis, with the unit, to the lengths of the weak and of the
            strong model, whole numbers.
        path: PNG to write.
        names: What to call the two.

    Returns:
        Alt text.
    """
    figure, drawn = axes_grid(1, len(panels), 3.5 * len(panels), 3.4)
    told = []
    for axes, (label, both) in zip(drawn, panels.items(), strict=True):
        low, high = int(min(map(np.min, both))), int(max(map(np.max, both)))
        spare = max(0, 3 - (high - low))  # lengths that hardly differ stay narrow bars
        low, high = low - spare, high + spare
        step = -(-(high - low + 1) // 30)  # whole numbers alike in every bar
        edges = (np.arange(low, high + step + 1, step) - 0.5).tolist()
        for own, colour, hatch, name in zip(both, (ORANGE, BLUE), ("//", ""), names, strict=True):
            axes.hist(
                own, edges, color=colour, label=name, alpha=0.55, hatch=hatch, edgecolor=colour
            )
        axes.set_xlabel(label)
        axes.ticklabel_format(axis="y", useOffset=False)
        for axis in (axes.xaxis, axes.yaxis):
            _whole_numbers(axis)
        told.append(f"{label}: medians {np.median(both[0]):,.0f} and {np.median(both[1]):,.0f}")
    drawn[0].set_ylabel("decisions")
    figure.legend(
        *drawn[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False
    )
    write_png(figure, path)
    return f"Histograms of lengths, {names[0]} and {names[1]}. {'; '.join(told)}."


def position_histogram(answers: Sequence[int], options: Sequence[int], path: Path) -> str:
    """Draw at which label the real behavior stands, against a uniform position.

    Args:
        answers: Index of the real behavior, one a scene.
        options: Number of options of each scene.
        path: PNG to write.

    Returns:
        Alt text.
    """
    longest = max(options)
    seen = np.bincount(np.asarray(answers), minlength=longest)
    sizes = np.asarray(options)
    expected = np.array([(1 / sizes[sizes > position]).sum() for position in range(longest)])
    figure, axes = _figure()
    axes.bar(range(longest), seen, color=BLUE, alpha=0.75, label="scenes")
    axes.plot(range(longest), expected, color=ORANGE, marker="D", linestyle="", label="if uniform")
    axes.set_xticks(range(longest), list(LABELS[:longest]))
    axes.set_xlabel("label of the real behavior")
    axes.set_ylabel("scenes")
    axes.legend(frameon=False)
    axes.grid(axis="x", visible=False)
    write_png(figure, path)
    gap = np.abs(seen - expected).max()
    return (
        f"Position of the real behavior in {len(answers)} exposures; no label is more than "
        f"{gap:.0f} scenes away from a uniform position."
    )


def sweep_lines(points: Sequence[Mapping[str, Any]], path: Path) -> str:
    """Draw validation accuracy against the learning rate, a line for each number of epochs.

    Args:
        points: `learning_rate`, `epochs`, `accuracy` and `stderr` (fractions), `scenes`.
        path: PNG to write.

    Returns:
        Alt text.
    """
    figure, axes = _figure()
    shapes = itertools.cycle(zip("os^D", (BLUE, ORANGE, GREEN, PURPLE), strict=True))
    passes = sorted({row["epochs"] for row in points})
    for index, (epochs, (marker, colour)) in enumerate(zip(passes, shapes, strict=False)):
        rows = [row for row in points if row["epochs"] == epochs]
        rows.sort(key=lambda row: row["learning_rate"])
        # Side by side, so that the intervals do not cover each other.
        shift = 1.04 ** (index - (len(passes) - 1) / 2)
        axes.errorbar(
            [row["learning_rate"] * shift for row in rows],
            [100 * row["accuracy"] for row in rows],
            [196 * row["stderr"] for row in rows],
            marker=marker,
            color=colour,
            capsize=3,
            label=f"{epochs} epoch{'s' if epochs > 1 else ''}",
        )
    axes.set_xscale("log")
    rates = sorted({row["learning_rate"] for row in points})
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()
    axes.set_xlabel("learning rate (logarithmic)")
    axes.set_ylabel("validation accuracy (%), 95 % intervals")
    figure.legend(loc="outside upper left", ncols=4, frameon=False)
    write_png(figure, path)
    top = max(points, key=lambda row: row["accuracy"])
    return (
        f"Validation accuracy against learning rate: highest {100 * top['accuracy']:.1f} % at "
        f"{top['learning_rate']:g} with {top['epochs']} epochs."
    )


def interaction_bars(scores: Mapping[str, Mapping[str, Any]], path: Path) -> str:
    """Draw NDCG@10 of each recommender by what was added to its log.

    Args:
        scores: Recommender -> what was added -> `mean` by metric, shares.
        path: PNG to write.

    Returns:
        Alt text.
    """
    figure, axes = _figure(10.0, 4.4)
    arms = list(next(iter(scores.values())))
    colours = itertools.cycle((GREY, PURPLE, GREEN, YELLOW, BLACK, BLUE, ORANGE))
    marks = itertools.cycle("osd^vP*X")
    places = np.arange(len(scores))
    for number, (arm, colour, mark) in enumerate(zip(arms, colours, marks, strict=False)):
        shift = (number - (len(arms) - 1) / 2) * 0.8 / len(arms)
        values = [100 * own[arm]["mean"]["N@10"] for own in scores.values()]
        axes.plot(places + shift, values, mark, color=colour, label=arm, markersize=6)
    axes.set_xticks(places, list(scores))
    axes.set_ylabel("NDCG@10 on the test part (%)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, ncols=len(arms), loc="upper center", bbox_to_anchor=(0.5, 1.12))
    write_png(figure, path)
    return f"NDCG@10 of {len(scores)} recommenders after adding: {', '.join(arms)}."


def popularity_points(popularity: Mapping[str, Mapping[str, float]], path: Path) -> str:
    """Draw popularity lift against coverage of what was added to the logs.

    Args:
        popularity: What was added -> `lift` and `coverage`.
        path: PNG to write.

    Returns:
        Alt text.
    """
    figure, axes = _figure()
    colours = itertools.cycle((BLACK, PURPLE, GREEN, YELLOW, GREY, BLUE, ORANGE))
    marks = itertools.cycle("*sd^voPX")
    for (name, row), colour, mark in zip(popularity.items(), colours, marks, strict=False):
        axes.plot(row["lift"], 100 * row["coverage"], mark, color=colour, label=name, markersize=9)
    axes.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_xlabel("popularity of what was added / of what people really took")
    axes.set_ylabel("share of the catalogue (%)")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    write_png(figure, path)
    told = ", ".join(f"{name} {row['lift']:.2f}" for name, row in popularity.items())
    return f"Popularity lift and coverage of what was added; lift: {told}."
