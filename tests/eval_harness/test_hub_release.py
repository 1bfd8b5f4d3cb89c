"""Scenes, placebo and audit of one revision come together from a Hub, as from its folder."""

import json

import pytest

from tests.hub.conftest import local_hub, run  # noqa: F401 - fixtures

from .fixtures import make_scenes, release
from .test_ablations import AUDIT, placebos

READ = """
import json, os, sys
from usermirrorer.hub import releases
from usermirrorer.eval_harness import data
folder, repo = sys.argv[1:]
if "HF_HUB_OFFLINE" not in os.environ:
    releases.push(folder, repo)
told = {}
for name, where, revision in (("hub", repo, "v1.0.0"), ("folder", folder, "")):
    scenes, provenance = data.load_scenes("movielens", where, revision)
    placebo = data.load_placebo(scenes, "movielens", provenance)
    told[name] = {**provenance, "placebo": sorted(placebo), "answers": sorted(
        {row["answer"] for row in placebo.values()})}
    mind, elsewhere = data.load_scenes("mind", where, revision)
    told[name]["mind"] = [len(mind), len(data.load_placebo(mind, "mind", elsewhere))]
print(json.dumps(told))
"""


def test_a_release_on_a_hub_is_read_as_its_folder(run, tmp_path):  # noqa: F811
    pytest.importorskip("pygit2")
    rows = [*make_scenes(6), *make_scenes(4, source="mind")]
    folder = release(tmp_path / "r", rows, placebo=placebos(rows[:5]), manifest={"audit": AUDIT})
    told = json.loads(run(READ, folder, "usermirrorer/scenes").stdout.splitlines()[-1])
    again = run(READ, folder, "usermirrorer/scenes", HF_HUB_OFFLINE="1").stdout.splitlines()[-1]
    offline = json.loads(again)["hub"]  # from the cache alone
    assert {k: v for k, v in offline.items() if v != told["hub"][k]} == {}
    hub, own = told["hub"], told["folder"]
    assert len(hub.pop("dataset_commit")) == 40 and own.pop("dataset_commit") == ""
    for place in (hub, own):
        del place["dataset"], place["dataset_revision"]
    assert hub == own
    assert hub["placebo"] == sorted(row["scene_id"] for row in rows[:5])
    assert hub["answers"] == [2] and hub["mind"] == [4, 0]
    assert hub["audit"]["no_history"]["value"] == 0.28
    assert hub["exposure_modes"] == {"exchangeable": 6} and sum(hub["gaps"].values()) == 6
