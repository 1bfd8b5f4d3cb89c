"""Promise: what the cards of datasets, Spaces and collections say runs as it stands.

On another's base model, against a Hub at another address than the public one.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.eval_harness.fixtures import make_scenes, release
from tests.recipes.service.conftest import serving
from tests.recipes.test_push import UPLOAD
from usermirrorer.hub.local import running
from usermirrorer.recipes.service.space import export_space

REPO, BASE = "usermirrorer/mixed", "lab/base"
PUSH = "import sys; from usermirrorer.hub import releases; releases.push(*sys.argv[1:])"
#: The card's first block, then what the sentences below it say.
LOADED = """
import re, sys
card = open(sys.argv[1]).read()
scope = {}
exec(compile(re.findall(r"```python\\n(.*?)```", card, re.S)[0], "card", "exec"), scope)
assert len(scope["scenes"]) == 7 and len(scope["pairs"]) == 1, scope
assert {len(rows) for rows in scope["one"].values()} <= {3, 4}
text = " ".join(card.split())
from huggingface_hub import snapshot_download
from datasets import load_dataset
folder = eval(re.search(r"`(snapshot_download\\(.*?\\))`", text)[1])
assert len(load_dataset(folder, "scenes", split="test")) == 7
start = re.search(r"load_dataset\\((.*?), split", card)[1]
for words in (
    re.search(r"`(streaming=True)`", text)[1],
    re.search(r"`(columns=\\[.*?\\])`", text)[1],
    ", ".join(re.search(r"`(filters=\\[.*?\\])`.*?`(verification_mode=.*?)`", text).groups()),
):
    rows = list(eval(f'load_dataset({start}, split="train", {words})'))
    assert rows and set(rows[0]) >= {"prompt", "chosen"}, words
"""
COLLECTED = """
import sys
from huggingface_hub import HfApi, snapshot_download
from usermirrorer.hub import releases
releases.collect("usermirrorer/mixed", "1.0.0", [])
(found,) = HfApi().list_collections(owner="usermirrorer")
assert "release v1.0.0" in HfApi().get_collection(found.slug).description
for item in HfApi().get_collection(found.slug).items:
    revision = item.note.removeprefix("Version ")
    print(snapshot_download(item.item_id, repo_type=item.item_type, revision=revision))
"""


def as_user(hub, home: Path, *words: object, **more: str) -> str:
    """Run a program as a separate user of the Hub would."""
    done = subprocess.run(
        [*map(str, words)], env=os.environ | hub.environment(home) | more, text=True,
        capture_output=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def card(tmp_path_factory, tiny_chat_model) -> tuple[Path, Path]:
    """The root of a Hub that holds a release and another's model, and the release's card."""
    root = tmp_path_factory.mktemp("cards")
    rows = [*make_scenes(4), *make_scenes(3, source="mind")]
    folder = release(root / "release", rows, repo_id=REPO)
    with running(root / "hub", user="lab") as lab:
        as_user(lab, root / "lab", sys.executable, "-c", UPLOAD, tiny_chat_model, BASE)
    with running(root / "hub") as hub:
        as_user(hub, root / "me", sys.executable, "-c", PUSH, folder, REPO)
    return root / "hub", Path(folder) / "README.md"


def test_what_a_dataset_card_says_of_loading_it(card, tmp_path):
    root, path = card
    with running(root) as hub:
        as_user(hub, tmp_path, sys.executable, "-c", LOADED, path)


def test_what_a_collection_lists_is_there_at_the_versions_that_it_names(card, tmp_path):
    with running(card[0]) as hub:
        folder = as_user(hub, tmp_path, sys.executable, "-c", COLLECTED).split()[-1]
    assert (Path(folder) / "manifest.json").is_file()


@pytest.mark.slow
def test_what_a_dataset_card_says_of_scoring_runs_on_anothers_model(card, tmp_path):
    """Only how much is scored is added to it."""
    root, path = card
    (block,) = re.findall(r"```bash\n(.*?)```", path.read_text(), re.S)
    score, ask = re.sub(r"(?<![A-Z])MODEL", BASE, block.replace("\\\n", " ")).strip().splitlines()
    score += f" --limit 1 --gen_kwargs max_gen_toks=4 --output_path {tmp_path / 'scores'}"
    ask += f" --display none --limit 1 --max-tokens 4 --log-dir {tmp_path / 'logs'}"
    here = Path(sys.executable).parent
    with running(root) as hub:
        for line in (score, ask):
            words = ["bash", "-euc", line]
            path = f"{here}{os.pathsep}{os.environ['PATH']}"
            as_user(hub, tmp_path / "home", *words, PATH=path)
    assert list((tmp_path / "scores").rglob("results_*.json"))
    assert list((tmp_path / "logs").iterdir())


def test_what_the_card_of_a_space_says_starts_the_service_that_its_page_asks(
    tiny_chat_model, tmp_path
):
    space = export_space(tmp_path / "space", endpoint="http://127.0.0.1:1")
    text = " ".join((space / "README.md").read_text().split())
    program, command, model, name, *more = shlex.split(re.search(r"`(usermirrorer .*?)`", text)[1])
    assert (program, command, model, name) == ("usermirrorer", "serve", "--model", "MODEL")
    page = "https://lab-simulator.example"
    words = [page if word == "ADDRESS-OF-THIS-PAGE" else word for word in more]
    with serving(tiny_chat_model, tmp_path / "log", *words) as service:
        asked = urllib.request.Request(f"{service.address}/health", headers={"Origin": page})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == page
