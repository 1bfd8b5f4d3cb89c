"""Promise: a Hub is reached at any address that people give.

With a slash behind it, below a path of a proxy, and past the proxies of HTTP_PROXY and its like
where it runs on this machine.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.recipes.test_push import UPLOAD
from usermirrorer.builders.common import network
from usermirrorer.builders.common.errors import UserError
from usermirrorer.hub.server.mounted import split_names

from .conftest import build_release
from .mounting_proxy import PATH, mounted

CLI = "import sys; from usermirrorer.recipes.cli import main; main()"
LOAD = """
from datasets import load_dataset
print(len(load_dataset("usermirrorer/mixed", "scenes", split="test", revision="v1.0.0")))
"""
#: A plain client: a file large enough for LFS or Xet, a small one, a redirection, deletion.
PLAIN = """
import random
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
api.create_repo("usermirrorer/m")
data = random.Random(1).randbytes(300_000)
api.upload_file(path_or_fileobj=data, path_in_repo="noise.bin", repo_id="usermirrorer/m")
api.upload_file(path_or_fileobj=b"small", path_in_repo="a.txt", repo_id="usermirrorer/m")
for name in ("usermirrorer/m", "UserMirrorer/M"):
    with open(hf_hub_download(name, "noise.bin"), "rb") as file:
        assert file.read() == data
api.delete_repo("usermirrorer/m")
"""
#: No proxy listens there: whoever asks it fails.
DEAD = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"), "http://127.0.0.1:9")
UNSET = {"NO_PROXY": "", "no_proxy": ""}


def command(run, *words: object, **more: str) -> str:
    """Run `usermirrorer` as a separate user would; return what it said.

    These scenes break promises, which `validate` says by its exit code.
    """
    done = run(CLI, *words, check=words[0] != "validate", **more)
    return done.stdout or done.stderr


def outside(proxy) -> list[str]:
    """Return what was asked of the proxy outside of the Hub; Xet's client counts itself there."""
    return [p for p in proxy.asked if not p.startswith((f"{PATH}/", "/v1/telemetry"))]


def test_a_slash_behind_the_address_changes_nothing_for_plain_clients_and_ours(
    run, local_hub, tmp_path
):
    slash = {"HF_ENDPOINT": local_hub.endpoint + "/"}
    command(run, "release", "push", build_release(tmp_path / "r", "1.0.0"), "usermirrorer/mixed")
    assert run(LOAD, **slash).stdout == "8\n"
    told = command(run, "validate", "usermirrorer/mixed", "--revision", "v1.0.0", **slash)
    assert "What was read" in told


@pytest.mark.parametrize("xet", [True, False])
def test_plain_clients_upload_below_a_path_of_a_proxy_that_tells_it(run, local_hub, xet):
    with mounted(local_hub.endpoint, tells=True) as proxy:
        more = {} if xet else {"HF_HUB_DISABLE_XET": "1"}
        run(PLAIN, HF_ENDPOINT=proxy.url + PATH, **more)
    assert not outside(proxy)
    assert any("/xet/" in path or "/lfs/" in path for path in proxy.asked)


def test_our_commands_tell_the_path_where_the_proxy_does_not(run, local_hub, tmp_path):
    release = build_release(tmp_path / "r", "1.0.0")
    with mounted(local_hub.endpoint, tells=False) as proxy:
        address = {"HF_ENDPOINT": f"{proxy.url}{PATH}/"}
        said = command(run, "release", "push", release, "usermirrorer/mixed", **address)
        assert said.startswith(f"{proxy.url}{PATH}/datasets/usermirrorer/mixed/commit/")
        command(run, "release", "pull", "usermirrorer/mixed", "1.0.0", tmp_path / "p", **address)
        assert run(LOAD, **address).stdout == "8\n"
    assert not outside(proxy)


def test_a_server_that_was_told_its_address_needs_nothing_of_proxy_and_client(run, tmp_path):
    """The proxy needs the server's address, and the server the proxy's: it is named afterwards."""
    with mounted("127.0.0.1:0", tells=False) as proxy:
        serve = [sys.executable, "-m", "usermirrorer.recipes.cli", "hub", "serve", "--port", "0"]
        server = subprocess.Popen(
            [*serve, "--root", tmp_path / "own", "--name", proxy.url + PATH],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            said = [server.stdout.readline().strip().partition("=")[2] for _ in range(2)]
            proxy.upstream, more = said[0].removeprefix("http://"), {"HF_TOKEN": said[1]}
            run(PLAIN, HF_ENDPOINT=proxy.url + PATH, **more)
        finally:
            server.terminate()
            server.wait(30)
    assert not outside(proxy)


def test_pages_below_a_path_lead_to_pages_below_it(run, local_hub, tmp_path):
    import httpx2

    command(run, "release", "push", build_release(tmp_path / "r", "1.0.0"), "usermirrorer/mixed")
    with mounted(local_hub.endpoint, tells=True) as proxy:
        client = httpx2.Client(
            base_url=proxy.url, trust_env=False, follow_redirects=True, timeout=60
        )
        page = client.get(f"{PATH}/datasets/usermirrorer/mixed").text
        links = [part.partition('"')[0] for part in page.split('href="')[1:]]
        inner = [link for link in links if link.startswith("/")]
        assert len(inner) > 5
        assert {client.get(link).status_code for link in inner} == {200}, inner


@pytest.mark.parametrize("prefix", ["//evil.example", "/a/../b", '/a"b', "/" + "a" * 400, "x"])
def test_a_path_that_is_none_is_not_believed(local_hub, prefix):
    import httpx2

    told = httpx2.get(
        local_hub.endpoint, headers={"X-Forwarded-Prefix": prefix}, trust_env=False, timeout=60
    )
    assert 'href="/style.css"' in told.text


def test_what_runs_on_this_machine_is_asked_past_every_proxy(run, tmp_path):
    release = build_release(tmp_path / "r", "1.0.0")
    command(run, "release", "push", release, "usermirrorer/mixed", **DEAD, **UNSET)
    told = command(run, "validate", "usermirrorer/mixed", **DEAD, **UNSET)
    assert "What was read" in told
    socks = {"ALL_PROXY": "socks5://127.0.0.1:9"} | UNSET
    assert "What was read" in command(run, "validate", "usermirrorer/mixed", **socks)


CHILDREN = """
import subprocess, sys
from usermirrorer.builders.common import network
network.prepare()
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
"""


def test_child_processes_of_ours_ask_past_every_proxy_too(run, tmp_path):
    command(run, "release", "push", build_release(tmp_path / "r", "1.0.0"), "usermirrorer/mixed")
    run(CHILDREN, LOAD, **DEAD, **UNSET)


def test_who_named_hosts_for_no_proxy_keeps_them():
    given = {"no_proxy": "a.example, b.example", "NO_PROXY": "c.example"}
    network.prepare(given)
    names = given["no_proxy"].split(",")
    assert names[:3] == ["a.example", "b.example", "c.example"]
    assert {"127.0.0.1", "localhost", "::1"} < set(names)
    assert given["NO_PROXY"] == given["no_proxy"]


@pytest.mark.parametrize("bad", ["hub.lab:80", "ftp://hub", "http://", "http://h:99999", "h?x"])
def test_an_address_that_is_none_is_said_at_once(bad):
    with pytest.raises(UserError, match="HF_ENDPOINT is no address"):
        network.prepare({"HF_ENDPOINT": bad})


@pytest.mark.parametrize("bad", ["http://a/b?c", "a/b", "ftp://a/b", "http:///hub"])
def test_names_that_are_none_are_refused(bad):
    with pytest.raises(UserError):
        split_names([bad])


SCORE = """
import json, sys
sys.argv = ["lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={sys.argv[1]}",
            "--tasks", "usermirror-direct_movielens", "--apply_chat_template", "--limit", "1",
            "--metadata", json.dumps({"dataset_revision": "v1.0.0", "ablations": False}),
            "--output_path", sys.argv[2]]
from lm_eval.__main__ import cli_evaluate
cli_evaluate()
"""


@pytest.mark.slow
def test_plain_lm_eval_reads_a_release_and_a_model_at_every_address(
    run, local_hub, tmp_path, tiny_chat_model
):
    command(run, "release", "push", build_release(tmp_path / "r", "1.0.0"), "usermirrorer/mixed")
    run(UPLOAD, tiny_chat_model, "usermirrorer/m")
    with mounted(local_hub.endpoint, tells=False) as proxy:
        ways: dict[str, dict[str, str]] = {
            "slash": {"HF_ENDPOINT": local_hub.endpoint + "/"},
            "path": {"HF_ENDPOINT": f"{proxy.url}{PATH}/"},
            "proxies": DEAD | UNSET,
        }
        for name, way in ways.items():
            model = tiny_chat_model if name == "proxies" else "usermirrorer/m"
            own = {"HF_HOME": str(tmp_path / name)}  # nothing of it is in the cache yet
            run(SCORE, model, tmp_path / "scores" / name, **way, **own)
            assert list((tmp_path / "scores" / name).rglob("results_*.json")), name
    assert not outside(proxy)
