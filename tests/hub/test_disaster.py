"""Promise: nothing but its owner erases a repository, whatever became of the accounts file."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from usermirrorer.builders.common.errors import UserError
from usermirrorer.hub import commands
from usermirrorer.hub.server import folders, history, maintenance, proof
from usermirrorer.hub.server.store import Store, create_token


def make(root: Path) -> dict[int, str]:
    """Make a Hub with two users, three repositories and a collection; return names by id."""
    create_token(root, "ann")
    store = Store(root)
    names = {}
    for kind, owner, name, private in (
        ("dataset", "ann", "open", False),
        ("model", "ann", "hidden", True),
        ("dataset", "bob", "open", False),
    ):
        repo = store.create(kind, owner, name, private)
        git = store.folder(repo) / "git"
        change = history.Change("put", "a.txt", history.write_blob(git, name.encode()))
        history.commit(git, "main", [change], author=owner, message="a")
        names[repo.id] = f"{kind} {owner}/{name} {private}"
    store.close()
    return names


def recorded(root: Path) -> dict[int, str]:
    store = Store(root)
    try:
        for repo in store.repos():
            git = history.open_(store.folder(repo) / "git")
            assert history.entry(git, history.resolve(git, "main"), "a.txt"), repo
        return {r.id: f"{r.kind} {r.full_name} {r.private}" for r in store.repos()}
    finally:
        store.close()


def contents(root: Path) -> dict[str, bytes]:
    """Return every file of the repositories."""
    files = (path for path in (root / "repos").rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def missing(path: Path, older: Path) -> None:
    path.unlink()


def empty(path: Path, older: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path, older: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def first_bytes_only(path: Path, older: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def garbage(path: Path, older: Path) -> None:
    path.write_bytes(b"accounts" * 1000)


def overwritten_inside(path: Path, older: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    path.write_bytes(content)


def from_before_the_last_two(path: Path, older: Path) -> None:
    shutil.copy(older, path)


def of_another_hub(path: Path, older: Path) -> None:
    other = path.parent.with_name("other")
    create_token(other, "eve")
    store = Store(other)
    for number in range(3):
        store.create("model", "eve", f"m{number}", False)
    store.close()
    shutil.copy(other / "hub.sqlite", path)


def with_no_tables(path: Path, older: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("create table other (x)")


FATES = [
    *(missing, empty, truncated, first_bytes_only, garbage, overwritten_inside),
    *(from_before_the_last_two, of_another_hub, with_no_tables),
]


@pytest.mark.parametrize("fate", FATES, ids=lambda fate: fate.__name__)
def test_whatever_became_of_the_accounts_nothing_is_erased_and_all_comes_back(tmp_path, fate):
    root, older = tmp_path / "hub", tmp_path / "older"
    create_token(root, "ann")
    Store(root).close()
    shutil.copy(root / "hub.sqlite", older)
    names = make(root)
    fate(root / "hub.sqlite", older)
    before = contents(root)
    for _ in range(2):  # the second start must not think that all is well
        with pytest.raises(UserError, match="hub repair"):
            Store(root)
    if fate in (missing, empty, first_bytes_only, garbage):
        with pytest.raises(UserError, match="hub repair"):
            create_token(root, "ann")
    assert contents(root) == before
    assert [f.kind for f in maintenance.check(root)]
    planned = maintenance.repair(root, dry_run=True)
    assert planned and all(finding.action for finding in planned)
    assert contents(root) == before
    maintenance.repair(root)
    assert recorded(root) == names
    assert maintenance.check(root) == []
    kept = {p: c for p, c in contents(root).items() if p in before}
    assert kept == before  # of the folders not a byte was touched


def test_without_descriptions_a_folder_becomes_a_private_repository(tmp_path):
    names = make(tmp_path)
    for description in tmp_path.glob("repos/*/repo.json"):
        description.unlink()
    (tmp_path / "hub.sqlite").unlink()
    with pytest.raises(UserError, match="hub repair"):
        Store(tmp_path)
    maintenance.repair(tmp_path)
    again = recorded(tmp_path)
    assert again.keys() == names.keys()
    assert all(name.endswith("True") for name in again.values())
    assert "dataset bob/recovered-3 True" in again.values()


def test_records_without_a_folder_stop_the_start_and_are_kept(tmp_path):
    names = make(tmp_path)
    (tmp_path / "repos" / "2").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"ann/hidden.*hub repair"):
        Store(tmp_path)
    maintenance.repair(tmp_path)
    assert recorded(tmp_path) == {n: name for n, name in names.items() if n != 2}
    (record,) = tmp_path.glob("quarantine/*/record-2.json")
    assert json.loads(record.read_text())["name"] == "hidden"


def test_what_is_not_ours_is_left_alone_and_told(tmp_path, caplog):
    names = make(tmp_path)
    strangers = [
        *("notes.txt", "photos/a.jpg", "repos/README", "repos/photos/2024/a.jpg", "repos/7"),
        *("repos/2024/a.jpg", "repos/.hidden", "repos/007/git/x", "repos/.deleted-9/mine"),
        *("repos/8/unborn", "repos/.nameless-5/mine", "repos/.nameless-x/.unborn.1"),
    ]
    for name in strangers:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    (tmp_path / "repos" / "link").symlink_to("/nowhere")
    (tmp_path / "repos" / "12").mkdir()
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            assert recorded(tmp_path) == names
    assert all((tmp_path / name).read_text() == "mine" for name in strangers)
    assert "repos/2024" in caplog.text and "left alone" in caplog.text
    assert {f.kind for f in maintenance.check(tmp_path)} == {folders.STRAY}
    maintenance.repair(tmp_path)
    assert all((tmp_path / name).read_text() == "mine" for name in strangers)
    store = Store(tmp_path)
    made = store.create("model", "ann", "new", False)
    assert made.id == 2025  # a number that is taken is nobody's
    store.close()


def test_a_kill_during_creation_deletion_and_renaming_is_finished_at_the_start(tmp_path):
    names = make(tmp_path)
    repos = tmp_path / "repos"
    shutil.copytree(repos / "1", repos / "9")  # creation: before the record was committed
    folders.mark(repos / "9", folders.UNBORN)
    folders.mark(repos / "1", folders.UNBORN)  # creation: after it
    (repos / "2").rename(repos / ".deleted-2")  # deletion: before the record was gone
    shutil.copytree(repos / "3", repos / ".deleted-8")  # deletion: after it
    folders.mark(repos / ".deleted-8", folders.GONE)
    (repos / ".deleted-8" / "repo.json").unlink()
    (repos / ".nameless-10").mkdir()  # creation: at its very beginning
    (repos / ".nameless-11").mkdir()
    (repos / ".nameless-11" / ".unborn.x1y2").write_text("usermirr")
    (repos / ".deleted-12").mkdir()  # deletion: at its very end
    shutil.copytree(repos / "9", repos / ".nameless-13")  # an unborn one is erased
    folders.mark(repos / ".nameless-13", folders.UNBORN)
    shutil.copytree(repos / "3", repos / ".deleted-7")  # deletion: just after it
    with sqlite3.connect(tmp_path / "hub.sqlite") as db:
        db.execute("insert into gone values (7)")
    description = json.loads((repos / "3/repo.json").read_text())  # renaming: before the record
    description |= {"name": "renamed", "revision": description["revision"] + 1}
    (repos / "3/repo.json").write_text(json.dumps(description))
    names[3] = "dataset bob/renamed False"
    assert recorded(tmp_path) == names
    assert sorted(path.name for path in repos.iterdir()) == ["1", "2", "3"]
    assert not (repos / "1" / "unborn").exists()
    assert maintenance.check(tmp_path) == []


def test_records_and_folders_change_together(tmp_path):
    make(tmp_path)
    store = Store(tmp_path)
    repo = store.find("dataset", "ann", "open")
    store.update(repo, private=True, name="closed")
    with pytest.raises(sqlite3.IntegrityError):
        store.update(store.find("dataset", "ann", "closed"), namespace="bob", name="open")
    store.delete(store.find("dataset", "bob", "open"))
    store.close()
    assert maintenance.check(tmp_path) == []
    (tmp_path / "hub.sqlite").unlink()
    maintenance.repair(tmp_path)
    assert recorded(tmp_path) == {1: "dataset ann/closed True", 2: "model ann/hidden True"}


def test_a_broken_main_is_found_and_leads_to_the_newest_whole_commit(tmp_path):
    make(tmp_path)
    git = tmp_path / "repos/1/git"
    main = (git / "refs/heads/main").read_text()
    (git / "refs/heads/main").write_text("")
    (git / "refs/heads/side").write_text("")
    store = Store(tmp_path)  # one broken repository stops nobody
    assert history.references(history.open_(git)) == {"heads": {}, "tags": {}}
    assert history.resolve(history.open_(git), "main") is None
    store.close()
    kinds = [finding.kind for finding in maintenance.check(tmp_path)]
    assert kinds == [proof.REFERENCE] * 2
    maintenance.repair(tmp_path)
    assert (git / "refs/heads/main").read_text() == main
    assert maintenance.check(tmp_path) == []
    assert len(list(tmp_path.glob("quarantine/*/repos/1/git/refs/heads/*"))) == 2


def test_missing_content_is_found(tmp_path):
    make(tmp_path)
    git = tmp_path / "repos/1/git"
    blob = str(history.open_(git).revparse_single("main").tree["a.txt"].id)
    (git / "objects" / blob[:2] / blob[2:]).unlink()
    (finding,) = maintenance.check(tmp_path)
    assert finding.kind == proof.CONTENT and blob in finding.what


def test_commands_say_what_they_found_and_did(tmp_path):
    make(tmp_path)
    root = ["--root", str(tmp_path)]
    run = CliRunner().invoke
    assert run(commands.hub, ["check", *root]).exit_code == 0
    (tmp_path / "hub.sqlite").unlink()
    told = run(commands.hub, ["check", *root])
    assert told.exit_code == 1 and "hub.sqlite is missing" in told.output
    rows = json.loads(run(commands.hub, ["repair", *root, "--dry-run", "--json"]).output)
    assert not (tmp_path / "hub.sqlite").exists()
    done = json.loads(run(commands.hub, ["repair", *root, "--json"]).output)
    assert [row["where"] for row in rows] == [row["where"] for row in done]
    assert run(commands.hub, ["check", *root]).exit_code == 0
    nothing = run(commands.hub, ["check", "--root", str(tmp_path / "none")])
    assert isinstance(nothing.exception, UserError)


@pytest.mark.parametrize("content", [b"", b"short", bytes(32)])
def test_a_secret_that_is_none_is_made_anew(tmp_path, content, caplog):
    (tmp_path / "secret").write_bytes(content)
    store = Store(tmp_path)
    assert len(store.secret) == 32 and store.secret == (tmp_path / "secret").read_bytes()
    assert len(set(store.secret)) > 8
    assert "is no secret" in caplog.text
    store.close()
    again = Store(tmp_path)
    assert again.secret == store.secret
    again.close()
