"""What other libraries say of a release: their own validators, offline."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import mlcroissant
from huggingface_hub import DatasetCard, DatasetCardData

from usermirrorer.builders.common import storage
from usermirrorer.hub.layout import layout

#: Headings of *Datasheets for Datasets*.
DATASHEET = (
    *("Motivation", "Composition", "Collection process", "Preprocessing and labelling"),
    *("Uses", "Distribution", "Maintenance"),
)


def check_card(folder: Path) -> DatasetCard:
    """Read a release's card as huggingface_hub does, and find the datasheet in it."""
    card = DatasetCard.load(folder / "README.md", ignore_metadata_errors=False)
    assert isinstance(card.data, DatasetCardData) and card.data.license and card.data.language
    headings = [
        line.removeprefix("## ") for line in card.text.splitlines() if line.startswith("## ")
    ]
    assert [name for name in headings if name in DATASHEET] == list(DATASHEET)
    return card


def check_croissant(folder: Path) -> None:
    """Have mlcroissant validate the description, and read every record set by it alone."""
    described = json.loads((folder / "croissant.json").read_text(encoding="utf-8"))
    dataset = mlcroissant.Dataset(folder / "croissant.json")
    issues = dataset.metadata.ctx.issues
    assert not issues.errors, issues.report()
    # The same inputs give the same bytes: a release knows no day on which it is published.
    assert [w for w in issues.warnings if "datePublished" not in w] == []
    rows = storage.read_json(folder / "manifest.json")["splits"]
    tables = {name for name in layout(folder) if "_" not in name}
    assert {records.id for records in dataset.metadata.record_sets} == tables
    for table in tables:
        read = Counter(row[f"{table}/split"].decode() for row in dataset.records(table))
        assert read == {split: known["rows"] for split, known in rows[table].items()}
    rai = {name for name in described if name.startswith("rai:")}
    assert {"rai:dataBiases", "rai:personalSensitiveInformation", "rai:dataCollection"} <= rai
