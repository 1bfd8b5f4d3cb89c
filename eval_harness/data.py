"""Test scenes of one source from a Hub, a local folder or a Parquet file, and their provenance."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Container, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usermirrorer.builders.audit.load import placebo_beside
from usermirrorer.builders.common import published, scene_rows
from usermirrorer.builders.common.arrow import conform
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import SCENE
from usermirrorer.builders.common.storage import fingerprint, read_json, read_table
from usermirrorer.eval_harness.metric_table import gap_counts
from usermirrorer.eval_harness.task_names import domain_of

if TYPE_CHECKING:
    from datasets import Dataset

DATASET = "usermirrorer/mixed"
MANIFEST = "manifest.json"
#: Columns of SCENE that a score depends on. The scores of baselines (`exposure_popularity` and so
#: on), `history_gap` and `exposure_mode` are read where they are there.
NEEDED = ("scene_id", "domain", "source", "user_id", "profile", "history", "exposure", "answer")
PACKAGES = ("usermirrorer", "lm_eval", "datasets", "transformers", "torch", "vllm")
_OTHER = 'Name another with --metadata \'{"dataset": "...", "dataset_revision": "..."}\'.'
Scene = Mapping[str, Any]


class NoScenesError(UserError):
    """The dataset is there and can be read, and holds no scenes of this source or kind."""


def load_scenes(
    source: str, dataset: str = "", revision: str = "", table: str = "scenes"
) -> tuple[Dataset, dict[str, Any]]:
    """Return the test scenes of a source, and where they came from.

    Args:
        source: `movielens`, `amazon_beauty`, ...: the part of a task's name after the underscore.
        dataset: Hub repository, local folder laid out like one, or one Parquet file of scenes.
            Default: the environment variable USERMIRROR_DATASET, then `usermirrorer/mixed`.
        revision: Tag, branch or commit of a repository. Default: USERMIRROR_REVISION, then the
            newest.
        table: `scenes`, or `paper` for those with the paper's exposures; logged lists are the same
            in both.

    Returns:
        The scenes, and `dataset`, `dataset_revision` (as asked), `dataset_commit` (resolved; empty
        for local files), `scenes_hash` (changes with any scene, whatever the route), `domain`,
        `exposure_modes` and `gaps` (number of scenes of each), and `audit` (what the release says
        of baselines on this source).

    Raises:
        NoScenesError: if there are none of the source.
        UserError: if the data is missing or lacks a column.
    """
    dataset = dataset or os.environ.get("USERMIRROR_DATASET", "") or DATASET
    revision = revision or os.environ.get("USERMIRROR_REVISION", "")
    commit = "" if Path(dataset).exists() else published.commit_of(dataset, revision)
    scenes = _of_source(_read(source, dataset, commit, table), source, dataset)
    modes = Counter(map(exposure_mode, scenes))
    if table == "paper" and not set(modes) <= {"paper", "logged"}:
        raise NoScenesError(
            f"the scenes of {source} have {' and '.join(sorted(modes))} exposures, not the paper's",
            where=dataset,
            fix="Run the tasks usermirror_* on them.",
        )
    return scenes, {
        "dataset": dataset,
        "dataset_revision": revision,
        "dataset_commit": commit,
        "scenes_hash": fingerprint(
            [scenes[c] for c in ("scene_id", "profile", "history", "exposure", "answer")]
        ),
        "domain": " ".join(sorted(set(scenes["domain"]))),
        "exposure_modes": dict(sorted(modes.items())),
        "gaps": gap_counts(map(history_gap, scenes)),
        "audit": _audit(manifest(dataset, commit), source) if table == "scenes" else {},
    }


def load_placebo(
    scenes: Dataset, source: str, provenance: Mapping[str, Any], file: str = ""
) -> dict[str, Scene]:
    """Return scene id -> its placebo: exposure and answer drawn for a target of another user.

    Args:
        scenes: The real scenes.
        source: Their source.
        provenance: As `load_scenes` returns it.
        file: Parquet file of placebo scenes, where the scenes are a file too; by default the one
            beside it, as `usermirrorer scenes` puts them.

    Returns:
        Those of the same exposure mode as their scene; {} where the release has no placebo.

    Raises:
        UserError: if what is there cannot be read or breaks its contract.
    """
    where = file or str(provenance["dataset"])
    if not file and Path(where).is_file():
        beside = placebo_beside({"test": Path(where)})
        if not beside:
            return {}
        where = str(beside["test"])
    rows = _read(source, where, str(provenance["dataset_commit"]), "placebo")
    if rows is None:
        return {}
    try:
        rows = _of_source(rows, source, where)
    except NoScenesError:  # logged lists have none, and their source may share a file with others
        return {}
    wanted = dict(zip(scenes["scene_id"], map(exposure_mode, scenes), strict=True))
    return {
        row["scene_id"]: row for row in rows if wanted.get(row["scene_id"]) == exposure_mode(row)
    }


def swapped_histories(scenes: Dataset) -> dict[str, list[str]]:
    """Return scene id -> history of another user's scene of the same source and split.

    The partner is the next scene in the order of hashed ids that is another user's, has a history,
    and has none of the options in it (an option known from the history gives itself away); without
    such a one, the next of another user's. Scenes of a source with one user only have none.
    """
    columns = ["scene_id", "user_id", "history", "exposure"]
    items = [c for c in ("history_item_ids", "exposure_item_ids") if c in scenes.column_names]
    rows = scenes.select_columns([*columns, *items]).to_list()
    order = sorted(rows, key=lambda row: hashlib.sha256(row["scene_id"].encode()).digest())
    histories = {}
    for place, row in enumerate(order):
        ring = (order[(place + step) % len(order)] for step in range(1, len(order)))
        others = (o for o in ring if o["user_id"] != row["user_id"] and o["history"])
        first = next(others, None)
        if first is not None:
            nearest = itertools.chain([first], others)
            clean = next((other for other in nearest if not _shares(other, row)), first)
            histories[row["scene_id"]] = list(clean["history"])
    return histories


def _shares(other: Scene, row: Scene) -> bool:
    return bool({*other.get("history_item_ids", ())} & {*row.get("exposure_item_ids", ())})


def exposure_mode(scene: Scene) -> str:
    """Return how a scene's exposure came about; of older data, what its version could make."""
    return scene.get("exposure_mode") or ("logged" if scene.get("real_exposure") else "paper")


def history_gap(scene: Scene) -> float | None:
    """Return the seconds from the last line of a scene's history to the scene, where known."""
    if "history_gap" in scene:
        return scene["history_gap"]
    times = scene.get("history_timestamps")
    return (scene["timestamp"] - times[-1]).total_seconds() if times else None


def _of_source(scenes: Dataset | None, source: str, dataset: str) -> Dataset:
    if scenes is None:
        raise UserError(f"has no test scenes of {source}", where=dataset, fix=_OTHER)
    _check(scenes, dataset)
    wanted = [
        source in (name, domain)
        for name, domain in zip(scenes["source"], scenes["domain"], strict=True)
    ]
    scenes = scenes.select([i for i, keep in enumerate(wanted) if keep])
    if not len(scenes):
        raise NoScenesError(
            f"the test split holds no scene of {source}",
            where=dataset,
            fix="Choose another task, dataset or dataset_revision.",
        )
    return scenes


def _read(source: str, dataset: str, commit: str, table: str) -> Dataset | None:
    """Return the rows of a table; None if the dataset has no placebo."""
    from datasets import Dataset

    if Path(dataset).is_file():
        return Dataset(read_table(Path(dataset), expected=SCENE))
    there = manifest(dataset, commit).get("splits") or published.configurations(dataset, commit)
    domain = domain_of(source) or (source if source in _domains() else "")
    config = f"{table}_{domain}" if domain else table
    if config not in there and table == "paper":
        config = config.replace(table, "scenes", 1)  # of logged lists there is one kind only
    if config not in there and table == "placebo":
        return None
    if there and config not in there and domain:
        raise NoScenesError(f"has no config {config!r}", where=dataset, fix=_OTHER)
    try:
        return published.read_rows(dataset, config, "test", commit)
    except UserError as error:
        raise UserError(error.what, where=error.where, fix=f"{error.fix} {_OTHER}") from error


def _domains() -> Container[str]:
    from usermirrorer.builders.raw.sources import domains

    return domains()


def manifest(dataset: str, commit: str) -> Mapping[str, Any]:
    """Return the manifest of a release, folder or repository; {} if it has none."""
    if Path(dataset).is_file():
        return {}
    local = Path(dataset) / MANIFEST if Path(dataset).is_dir() else None
    path = local or published.file_of(dataset, commit, MANIFEST)
    return read_json(path) if path is not None and path.exists() else {}


def _audit(release: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return what a release's audit says of a source: the learned baseline without history."""
    audit = release.get("audit") or {}
    baselines = audit.get("sources", {}).get(source, {}).get("baselines", {})
    told = {name: baselines[name] for name in ("no_history",) if name in baselines}
    return told | ({"allowed_tells": True} if audit.get("allowed_tells") else {})


def _check(scenes: Dataset, dataset: str) -> None:
    """Refuse scenes that are none; see `scene_rows.check`."""
    if not len(scenes):
        raise NoScenesError("holds no scenes", where=dataset, fix=_OTHER)
    rows = scenes.with_format("arrow")[:]
    scene_rows.check(conform(rows, SCENE, dataset), dataset, NEEDED)


@functools.cache
def local_model_revision(pretrained: str) -> str:
    """Return a hash of a local model's weights; "" for a Hub id, whose commit lm_eval records."""
    from usermirrorer.builders.common.assets import model_revision

    return model_revision(pretrained) if pretrained and Path(pretrained).is_dir() else ""


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that a score depends on, of those installed."""
    versions: dict[str, Any] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
