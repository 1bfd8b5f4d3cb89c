"""Published datasets, read at one commit or not at all.

`datasets.load_dataset` falls back to whatever version its cache holds when the Hub cannot be asked:
`v1.0.0` is wanted, the rows of `v1.1.0` are returned, and nothing says so. Here the revision is
resolved to a commit first, the files of that commit are put into the Hub's cache (one folder per
commit, checked to be whole), and the rows are read from that folder. Offline the same happens with
what the cache holds of that very revision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from usermirrorer.builders.common import network
from usermirrorer.builders.common.disks import hub_cache, unwritable
from usermirrorer.builders.common.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_CARD = "README.md"
_FIX = "Check the name, HF_ENDPOINT and HF_TOKEN, or give a local folder or file."


def commit_of(
    repository: str, revision: str | None = None, kind: Literal["dataset", "model"] = "dataset"
) -> str:
    """Return the commit of a repository's revision; where the Hub cannot be asked, as last seen.

    Args:
        repository: Its id.
        revision: Tag, branch or commit; by default the newest.
        kind: Of repository.

    Raises:
        UserError: if there is no such revision, or it was never seen and the Hub cannot be asked.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    network.prepare()
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        told = f"is no file, folder or {kind}"
        raise UserError(
            told if kind == "dataset" else f"model cannot be loaded: {told}",
            where=repository,
            fix="Check the path or the name.",
        ) from error
    what = f"revision {revision or 'main'!r} cannot be read"
    with _explained(repository, what if kind == "dataset" else f"model cannot be loaded: {what}"):
        resolved = HfApi().resolve_revision(repository, repo_type=kind, revision=revision or None)
        return str(resolved.resolved)


def file_of(dataset: str, commit: str, name: str) -> Path | None:
    """Return a file of a commit, fetched where it is not in the cache; None if it has none.

    Raises:
        UserError: if it cannot be fetched.
    """
    folder = _files(dataset, commit, [name]) / name
    return folder if folder.is_file() else None


def configurations(dataset: str, commit: str = "") -> dict[str, dict[str, Any]]:
    """Return the configurations that a dataset's card declares, by name; {} if it declares none.

    Args:
        dataset: Repository, or local folder laid out like one.
        commit: Of the repository.
    """
    from huggingface_hub import DatasetCard

    card = Path(dataset) / _CARD if Path(dataset).is_dir() else file_of(dataset, commit, _CARD)
    if card is None or not card.is_file():
        return {}
    with _explained(dataset, f"{_CARD} cannot be read"):
        declared = DatasetCard.load(card).data.to_dict().get("configs") or []
    return {str(config["config_name"]): config for config in declared}


def read_rows(
    dataset: str, config: str | None = None, split: str | None = None, commit: str = ""
) -> Dataset | DatasetDict:
    """Return the rows of a configuration at a commit.

    Args:
        dataset: Repository, or local folder laid out like one.
        config: By default the one that the card calls default.
        split: By default all, as a `DatasetDict`.
        commit: From `commit_of`; nothing for a folder.

    Raises:
        UserError: if there is no such configuration or split, or a file cannot be read or fetched.
    """
    from datasets import load_dataset

    what = f"split {split or 'of any name'!r} of config {config or 'default'!r} cannot be read"
    there = configurations(dataset, commit)
    if config is not None and there and config not in there:
        raise UserError(
            f"config {config!r} is not there", where=dataset, fix=f"It has {', '.join(there)}."
        )
    files = _declared(there, config)
    folder = Path(dataset)
    if not folder.is_dir():
        wanted = [pattern for patterns in files.values() for pattern in patterns]
        folder = _files(dataset, commit, wanted or None)
    with _explained(dataset, what):
        if not files:  # of a form that is not ours: `datasets` knows more of them
            return load_dataset(str(folder), config, split=split)
        paths = {
            name: [str(path) for pattern in patterns for path in sorted(folder.glob(pattern))]
            for name, patterns in files.items()
        }
        return load_dataset("parquet", data_files=paths, split=split)


def _declared(configs: Mapping[str, Mapping[str, Any]], config: str | None) -> dict[str, list[str]]:
    """Return the patterns of a configuration's Parquet files by split; {} if it is of other files.

    `datasets` looks into the files of the first configuration to learn the format, whichever is
    asked for: it would have all of them downloaded.
    """
    if config is None:
        named = [name for name, c in configs.items() if c.get("default")] or ["default"]
        config = next(iter(configs)) if len(configs) == 1 else named[0]
    declared = configs.get(config, {}).get("data_files") or []
    every = [declared] if isinstance(declared, str | Mapping) else list(declared)
    files: dict[str, list[str]] = {}
    for entry in every:
        split, paths = ("train", entry) if isinstance(entry, str) else _entry(entry)
        files.setdefault(split, []).extend([paths] if isinstance(paths, str) else paths)
    ours = all(path.endswith(".parquet") for paths in files.values() for path in paths)
    return files if ours else {}


def _entry(entry: Mapping[str, Any]) -> tuple[str, str | list[str]]:
    return str(entry.get("split", "train")), entry.get("path") or []


def _files(dataset: str, commit: str, patterns: list[str] | None) -> Path:
    """Return the folder of a commit in the cache, the files that match in it and whole."""
    from huggingface_hub import snapshot_download

    with _explained(dataset, f"files of commit {commit[:7]} cannot be read"):
        return Path(
            snapshot_download(
                dataset, repo_type="dataset", revision=commit, allow_patterns=patterns
            )
        )


@contextlib.contextmanager
def _explained(dataset: str, what: str) -> Iterator[None]:
    """Turn the many errors of `datasets` and `huggingface_hub` into one `UserError`."""
    import httpx2
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import (
        HfHubHTTPError,
        IncompleteSnapshotError,
        RevisionResolutionError,
    )

    try:
        yield
    except (RevisionResolutionError, IncompleteSnapshotError) as error:
        raise unwritable(error, hub_cache()) or UserError(
            f"{what}: the Hub cannot be reached, and the cache does not hold all of it",
            where=dataset,
            fix="Check HF_ENDPOINT, and that HF_HUB_OFFLINE is not set.",
        ) from error
    except (HfHubHTTPError, httpx2.HTTPError, DatasetsError, OSError, ValueError) as error:
        if told := unwritable(error, hub_cache()):
            raise told from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise UserError(f"{what}: {reason}", where=dataset, fix=_FIX) from error
