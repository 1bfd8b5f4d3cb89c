"""Promise: an address that was given out is worth no more than the rights of who has it, now.

Large files go by addresses without a token. They last as long as the longest transfer needs, and
still end with the token, the grant or the openness that they came from.
"""

from __future__ import annotations

import hashlib
import time

import httpx
import pytest
from huggingface_hub import HfApi

from usermirrorer.hub.local import running
from usermirrorer.hub.server.store import create_token, list_tokens, revoke_token

DATA = bytes(range(256)) * 4000
OID = hashlib.sha256(DATA).hexdigest()
SIZE = len(DATA)
REPO = "ann/d"


#: Machines that run tests are busy ones.
web = httpx.Client(timeout=120)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    with running(root) as server:
        yield root, server.endpoint


@pytest.fixture
def ann(hub):
    """The owner of a fresh dataset with a large file."""
    root, endpoint = hub
    api = HfApi(endpoint=endpoint, token=create_token(root, "ann"))
    api.delete_repo(REPO, repo_type="dataset", missing_ok=True)
    api.create_repo(REPO, repo_type="dataset")
    options = {"repo_id": REPO, "repo_type": "dataset"}
    api.upload_file(path_or_fileobj=DATA, path_in_repo="w.bin", **options)
    return api


def headers(token):
    return {"Authorization": f"Bearer {token}"} if token else {}


def token_of(root, user, role="write"):
    """Return a token and what names it."""
    before = {row["id"] for row in list_tokens(root)}
    token = create_token(root, user, role)
    (key,) = {row["id"] for row in list_tokens(root)} - before
    return token, key


def address(endpoint, token, operation="download", oid=OID, size=SIZE):
    """Return where the Hub sends who wants to fetch or send a large file."""
    body = {"operation": operation, "objects": [{"oid": oid, "size": size}]}
    url = f"{endpoint}/datasets/{REPO}.git/info/lfs/objects/batch"
    answer = web.post(url, json=body, headers=headers(token)).raise_for_status().json()
    return answer["objects"][0]["actions"][operation]["href"]


def test_a_download_address_ends_with_the_token(hub, ann):
    root, endpoint = hub
    ann.update_repo_settings(REPO, repo_type="dataset", private=True)
    token, key = token_of(root, "ann", "read")
    given, owners = address(endpoint, token), address(endpoint, ann.token)
    assert token not in given
    assert web.get(given).content == DATA
    revoke_token(root, key)
    assert web.get(given).status_code == 403
    assert web.get(owners).content == DATA


def test_a_download_address_ends_when_the_repository_closes(hub, ann):
    root, endpoint = hub
    given = [address(endpoint, token) for token in ("", create_token(root, "bob"))]
    assert [web.get(one).content == DATA for one in given] == [True, True]
    ann.update_repo_settings(REPO, repo_type="dataset", private=True)
    assert [web.get(one).status_code for one in given] == [401, 404]
    ann.update_repo_settings(REPO, repo_type="dataset", private=False, gated="manual")
    assert [web.get(one).status_code for one in given] == [401, 403]


def test_a_download_address_ends_with_the_grant(hub, ann):
    root, endpoint = hub
    ann.update_repo_settings(REPO, repo_type="dataset", gated="manual")
    token = create_token(root, "bob")
    ann.grant_access(REPO, "bob", repo_type="dataset")
    given = address(endpoint, token)
    assert web.get(given).content == DATA
    ann.reject_access_request(REPO, "bob", repo_type="dataset", rejection_reason="over")
    assert web.get(given).status_code == 403
    ann.accept_access_request(REPO, "bob", repo_type="dataset")
    assert web.get(given).content == DATA  # for hours, again and again, whole or in parts
    assert web.get(given, headers={"Range": "bytes=1000-"}).content == DATA[1000:]


def test_nobody_can_put_another_name_into_an_address(hub, ann):
    root, endpoint = hub
    ann.update_repo_settings(REPO, repo_type="dataset", gated="auto")
    token, key = token_of(root, "bob")
    _, other = token_of(root, "ann")
    given = address(endpoint, token)
    for forged in (given.replace(f"k={key}", f"k={other}"), given.replace(f"k={key}", "k=")):
        assert forged != given
        assert web.get(forged).status_code == 403
    assert web.put(given, content=DATA).status_code == 403  # it is for fetching


def test_an_upload_address_ends_with_the_right_to_write(hub, ann):
    root, endpoint = hub
    data = b"more" * 1000
    oid = hashlib.sha256(data).hexdigest()
    token, key = token_of(root, "ann")
    given = address(endpoint, token, "upload", oid, len(data))
    revoke_token(root, key)
    assert web.put(given, content=data).status_code == 403
    again = address(endpoint, ann.token, "upload", oid, len(data))
    assert web.put(again, content=data).status_code == 200


def test_a_xet_token_ends_with_the_token_it_was_given_for(hub, ann):
    root, endpoint = hub
    token, key = token_of(root, "ann")
    url = f"{endpoint}/api/datasets/{REPO}/xet-write-token/main"
    given = web.get(url, headers=headers(token)).json()
    send = f"{given['casUrl']}/v1/shards"
    asked = web.post(send, content=b"", headers=headers(given["accessToken"]))
    assert asked.status_code == 400  # let in, but that is no shard
    revoke_token(root, key)
    asked = web.post(send, content=b"", headers=headers(given["accessToken"]))
    assert asked.status_code == 403
    for wrong in ("", "9", f"{given['exp']}..x", given["accessToken"].replace(key, "0" * 12)):
        assert web.post(send, content=b"", headers=headers(wrong)).status_code == 401


def test_a_transfer_that_has_begun_is_not_cut_off(hub, ann):
    """What was let in runs to its end, however slow the client; the next one is refused."""
    root, endpoint = hub
    data = bytes(30 << 20)
    oid = hashlib.sha256(data).hexdigest()
    up = address(endpoint, ann.token, "upload", oid, len(data))
    assert web.put(up, content=data).status_code == 200
    token, key = token_of(root, "ann", "read")
    given = address(endpoint, token, oid=oid, size=len(data))
    with web.stream("GET", given) as answer:
        blocks = answer.iter_bytes(1 << 20)
        received = len(next(blocks))
        revoke_token(root, key)
        time.sleep(0.5)
        received += sum(len(block) for block in blocks)
    assert received == len(data)
    assert web.get(given).status_code == 403
