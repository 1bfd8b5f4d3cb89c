"""Promise: listings of more than one page are whole, whatever revision and folder are called."""

from __future__ import annotations

import httpx
import pygit2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from usermirrorer.hub.local import running
from usermirrorer.hub.server import addresses

COUNT = 1001  # one more than a page
FOLDERS = ("plain", "日本 フォルダ", "x;y", "100%25", "%2F", "a, b", "q?a=b&c", "#<h>", 'say "x"')
REVISIONS = ("feature/x", "a;b", "100%25", "日本/枝", "v1,2", 'q"x', "refs/odd/one")
REPO = "usermirrorer/many"


#: Machines that run tests are busy ones.
web = httpx.Client(timeout=120)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A dataset with more than a page of files in each folder, and of commits on each branch."""
    root = tmp_path_factory.mktemp("hub")
    with running(root) as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        api.create_repo(REPO, repo_type="dataset")
        files = [
            CommitOperationAdd(f"{folder}/{number}.txt", b"x")
            for folder in FOLDERS
            for number in range(COUNT)
        ]
        api.create_commit(REPO, files, commit_message="many", repo_type="dataset")
        for branch in REVISIONS:
            api.create_branch(REPO, branch=branch, repo_type="dataset")
        (git,) = root.glob("repos/*/git")
        tip = commits(git, COUNT)
        for branch in REVISIONS:
            pygit2.Repository(str(git)).references.create(f"refs/heads/{branch}", tip, force=True)
        yield hub, api


def commits(git, count):
    """Put commits on top of main, without moving it, and return the last."""
    repo = pygit2.Repository(str(git))
    head = repo.references["refs/heads/main"].peel(pygit2.Commit)
    who, at = pygit2.Signature("usermirrorer", "u@localhost", 1_700_000_000, 0), head.id
    for number in range(count):
        at = repo.create_commit(None, who, who, f"commit {number}", head.tree.id, [at])
    return at


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_of_any_name_is_listed_whole(many, folder):
    _, api = many
    listed = [e.path for e in api.list_repo_tree(REPO, folder, repo_type="dataset")]
    assert sorted(listed) == sorted(f"{folder}/{number}.txt" for number in range(COUNT))


@pytest.mark.parametrize("revision", [*REVISIONS, "refs/heads/main", "refs/heads/feature/x"])
def test_a_revision_of_any_name_is_listed_whole(many, revision):
    _, api = many
    options = {"repo_type": "dataset", "revision": revision}
    listed = [e.path for e in api.list_repo_tree(REPO, "x;y", recursive=True, **options)]
    assert len(set(listed)) == len(listed) == COUNT
    titles = [commit.title for commit in api.list_repo_commits(REPO, **options)]
    made = [] if revision == "refs/heads/main" else [f"commit {n}" for n in reversed(range(COUNT))]
    assert titles == [*made, "many", "initial commit"]


def test_the_root_is_listed_whole(many):
    _, api = many
    listed = [e.path for e in api.list_repo_tree(REPO, recursive=True, repo_type="dataset")]
    assert len(set(listed)) == len(listed) == 1 + len(FOLDERS) * (COUNT + 1)


@pytest.mark.parametrize("path", ["tree/main/x;y", "tree/main/x%3By", "tree/main/100%2525"])
def test_the_next_page_has_one_address_only(many, path):
    """However a client writes the address, what the header says of the next is not cut short."""
    hub, _ = many
    url = f"{hub.endpoint}/api/datasets/{REPO}/{path}?recursive=1&recursive=1&expand=&x=%3B%3E"
    first = web.get(url)
    assert list(first.links) == ["next"]
    second = web.get(first.links["next"]["url"])
    assert second.status_code == 200 and len(first.json()) + len(second.json()) == COUNT
    assert second.url.params["x"] == ";>"
    assert second.url.params.get_list("recursive") == ["1", "1"]


def test_an_address_is_sent_on_as_it_came():
    for raw, sent in (
        (b"/a%2Fb/%E6%97%A5", "/a%2Fb/%E6%97%A5"),
        (b"/%zz;<\xff>?a=b", "/%25zz%3B%3C%FF%3E"),
        (b'/a,b/"c d', "/a%2Cb/%22c%20d"),
    ):
        assert addresses.asked_path({"raw_path": raw, "path": "/"}) == sent
    assert addresses.asked_path({"path": "/日"}) == "/%E6%97%A5"
