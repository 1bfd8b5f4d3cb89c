"""What changed between two releases: rows added, removed and changed, by domain."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.versions import parse_version
from usermirrorer.eval_harness import inspect_tasks
from usermirrorer.hub.layout import layout


def diff(old: Path, new: Path) -> list[dict[str, Any]]:
    """Compare two release folders.

    Rows are matched by scene id (and order, where one scene has several pairs).

    Returns:
        One dict per config of a domain that either has: `config`, `split`, `added`,
        `removed`, `changed`, `same`.
    """
    before, after = layout(Path(old)), layout(Path(new))
    rows = []
    for config in sorted(set(before) | set(after)):
        table, of_a_part, _ = config.partition("_")
        # The configs over all domains hold the same rows, and prompts are made from the scenes.
        if not of_a_part or table in inspect_tasks.TABLES.values():
            continue
        left, right = before.get(config, {}), after.get(config, {})
        for split in sorted(set(left) | set(right)):
            counted = _compare(_digests(left.get(split, [])), _digests(right.get(split, [])))
            rows.append({"config": config, "split": split, **counted})
    return rows


def _digests(paths: list[Path]) -> dict[tuple[str, int], bytes]:
    digests: dict[tuple[str, int], bytes] = {}
    rows_of: Counter[str] = Counter()
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(4096):
            for row in batch.to_pylist():
                key = row["scene_id"]
                text = repr(sorted(row.items())).encode()
                digests[key, rows_of[key]] = hashlib.blake2b(text, digest_size=16).digest()
                rows_of[key] += 1
    return digests


def _compare(old: Mapping[Any, bytes], new: Mapping[Any, bytes]) -> dict[str, int]:
    both = old.keys() & new.keys()
    changed = sum(old[key] != new[key] for key in both)
    return {
        "added": len(new) - len(both),
        "removed": len(old) - len(both),
        "changed": changed,
        "same": len(both) - changed,
    }


def changelog(old: Path, new: Path, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the changelog of the release `new`, newest first: `version`, `since`, `rows`.

    Raises:
        UserError: if the version does not come after the old one, or the schema changed and the
            major version did not.
    """
    previous = storage.read_json(old / "manifest.json")
    check_order(previous, manifest)
    changes = [r for r in diff(old, new) if r["added"] or r["removed"] or r["changed"]]
    entry = {"version": manifest["version"], "since": previous["version"], "rows": changes}
    return [entry, *previous.get("changelog", [])]


def check_order(previous: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse a version that may not follow another.

    Raises:
        UserError: if it is not greater, or changes the schema within a major version.
    """
    before, after = (parse_version(str(m["version"])) for m in (previous, current))
    if after <= before:
        raise UserError(
            f"version {current['version']} does not come after {previous['version']}",
            fix="Choose a greater one.",
        )
    if previous["schema_version"] != current["schema_version"] and after[0] == before[0]:
        raise UserError(
            f"the schema changed since {previous['version']}",
            fix=f"Release it as {before[0] + 1}.0.0.",
        )
