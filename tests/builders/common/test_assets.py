"""Fetched parts are the right ones or none at all."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from usermirrorer.builders.common import assets, models
from usermirrorer.builders.common.errors import UserError


def test_a_part_is_fetched_verified_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("USERMIRRORER_CACHE", str(tmp_path))
    folder = assets.fetch_asset("ml-100k")
    assert (folder / "ml-100k.inter").read_text().startswith("user_id:token")
    assert not list(folder.rglob("*.py"))
    monkeypatch.setattr(assets, "_download", None)  # the second time nothing is downloaded
    assert assets.fetch_asset("ml-100k") == folder


def test_a_file_with_another_hash_is_refused_and_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("USERMIRRORER_CACHE", str(tmp_path))
    wrong = replace(assets.ASSETS["ml-100k"], sha256="0" * 64)
    monkeypatch.setitem(assets.ASSETS, "ml-100k", wrong)
    with pytest.raises(UserError, match="another SHA-256"):
        assets.fetch_asset("ml-100k")
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")]


def test_two_that_want_the_same_part_fetch_it_once(tmp_path, monkeypatch):
    monkeypatch.setenv("USERMIRRORER_CACHE", str(tmp_path))
    download, fetched = assets._download, []

    def counted(asset, folder):
        fetched.append(asset)
        return download(asset, folder)

    monkeypatch.setattr(assets, "_download", counted)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(assets.fetch_asset, ["ml-100k"] * 2))
    assert folders[0] == folders[1] and len(fetched) == 1


def test_an_unreachable_registry_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("USERMIRRORER_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(UserError, match="recbole==1"):
        assets.fetch_asset("ml-100k")


def test_a_local_folder_is_taken_as_it_is(tmp_path):
    assert assets.resolve_model(str(tmp_path)) == str(tmp_path)


WIDEN = """
import sys
from pathlib import Path
from usermirrorer.builders.common import assets, models
assets._widen(Path(sys.argv[1]))
"""


def test_a_model_is_widened_without_a_word_of_other_libraries(tmp_path):
    """No bars of conversion, loading or saving among our own lines; the model is all there."""
    wheel = assets._download(assets.ASSETS["smollm2-135m-instruct"], tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    assets._unpack(wheel, assets.ASSETS["smollm2-135m-instruct"].member, folder)
    gguf = next(folder.glob("*.gguf"))
    words = [sys.executable, "-c", WIDEN, str(gguf)]
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ran.stderr == "" and ran.stdout == ""
    assert (folder / "model.safetensors").stat().st_size > 500_000_000 and not gguf.exists()


def test_what_is_no_model_is_answered_with_the_names_of_the_parts(tmp_path, monkeypatch):
    """Not with the command `fetch`, which is for raw files."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"smollm2-135m-instruct") as unknown:
        assets.resolve_model("nobody/nothing-of-this-name")
    with pytest.raises(UserError, match=r"the name of a part.*all-minilm-l6-v2") as broken:
        models.load_tokenizer(str(tmp_path))
    assert "usermirrorer fetch" not in f"{unknown.value} {broken.value}"
