"""Promise: git clones and fetches what its user may read, and nothing else; it never pushes."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import time

import httpx
import pygit2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from usermirrorer.hub.local import running
from usermirrorer.hub.server import clones
from usermirrorer.hub.server.store import create_token, list_tokens, revoke_token

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
KINDS = {"model": "", "dataset": "datasets/", "space": "spaces/"}


#: Machines that run tests are busy ones.
web = httpx.Client(timeout=120)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    with running(root) as server:
        api = HfApi(endpoint=server.endpoint, token=create_token(root, "ann"))
        for kind in KINDS:
            api.create_repo("ann/d", repo_type=kind, space_sdk="static")
            files = [CommitOperationAdd("a.txt", b"a"), CommitOperationAdd("w.bin", b"\0" * 9999)]
            options = {"repo_type": kind}
            api.create_commit("ann/d", files, commit_message="first", **options)
            api.create_branch("ann/d", branch="feature/x", **options)
            api.create_tag("ann/d", tag="v1", tag_message="annotated", **options)
        yield root, api


def git(*words, check=True, folder="."):
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(
        ["git", *map(str, words)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def with_token(url: str, token: str) -> str:
    return url.replace("://", f"://user:{token}@")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["", ".git"])
def test_git_clones_a_public_repository(hub, tmp_path, kind, ending):
    _, api = hub
    git("clone", f"{api.endpoint}/{KINDS[kind]}ann/d{ending}", tmp_path / "d")
    assert (tmp_path / "d" / "a.txt").read_text() == "a"
    assert (tmp_path / "d" / "w.bin").read_text().startswith("version https://git-lfs")
    cloned = pygit2.Repository(str(tmp_path / "d"))
    assert str(cloned.head.target) == api.repo_info("ann/d", repo_type=kind).sha
    assert {"refs/tags/v1", "refs/remotes/origin/feature/x"} <= set(cloned.references)
    git("fsck", "--strict", folder=tmp_path / "d")


@pytest.mark.parametrize("version", ["0", "1", "2"])
def test_git_fetches_what_came_later_in_any_protocol(hub, tmp_path, version):
    _, api = hub
    url, setting = f"{api.endpoint}/datasets/ann/d", f"protocol.version={version}"
    git("-c", setting, "clone", "--depth", "1", url, tmp_path / "d")
    options = {"repo_id": "ann/d", "repo_type": "dataset"}
    later = api.upload_file(path_or_fileobj=version.encode(), path_in_repo="later", **options)
    git("-c", setting, "pull", folder=tmp_path / "d")
    assert (tmp_path / "d" / "later").read_text() == version
    assert git("rev-parse", "HEAD", folder=tmp_path / "d").stdout.strip() == later.oid


def test_a_private_repository_is_cloned_with_a_token_only(hub, tmp_path):
    root, api = hub
    api.create_repo("ann/private", private=True)
    api.upload_file(path_or_fileobj=b"hidden", path_in_repo="a.txt", repo_id="ann/private")
    url, none = f"{api.endpoint}/ann/private", f"{api.endpoint}/ann/none"
    before = {row["id"] for row in list_tokens(root)}
    reader, other = create_token(root, "ann", "read"), create_token(root, "eve")
    (key,) = {r["id"] for r in list_tokens(root) if r["user"] == "ann"} - before
    for wrong in (url, with_token(url, other), with_token(url, "hf_wrong")):
        assert git("clone", wrong, tmp_path / "no", check=False).returncode
        told = git("ls-remote", wrong, check=False).stderr
        missing = git(
            "ls-remote", wrong.replace(url.split("//")[1], none.split("//")[1]), check=False
        )
        assert told.replace("ann/private", "ann/none") == missing.stderr
    git("clone", with_token(url, reader), tmp_path / "by-password")
    header = f"http.extraHeader=Authorization: Bearer {reader}"
    git("-c", header, "clone", url, tmp_path / "by-header")
    for name in ("by-password", "by-header"):
        assert (tmp_path / name / "a.txt").read_text() == "hidden"
    revoke_token(root, key)
    assert git("fetch", folder=tmp_path / "by-password", check=False).returncode


def test_a_gated_repository_is_cloned_by_whom_its_owner_let_in(hub, tmp_path):
    root, api = hub
    api.create_repo("ann/gated")
    api.update_repo_settings("ann/gated", gated="manual")
    url = with_token(f"{api.endpoint}/ann/gated", create_token(root, "bob"))
    assert git("clone", url, tmp_path / "no", check=False).returncode
    api.grant_access("ann/gated", "bob")
    git("clone", url, tmp_path / "d")


def test_a_moved_repository_is_cloned_by_its_old_name(hub, tmp_path):
    _, api = hub
    api.create_repo("ann/old")
    api.move_repo("ann/old", "ann/new")
    git("clone", f"{api.endpoint}/ann/old.git", tmp_path / "d")


def test_git_never_pushes(hub, tmp_path):
    _, api = hub
    url = with_token(f"{api.endpoint}/datasets/ann/d", api.token)
    git("clone", url, tmp_path / "d")
    who = ("-c", "user.name=x", "-c", "user.email=x@localhost")
    git(*who, "commit", "--allow-empty", "-m", "evil", folder=tmp_path / "d")
    before = api.repo_info("ann/d", repo_type="dataset").sha
    assert git("push", folder=tmp_path / "d", check=False).returncode
    assert api.repo_info("ann/d", repo_type="dataset").sha == before
    headers = {"Authorization": f"Bearer {api.token}"}
    for path in ("git-receive-pack", "info/refs?service=git-receive-pack"):
        method = "GET" if "?" in path else "POST"
        address = f"{api.endpoint}/datasets/ann/d/{path}"
        assert web.request(method, address, headers=headers).status_code in (403, 404, 405)


def test_a_password_reads_only(hub):
    """A browser sends a password by itself, also for a form of another site."""
    _, api = hub
    auth = ("user", api.token)
    me = web.get(f"{api.endpoint}/api/whoami-v2", auth=auth).json()
    assert me["name"] == "ann" and me["auth"]["accessToken"]["role"] == "read"
    made = web.post(f"{api.endpoint}/api/repos/create", json={"name": "evil"}, auth=auth)
    assert made.status_code == 403
    for odd in ("Basic", "Basic %%%", "Basic aGk=", "Basic //8="):
        answer = web.get(f"{api.endpoint}/api/whoami-v2", headers={"Authorization": odd})
        assert answer.status_code == 401


def test_what_no_branch_or_tag_holds_is_not_fetched(hub, tmp_path):
    _, api = hub
    api.create_repo("ann/squashed")
    secret = api.upload_file(path_or_fileobj=b"secret", path_in_repo="s", repo_id="ann/squashed")
    api.delete_file("s", "ann/squashed")
    api.super_squash_history("ann/squashed")
    git("clone", f"{api.endpoint}/ann/squashed", tmp_path / "d")
    for setting in ("protocol.version=0", "protocol.version=2"):
        asked = ("-c", setting, "fetch", "origin", secret.oid)
        done = git(*asked, folder=tmp_path / "d", check=False)
        assert done.returncode
    assert git("cat-file", "-e", secret.oid, folder=tmp_path / "d", check=False).returncode


def test_bodies_are_bounded(hub):
    _, api = hub
    url = f"{api.endpoint}/datasets/ann/d/git-upload-pack"
    assert web.post(url, content=bytes(clones.WANTS + 1)).status_code == 413
    for body, status in ((gzip.compress(bytes(clones.WANTS + 1)), 413), (b"no gzip", 400)):
        answer = web.post(url, content=body, headers={"Content-Encoding": "gzip"})
        assert answer.status_code == status


def test_clones_in_numbers_get_through_and_leave_no_process(hub, tmp_path):
    root, api = hub
    url = f"{api.endpoint}/datasets/ann/d"
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    running_ones = [
        subprocess.Popen(["git", "clone", "-q", url, str(tmp_path / str(number))], env=environment)
        for number in range(3 * clones.CLONES)
    ]
    assert [one.wait(120) for one in running_ones] == [0] * len(running_ones)
    with web.stream("GET", f"{url}/info/refs?service=git-upload-pack"):
        pass  # who goes away before the end
    deadline = time.monotonic() + 20
    while left := _upload_packs(root):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _upload_packs(root) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [
        line for line in listed.stdout.splitlines() if "upload-pack" in line and str(root) in line
    ]
