"""Promises of publishing: a version never changes, failures leave none, rights are respected."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from usermirrorer.hub import commands
from usermirrorer.hub.server.store import Store, create_token

from .conftest import build_release

RULES = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi
from usermirrorer.builders.common.errors import UserError
from usermirrorer.hub import releases
one, two, broken, bound = map(Path, sys.argv[1:])
api, name = HfApi(), "usermirrorer/mixed"

def refused(text, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except UserError as error:
        assert text in str(error) and "\\n" not in str(error), str(error)
    else:
        raise SystemExit(f"not refused: {text}")

releases.push(one, name)
head = api.repo_info(name, repo_type="dataset").sha
refused("version v1.0.0 exists", releases.push, one, name)
refused("is not what the manifest says", releases.push, broken, name)
refused("no such version", releases.pull, name, "9.9.9", Path("nowhere"))
refused("no such version", releases.verify, name, "9.9.9")
refused("is not there", releases.versions, "usermirrorer/none")
refused("has no rights", releases.push, one, "somebody/else")
refused("not a repository name", releases.push, one, "not a name")
refused("is not empty", releases.pull, name, "1.0.0", one)
assert api.repo_info(name, repo_type="dataset").sha == head

# A commit without its tag is what a push leaves that fails between the two: run it again.
make, HfApi.create_tag = HfApi.create_tag, lambda *_, **__: (_ for _ in ()).throw(OSError("down"))
refused("cannot be reached", releases.push, two, name)
assert [row["tag"] for row in releases.versions(name)] == ["v1.0.0"]
HfApi.create_tag = make
releases.push(two, name)
assert [row["tag"] for row in releases.versions(name)] == ["v1.1.0", "v1.0.0"]
assert not api.file_exists(name, "assets/a.png", repo_type="dataset", revision="v1.1.0")
assert api.file_exists(name, "assets/a.png", repo_type="dataset", revision="v1.0.0")

releases.push(bound, "usermirrorer/private", private=True, gated=True)
info = api.dataset_info("usermirrorer/private")
assert info.private and info.gated == "auto"
"""


def test_rules_of_publishing(run, tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    one = build_release(tmp_path / "one", "1.0.0", assets={"a.png": tmp_path / "a.png"})
    two = build_release(tmp_path / "two", "1.1.0", rows=5)
    broken = build_release(tmp_path / "broken", "1.2.0")
    (broken / "README.md").write_text("other")
    bound = build_release(tmp_path / "bound", "1.0.0", redistributable=False)
    run(RULES, one, two, broken, bound)


def test_schema_changes_demand_a_major_version(run, tmp_path):
    one = build_release(tmp_path / "one", "1.0.0")
    two = build_release(tmp_path / "two", "1.1.0")
    manifest = json.loads((one / "manifest.json").read_text())
    (one / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 0}))
    code = """
import sys
from usermirrorer.hub import releases
releases.push(sys.argv[1], "usermirrorer/mixed")
releases.push(sys.argv[2], "usermirrorer/mixed")
"""
    done = run(code, one, two, check=False)
    assert "the schema changed since 1.0.0. Release it as 2.0.0." in done.stderr


def test_what_a_kill_left_behind_is_cleared(tmp_path):
    store = Store(tmp_path)
    create_token(tmp_path, "ann")
    repo = store.create("model", "ann", "m", private=False)
    left = [
        store.folder(repo) / "git" / "refs" / "heads" / "main.lock",
        store.folder(repo) / "git" / "objects" / "tmp_object_git2_x",
        store.folder(repo) / "incoming" / "half",
    ]
    unknown = tmp_path / "repos" / "77" / "git"  # not provably ours: left alone
    for path in (*left, unknown):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    store.close()
    Store(tmp_path).close()
    assert not [path for path in left if path.exists()]
    assert unknown.exists()
    assert (store.folder(repo) / "git" / "refs" / "heads" / "main").exists()


def test_commands(tmp_path):
    build_release(tmp_path / "x", "1.0.0")
    inputs = tmp_path / "x.inputs"
    (tmp_path / "manifest.json").write_text("{}")
    arguments = [
        *("build", tmp_path / "r", "--repo", "usermirrorer/mixed", "--version", "1.0.0"),
        *("--preference", inputs / "pairs.parquet", "--test", inputs / "test.parquet"),
        *("--train", inputs / "train.parquet", "--manifest", tmp_path / "manifest.json"),
        "--redistributable",
    ]
    runner = CliRunner()
    built = runner.invoke(commands.release, [*map(str, arguments)], catch_exceptions=False)
    assert built.exit_code == 0
    proved = runner.invoke(commands.release, ["verify", str(tmp_path / "r")])
    assert "files are as they should" in proved.output
    compared = runner.invoke(commands.release, ["diff", *[str(tmp_path / "r")] * 2])
    assert "preference_steam" in compared.output
    made = runner.invoke(commands.hub, ["token", "create", "ann", "--root", str(tmp_path / "hub")])
    assert made.output.startswith("hf_")
    listed = runner.invoke(commands.hub, ["token", "list", "--root", str(tmp_path / "hub")])
    assert "ann" in listed.output
    assert made.output.strip() not in listed.output


def test_serve_shows_the_first_token(tmp_path):
    import socket
    import urllib.request

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from usermirrorer.hub.commands import hub; hub()"
    command = [sys.executable, "-c", code, "serve", "--root", str(tmp_path), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline() == f"HF_ENDPOINT=http://127.0.0.1:{port}\n"
        token = server.stdout.readline().strip().removeprefix("HF_TOKEN=")
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/whoami-v2", headers={"Authorization": f"Bearer {token}"}
        )
        for _ in range(100):
            try:
                with urllib.request.urlopen(request) as answer:
                    assert json.load(answer)["name"] == "usermirrorer"
                break
            except ConnectionError:
                pass
            except OSError:
                import time

                time.sleep(0.1)
        else:
            raise AssertionError("the server did not answer")
        server.terminate()
    assert Path(tmp_path / "hub.sqlite").exists()
