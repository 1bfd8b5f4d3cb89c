"""Promises: what is damaged or cannot be named harms nobody else; nobody else reads the folder."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.hub.test_backup import create, lines, put
from usermirrorer.hub.local import running
from usermirrorer.hub.server import history, trees
from usermirrorer.hub.server.history import BadName, check_path


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    with running(root) as hub:
        headers = {"Authorization": f"Bearer {hub.token}"}
        with httpx.Client(base_url=hub.endpoint, headers=headers, timeout=60) as client:
            create(client, "good")
            yield root, client


def newest(root: Path) -> Path:
    return max((root / "repos").iterdir(), key=lambda path: int(path.name)) / "git"


def remove_object(git: Path, name: str) -> None:
    """Remove what a name such as `main^{tree}` means."""
    oid = str(history.open_(git).revparse_single(name).id)
    (git / "objects" / oid[:2] / oid[2:]).unlink()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty main": lambda git: (git / "refs/heads/main").write_text(""),
    "garbage main": lambda git: (git / "refs/heads/main").write_text("main"),
    "main to nowhere": lambda git: (git / "refs/heads/main").write_text("1" * 40),
    "main to itself": lambda git: (git / "refs/heads/main").write_text("ref: refs/heads/main"),
    "no main": lambda git: (git / "refs/heads/main").unlink(),
    "empty side branch": lambda git: (git / "refs/heads/side").write_text(""),
    "broken tag": lambda git: [
        (git / "refs/tags").mkdir(exist_ok=True),
        (git / "refs/tags/v1").write_text("x"),
    ],
    "no HEAD": lambda git: (git / "HEAD").unlink(),
    "no git": shutil.rmtree,
    "no commit": lambda git: remove_object(git, "main"),
    "no tree": lambda git: remove_object(git, "main^{tree}"),
    "no README": lambda git: remove_object(git, "main:README.md"),
    "no folder": lambda git: remove_object(git, "main:folder"),
}


@pytest.mark.parametrize("kind", ["dataset", "model"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_repository_fails_nobody_else(hub, damage, kind):
    root, client = hub
    name = damage.replace(" ", "-")
    client.post("/api/repos/create", json={"name": name, "type": kind}).raise_for_status()
    repo = f"/api/{kind}s/usermirrorer/{name}"
    files = [
        {"key": "file", "value": {"path": path, "content": "---\na: 1\n---\n", "encoding": "utf-8"}}
        for path in ("README.md", "folder/a", ".eval_results/x.yaml")
    ]
    client.post(f"{repo}/commit/main", content=lines(*files)).raise_for_status()
    for derived in root.glob("repos/*/derived"):
        shutil.rmtree(derived)
    DAMAGES[damage](newest(root))
    for address in (
        *(
            "/",
            f"/api/{kind}s",
            f"/api/{kind}s?full=1",
            "/api/datasets/usermirrorer/good/leaderboard",
        ),
        *("/api/datasets/usermirrorer/good/tree/main", "/datasets/usermirrorer/good"),
        *("/api/collections", "/api/settings/repositories"),
    ):
        answer = client.get(address)
        assert answer.status_code == 200, (address, answer.text)
    page = f"/{'' if kind == 'model' else 'datasets/'}usermirrorer/{name}"
    for address in (
        *(repo, f"{repo}/refs", f"{repo}/commits/main", f"{repo}/tree/main?recursive=1&expand=1"),
        *(f"{repo}/tree/side", f"{repo}/revision/v1", page, f"{page}/resolve/main/README.md"),
        *(f"{page}/resolve/main/folder/a", f"{repo}?blobs=1", f"{repo}/leaderboard"),
    ):
        answer = client.get(address)
        assert answer.status_code < 500, (address, answer.text)
    if "side" in damage or "tag" in damage:
        assert client.get(f"{repo}/tree/main").status_code == 200
        assert len(client.get(f"{repo}/refs").json()["branches"]) == 1


REFUSED = [
    *(".git/config", "a/.Git/x", "git~1", "a/GIT~2/b", ".git./x", ".git /x", ".g\u200cit/config"),
    *(".git::$INDEX_ALLOCATION/x", "a/../b", "..", ".", "a/./b", "/a", "a//b", "a\\b", "C:\\x"),
    *("a\x00b", "a\nb", "a\x7fb", "a\x85b", "a\u2028b", "a.", "a /b", "dir./x", "con", "a/NUL.txt"),
    *("com1.parquet", "n" * 256, "é" * 128, "/".join(["n" * 50] * 30), "\ud800", "a/" * 70 + "b"),
    ".cache/huggingface/x",
]


@pytest.mark.parametrize("path", REFUSED, ids=ascii)
def test_names_that_cannot_be_written_back_are_refused(hub, path):
    _, client = hub
    with pytest.raises(BadName):
        check_path(path)
    file = {"key": "file", "value": {"path": path, "content": "x", "encoding": "utf-8"}}
    answer = client.post("/api/datasets/usermirrorer/good/commit/main", content=lines(file))
    assert answer.status_code == 400, answer.text
    assert "path" in answer.json()["error"] or path == "\ud800"  # no text at all


@pytest.mark.parametrize(
    "path",
    [
        *("a b/c d.txt", "日本/データ.parquet", "é.txt", ".gitignore", ".github/x", "git~", "a~1"),
        *("console.txt", "conf/aux_data.csv", "x" * 240, "a#b?c%25.txt", "🙂.md", "-rf", "...x"),
        *("t:1.json", "_.cache/x"),
    ],
    ids=ascii,
)
def test_all_other_names_come_back(hub, path):
    _, client = hub
    put(client, "usermirrorer/good", path, "content")
    from urllib.parse import quote

    address = f"/datasets/usermirrorer/good/resolve/main/{quote(path, safe='')}"
    assert client.get(address).text == "content"


def test_names_that_other_systems_take_for_one_are_refused(hub):
    _, client = hub
    create(client, "twins")
    address = "/api/datasets/usermirrorer/twins/commit/main"

    def push(*paths: str, deleted: str = "") -> int:
        operations = [
            {"key": "file", "value": {"path": path, "content": "x", "encoding": "utf-8"}}
            for path in paths
        ]
        if deleted:
            operations.insert(0, {"key": "deletedFile", "value": {"path": deleted}})
        return client.post(address, content=lines(*operations)).status_code

    assert push("Readme.md", "dir/x") == 200
    for pair in (("README.md",), ("n/A", "n/a"), ("DIR/y",), ("Dir",), ("\u00e9", "e\u0301")):
        assert push(*pair) == 400, pair
    assert push("README.md", deleted="Readme.md") == 200  # a change of case alone
    assert push("readme.md") == 400
    names = {row["path"] for row in client.get("/api/datasets/usermirrorer/twins/tree/main").json()}
    assert names == {".gitattributes", "README.md", "dir"}


def test_a_pointer_without_its_object_is_refused(hub):
    _, client = hub
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'7' * 64}\nsize 9\n"
    file = {"key": "file", "value": {"path": "p.bin", "content": pointer, "encoding": "utf-8"}}
    answer = client.post("/api/datasets/usermirrorer/good/commit/main", content=lines(file))
    assert answer.status_code == 400
    assert "was not uploaded" in answer.json()["error"]


def test_nobody_else_on_the_machine_reads_the_folder(tmp_path):
    root = tmp_path / "hub"
    with running(root) as hub:
        headers = {"Authorization": f"Bearer {hub.token}"}
        with httpx.Client(base_url=hub.endpoint, headers=headers, timeout=60) as client:
            create(client, "good")
            fill_all_places(client)
            paths = [root, *root.rglob("*")]
            assert any(path.suffix == ".pack" for path in paths)
            assert [path for path in paths if path.lstat().st_mode & 0o077] == []


def fill_all_places(client: httpx.Client) -> None:
    put(client, "usermirrorer/good", "large", "x", b"large" * 1000)
    many = [
        {"key": "file", "value": {"path": f"m{n}", "content": str(n), "encoding": "utf-8"}}
        for n in range(50)
    ]
    address = "/api/datasets/usermirrorer/good/commit/main"
    client.post(address, content=lines(*many)).raise_for_status()


def test_a_listing_in_pages_is_the_listing_in_one(tmp_path):
    git = tmp_path / "git"
    history.create(git, "ann")
    blob = history.write_blob(git, b"x")
    names = [
        *(
            f"{a}{b}"
            for a in ("a", "a.b", "a-b", "ab", "b/c", "b/c.d", "b.c", "b/c/d/e")
            for b in "01"
        ),
        *(f"deep/{n}/{m}" for n in range(5) for m in range(5)),
    ]
    changes = [history.Change("put", name, blob) for name in names]
    history.commit(git, "main", changes, author="ann", message="m")
    repo = history.open_(git)
    commit = history.resolve(repo, "main")
    listed = subprocess.run(
        ["git", "-C", str(git), "ls-tree", "-r", "-t", "--name-only", "main"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    whole = [entry.path for entry in trees.walk(repo, commit)]
    assert whole == listed
    for size in (1, 2, 3, 7):
        pages: list[str] = []
        while True:
            rest = trees.walk(repo, commit, after=pages[-1] if pages else "")
            page = [entry.path for _, entry in zip(range(size), rest, strict=False)]
            if not page:
                break
            pages += page
        assert pages == whole
    below = [entry.path for entry in trees.walk(repo, commit, "deep")]
    assert below == [path for path in whole if path.startswith("deep/")]
    assert [e.path for e in trees.walk(repo, commit, "deep", after=below[9])] == below[10:]


def test_changes_in_order_make_what_git_makes_of_them(tmp_path):
    git = tmp_path / "git"
    history.create(git, "ann")
    blob = history.write_blob(git, b"x")

    def commit(*steps: str) -> set[str]:
        words = [step.split() for step in steps]
        changes = [history.Change(action, path, blob) for action, path in words]
        history.commit(git, "main", changes, author="ann", message="m")
        repo = history.open_(git)
        return {entry.path for entry in trees.walk(repo, history.resolve(repo, "main"))}

    assert commit("put d/e/f", "put d/g", "delete .gitattributes") == {"d", "d/e", "d/e/f", "d/g"}
    assert commit("delete d/e/f") == {"d", "d/g"}  # git has no empty folders
    assert commit("delete d/g", "put d") == {"d"}
    assert commit("delete d", "put d/e/f", "put d/h/i") == {"d", "d/e", "d/e/f", "d/h", "d/h/i"}
    assert commit("delete_folder d/e", "put d/e") == {"d", "d/e", "d/h", "d/h/i"}
    assert commit("delete_folder d", "put z") == {"z"}
    for steps, error in (
        (["delete y"], trees.Missing),
        (["delete_folder z"], trees.Missing),
        (["delete z", "delete z"], trees.Missing),
        (["put z/a"], BadName),
        (["put n/a", "put n"], BadName),
    ):
        with pytest.raises(error):
            commit(*steps)
    assert commit("delete z") == set()
    repo = history.open_(git)
    emptied = history.resolve(repo, "main")
    assert history.resolve(repo, str(emptied.id)).id == emptied.id
    checked = subprocess.run(["git", "-C", str(git), "fsck", "--strict"], check=False)
    assert checked.returncode == 0


def test_no_token_is_shown_where_the_port_is_taken_and_others_are_warned_of(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "usermirrorer.recipes.cli", "hub", "serve", "--root"]
        command += [str(tmp_path / "hub"), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "HF_TOKEN" not in done.stdout and "cannot listen" in done.stderr
    assert not (tmp_path / "hub").exists()
    command[-1:] = ["0", "--host", "0.0.0.0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as one:
        shown = [one.stdout.readline() for _ in range(2)]
        warning = one.stderr.readline()
        one.terminate()
    assert shown[0].startswith("HF_ENDPOINT=http://0.0.0.0:") and shown[1].startswith("HF_TOKEN=")
    assert "can be reached from other machines" in warning
