"""Test scenes of one source from a Hub, a local folder or a Parquet file, and their provenance."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import fingerprint, read_table

if TYPE_CHECKING:
    from datasets import Dataset

DATASET = "usermirrorer/mixed"
#: Columns of SCENE that a score depends on. `exposure_popularity` and `history_similarity` are read
#: where they are there; without them those baselines are at chance.
NEEDED = ("scene_id", "domain", "source", "profile", "history", "exposure", "answer")
PACKAGES = ("usermirrorer", "lm_eval", "datasets", "transformers", "torch", "vllm")


def load_scenes(
    source: str, dataset: str = "", revision: str = ""
) -> tuple[Dataset, dict[str, str]]:
    """Return the test scenes of a source, and where they came from.

    Args:
        source: `movielens`, `amazon_beauty`, ...: the part of a task's name after `usermirror_`.
        dataset: Hub repository, local folder laid out like one, or one Parquet file of scenes.
            Default: the environment variable USERMIRROR_DATASET, then `usermirrorer/mixed`.
        revision: Tag, branch or commit of a repository. Default: USERMIRROR_REVISION, then the
            newest.

    Returns:
        The scenes, and `dataset`, `dataset_revision` (as asked), `dataset_commit` (resolved; empty
        for local files) and `scenes_hash` (changes with any scene, whatever the route).

    Raises:
        UserError: if the data is missing, has no scenes of the source, or lacks a column.
    """
    dataset = dataset or os.environ.get("USERMIRROR_DATASET", "") or DATASET
    revision = revision or os.environ.get("USERMIRROR_REVISION", "")
    commit = "" if Path(dataset).exists() else _resolve(dataset, revision)
    scenes = _read(source, dataset, commit)
    _check_columns(scenes, dataset)
    wanted = [
        source in (name, domain)
        for name, domain in zip(scenes["source"], scenes["domain"], strict=True)
    ]
    scenes = scenes.select([i for i, keep in enumerate(wanted) if keep])
    if not len(scenes):
        raise UserError(
            f"the test split holds no scene of {source}",
            where=dataset,
            fix="Choose another task, dataset or dataset_revision.",
        )
    _check_answers(scenes, dataset)
    return scenes, {
        "dataset": dataset,
        "dataset_revision": revision,
        "dataset_commit": commit,
        "scenes_hash": fingerprint(
            [scenes[c] for c in ("scene_id", "profile", "history", "exposure", "answer")]
        ),
    }


def _read(source: str, dataset: str, commit: str) -> Dataset:
    from datasets import Dataset, load_dataset

    if Path(dataset).is_file():
        return Dataset(read_table(Path(dataset)))
    config = f"scenes_{source.split('_', maxsplit=1)[0]}"
    other = 'Name another with --metadata \'{"dataset": "...", "dataset_revision": "..."}\'.'
    with _explained(f"split 'test' of config {config!r} cannot be loaded", dataset, other):
        return load_dataset(dataset, config, split="test", revision=commit or None)


def _resolve(dataset: str, revision: str) -> str:
    """Return the commit of a repository's revision; from the local cache when offline."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE:
        found = try_to_load_from_cache(
            dataset, "README.md", revision=revision or "main", repo_type="dataset"
        )
        return Path(found).parent.name if isinstance(found, str) else ""
    check = "Check the name, HF_ENDPOINT and HF_TOKEN, or give a local folder or file."
    with _explained(f"revision {revision or 'main'!r} cannot be reached", dataset, check):
        return str(HfApi().dataset_info(dataset, revision=revision or None).sha)


@contextlib.contextmanager
def _explained(what: str, dataset: str, fix: str) -> Iterator[None]:
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, DatasetsError) as error:  # Hub errors are OSErrors
        raise UserError(
            f"{what}: {type(error).__name__}: {error}", where=dataset, fix=fix
        ) from error


def _check_columns(scenes: Dataset, dataset: str) -> None:
    missing = set(NEEDED) - set(scenes.column_names)
    if missing:
        raise UserError(
            f"the scenes lack {', '.join(sorted(missing))}",
            where=dataset,
            fix="Rebuild them with this version.",
        )


def _check_answers(scenes: Dataset, dataset: str) -> None:
    for scene_id, options, answer in zip(
        scenes["scene_id"], scenes["exposure"], scenes["answer"], strict=True
    ):
        if not 0 <= answer < len(options):
            raise UserError(
                f"scene {scene_id}: answer {answer} of {len(options)} options", where=dataset
            )


@functools.cache
def local_model_revision(pretrained: str) -> str:
    """Return a hash of a local model's weights; "" for a Hub id, whose commit lm_eval records."""
    from usermirrorer.builders.common.assets import model_revision

    return model_revision(pretrained) if pretrained and Path(pretrained).is_dir() else ""


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that a score depends on, of those installed."""
    found: dict[str, Any] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
