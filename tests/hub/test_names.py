"""Promise: users and repositories may be called like parts of addresses; no call mistakes them."""

from __future__ import annotations

import sqlite3
import time

import httpx
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from usermirrorer.builders.common.errors import UserError
from usermirrorer.hub.local import running
from usermirrorer.hub.server import records, turns
from usermirrorer.hub.server.store import create_token

WORDS = ("branch", "tag", "commit", "tree", "resolve")
REFERENCES = ("tag", "resolve")
KINDS = ("model", "dataset", "space")
REFUSED = ("models", "datasets", "spaces", "api", "lfs", "Datasets")


#: Machines that run tests are busy ones.
web = httpx.Client(timeout=120)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    create_token(root, "someone")
    with sqlite3.connect(root / "hub.sqlite") as db:  # accounts of a Hub that reserved no words
        rows = [(name, time.time()) for name in ("datasets", "models", "api")]
        db.executemany("insert into users values (?, ?)", rows)
    with running(root) as hub:
        yield root, hub


def api_of(hub_and_root, user: str) -> HfApi:
    root, hub = hub_and_root
    return HfApi(endpoint=hub.endpoint, token=create_token(root, user))


def all_calls(api: HfApi, repo: str, kind: str) -> None:
    """Go through a repository's life; each word of the routes is also a branch, tag and file."""
    options = {"repo_type": kind}
    api.create_repo(repo, space_sdk="static" if kind == "space" else None, **options)
    files = {f"{word}/{other}": f"{word} {other}".encode() for word in WORDS for other in WORDS}
    add = [CommitOperationAdd(path, data) for path, data in files.items()]
    main = api.create_commit(repo, add, commit_message="all", **options).oid
    assert set(api.list_repo_files(repo, **options)) == {".gitattributes", *files}
    for word in REFERENCES:
        api.create_branch(repo, branch=word, **options)
        api.create_tag(repo, tag=word, **options)
        with pytest.raises(HfHubHTTPError) as twice:
            api.create_tag(repo, tag=word, **options)
        assert twice.value.response.status_code == 409
        with pytest.raises(HfHubHTTPError) as late:
            again = [CommitOperationAdd("x", b"x")]
            before = {"parent_commit": "0" * 40, "revision": word, "commit_message": "late"}
            api.create_commit(repo, again, **before, **options)
        assert late.value.response.status_code == 412
    reads(api, repo, files, main, options)
    for (
        word
    ) in REFERENCES:  # a tag goes, the branch of the same name stays, and the other way round
        api.delete_tag(repo, tag=word, **options)
        assert word in {ref.name for ref in api.list_repo_refs(repo, **options).branches}
        api.create_tag(repo, tag=word, **options)
        api.delete_branch(repo, branch=word, **options)
        assert word in {ref.name for ref in api.list_repo_refs(repo, **options).tags}
    api.update_repo_settings(repo, private=True, **options)
    assert api.repo_info(repo, **options).private
    api.move_repo(repo, f"{repo}-2", **options)
    api.delete_repo(f"{repo}-2", **options)
    assert not api.repo_exists(repo, **options)


def reads(api: HfApi, repo: str, files: dict, main: str, options: dict) -> None:
    for word in REFERENCES:
        at = {"revision": word, **options}
        assert api.repo_info(repo, **at).sha == main
        assert api.list_repo_commits(repo, **at)[0].commit_id == main
        assert len(list(api.list_repo_tree(repo, word, **at))) == len(WORDS)
        assert [i.path for i in api.get_paths_info(repo, [f"{word}/tree"], **at)] == [
            f"{word}/tree"
        ]
        path = f"{word}/resolve"
        assert api.file_exists(repo, path, **at)
        prefix = "" if options["repo_type"] == "model" else f"{options['repo_type']}s/"
        for verb in ("resolve", "raw", "blob"):
            url = f"{api.endpoint}/{prefix}{repo}/{verb}/{word}/{path}"
            got = web.get(url, headers={"Authorization": f"Bearer {api.token}"})
            assert got.status_code == 200 and got.content == files[path]
        for page in ("", f"/tree/{word}", f"/commit/{main}"):
            assert web.get(f"{api.endpoint}/{prefix}{repo}{page}").status_code == 200
    api.auth_check(repo, write=True, **{"repo_type": options["repo_type"]})
    assert list(api.list_lfs_files(repo, **options)) == []
    assert list(api.list_repo_likers(repo, **options)) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("repo", ["branch/tag", "tag/branch", "commit/commit", "resolve/resolve"])
def test_users_and_repositories_may_be_called_like_a_part_of_an_address(hub, repo, kind):
    all_calls(api_of(hub, repo.partition("/")[0]), repo, kind)


@pytest.mark.parametrize("name", ["models", "datasets", "spaces", "api", "tree"])
def test_a_repository_may_be_called_like_the_start_of_an_address(hub, name):
    all_calls(api_of(hub, "tree"), f"tree/{name}", "dataset" if name == "tree" else "model")


def test_words_that_begin_addresses_are_no_new_user_names(hub, tmp_path):
    root, _ = hub
    for word in REFUSED:
        with pytest.raises(UserError, match="addresses of this Hub begin with it"):
            create_token(tmp_path, word)
    assert create_token(root, "datasets").startswith("hf_")  # was there before


@pytest.mark.parametrize("word", ["datasets", "models", "api"])
def test_an_account_of_before_still_works(hub, word):
    """Clients take its name for a kind; what goes over the wire is answered."""
    root, server = hub
    headers = {"Authorization": f"Bearer {create_token(root, word)}"}
    with httpx.Client(base_url=server.endpoint, headers=headers) as client:
        for kind, prefix in (("model", ""), ("dataset", "/datasets")):
            made = client.post("/api/repos/create", json={"name": "things", "type": kind})
            assert made.status_code == 200
            body = '{"key":"header","value":{"summary":"x"}}\n'
            body += '{"key":"file","value":{"path":"a/b.txt","content":"x","encoding":"utf-8"}}'
            address = f"/api/{kind}s/{word}/things"
            assert client.post(f"{address}/commit/main", content=body).status_code == 200
            assert len(client.get(f"{address}/tree/main").json()) == 2
            assert client.get(f"{prefix}/{word}/things/resolve/main/a/b.txt").text == "x"


@pytest.mark.parametrize(
    ("method", "path", "costly"),
    [
        ("GET", "/api/models/resolve/raw/tree/main", True),  # not a file of resolve/raw
        ("GET", "/api/datasets/resolve/x", True),
        ("GET", "/api/models/a/b/tree/main/x.git/y", True),
        ("GET", "/a/b/tree/x.git", True),
        ("GET", "/datasets/resolve/b", True),
        ("GET", "/datasets/a/resolve/resolve/main/x", False),
        ("GET", "/a/b/resolve/main/x", False),
        ("GET", "/a/b.git/info/refs", False),
        ("POST", "/a/b.git/info/lfs/objects/batch", True),
        ("POST", "/datasets/a/b.git/info/lfs/objects/batch", True),
        ("POST", "/api/models/a/b/paths-info/main", True),
        ("POST", "/api/models/a/paths-info/commit/main", False),
        ("GET", "/api/whoami-v2", False),
        ("GET", "/", True),
        ("GET", "/style.css", False),
    ],
)
def test_who_waits_for_a_slot_is_told_by_place_and_not_by_words(method, path, costly):
    assert turns.is_costly(method, path) is costly


def test_reserved_words_are_names_otherwise():
    assert all(records.valid_name(word) for word in records.RESERVED)
