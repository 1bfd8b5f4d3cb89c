"""Promises of calls that a lab makes now and then, each by the unmodified client.

Moved repositories are found by their old names, gated ones open to whom their owner lets in,
histories are squashed and large files deleted for good, repositories and files copied. No call
gives anybody more than they had.
"""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from usermirrorer.hub.local import running
from usermirrorer.hub.server import maintenance
from usermirrorer.hub.server.store import create_token

PEOPLE = ("ann", "bob", "eve")


class Hub:
    """A running Hub with its people: `hub.ann` writes, `hub.ann_reads` reads, `hub.nobody`."""

    def __init__(self, root, endpoint):
        self.root, self.endpoint = root, endpoint
        self.nobody = HfApi(endpoint=endpoint, token=False)
        for name in PEOPLE:
            setattr(self, name, self.api(create_token(root, name)))
            setattr(self, f"{name}_reads", self.api(create_token(root, name, "read")))

    def api(self, token):
        return HfApi(endpoint=self.endpoint, token=token)


#: Machines that run tests are busy ones.
web = httpx.Client(timeout=120)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    with running(root) as server:
        yield Hub(root, server.endpoint)
    problems = [f for f in maintenance.check(root) if f.kind != maintenance.MODE]
    assert not problems  # whatever was squashed, deleted and copied


@pytest.fixture
def make(hub, request):
    """Make a repository of ann's with a small and a large file; its name is the test's."""
    short = request.node.name.partition("[")[0].removeprefix("test_")[:60]

    def call(repo_type="dataset", ending="", **options):
        repo = f"ann/{short}{ending}"
        hub.ann.create_repo(repo, repo_type=repo_type, **options)
        files = [CommitOperationAdd("a.txt", b"small"), CommitOperationAdd("d/w.bin", large(repo))]
        hub.ann.create_commit(repo, files, commit_message="first", repo_type=repo_type)
        return repo

    return call


def large(repo: str) -> bytes:
    return repo.encode() * 100_000


def status(call, *arguments, **options) -> int:
    """Return the status with which the Hub refuses a call, 200 if it does not."""
    try:
        done = call(*arguments, **options)
        list(done) if hasattr(done, "__next__") else None
    except HfHubHTTPError as error:
        return error.response.status_code
    return 200


def read(api: HfApi, repo: str, path: str = "d/w.bin", revision: str = "main") -> bytes:
    url = hf_hub_url(repo, path, repo_type="dataset", revision=revision, endpoint=api.endpoint)
    headers = {"Authorization": f"Bearer {api.token}"} if api.token else {}
    answer = web.get(url, headers=headers, follow_redirects=True)
    answer.raise_for_status()
    return answer.content


def test_old_names_lead_to_a_moved_repository(hub, make, tmp_path):
    old, options = make(), {"repo_type": "dataset"}
    new, last = f"{old}-new", f"{old}-last"
    hub.ann.move_repo(old, new, **options)
    hub.ann.move_repo(new, last, **options)
    for name in (old, new, last):
        assert hub.nobody.repo_info(name, **options).id == last
        assert "a.txt" in hub.nobody.list_repo_files(name, **options)
        assert hub.nobody.get_paths_info(name, ["d/w.bin"], **options)[0].size == len(large(old))
        got = hub.nobody.hf_hub_download(name, "d/w.bin", cache_dir=tmp_path / name, **options)
        assert Path(got).read_bytes() == large(old)
        assert hub.nobody.file_exists(name, "a.txt", **options)
    hub.ann.upload_file(
        path_or_fileobj=os.urandom(200_000), path_in_repo="new.bin", repo_id=old, **options
    )
    hub.ann.create_tag(new, tag="v1", **options)
    assert [tag.name for tag in hub.ann.list_repo_refs(last, **options).tags] == ["v1"]
    url = f"{hub.endpoint}/datasets/{old}/tree/v1?x=%3B"
    assert web.get(url).headers["location"] == f"/datasets/{last}/tree/v1?x=%3B"
    assert status(hub.eve.delete_tag, old, tag="v1", **options) in (403, 404)
    # A name that is taken again is what it says; with its new owner's going it leads nowhere.
    hub.ann.create_repo(old, **options)
    assert hub.nobody.repo_info(old, **options).id == old
    hub.ann.delete_repo(old, **options)
    assert status(hub.nobody.repo_info, old, **options) == 401
    assert hub.nobody.repo_info(new, **options).id == last
    hub.ann.delete_repo(last, **options)
    assert status(hub.ann.repo_info, new, **options) == 404


def test_an_old_name_of_a_private_repository_says_nothing(hub, make):
    old = make(private=True)
    hub.ann.move_repo(old, f"{old}-new", repo_type="dataset")
    assert hub.ann_reads.repo_info(old, repo_type="dataset").id == f"{old}-new"
    never = "ann/there-never-was-one"
    for path in ("/api/datasets/{}", "/api/datasets/{}/refs", "/datasets/{}/resolve/main/a.txt"):
        for api in (hub.nobody, hub.eve):
            headers = {"Authorization": f"Bearer {api.token}"} if api.token else {}
            answers = [
                web.get(hub.endpoint + path.format(n), headers=headers) for n in (old, never)
            ]
            one, other = ((a.status_code, a.text, a.headers.get("location")) for a in answers)
            assert one == other and one[0] in (401, 404) and one[2] is None
    assert status(hub.eve.delete_repo, old, repo_type="dataset") == 404


def test_the_first_digits_of_a_commit_are_enough(hub, make):
    repo, options = make(), {"repo_type": "dataset"}
    sha = hub.ann.repo_info(repo, **options).sha
    assert hub.nobody.repo_info(repo, revision=sha[:7], **options).sha == sha
    assert read(hub.nobody, repo, revision=sha[:8]) == large(repo)
    tree = hub.ann.list_repo_tree(repo, "d", **options)
    blob = next(iter(tree)).blob_id
    for wrong in (sha[:6], "0" * 9, blob[:9], sha[:7].upper() + "x", "HEAD~1", f"{sha[:7]}^"):
        with pytest.raises(RevisionNotFoundError):
            hub.nobody.repo_info(repo, revision=wrong, **options)


def test_super_squash_history(hub, make):
    repo, options = make(), {"repo_type": "dataset"}
    hub.ann.create_branch(repo, branch="feature/x", **options)
    before = {e.path: e.blob_id for e in hub.ann.list_repo_tree(repo, "d", **options)}
    for api, refused in ((hub.nobody, 401), (hub.eve, 403), (hub.ann_reads, 403)):
        assert status(api.super_squash_history, repo, **options) == refused
    assert status(hub.ann.super_squash_history, repo, branch="none", **options) == 404
    hub.ann.super_squash_history(repo, branch="feature/x", commit_message="all", **options)
    titles = [c.title for c in hub.ann.list_repo_commits(repo, revision="feature/x", **options)]
    assert titles == ["all"]
    assert [c.title for c in hub.ann.list_repo_commits(repo, **options)][-1] == "initial commit"
    after = hub.ann.list_repo_tree(repo, "d", revision="feature/x", **options)
    assert {e.path: e.blob_id for e in after} == before
    hub.ann.super_squash_history(repo, **options)
    assert len(hub.ann.list_repo_commits(repo, **options)) == 1
    assert read(hub.nobody, repo) == large(repo)


def test_large_files_go_for_good(hub, make):
    repo, options = make(), {"repo_type": "dataset"}
    other, kept = large("other"), large("kept")
    add = [CommitOperationAdd("e/other.bin", other), CommitOperationAdd("kept.bin", kept)]
    hub.ann.create_commit(repo, add, commit_message="second", **options)
    hub.ann.create_tag(repo, tag="v1", tag_message="annotated", **options)
    hub.ann.create_branch(repo, branch="old", revision="main", **options)
    for api, refused in ((hub.nobody, 401), (hub.eve, 403), (hub.ann_reads, 403)):
        assert status(api.list_lfs_files, repo, **options) == refused
        wanted = list(hub.ann.list_lfs_files(repo, **options))
        assert status(api.permanently_delete_lfs_files, repo, wanted, **options) == refused
    files = {file.filename: file for file in hub.ann.list_lfs_files(repo, **options)}
    assert {name: file.size for name, file in files.items()} == {
        "d/w.bin": len(large(repo)),
        "e/other.bin": len(other),
        "kept.bin": len(kept),
    }
    gone = [files["e/other.bin"]]
    delete = hub.ann.permanently_delete_lfs_files
    assert status(delete, repo, gone, rewrite_history=False, **options) == 409
    old_commit = hub.ann.repo_info(repo, **options).sha
    delete(repo, gone, **options)
    for revision in ("main", "v1", "old"):
        listed = hub.ann.list_repo_files(repo, revision=revision, **options)
        assert listed == [".gitattributes", "a.txt", "d/w.bin", "kept.bin"]
        assert read(hub.nobody, repo, "kept.bin", revision) == kept
    assert hub.ann.list_repo_refs(repo, **options).tags[0].name == "v1"
    assert next(c.title for c in hub.ann.list_repo_commits(repo, **options)) == "second"
    assert {f.filename for f in hub.ann.list_lfs_files(repo, **options)} == {"d/w.bin", "kept.bin"}
    with pytest.raises(httpx.HTTPStatusError) as lost:
        read(hub.ann, repo, "e/other.bin", old_commit)
    assert lost.value.response.status_code == 404


def test_duplicate_repo(hub, make):
    repo, options = make(), {"repo_type": "dataset"}
    hub.ann.create_tag(repo, tag="v1", tag_message="annotated", **options)
    for api, refused in ((hub.nobody, 401), (hub.bob_reads, 403)):
        assert status(api.duplicate_repo, repo, "bob/copy", **options) in (refused, 401)
    assert status(hub.eve.duplicate_repo, repo, "bob/copy", **options) == 403
    url = hub.bob.duplicate_repo(repo, "bob/copy", **options)
    assert url.repo_id == "bob/copy" and not url.files_copy_pending
    assert status(hub.bob.duplicate_repo, repo, "bob/copy", **options) == 409
    assert hub.bob.duplicate_repo(repo, "bob/copy", exist_ok=True, **options).repo_id == "bob/copy"
    commits = [c.commit_id for c in hub.bob.list_repo_commits("bob/copy", **options)]
    assert commits == [c.commit_id for c in hub.ann.list_repo_commits(repo, **options)]
    hub.ann.delete_repo(repo, **options)  # the copy stands by itself
    assert read(hub.nobody, "bob/copy", revision="v1") == large(repo)
    hub.bob.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="bob/copy", **options)
    hub.bob.delete_repo("bob/copy", **options)


def test_copies_of_what_is_not_open_stay_closed(hub, make):
    options = {"repo_type": "dataset"}
    private, gated = make(private=True), make(ending="-gated")
    hub.ann.update_repo_settings(gated, gated="manual", **options)
    assert status(hub.bob.duplicate_repo, private, "bob/stolen", **options) == 404
    assert status(hub.bob.duplicate_repo, gated, "bob/stolen", **options) == 403
    hub.ann.duplicate_repo(private, "ann/closed", **options)
    assert hub.ann.repo_info("ann/closed", **options).private
    hub.ann.grant_access(gated, "bob", **options)
    assert status(hub.bob.duplicate_repo, gated, "bob/open", private=False, **options) == 403
    hub.bob.duplicate_repo(gated, "bob/closed", **options)
    assert status(hub.nobody.repo_info, "bob/closed", **options) == 401


def test_copy_files_between_repositories(hub, make):
    options = {"repo_type": "dataset"}
    repo, gated = make(), make(ending="-gated")
    hub.ann.update_repo_settings(gated, gated="manual", **options)
    private = make(ending="-private", private=True)
    hub.bob.create_repo("bob/into", **options)
    target = "hf://datasets/bob/into/got/"
    for source in (gated, private):
        assert status(hub.bob.copy_files, f"hf://datasets/{source}/d/w.bin", target) in (403, 404)
    assert status(hub.eve.copy_files, f"hf://datasets/{repo}/d/w.bin", target) == 403
    hub.bob.copy_files(f"hf://datasets/{repo}/d/w.bin", target)
    hub.bob.copy_files(f"hf://datasets/{repo}/", "hf://datasets/bob/into/all/")
    hub.ann.delete_repo(repo, **options)
    assert read(hub.nobody, "bob/into", "got/w.bin") == large(repo)
    assert read(hub.nobody, "bob/into", "all/a.txt") == b"small"
    # By hash alone nothing is had of what one may not read.
    sha = hub.ann.get_paths_info(private, ["d/w.bin"], **options)[0].lfs.sha256
    for api, source in ((hub.bob, private), (hub.bob, gated), (hub.nobody, gated)):
        headers = {"Authorization": f"Bearer {api.token}"} if api.token else {}
        body = {"target": {"type": "dataset", "name": "bob/into"}, "files": [{"sha256": sha}]}
        url = f"{hub.endpoint}/api/datasets/{source}/lfs-files/duplicate"
        assert web.post(url, json=body, headers=headers).status_code in (401, 403, 404)
    line = {"path": "stolen.bin", "algo": "sha256", "oid": sha}
    body = '{"key":"header","value":{"summary":"x"}}\n'
    body += '{"key":"lfsFile","value":' + str(line).replace("'", '"') + "}"
    url = f"{hub.endpoint}/api/datasets/bob/into/commit/main"
    headers = {"Authorization": f"Bearer {hub.bob.token}"}
    assert web.post(url, content=body, headers=headers).status_code == 422


def test_access_to_gated_repositories(hub, make, tmp_path):
    repo, options = make(), {"repo_type": "dataset"}
    assert status(hub.ann.list_pending_access_requests, repo, **options) == 400  # not gated
    hub.ann.update_repo_settings(repo, gated="manual", **options)
    ask = f"{hub.endpoint}/datasets/{repo}/ask-access"
    assert web.post(ask).status_code == 401
    for api in (hub.bob_reads, hub.bob, hub.eve):
        asked = web.post(ask, headers={"Authorization": f"Bearer {api.token}"})
        assert asked.json() == {"status": "pending"}
    pending = list(hub.ann.list_pending_access_requests(repo, **options))
    assert [(r.username, r.status) for r in pending] == [("bob", "pending"), ("eve", "pending")]
    with pytest.raises(GatedRepoError):
        hub.bob.hf_hub_download(repo, "a.txt", cache_dir=tmp_path, **options)
    hub.ann.accept_access_request(repo, "bob", **options)
    assert read(hub.bob_reads, repo) == large(repo)
    assert status(hub.bob.auth_check, repo, **options) == 200
    assert status(hub.eve.auth_check, repo, **options) == 403
    hub.ann.reject_access_request(
        repo, request_id=pending[1].request_id, rejection_reason="no", **options
    )
    assert [r.username for r in hub.ann.list_rejected_access_requests(repo, **options)] == ["eve"]
    again = web.post(ask, headers={"Authorization": f"Bearer {hub.eve.token}"})
    assert again.json() == {"status": "rejected"}
    hub.ann.cancel_access_request(repo, "bob", **options)
    assert status(hub.bob.auth_check, repo, **options) == 403
    hub.ann.grant_access(repo, "eve", **options)
    assert [r.username for r in hub.ann.list_accepted_access_requests(repo, **options)] == ["eve"]
    assert status(hub.eve.auth_check, repo, **options) == 200
    for call, wrong, refused in (
        (hub.ann.grant_access, "eve", 400),
        (hub.ann.grant_access, "nobody-there", 404),
        (hub.ann.accept_access_request, "eve", 404),
        (hub.ann.accept_access_request, "ann", 404),
    ):
        assert status(call, repo, wrong, **options) == refused
    # A repository of the same name that comes later starts with nobody let in.
    hub.ann.delete_repo(repo, **options)
    make()
    hub.ann.update_repo_settings(repo, gated="manual", **options)
    assert status(hub.eve.auth_check, repo, **options) == 403


def test_only_the_owner_lets_in(hub, make):
    repo, options = make(), {"repo_type": "dataset"}
    hub.ann.update_repo_settings(repo, gated="manual", **options)
    for api, refused in ((hub.nobody, 401), (hub.eve, 403), (hub.ann_reads, 403)):
        for call in (
            api.list_pending_access_requests,
            api.list_accepted_access_requests,
            api.list_rejected_access_requests,
        ):
            assert status(call, repo, **options) == refused
        for call in (api.grant_access, api.accept_access_request, api.cancel_access_request):
            assert status(call, repo, "eve", **options) == refused
        reject = api.reject_access_request
        assert status(reject, repo, "eve", rejection_reason="x", **options) == refused
    assert status(hub.eve.auth_check, repo, **options) == 403


def test_who_was_rejected_does_not_read_what_opens_by_itself(hub, make):
    repo, options = make(), {"repo_type": "dataset"}
    hub.ann.update_repo_settings(repo, gated="auto", **options)
    ask = f"{hub.endpoint}/datasets/{repo}/ask-access"
    asked = web.post(ask, headers={"Authorization": f"Bearer {hub.eve.token}"})
    assert asked.json() == {"status": "accepted"}
    assert status(hub.eve.auth_check, repo, **options) == 200
    hub.ann.reject_access_request(repo, "eve", rejection_reason=None, **options)
    assert status(hub.eve.auth_check, repo, **options) == 403
    assert status(hub.bob.auth_check, repo, **options) == 200


def test_tags_by_type(hub, make):
    options = {"repo_type": "dataset"}
    repo, private = make(), make(ending="-private", private=True)
    for name, licence in ((repo, "mit"), (private, "secret-licence")):
        card = f"---\nlicense: {licence}\ntags: [scenes]\nlanguage: en\n---\n".encode()
        hub.ann.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=name, **options)
    tags = hub.nobody.get_dataset_tags()
    assert {"id": "license:mit", "label": "mit", "type": "license"} in tags["license"]
    assert {"id": "scenes", "label": "scenes", "type": "other"} in tags["other"]
    assert "secret-licence" not in str(tags) and "language" in tags
    assert hub.nobody.get_model_tags() == {}


def test_collections_change(hub, make):
    options = {"repo_type": "dataset"}
    names = [make(ending=f"-{n}") for n in range(3)]
    slug = hub.ann.create_collection("First").slug
    for name in names:
        hub.ann.add_collection_item(slug, name, "dataset", note="old")
    items = hub.ann.get_collection(slug).items
    hub.ann.update_collection_item(slug, items[2].item_object_id, note="new", position=0)
    changed = hub.ann.get_collection(slug).items
    assert [(i.item_id, i.note) for i in changed] == [
        (names[2], "new"),
        (names[0], "old"),
        (names[1], "old"),
    ]
    made = hub.ann.update_collection_metadata(
        slug, title="Second", description="text", theme="pink", position=2, private=True
    )
    seen = hub.ann.get_collection(slug)
    assert (seen.title, seen.description, seen.theme, seen.private) == (
        *("Second", "text", "pink"),
        True,
    )
    assert made.title == "Second" and hub.ann.get_collection(made.slug).title == "Second"
    hub.ann.create_collection("Third")
    assert status(hub.ann.update_collection_metadata, slug, title="Third") == 409
    assert status(hub.ann.update_collection_metadata, slug, theme="mauve") == 400
    for api, refused in ((hub.nobody, 401), (hub.eve, 403), (hub.ann_reads, 403)):
        assert status(api.update_collection_metadata, slug, title="x") == refused
        change = api.update_collection_item
        assert status(change, slug, items[0].item_object_id, note="x") == refused
    assert status(hub.ann.update_collection_item, slug, "0" * 24, note="x") == 404
    assert hub.ann.get_collection(slug).items[1].note == "old"
    hub.ann.delete_repo(names[0], **options)


def test_get_dataset_leaderboard(hub, make):
    repo = make()
    for model, value in (("good", 0.75), ("bad", 0.25)):
        text = f"- dataset: {{id: {repo}, task_id: t}}\n  value: {value}\n  notes: by hand\n"
        hub.ann.create_repo(f"ann/{model}")
        hub.ann.upload_file(
            path_or_fileobj=text.encode(),
            path_in_repo=".eval_results/x.yaml",
            repo_id=f"ann/{model}",
        )
    rows = hub.nobody.get_dataset_leaderboard(repo)
    assert [(r.rank, r.model_id, r.value, r.notes) for r in rows] == [
        (1, "ann/good", 0.75, "by hand"),
        (2, "ann/bad", 0.25, "by hand"),
    ]
    assert rows[0].author.username == "ann" and rows[0].filename == ".eval_results/x.yaml"
    hub.ann.update_repo_settings("ann/bad", private=True)
    assert [r.model_id for r in hub.nobody.get_dataset_leaderboard(repo)] == ["ann/good"]


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("GET", "/api/jobs/ann", "jobs"),
        ("GET", "/api/daily_papers", "papers"),
        ("POST", "/api/settings/webhooks", "webhooks"),
        ("GET", "/api/datasets/ann/{}/discussions", "discussions"),
        ("PUT", "/api/datasets/ann/{}/refs", "refs"),
        ("POST", "/api/datasets/ann/{}/like", "likes"),
        ("PATCH", "/api/datasets/ann/{}/tree/main/a.txt", "tree"),
        ("GET", "/api/", "such address"),
        ("GET", "/papers/2307.1.md", "papers"),
        ("HEAD", "/buckets/ann/b/resolve/x", None),
        ("GET", "/api/kernels/ann/b", "kernels"),
    ],
)
def test_what_is_not_there_is_told_in_words(hub, method, path, words):
    name = "told"
    hub.ann.create_repo(f"ann/{name}", repo_type="dataset", exist_ok=True)
    answer = web.request(method, hub.endpoint + path.format(name))
    assert answer.status_code == 501
    if words:
        assert answer.json()["error"] == f"This Hub has no {words}"
        assert answer.headers["x-error-message"] == f"This Hub has no {words}"


def test_what_is_not_there_of_a_repository_that_one_may_not_see_is_not_found(hub, make):
    repo = make(private=True)
    for name in (repo, "ann/none-at-all"):
        assert status(hub.eve.create_discussion, name, "x", repo_type="dataset") == 404
        with pytest.raises(RepositoryNotFoundError):
            list(hub.nobody.get_repo_discussions(name, repo_type="dataset"))
    assert status(hub.ann.create_discussion, repo, "x", repo_type="dataset") == 501
    with pytest.raises(EntryNotFoundError):
        list(hub.ann.list_repo_tree(repo, "nothing", repo_type="dataset"))
