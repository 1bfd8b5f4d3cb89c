"""Promise: whatever name is asked for, where it cannot be one, the answer is a refusal."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.hub.attacks.corpus import commit
from usermirrorer.hub.server import history

REPO = "/api/datasets/usermirrorer/d"
NO_REFERENCE = [
    *("x" * 300, "x" * 5000, "a/" * 600 + "a", "é" * 200, "a..b", "a.lock", "a b", "-a", "@{1}"),
    *("/a", "a/", ".a", "a//b", "a~1", "a^", "a:b", "a?b", "a*", "[", "a\\b", "x\x00y", "x\ny"),
    "main/sub",
    *("f" * 40, "refs/heads/main", "refs/tags/x"),  # what would be taken for another
]


def test_what_is_pinned_by_its_id_stays_what_it_is(owner, tmp_path):
    """Whatever branches and tags a repository has, also those that an earlier version took."""
    first = commit(owner, "datasets/usermirrorer/d", {"pinned": "1"}).json()["commitOid"]
    commit(owner, "datasets/usermirrorer/d", {"pinned": "2"})
    git = tmp_path / "git"
    history.create(git, "ann")
    repo = history.open_(git)
    old = history.resolve(repo, "main")
    change = history.Change("put", "a", history.write_blob(git, b"a"))
    new = history.commit(git, "main", [change], author="ann", message="m")
    repo.references.create(f"refs/heads/{old.id}", new)
    assert history.resolve(repo, str(old.id)).id == old.id
    answer = owner.post(f"{REPO}/branch/{first}", json={"startingPoint": "main"})
    assert answer.status_code == 400
    assert owner.get(f"/datasets/usermirrorer/d/resolve/{first}/pinned").text == "1"


@pytest.mark.parametrize("name", NO_REFERENCE, ids=lambda name: ascii(name)[:20])
def test_names_that_no_reference_can_have_are_refused(owner, name):
    body = {"tag": name, "startingPoint": name}
    asked = owner.post(f"{REPO}/tag/main", json=body)
    expected = (200,) if name == "main/sub" else (400,)  # a branch is in its way, no tag
    assert asked.status_code in expected, asked.text
    assert owner.post(f"{REPO}/branch/new", json=body).status_code in (200, 404, 409)
    for method, end in (
        *(("POST", "branch/%s"), ("DELETE", "branch/%s"), ("DELETE", "tag/%s"), ("GET", "tree/%s")),
        *(("GET", "revision/%s"), ("GET", "commits/%s"), ("POST", "preupload/%s")),
    ):
        address = f"{REPO}/{end}".replace("%s", quote(name, safe=""))
        answer = owner.request(method, address, json={"files": []} if method == "POST" else None)
        assert answer.status_code in (200, 400, 404, 409), (address[:200], answer.text[:500])
    address = f"datasets/usermirrorer/d/commit/{quote(name, safe='')}"
    committed = commit(owner, address.removeprefix("api/").partition("/commit/")[0], {"a": "x"})
    assert committed.status_code == 200
    line = '{"key": "header", "value": {"summary": "x"}}'
    answer = owner.post(f"/api/{address}", content=line)
    assert answer.status_code in (400, 404), answer.text
