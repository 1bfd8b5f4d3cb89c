"""Fetched parts are the right ones or none at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from usermirrorer.builders.common import assets
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
