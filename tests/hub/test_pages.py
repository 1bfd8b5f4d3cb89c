"""Promise: pages show card, versions, first rows, leaderboard, and the private after signing in."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from .conftest import build_release

PUBLISH = """
import sys
from huggingface_hub import HfApi
from usermirrorer.hub import releases
for folder in sys.argv[1:]:
    releases.push(folder, "usermirrorer/mixed")
api = HfApi()
result = b"- dataset: {id: usermirrorer/mixed, task_id: usermirror_steam}\\n  value: %s\\n"
for name, value in (("weak", b"0.31"), ("strong", b"0.52")):
    api.create_repo(f"usermirrorer/{name}")
    api.upload_file(path_or_fileobj=result % value, path_in_repo=".eval_results/steam.yaml",
                    repo_id=f"usermirrorer/{name}")
api.create_repo("usermirrorer/secret", private=True)
api.upload_file(path_or_fileobj=b"# Hidden words", path_in_repo="README.md",
                repo_id="usermirrorer/secret")
board = api.get_dataset_leaderboard("usermirrorer/mixed")
assert [(row.rank, row.model_id) for row in board] == [(1, "usermirrorer/strong"),
                                                       (2, "usermirrorer/weak")]
entries = api.model_info("usermirrorer/weak", expand=["evalResults"]).eval_results
assert entries[0].value == 0.31 and entries[0].task_id == "usermirror_steam"
"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_the_page_in_a_browser(local_hub, run, tmp_path):
    (tmp_path / "entropy.png").write_bytes(
        bytes.fromhex(
            "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
            "1f15c4890000000d49444154789c63606060f80f0001040100b5d5f0"
            "ee0000000049454e44ae426082"
        )
    )
    one = build_release(tmp_path / "one", "1.0.0")
    plots = {"entropy.png": tmp_path / "entropy.png"}
    two = build_release(tmp_path / "two", "1.1.0", rows=6, changelog_from=one, assets=plots)
    run(PUBLISH, one, two)
    browser = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *(
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=5000",
        ),
    ]

    def page(address: str) -> str:
        url = address if ":" in address else f"{local_hub.endpoint}{address}"
        command = [*browser, "--dump-dom", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
        return done.stdout

    newest = page("/datasets/usermirrorer/mixed")
    assert "<h1>usermirrorer/mixed, version 1.1.0</h1>" in newest
    assert 'src="/datasets/usermirrorer/mixed/resolve/main/assets/entropy.png"' in newest
    assert "scenes_movielens" in newest
    assert "Fargo &lt;b&gt;" in newest  # text of an item, shown as text
    assert newest.index("usermirrorer/strong") < newest.index("usermirrorer/weak")
    assert "version 1.0.0</h1>" in page("/datasets/usermirrorer/mixed/tree/v1.0.0")
    assert "/datasets/usermirrorer/mixed" in page("/")

    # Somebody signs in, by a form that is sent as soon as the page is there.
    assert "Hidden words" not in page("/usermirrorer/secret")
    form = tmp_path / "form.html"
    form.write_text(
        f'<form method="post" action="{local_hub.endpoint}/login?next=/usermirrorer/secret">'
        f'<input name="token" value="{local_hub.token}"></form>'
        "<script>document.forms[0].submit()</script>"
    )
    seen = page(form.as_uri())
    assert "<h1>Hidden words</h1>" in seen and "Sign out" in seen
    picture = tmp_path / "page.png"
    subprocess.run(
        [*browser, f"--screenshot={picture}", f"{local_hub.endpoint}/datasets/usermirrorer/mixed"],
        capture_output=True,
        timeout=90,
        check=True,
    )
    assert picture.stat().st_size > 10_000
