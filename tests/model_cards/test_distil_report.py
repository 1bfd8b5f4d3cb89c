"""The distillation report: every number by hand from three scenes, and its pictures."""

from __future__ import annotations

import re

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from matplotlib.image import imread

from tests.builders.distil.distil_rows import decision, many, scene, write
from usermirrorer.builders.common import storage
from usermirrorer.builders.distil import candidates, pairs
from usermirrorer.model_cards import distil_report
from usermirrorer.model_cards.commands import report


@pytest.fixture
def files(tmp_path):
    """Two scenes of steam, of which one is a pair and one never matched; one of mind, matched."""
    scenes = [scene("a", source="steam"), scene("b", source="steam"), scene("c", source="mind")]
    weak = [
        {**decision("a", "small", 0, 1, 1.9), "tokens_in": 100, "tokens_out": 30},
        {**decision("a", "small", 1, 0, 1.9, "no behavior"), "tokens_in": 100, "tokens_out": 10},
        {**decision("b", "small", 0, 1, 1.9), "tokens_in": 200, "tokens_out": 20},
        {**decision("c", "small", 0, 0, 1.9), "tokens_in": 60, "tokens_out": 20},
    ]
    strong = [decision(name, "large", 0, 0 if name != "b" else 2, 0.9) for name in "abc"]
    return write(tmp_path, scenes, weak, strong)


@pytest.fixture
def found(files):
    return candidates.candidates(*files)


def test_uncertainty_is_told_by_source_in_bits(found):
    """Flat over four options is 2 bits; 0.7, 0.1, 0.1, 0.1 is 1.3567796 bits."""
    mind, steam, together = distil_report.uncertainty(found)
    assert [row["source"] for row in (mind, steam, together)] == ["mind", "steam", "all"]
    assert steam["scenes"] == 2
    assert steam["weak_epistemic"] == pytest.approx(2)
    assert steam["strong_epistemic"] == pytest.approx(1.3567796, abs=1e-6)
    assert together["delta"] == pytest.approx(2 - 1.3567796, abs=1e-6)
    assert together["higher"] == 1 and together["weak_mutual"] == pytest.approx(0, abs=1e-6)


def test_every_scene_has_one_outcome(found):
    mind, steam, together = distil_report.outcomes(found)
    assert (steam["candidates"], steam[candidates.NEVER], steam[candidates.ALWAYS]) == (1, 1, 0)
    assert (mind["candidates"], mind[candidates.ALWAYS]) == (0, 1)
    assert sum(together[name] for name in candidates.REASONS) == together["scenes"] == 3
    assert steam["weak_accuracy"] == 0 and steam["strong_accuracy"] == 0.5


def test_tokens_count_a_prompt_once_and_every_output(found):
    mind, steam, together = distil_report.tokens(distil_report._decided(found, "weak"))
    assert (steam["scenes"], steam["input"], steam["total_input"]) == (2, 150, 300)
    assert (steam["output"], steam["total_output"]) == (20, 60)
    assert (together["total_input"], together["total_output"]) == (360, 80)
    assert mind["model"] == "small"


def test_malformed_decisions_are_told_by_reason(found):
    rows = distil_report.malformed(distil_report._decided(found, "weak"))
    assert rows == [{"model": "small", "malformed": "no behavior", "decisions": 1}]


@pytest.fixture
def written(tmp_path):
    scenes, weak, strong = write(tmp_path, *many())
    path = tmp_path / "pairs.parquet"
    storage.write_table(path, pairs.make_pairs(candidates.candidates(scenes, weak, strong), 6)[0])
    words = [scenes, "--weak", weak, "--strong", strong, "--pairs", path, "--out", tmp_path / "r"]
    ran = CliRunner().invoke(report, list(map(str, words)), catch_exceptions=False)
    assert ran.output.strip() == str(tmp_path / "r" / "report.md")
    return tmp_path / "r"


def test_the_command_writes_tables_and_the_pictures_they_name(written):
    text = (written / "report.md").read_text()
    pictures = re.findall(r"!\[[^\]]+\]\((\S+)\)", text)
    assert sorted(pictures) == sorted(path.name for path in written.glob("*.png"))
    assert len(pictures) == 3
    for name in pictures:
        pixels = imread(written / name)
        edge = [pixels[0].min(), pixels[-1].min(), pixels[:, 0].min(), pixels[:, -1].min()]
        assert min(edge) == 1.0, f"{name} is cut off"
    assert "12 scenes" in text and "6 preference pairs" in text
    assert "| steam | 2 | 2 |" in text and "| all | 6 | 6 |" in text  # Table 6, 4 options


def test_every_table_has_as_many_cells_in_each_row(written):
    for block in (written / "report.md").read_text().split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, block


def test_without_pairs_their_parts_are_left_out(tmp_path, files):
    text = distil_report.write(tmp_path / "r", *files).read_text()
    assert "Table 5" in text and "Table 6" not in text


def test_the_lengths_are_those_of_the_texts(tmp_path, written):
    pairs = pq.read_table(tmp_path / "pairs.parquet").to_pylist()
    prompt, chosen, _ = distil_report.lengths(distil_report._pairs(tmp_path / "pairs.parquet"))
    longest = max(len(pair["chosen"][0]["content"]) for pair in pairs)
    assert chosen["longest"] == longest
    assert prompt["longest"] == max(sum(len(m["content"]) for m in p["prompt"]) for p in pairs)
