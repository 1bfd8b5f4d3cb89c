"""The prose of a dataset's card, made from its manifest: every number in it is computed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ALT_TEXTS = {
    "entropy": "Entropy in bits of the decisions of the weak and the strong model",
    "domain": "Number of pairs and scenes in each domain",
    "position": "How often the real behaviour stands at each position",
    "accuracy": "Accuracy in each domain beside the baselines",
}


def render(manifest: Mapping[str, Any]) -> str:
    """Return the Markdown below the YAML header of a dataset card.

    Args:
        manifest: As `hub.folder.build` writes it; sections whose part is missing are left out.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"cell": cell, "alt": alt_text, "percent": percent}
    source = Path(__file__).with_name("dataset_card.md.jinja").read_text(encoding="utf-8")
    statistics = manifest["statistics"]
    return environment.from_string(source).render(
        repo_id=manifest["repo_id"],
        version=manifest["version"],
        domains=statistics["domains"],
        means=statistics["pair_means_bits"],
        example_domain=next(iter(statistics["domains"]), ""),
        models=manifest.get("models", []),
        model_check=manifest.get("model_check"),
        inputs=manifest.get("inputs", {}),
        sources=[_source(name) for name in manifest.get("sources", [])],
        code=manifest.get("code", ""),
        seeds=manifest.get("seeds", {}),
        assets=manifest.get("assets", []),
        changelog=manifest.get("changelog", []),
        redistributable=manifest["redistributable"],
    )


def _source(name: str) -> dict[str, str]:
    """Return name, title, homepage and licence of a source; only the name if it is not known."""
    from usermirrorer.builders.raw.sources import all_sources

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
