"""What distillation did with scenes and decisions, in Markdown with plots.

Figure 3, Table 5 and Table 6 of the paper, and what became of every scene. Texts of decisions are
not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from usermirrorer.builders.common.schema import DECISION, PREFERENCE
from usermirrorer.builders.common.storage import atomic, read_table, write_json
from usermirrorer.builders.distil import candidates
from usermirrorer.builders.distil.candidates import REASONS, Candidates
from usermirrorer.model_cards import plots
from usermirrorer.model_cards.dataset_card import cell, percent

Row = dict[str, Any]
ALL = "all"


def write(out: Path, scenes: Path, weak: Path, strong: Path, pairs: Path | None = None) -> Path:
    """Write `report.md`, its numbers as `report.json`, and its plots into the folder `out`.

    Args:
        out: Folder; made if it is not there.
        scenes: Parquet file of schema `SCENE`.
        weak: Decisions of the weak model, judged.
        strong: Decisions of the strong model, judged by the weak one.
        pairs: Parquet file of schema `PREFERENCE` made of them; without it its parts are left out.

    Returns:
        The path of the report.

    Raises:
        UserError: see `candidates.candidates`; also if `pairs` breaks its schema.
    """
    usable = candidates.candidates(scenes, weak, strong)
    made = None if pairs is None else _pairs(pairs)
    decided = {role: _decided(usable, role) for role in ("weak", "strong")}
    fates = outcomes(usable)
    out.mkdir(parents=True, exist_ok=True)
    facts = {
        "models": {
            role: ", ".join(rows["model"].unique().sort()) for role, rows in decided.items()
        },
        "scenes": usable.scenes.num_rows,
        "uncertainty": uncertainty(usable),
        "outcomes": REASONS,
        "fates": fates,
        "malformed": [row for rows in decided.values() for row in malformed(rows)],
        "tokens": [row for rows in decided.values() for row in tokens(rows)],
        "pairs": None if made is None else made.height,
        "composition": [] if made is None else composition(made),
        "lengths": [] if made is None else lengths(made),
        "alts": _plots(out, usable, decided, fates, made),
    }
    write_json(out / "report.json", facts)
    with atomic(out / "report.md") as temporary:
        temporary.write_text(_render(facts), encoding="utf-8")
    return out / "report.md"


def _decided(candidates: Candidates, role: str) -> pl.DataFrame:
    """Return source, model, fault and tokens of a role's decisions on the scenes of both."""
    columns = ["scene_id", "model", "malformed", "tokens_in", "tokens_out"]
    rows = pl.DataFrame(read_table(candidates.files[role], columns, DECISION))
    scenes = pl.DataFrame(candidates.scenes.select(["scene_id", "source"]))
    return rows.join(scenes, on="scene_id")


def _pairs(path: Path) -> pl.DataFrame:
    """Return source, number of options and characters of each pair's texts."""
    candidates.check_schema(path, PREFERENCE)

    def characters(column: str) -> pl.Expr:
        contents = pl.element().struct.field("content").str.len_chars()
        return pl.col(column).list.eval(contents).list.sum()

    texts = ("prompt", "chosen", "rejected")
    rows = pl.DataFrame(read_table(path, ["source", "options", *texts], PREFERENCE))
    return rows.select("source", "options", *map(characters, texts))


def _groups(candidates: Candidates) -> dict[str, np.ndarray]:
    """Return the scene indices of each source, and of all where there are several."""
    sources = np.array(candidates.scenes["source"].to_pylist())
    groups = {name: np.flatnonzero(sources == name) for name in sorted(set(sources))}
    return groups | ({ALL: np.arange(len(sources))} if len(groups) > 1 else {})


def uncertainty(candidates: Candidates) -> list[Row]:
    """Return means of equation 2 by source, in bits, over scenes that both models have."""
    both = {"weak": candidates.weak_uncertainty, "strong": candidates.strong_uncertainty}
    rows = []
    for source, every in _groups(candidates).items():
        own = every[np.isfinite(candidates.delta[every])]
        if len(own):
            means = {
                f"{role}_{part}": float(getattr(values, part)[own].mean())
                for role, values in both.items()
                for part in ("total", "mutual", "epistemic")
            }
            delta = candidates.delta[own]
            means |= {"delta": float(delta.mean()), "higher": float((delta > 0).mean())}
            rows.append({"source": source, "scenes": len(own), **means})
    return rows


def outcomes(candidates: Candidates) -> list[Row]:
    """Return by source the scenes of each outcome, and how often the models were right."""
    rows = []
    for source, own in _groups(candidates).items():
        counts = np.bincount(candidates.reason[own], minlength=len(REASONS)).tolist()
        rows.append(
            {
                "source": source,
                "scenes": len(own),
                **dict(zip(REASONS, counts, strict=True)),
                "weak_accuracy": _mean(candidates.weak_accuracy[own]),
                "strong_accuracy": _mean(candidates.strong_accuracy[own]),
            }
        )
    return rows


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def malformed(decided: pl.DataFrame) -> list[Row]:
    """Return model, reason and number of its malformed decisions, most frequent first."""
    faults = decided.filter(pl.col("malformed") != "")
    counted = faults.group_by("model", "malformed").agg(pl.len().alias("decisions"))
    return counted.sort(["decisions", "malformed"], descending=[True, False]).to_dicts()


def tokens(decided: pl.DataFrame) -> list[Row]:
    """Return Table 5 of one model: average and total tokens by source.

    Input is counted once per scene, whose decisions share the prompt; output for every decision.
    """
    scenes = decided.group_by("source", "model", "scene_id").agg(
        pl.col("tokens_in").first(), pl.col("tokens_out").sum(), pl.len().alias("decisions")
    )
    several = decided["source"].n_unique() > 1
    rows = []
    for part in [scenes, scenes.with_columns(source=pl.lit(ALL))][: 1 + several]:
        summed = part.group_by("source", "model").agg(
            pl.len().alias("scenes"),
            pl.col("tokens_in").mean().alias("input"),
            pl.col("tokens_in").sum().alias("total_input"),
            (pl.col("tokens_out").sum() / pl.col("decisions").sum()).alias("output"),
            pl.col("tokens_out").sum().alias("total_output"),
        )
        rows += summed.sort("source", "model").to_dicts()
    return rows


def composition(made: pl.DataFrame) -> list[Row]:
    """Return Table 6: pairs by source, and of those by the number of options."""
    rows = []
    for (source,), own in sorted(made.group_by("source")):
        rows.append({"source": source, "pairs": own.height, "options": Counter(own["options"])})
    if len(rows) > 1:
        rows.append({"source": ALL, "pairs": made.height, "options": Counter(made["options"])})
    return rows


def lengths(made: pl.DataFrame) -> list[Row]:
    """Return quantiles of the characters of prompts and responses."""
    rows = []
    for name in ("prompt", "chosen", "rejected"):
        shortest, median, most, longest = np.quantile(made[name].to_numpy(), [0, 0.5, 0.95, 1])
        rows.append(
            {
                "text": name,
                "shortest": shortest,
                "median": median,
                "most": most,
                "longest": longest,
            }
        )
    return rows


def _plots(
    out: Path,
    candidates: Candidates,
    decided: Mapping[str, pl.DataFrame],
    fates: Sequence[Row],
    made: pl.DataFrame | None,
) -> dict[str, str]:
    """Draw the plots and return their alt texts by file name."""
    epistemic = (candidates.weak_uncertainty.epistemic, candidates.strong_uncertainty.epistemic)
    by_source = {}
    for source, every in _groups(candidates).items():
        own = every[np.isfinite(candidates.delta[every])]
        if len(own):
            by_source[source] = (epistemic[0][own], epistemic[1][own])
    bars = {row["source"]: _bar(row, made) for row in fates if row["source"] != ALL}
    sizes = {
        "tokens of a prompt": "tokens_in",
        "tokens of a decision": "tokens_out",
    }
    panels = {
        label: (decided["weak"][column].to_numpy(), decided["strong"][column].to_numpy())
        for label, column in sizes.items()
    }
    alts = {
        "outcomes.png": plots.stacked_bars(bars, "scenes", out / "outcomes.png"),
        "lengths.png": plots.length_histograms(panels, out / "lengths.png"),
    }
    if by_source:
        figure = out / "epistemic.png"
        alts["epistemic.png"] = plots.epistemic_by_source(by_source, figure)
    return alts


def _bar(fate: Row, made: pl.DataFrame | None) -> dict[str, int]:
    """Return what became of the scenes of a source; candidates split by whether they are pairs."""
    counts = {name: fate[name] for name in REASONS}
    if made is None:
        return counts
    taken = made.filter(pl.col("source") == fate["source"]).height
    candidates = counts.pop(REASONS[0])
    return {"pairs": taken, "other candidates": candidates - taken, **counts}


def _render(facts: Mapping[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "cell": cell,
        "percent": lambda share: "-" if share is None else percent(share),
        "number": lambda value: f"{value:,.0f}",
        "bits": lambda value: f"{value:.3f}",
        "millions": lambda value: f"{value / 1e6:,.3g}",
    }
    source = Path(__file__).with_name("distil_report.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(source).render(facts)
