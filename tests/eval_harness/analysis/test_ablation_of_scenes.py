"""From raw files to the table: a model that reads titles alone is found to do so."""

from __future__ import annotations

import hashlib
import re

import pyarrow as pa
from click.testing import CliRunner

from tests.eval_harness.analysis import planted
from usermirrorer.builders.common.storage import read_json, read_table, write_table
from usermirrorer.builders.raw import made_up
from usermirrorer.builders.raw.sources import get_source
from usermirrorer.builders.scenes import pipeline, variants
from usermirrorer.builders.scenes.world import SceneConfig
from usermirrorer.model_cards.analyse_commands import analyse

_TITLE = re.compile(r"Title: ([^|\[]*)")


def liking(option: str) -> str:
    """How a reader of titles orders options; those without a title are all alike."""
    title = _TITLE.search(option)
    words = title[1].strip() if title else ""
    return hashlib.sha256(words.encode()).hexdigest() if words else ""


def choice(options: list[str]) -> int:
    return max(range(len(options)), key=lambda index: (liking(options[index]), -index))


def test_a_model_that_reads_titles_alone_is_found_to_do_so(tmp_path, tiny_encoder):
    source = get_source("steam")
    raw = made_up.write("steam", tmp_path / "raw", made_up.Size(60, 80, 900))
    config = SceneConfig(train=20, test=40, test_users=0.5, history=(1, 4))
    pipeline.raw_to_scenes(source, raw, tmp_path / "s", config, embedder=str(tiny_encoder))
    rows = read_table(tmp_path / "s/test.parquet").to_pylist()
    for row in rows:
        row["answer"] = choice(row["exposure"])  # the person takes what the model would
    schema = read_table(tmp_path / "s/test.parquet").schema
    write_table(tmp_path / "s/test.parquet", pa.Table.from_pylist(rows, schema=schema))
    asked = (tmp_path / "s/test.parquet", tmp_path / "v", source, tmp_path / "s/tables")
    names = [name for name, _ in variants.write(*asked, wanted=("title", "price", "history"))]
    words: list[str] = []
    for name in names:
        shown = read_table(tmp_path / f"v/{name}.parquet").to_pylist()
        made = planted.decide(shown, lambda row, _: {"behavior": choice(row["exposure"])})
        words += planted.write(tmp_path / "d", name, shown, made)
    told = CliRunner().invoke(analyse, ["ablation", *words, "--out", str(tmp_path / "o")])
    assert told.exit_code == 0, told.exception
    tables = read_json(tmp_path / "o/analysis.json")["tables"]
    features = {row["feature"]: row for row in tables["features"]["rows"]}
    assert tables["base"]["rows"][0]["accuracy"] == 1
    assert features["title"]["retained"] == 1 and features["title"]["loss"] > 0.5
    assert features["title"]["loss_p_holm"] < 0.05
    for other in ("price", "history"):
        assert features[other]["loss"] == 0 and features[other]["loss_p_holm"] == 1
        assert features[other]["retained"] < 0.5
