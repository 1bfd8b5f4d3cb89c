"""Promises of a release folder: same bytes from same inputs, every change found, rules kept."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from huggingface_hub import DatasetCard

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.versions import parse_version
from usermirrorer.hub import releases

from .conftest import build_release, scene


def hashes(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_same_inputs_give_the_same_bytes(tmp_path):
    one = build_release(tmp_path / "a" / "release", "1.0.0")
    two = build_release(tmp_path / "b" / "release", "1.0.0")
    assert hashes(one) == hashes(two)
    assert "data/scenes/steam/test-00000-of-00001.parquet" in hashes(one)


def test_a_release_is_rebuilt_from_its_manifest(tmp_path):
    first = build_release(tmp_path / "first", "1.0.0")
    plot = tmp_path / "plot.png"
    plot.write_bytes(b"not really a picture")
    old = build_release(
        tmp_path / "old", "1.1.0", rows=5, changelog_from=first, assets={"plot.png": plot}
    )
    manifest = storage.read_json(old / "manifest.json")
    again = build_release(
        tmp_path / "again",
        manifest["version"],
        rows=5,
        repo_id=manifest["repo_id"],
        redistributable=manifest["redistributable"],
        manifest=manifest,
        assets={"plot.png": plot},
    )
    assert hashes(again) == hashes(old)


def test_the_card_loads_and_its_numbers_are_those_of_the_rows(tmp_path):
    plot = tmp_path / "entropy.png"
    plot.write_bytes(b"not really a picture")
    folder = build_release(tmp_path / "r", "1.0.0", assets={"entropy.png": plot})
    card = DatasetCard.load(folder / "README.md")
    assert card.data.license == "cc-by-sa-4.0"
    configs = {c["config_name"]: c for c in card.data.configs}
    assert configs["preference"]["default"] is True
    assert set(configs) == {
        *("preference", "preference_movielens", "preference_steam"),
        *("scenes", "scenes_movielens", "scenes_steam"),
        *("inspect", "inspect_movielens", "inspect_steam"),
    }
    # Popularity ties two of three options, one of them right: half a hit on every scene.
    assert "| movielens | 33.3 % | 50.0 % | 0.0 % |" in card.text
    assert "| **all** | 8 | 8 | 8 | |" in card.text
    assert "lab/strong\\|x" in card.text
    assert "![Entropy in bits of the decisions of the weak and the strong model]" in card.text
    assert "## Changes" not in card.text


AUDIT = {
    "verdict": "tells",
    "allowed_tells": True,
    "margin_points": {"placebo": 5.0, "no_history": 10.0},
    "sources": {
        "movielens": {
            "verdict": "tells",
            "why": ["learned without history, the placebo is found in 64.5 %"],
            "baselines": {"no_history": {"value": 0.656, "low": 0.64, "high": 0.67, "n": 4000}},
            "placebo": {"no_history": {"value": 0.645, "low": 0.63, "high": 0.66, "n": 4000}},
        }
    },
}


def scene_files(folder, **changes):
    """Parquet files of changed scenes of `build_release`, one per split."""
    import pyarrow as pa

    from usermirrorer.builders.common import schema

    files = {}
    for split in ("train", "test"):
        rows = [scene(n, d, split) | changes for d in ("movielens", "steam") for n in range(3)]
        files[split] = folder / f"{split}.parquet"
        storage.write_table(files[split], pa.Table.from_pylist(rows, schema=schema.SCENE))
    return files


def test_placebos_and_the_papers_exposures_are_configurations_of_their_own(tmp_path):
    """They load by name, are counted beside the scenes, and eval.yaml lists what can be scored."""
    from datasets import load_dataset

    folder = build_release(
        tmp_path / "r",
        "1.0.0",
        placebo=scene_files(tmp_path / "placebo", answer=0),
        paper=scene_files(tmp_path / "paper", exposure_mode="paper", answer=2),
    )
    assert releases.verify(folder)["version"] == "1.0.0"
    load = {"cache_dir": str(tmp_path / "cache"), "split": "test"}
    for config, rows, answer in (
        ("placebo_movielens", 3, 0),
        ("paper_steam", 3, 2),
        ("scenes_steam", 4, 1),
        ("placebo", 6, 0),
    ):
        found = load_dataset(str(folder), config, **load)
        assert (len(found), set(found["answer"])) == (rows, {answer}), config
    card = (folder / "README.md").read_text()
    assert "| movielens | 4 | 4 | 4 | 3 | 3 | 3 | 3 | exchangeable |" in card
    assert "- `paper`, paper: Algorithm 1" in card and "- `scenes`, logged: what" in card
    statistics = storage.read_json(folder / "manifest.json")["statistics"]["domains"]
    assert statistics["steam"]["exposure_modes"]["scenes"] == ["logged"]
    assert statistics["movielens"]["gaps"] == {"more": 4}
    tasks = (folder / "eval.yaml").read_text()
    for name, config in (
        ("usermirror_steam", "inspect_steam"),
        ("usermirror-paper-direct_steam", "inspect-paper_steam"),
    ):
        assert f"id: {name}\n  config: {config}\n" in tasks


def test_a_placebo_of_no_scene_or_of_a_train_user_is_refused(tmp_path):
    stray = scene_files(tmp_path / "stray", scene_id="unknown")
    with pytest.raises(UserError, match=r"1 test placebo.*unknown"):
        build_release(tmp_path / "r", "1.0.0", placebo={"test": stray["test"]})
    leak = scene_files(tmp_path / "leak", user_id="train-user-0")
    with pytest.raises(UserError, match="train-user-0 of movielens"):
        build_release(tmp_path / "r", "1.0.0", paper={"test": leak["test"]})


def test_a_release_with_tells_says_so_in_its_first_lines_and_shows_the_audit(tmp_path):
    folder = build_release(tmp_path / "r", "1.0.0", manifest={"audit": AUDIT})
    text = DatasetCard.load(folder / "README.md").text
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines[1].startswith("> **These exposures tell the answer.**")
    row = (
        "| movielens | learned, no history | 65.6 % (64.0 to 67.0) | 64.5 % (63.0 to 66.0) | +1.1 |"
    )
    assert row in text
    assert "- movielens: **tells**. learned without history, the placebo is found" in text
    good = AUDIT | {"verdict": "holds", "allowed_tells": False}
    clean = build_release(tmp_path / "s", "1.0.0", manifest={"audit": good})
    assert "tell the answer" not in (clean / "README.md").read_text()


@pytest.mark.parametrize("change", ["flip", "count", "remove", "add"])
def test_every_change_of_a_file_is_found(tmp_path, change):
    folder = build_release(tmp_path / "r", "1.0.0")
    assert releases.verify(folder)["version"] == "1.0.0"
    victim = folder / "data/preference/steam/train-00000-of-00001.parquet"
    if change == "flip":
        data = bytearray(victim.read_bytes())
        data[100] ^= 1
        victim.write_bytes(data)
    elif change == "count":
        manifest = storage.read_json(folder / "manifest.json")
        manifest["splits"]["scenes"]["test"]["rows"] += 1
        storage.write_json(folder / "manifest.json", manifest)
    elif change == "remove":
        victim.unlink()
    else:
        (folder / "extra.txt").write_text("x")
    with pytest.raises(UserError, match=r"manifest|missing"):
        releases.verify(folder)


def test_a_user_in_train_and_test_is_refused(tmp_path):
    import pyarrow as pa

    from usermirrorer.builders.common import schema

    leaking = scene(0, "steam", "test") | {"user_id": "train-user-0"}
    path = tmp_path / "leak.parquet"
    storage.write_table(path, pa.Table.from_pylist([leaking], schema=schema.SCENE))
    build_release(tmp_path / "r", "1.0.0")
    with pytest.raises(UserError, match="train-user-0 of steam"):
        build_release(
            tmp_path / "s",
            "1.0.0",
            scenes={"train": tmp_path / "r.inputs" / "train.parquet", "test": path},
        )
    assert not (tmp_path / "s").exists()


def test_changelog_counts_rows_and_versions_must_rise(tmp_path):
    one = build_release(tmp_path / "a", "1.0.0", rows=4)
    two = build_release(tmp_path / "b", "1.1.0", rows=3, changelog_from=one)
    manifest = json.loads((two / "manifest.json").read_text())
    assert manifest["changelog"][0]["since"] == "1.0.0"
    assert all(row["removed"] == 1 and not row["added"] for row in manifest["changelog"][0]["rows"])
    assert "| preference_steam | train | 0 | 1 | 0 |" in (two / "README.md").read_text()
    with pytest.raises(UserError, match="does not come after"):
        build_release(tmp_path / "c", "1.0.0", changelog_from=two)
    manifest["schema_version"] = 0
    (two / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"Release it as 2\.0\.0"):
        build_release(tmp_path / "c", "1.2.0", changelog_from=two)
    build_release(tmp_path / "c", "2.0.0", changelog_from=two)


@pytest.mark.parametrize("bad", ["1.0", "1.0.0-rc1", "01.0.0", "v1.0.0\n", "latest", ""])
def test_what_is_not_a_version_is_refused(bad):
    with pytest.raises(UserError):
        parse_version(bad)


def test_bound_sources_stay_out_of_public_repositories(tmp_path, monkeypatch):
    from huggingface_hub import constants

    folder = build_release(tmp_path / "r", "1.0.0", redistributable=False)
    assert "keep this repository private" in (folder / "README.md").read_text()
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    with pytest.raises(UserError, match="do not allow its texts in a public repository"):
        releases.push(folder, "usermirrorer/mixed")


def test_a_hub_that_does_not_answer_is_told_in_one_line(tmp_path, monkeypatch):
    from huggingface_hub import constants

    folder = build_release(tmp_path / "r", "1.0.0")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for call in (
        lambda: releases.push(folder, "usermirrorer/mixed"),
        lambda: releases.pull("usermirrorer/mixed", "1.0.0", tmp_path / "got"),
        lambda: releases.versions("usermirrorer/mixed"),
    ):
        with pytest.raises(UserError, match=r"^[^\n]*the Hub cannot be reached[^\n]*$"):
            call()


def model_folder(folder):
    from safetensors.numpy import save_file

    folder.mkdir()
    save_file({"w": np.zeros(4, dtype="float32")}, folder / "model.safetensors")
    for name, text in {"config.json": "{}", "tokenizer.json": "{}", "README.md": "# x\n"}.items():
        (folder / name).write_text(text)
    return folder


def test_only_whole_safetensors_pass_for_a_model(tmp_path):
    import pickle
    import zipfile

    folder = model_folder(tmp_path / "m")
    releases.check_model(folder)
    with zipfile.ZipFile(folder / "harmless.txt", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(UserError, match="can run code"):
        releases.check_model(folder)
    (folder / "harmless.txt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="can run code"):
        releases.check_model(folder)
    (folder / "harmless.txt").rename(folder / "training_args.bin")
    with pytest.raises(UserError, match=r"training_args\.bin"):
        releases.check_model(folder)
    (folder / "training_args.bin").unlink()
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        releases.check_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has no weights"):
        releases.check_model(folder)


def test_versions_share_their_bytes_and_pages_are_indexed(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    chance = np.random.default_rng(1)
    texts = [chance.bytes(50).hex() for _ in range(40_000)]
    old, new = tmp_path / "old.parquet", tmp_path / "new.parquet"
    storage.write_table(old, pa.table({"text": texts}))
    storage.write_table(new, pa.table({"text": [*texts[:100], "one more", *texts[100:]]}))
    before, after = old.read_bytes(), new.read_bytes()
    places = chance.integers(0, len(after) - 1000, 200)
    shared = sum(after[place : place + 1000] in before for place in places) / 200
    assert shared > 0.7  # a Hub that deduplicates stores the rest alone
    column = pq.ParquetFile(new).metadata.row_group(0).column(0)
    assert column.has_offset_index and column.has_column_index
