"""Where the files of a release lie, and how a folder is proved to be one.

    README.md                                   card: YAML header with `configs:` and `dataset_info`
    eval.yaml                                   registers the benchmark's tasks with the Hub
    croissant.json                              the same for search engines and loaders
    tasks/*                                     lm_eval's task files, of domains of one's own
    manifest.json                               where everything came from, and a hash of every file
    assets/*                                    plots of the card
    data/preference/<domain>/train-*.parquet    configs `preference` (all) and `preference_<domain>`
    data/scenes/<domain>/{train,test}-*.parquet configs `scenes` (all) and `scenes_<domain>`
    data/inspect/<source>/test-*.parquet        prompts of the test scenes, for inspect-ai

Every row is stored once; configs are only patterns over the same files.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError


def files(folder: Path) -> Iterator[Path]:
    """Yield the files of a release but its manifest, in order; not what download tools leave."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and parts != ("manifest.json",) and not parts[0].startswith("."):
            yield path


def describe(path: Path) -> dict[str, Any]:
    """Return `sha256`, `size` in bytes and, of Parquet files, `rows`."""
    described: dict[str, Any] = {"sha256": storage.file_hash(path), "size": path.stat().st_size}
    if path.suffix == ".parquet":
        with contextlib.suppress(pa.ArrowInvalid):  # not Parquet: its hash will tell
            described["rows"] = pq.read_metadata(path).num_rows
    return described


def layout(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """Return config -> split -> Parquet files, for all domains and for each."""
    configs: dict[str, dict[str, list[Path]]] = {"preference": {}, "scenes": {}}
    for path in sorted((folder / "data").glob("*/*/*.parquet")):
        table, domain, split = path.parts[-3], path.parts[-2], path.name.partition("-")[0]
        for config in (table, f"{table}_{domain}"):
            configs.setdefault(config, {}).setdefault(split, []).append(path)
    return {config: splits for config, splits in configs.items() if splits}


def splits(folder: Path, described: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return config -> split -> rows and a hash over the hashes of its files, in order."""
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for config, of_config in layout(folder).items():
        for split, paths in of_config.items():
            own = [described[path.relative_to(folder).as_posix()] for path in paths]
            hashes = "\n".join(file["sha256"] for file in own)
            tables.setdefault(config, {})[split] = {
                "rows": sum(file["rows"] for file in own),
                "sha256": hashlib.sha256(hashes.encode()).hexdigest(),
            }
    return tables


def check(folder: Path) -> dict[str, Any]:
    """Prove every hash, size and row count of a release folder; return its manifest.

    Raises:
        UserError: naming the first file that is missing, extra or not as the manifest says.
    """
    folder = Path(folder)
    manifest = storage.read_json(folder / "manifest.json")
    listed = manifest.get("files")
    if not isinstance(listed, dict):
        raise UserError("lists no files", where=folder / "manifest.json")
    present = {path.relative_to(folder).as_posix(): path for path in files(folder)}
    if wrong := sorted(set(listed) ^ set(present)):
        problem = "is missing" if wrong[0] in listed else "is not in the manifest"
        raise UserError(problem, where=folder / wrong[0], fix="Pull or build the release again.")
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter to the others
        actual = dict(zip(present, pool.map(describe, present.values()), strict=True))
    for name, path in present.items():
        if (digest := actual[name]["sha256"]) != listed[name].get("sha256"):
            raise UserError(
                f"is not what the manifest says (SHA-256 {digest})",
                where=path,
                fix="Pull or build the release again.",
            )
        if actual[name] != listed[name]:
            raise UserError("has another size or row count than the manifest says", where=path)
    if splits(folder, listed) != manifest.get("splits"):
        raise UserError("splits are not what the manifest says", where=folder / "manifest.json")
    return manifest
