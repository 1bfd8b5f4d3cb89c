"""Promises: no YAML, sent or stored, ends the server, holds others up, or makes a listing fail."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import httpx
import pytest

from tests.hub.attacks.conftest import sign_in
from tests.hub.attacks.corpus import commit, entries, text_of
from usermirrorer.hub.local import running
from usermirrorer.hub.server.foreign_yaml import plain_yaml

#: What others look at, whatever one user has stored.
LOOKED_AT = (
    *("/api/models", "/api/models?full=1", "/api/models/usermirrorer/m", "/usermirrorer/m"),
    *("/api/datasets/usermirrorer/board/leaderboard", "/datasets/usermirrorer/board", "/"),
    "/api/models/usermirrorer/m?expand=evalResults",
)


def assert_all_is_well(client: httpx.Client, most: float = 2.0) -> None:
    for address in LOOKED_AT:
        start = time.monotonic()
        answer = client.get(address)
        assert answer.status_code == 200, (address, answer.text[:500])
        assert time.monotonic() - start < most, address


@pytest.mark.parametrize("row", entries("yaml"))
def test_yaml_is_read_as_json_or_refused_in_bounded_time(row):
    start = time.process_time()
    try:
        json.dumps(plain_yaml(text_of(row)), allow_nan=False).encode()
    except ValueError as refused:
        assert "YAML" in str(refused)
        assert len(str(refused)) < 500
    assert time.process_time() - start < 3


@pytest.mark.parametrize("text", ["a: &a 1\nb: *a", "a: &a [*a]", "<<: *a", "*a : 1"])
def test_aliases_are_refused_in_words(text):
    """Each can be small and mean much, and what they mean would be lost without a word."""
    with pytest.raises(ValueError, match="alias"):
        plain_yaml(text)


@pytest.mark.parametrize("row", entries("yaml"))
def test_nobody_is_held_up_by_yaml_that_is_checked(owner, stranger, read_meanwhile, row):
    with read_meanwhile() as seconds:
        answer = stranger.post(
            "/api/validate-yaml", json={"content": f"---\n{text_of(row)}\n---\n"}
        )
        assert answer.status_code in (200, 400, 413)
    assert max(seconds) < 1


@pytest.mark.parametrize("row", entries("yaml"))
def test_a_stored_card_fails_nowhere(owner, stranger, row):
    for repo in ("models/usermirrorer/m", "datasets/usermirrorer/board", "spaces/usermirrorer/s"):
        answer = commit(owner, repo, {"README.md": f"---\n{text_of(row)}\n---\n# x"})
        assert answer.status_code == 200
    assert_all_is_well(stranger)
    for address in ("/api/datasets?full=1", "/api/spaces?full=1", "/spaces/usermirrorer/s"):
        assert stranger.get(address).status_code == 200
    assert stranger.get("/api/datasets-tags-by-type").status_code == 200


@pytest.mark.parametrize("row", [*entries("results"), *entries("yaml")])
def test_stored_results_fail_nowhere(owner, stranger, row):
    path = ".eval_results/x.yaml"
    files = {path: text_of(row), "eval.yaml": text_of(row)}
    assert commit(owner, "models/usermirrorer/m", files).status_code == 200
    assert commit(owner, "datasets/usermirrorer/board", files).status_code == 200
    assert_all_is_well(stranger)


def test_what_is_stored_fails_no_start_and_records_may_be_lost(tmp_path):
    root = tmp_path / "hub"
    deep = f"---\n{'? ' * 50_000}\n---\n"
    with running(root) as hub, sign_in(hub) as client:
        for kind, name in (("model", "m"), ("dataset", "board")):
            client.post("/api/repos/create", json={"name": name, "type": kind}).raise_for_status()
            files = {"README.md": deep, ".eval_results/x.yaml": deep, "eval.yaml": deep}
            assert commit(client, f"{kind}s/usermirrorer/{name}", files).status_code == 200
    for folder in root.glob("repos/*/derived"):
        shutil.rmtree(folder)  # as in repositories of an older version
        folder.write_text("in the way")  # and on a disk that takes no more
    with running(root) as hub, httpx.Client(base_url=hub.endpoint) as client:
        assert_all_is_well(client)


def long_card(number: int) -> str:
    return "tags:\n" + "".join(f"- tag-{number}-{n:07}\n" for n in range(40_000))


def test_listings_of_long_cards_read_none_of_them(owner, stranger, read_meanwhile):
    for number in range(5):
        body = {"name": f"long-{number}", "type": "model"}
        owner.post("/api/repos/create", json=body).raise_for_status()
        files = {"README.md": f"---\n{long_card(number)}\n---\n"}
        assert commit(owner, f"models/usermirrorer/long-{number}", files).status_code == 200
    start = time.monotonic()
    answer = stranger.get("/api/models?full=1")
    assert time.monotonic() - start < 1
    rows = {row["id"]: row for row in answer.json()}
    assert "tag-3-0000000" in rows["usermirrorer/long-3"]["tags"]
    assert len(answer.content) < 100_000
    whole = stranger.get("/api/models/usermirrorer/long-3").json()
    assert whole["tags"][-1] == "tag-3-0039999"


def test_cards_are_read_at_commit_and_not_at_listings(tmp_path: Path):
    """What was kept at the commit is what a server that starts afterwards lists, and no other."""
    root = tmp_path / "hub"
    with running(root) as hub, sign_in(hub) as client:
        body = {"name": "m", "type": "model"}
        client.post("/api/repos/create", json=body).raise_for_status()
        files = {"README.md": "---\nlicense: mit\nlibrary_name: read\n---\n"}
        assert commit(client, "models/usermirrorer/m", files).status_code == 200
    (kept,) = root.glob("repos/*/derived/listed-*.json")
    listed = json.loads(kept.read_text())
    assert listed == {
        "card": {"license": "mit", "library_name": "read"},
        "tags": ["license:mit", "read"],
    }
    kept.write_text(json.dumps({**listed, "tags": ["kept"]}))
    with running(root) as hub, httpx.Client(base_url=hub.endpoint) as client:
        (row,) = client.get("/api/models?full=1").json()
        assert row["tags"] == ["kept"]  # the card itself was not read again
        assert client.get("/api/models/usermirrorer/m").json()["tags"] == ["license:mit", "read"]
