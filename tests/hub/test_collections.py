"""Promises of collections: one page links dataset, models and leaderboard; the private stays so."""

from __future__ import annotations

import re

import httpx

from usermirrorer.hub.server.store import create_token, list_tokens, revoke_token

from .conftest import build_release

COLLECT = """
import sys
from pathlib import Path
import numpy as np
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from safetensors.numpy import save_file
from usermirrorer.builders.common.errors import UserError
from usermirrorer.hub import releases

api, name = HfApi(), "usermirrorer/mixed"
releases.push(sys.argv[1], name)
folder = Path(sys.argv[2])
folder.mkdir()
save_file({"w": np.zeros(4, dtype="float32")}, folder / "model.safetensors")
for path, text in {"config.json": "{}", "tokenizer.json": "{}", "README.md": "# x\\n"}.items():
    (folder / path).write_text(text)
(folder / ".eval_results").mkdir()
(folder / ".eval_results" / "x.yaml").write_text(
    "- dataset: {id: usermirrorer/mixed, task_id: usermirror_steam}\\n  value: 0.5\\n")
for model, private in (("usermirrorer/sft", False), ("usermirrorer/secret", True)):
    releases.push_model(folder, model, version="2.0.0", private=private)
    models = ["usermirrorer/sft@2.0.0"] + ["usermirrorer/secret"] * private
    address = releases.collect(name, "1.0.0", models)
for wrong in ((name, "9.0.0", []), (name, "1.0.0", ["usermirrorer/sft@3.0.0"])):
    try:
        releases.collect(*wrong)
        raise SystemExit("a version that is not there was listed")
    except UserError as error:
        assert "has no such version" in str(error)

(found,) = api.list_collections(owner="usermirrorer", item="datasets/usermirrorer/mixed")
assert found.url == address and found.title == "usermirrorer/mixed v1.0.0"
items = [(i.item_id, i.item_type, i.note) for i in api.get_collection(found.slug).items]
assert items == [("usermirrorer/mixed", "dataset", "Version v1.0.0"),
                 ("usermirrorer/sft", "model", "Version v2.0.0"),
                 ("usermirrorer/secret", "model", "Version v2.0.0")]
seen = HfApi(token=False).get_collection(found.slug).items
assert [i.item_id for i in seen] == ["usermirrorer/mixed", "usermirrorer/sft"]
try:
    HfApi(token=False).delete_collection(found.slug)
    raise SystemExit("deleted by nobody")
except HfHubHTTPError as error:
    assert error.response.status_code == 401
other = api.create_collection("Other", private=True)
api.add_collection_item(other.slug, name, "dataset")
api.delete_collection_item(other.slug, api.get_collection(other.slug).items[0].item_object_id)
assert api.get_collection(other.slug).items == []
assert [c.title for c in HfApi(token=False).list_collections()] == [found.title]
api.delete_collection(other.slug)
api.delete_repo("usermirrorer/secret")
assert len(api.get_collection(found.slug).items) == 2
print(address)
"""


def test_a_release_on_one_page(run, local_hub, tmp_path):
    folder = build_release(tmp_path / "one", "1.0.0")
    address = run(COLLECT, folder, tmp_path / "model").stdout.split()[-1]
    page = httpx.get(address)
    assert page.status_code == 200
    for link in ("/datasets/usermirrorer/mixed/tree/v1.0.0", "/usermirrorer/sft/tree/v2.0.0"):
        assert f'href="{link}"' in page.text
        assert httpx.get(local_hub.endpoint + link).status_code == 200
    assert 'href="/datasets/usermirrorer/mixed#leaderboard"' in page.text
    assert 'id="leaderboard"' in httpx.get(f"{local_hub.endpoint}/datasets/usermirrorer/mixed").text
    assert re.search(r'href="/collections/usermirrorer/[^"]+"', httpx.get(local_hub.endpoint).text)


PRIVATE = """
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("usermirrorer/secret", private=True)
api.upload_file(path_or_fileobj=b"# Hidden words", path_in_repo="README.md",
                repo_id="usermirrorer/secret")
"""


def test_a_private_page_is_seen_with_its_owners_token_only(run, local_hub, tmp_path):
    run(PRIVATE)
    token = create_token(tmp_path / "hub", "usermirrorer", "read", "browser")
    html = {"Accept": "text/html"}
    page = "/usermirrorer/secret"
    file = f"{page}/resolve/main/README.md"
    with httpx.Client(base_url=local_hub.endpoint, headers=html) as browser:
        hidden = browser.get(page)
        assert hidden.status_code == 401
        assert "Hidden words" not in hidden.text
        assert f'href="/login?next={page}"' in hidden.text
        assert "usermirrorer/secret" not in browser.get("/").text

        assert browser.post("/login", data={"token": "hf_wrong"}).status_code == 401
        assert not browser.cookies
        stranger = create_token(tmp_path / "hub", "ann")
        browser.post("/login", data={"token": stranger})
        assert browser.get(page).status_code == 404
        browser.post("/logout")

        done = browser.post(f"/login?next={page}", data={"token": token})
        assert done.status_code == 303 and done.headers["location"] == page
        kept = done.headers["set-cookie"]
        assert "HttpOnly" in kept and token not in kept
        assert "Hidden words" in browser.get(page).text
        assert browser.get(page).headers["cache-control"] == "private, no-store"
        assert "Hidden words" in browser.get(file).text
        assert "usermirrorer/secret" in browser.get("/").text

        # A session reads: whatever another site makes the browser send, nothing changes.
        assert browser.post("/api/repos/create", json={"name": "x"}).status_code == 401
        forged = dict(browser.cookies)
        name, value = forged.popitem()
        expires, rest = value.split(".", 1)
        later = {"Cookie": f"{name}={int(expires) + 1}.{rest}"}
        assert httpx.get(local_hub.endpoint + page, headers=later).status_code == 401
        for away in ("//evil.example", "https://evil.example", "/\\evil.example"):
            done = browser.post("/login", params={"next": away}, data={"token": token})
            assert done.headers["location"] in ("/", "/%5Cevil.example")
        for row in list_tokens(tmp_path / "hub"):
            if row["label"] == "browser":
                revoke_token(tmp_path / "hub", row["id"])
        assert browser.get(page).status_code == 401
