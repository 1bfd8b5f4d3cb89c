"""The prose of a dataset's card, made from its manifest: every number in it is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from usermirrorer.model_cards import datasheet, paper

_ALT_TEXTS = {
    "entropy": "Entropy in bits of the decisions of the weak and the strong model",
    "domain": "Number of pairs and scenes in each domain",
    "position": "How often the real behaviour stands at each position",
    "accuracy": "Accuracy in each domain beside the baselines",
}


#: Exposure mode -> how it is made (`scenes/world.py`).
MODES = {
    "exchangeable": "target and distractors are drawn by one rule from what people took at the "
    "time, so that nothing but the person tells them apart",
    "retrieved": "candidates are retrieved from the history alone, and the target is among them",
    "paper": "Algorithm 1 of the paper, for reproduction: its candidates are neighbours of the "
    "target, which gives the target away",
    "logged": "what the source logged as shown on the screen",
}
#: Guess of the audit -> what it is called.
GUESSES = {
    "chance": "chance",
    "most_popular": "most popular",
    "collaborative": "collaborative",
    "sequential": "taken after the last items",
    "item_item": "item-item neighbours",
    "no_history": "learned, no history",
    "all_features": "learned, all features",
}
_COUNTS = (
    ("Train scenes", "train_scenes"),
    ("Test scenes", "test_scenes"),
    ("Train placebos", "train_placebo_scenes"),
    ("Test placebos", "test_placebo_scenes"),
    ("Paper's train scenes", "train_paper_scenes"),
    ("Paper's test scenes", "test_paper_scenes"),
)


def render(manifest: Mapping[str, Any], scored: Sequence[str] = ()) -> str:
    """Return the Markdown below the YAML header of a dataset card.

    Args:
        manifest: As `hub.build.write_release` writes it; a section whose part is missing is left
            out.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"cell": cell, "alt": alt_text, "percent": percent}
    source = Path(__file__).with_name("dataset_card.md.jinja").read_text(encoding="utf-8")
    statistics = manifest["statistics"]
    domains = statistics["domains"]
    audit = manifest.get("audit") or {}
    shown = ("train_scenes", "test_scenes")
    counts = [(t, k) for t, k in _COUNTS if k in shown or any(k in row for row in domains.values())]
    return environment.from_string(source).render(
        repo_id=manifest["repo_id"],
        version=manifest["version"],
        domains=domains,
        counts=counts,
        modes=_modes(domains),
        mode_texts=MODES,
        gaps=_gaps(domains),
        has_tells=audit.get("verdict", "tells" if audit.get("allowed_tells") else "") == "tells",
        audits=[_audited(audit), _audited(manifest.get("audit_paper") or {})],
        means=statistics["pair_means_bits"],
        example_domain=next(iter(domains), ""),
        paired=[name for name, row in domains.items() if row["pairs"]],
        models=manifest.get("models", []),
        model_check=manifest.get("model_check"),
        inputs=manifest.get("inputs", {}),
        sources=[
            _source(name, manifest.get("own_sources", {})) for name in manifest.get("sources", [])
        ],
        code=manifest.get("code", ""),
        seeds=manifest.get("seeds", {}),
        assets=manifest.get("assets", []),
        changelog=manifest.get("changelog", []),
        redistributable=manifest["redistributable"],
        rai=datasheet.RAI,
        arxiv=paper.ARXIV,
        paper=paper.LINK,
        bibtex=paper.BIBTEX,
        example_task=f"usermirror-direct_{scored[0]}" if scored else "",
    )


def _modes(domains: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return table -> the exposure modes in it, over all domains."""
    by_table: dict[str, set[str]] = {}
    for row in domains.values():
        for table, modes in row.get("exposure_modes", {}).items():
            by_table.setdefault(table, set()).update(modes)
    return {table: sorted(modes) for table, modes in by_table.items()}


def _gaps(domains: Mapping[str, Any]) -> str:
    from usermirrorer.eval_harness.metric_table import GAPS, tell_gaps

    whole = {
        name: sum(row.get("gaps", {}).get(name, 0) for row in domains.values())
        for name in (*GAPS, "unknown")
    }
    counts = {name: number for name, number in whole.items() if number}
    return tell_gaps(counts) if counts else ""


def _audited(audit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of an audit's table and its verdicts, each with its reasons."""
    verdicts = [
        (name, one.get("verdict", ""), "; ".join(one.get("why", ())))
        for name, one in audit.get("sources", {}).items()
    ]
    return {"rows": list(_audit_rows(audit)), "verdicts": verdicts}


def _audit_rows(audit: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for source, one in audit.get("sources", {}).items():
        for guess, real in one.get("baselines", {}).items():
            placebo = one.get("placebo", {}).get(guess)
            yield {
                "source": source,
                "guess": GUESSES.get(guess, guess),
                "real": _estimate(real),
                "placebo": _estimate(placebo) if placebo else "none",
                "difference": f"{100 * (real['value'] - placebo['value']):+.1f}" if placebo else "",
            }


def _estimate(estimate: Mapping[str, float]) -> str:
    text = percent(estimate["value"])
    if (
        estimate.get("low") is None
        or estimate.get("high") is None
        or estimate["low"] == estimate["high"]
    ):
        return text
    return f"{text} ({100 * estimate['low']:.1f} to {100 * estimate['high']:.1f})"


def _source(name: str, own: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return name, title, homepage and licence of a source; only the name if it is not known.

    Args:
        name: Of the source.
        own: Name -> what the YAML of own logs says.
    """
    from usermirrorer.builders.raw.sources import all_sources

    if told := own.get(name):
        return {"name": name, **{key: str(told[key]) for key in ("title", "homepage", "licence")}}
    known = all_sources().get(name)
    if known is None:
        return {"name": name, "title": name, "homepage": "", "licence": ""}
    return {
        "name": name,
        "title": known.title,
        "homepage": known.homepage,
        "licence": known.licence,
    }


def cell(value: Any) -> str:
    """Make a value safe inside a Markdown table: one line, no bars, no HTML."""
    text = " ".join(str(value).split())
    for sign, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "'")):
        text = text.replace(sign, safe)
    return text


def percent(value: float) -> str:
    """Write a share as `41.5 %`."""
    return f"{100 * value:.1f} %"


def alt_text(path: str) -> str:
    """Describe a plot by its file name, for those who do not see it."""
    stem = Path(path).stem
    known = next((text for word, text in _ALT_TEXTS.items() if word in stem.lower()), "")
    return known or f"Plot: {stem.replace('_', ' ').replace('-', ' ')}"
