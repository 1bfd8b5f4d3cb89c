"""Promise: a release and its cards are what other tools of the field expect to find."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from usermirrorer.builders.common.errors import UserError
from usermirrorer.model_cards import paper

from .conftest import build_release
from .test_releases import scene_files
from .validators import check_card, check_croissant

ROOT = Path(__file__).parents[2]


def test_a_release_passes_the_validators_of_cards_and_of_croissant(tmp_path):
    """With all tables, whose columns are of every kind."""
    folder = build_release(
        tmp_path / "r",
        "1.0.0",
        placebo=scene_files(tmp_path / "placebo", answer=0),
        paper=scene_files(tmp_path / "paper", exposure_mode="paper"),
    )
    check_card(folder)
    check_croissant(folder)
    # A page of the Hub links to the paper's by its arXiv id.
    assert f"https://arxiv.org/abs/{paper.ARXIV}" in (folder / "README.md").read_text("utf-8")


def test_the_scenes_of_a_source_that_is_no_name_of_a_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="is not a source name"):
        build_release(
            tmp_path / "r", "1.0.0", scenes=scene_files(tmp_path / "odd", source="../movielens")
        )


VALIDATE = """
import sys
from huggingface_hub import DatasetCard
card = DatasetCard.load(sys.argv[1], ignore_metadata_errors=False)
card.validate(repo_type="dataset")
nested = []
for _ in range(99):
    nested = [nested]
card.data.license = nested
try:
    card.validate(repo_type="dataset")
except ValueError:
    pass
else:
    raise SystemExit("anything is valid")
"""


def test_the_client_has_the_card_validated_by_the_hub(run, tmp_path):
    folder = build_release(tmp_path / "r", "1.0.0")
    run(VALIDATE, folder / "README.md")


def test_the_citation_file_and_the_cards_cite_the_same_paper():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    preferred = cited["preferred-citation"]
    authors = [(one["family-names"], one["given-names"]) for one in preferred["authors"]]
    assert (preferred["title"], tuple(authors)) == (paper.TITLE, paper.AUTHORS)
    ids = {one["type"]: one["value"] for one in preferred["identifiers"]}
    assert ids["other"] == f"arXiv:{paper.ARXIV}" and paper.ARXIV in paper.BIBTEX
    for name, value in re.findall(r"^  (\w+) = \{(.*)\},$", paper.BIBTEX, re.M):
        shown = {"year": preferred["year"], "url": preferred["url"]}
        assert name not in shown or str(shown[name]) == value
