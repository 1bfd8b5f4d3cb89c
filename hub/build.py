"""Tables to the folder of a release (see `layout.py`): the same inputs give the same bytes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from usermirrorer.builders.common import schema, storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.versions import tag_of
from usermirrorer.eval_harness.hub_files import benchmark
from usermirrorer.hub.differences import changelog
from usermirrorer.hub.layout import describe, files, layout, splits
from usermirrorer.model_cards import dataset_card

#: Rows of one Parquet shard.
SHARD_ROWS = 50_000


_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))


#: Columns that `statistics` reads besides the entropies of pairs: no long texts.
_COUNTED = ("domain", "answer", "exposure_popularity", "history_similarity", "real_exposure")


_EXPECTED = {"preference": schema.PREFERENCE, "scenes": schema.SCENE}


def write_release(
    folder: Path,
    *,
    repo_id: str,
    version: str,
    preference: Path,
    scenes: Mapping[str, Path],
    manifest: Mapping[str, Any],
    assets: Mapping[str, Path] | None = None,
    redistributable: bool,
    changelog_from: Path | None = None,
) -> Path:
    """Write a release folder; it appears whole or not at all.

    Args:
        folder: Where to; replaced if it exists.
        repo_id: Repository it is meant for, `namespace/name`.
        version: Semantic version; the tag will be `v` before it.
        preference: Parquet file of pairs (`schema.PREFERENCE`, further columns allowed).
        scenes: Split (`train`, `test`) -> Parquet file (`schema.SCENE`).
        manifest: Where the rows came from; kept as it is. The card shows `inputs` (source -> file
            -> SHA-256), `code`, `configuration`, `seeds` and `models` (each role, id, revision).
        assets: File name -> plot for the card.
        redistributable: Whether the sources allow derived texts in a public repository.
        changelog_from: Folder of the release before, for the changelog.

    Raises:
        UserError: if a table breaks its contract, a user is in train and test, or the version does
            not fit the one before.
    """
    tag = tag_of(version)
    tables = {("preference", "train"): _read(preference, "preference")}
    tables |= {("scenes", split): _read(path, "scenes") for split, path in sorted(scenes.items())}
    _check_users(tables)
    with storage.atomic(Path(folder)) as out:
        out.mkdir()
        for (table, split), rows in tables.items():
            _write_shards(out / "data" / table, split, rows)
        for name, path in sorted((assets or {}).items()):
            (out / "assets").mkdir(exist_ok=True)
            shutil.copyfile(path, out / "assets" / _plain_name(name))
        full = {
            **manifest,
            "repo_id": repo_id,
            "version": tag.removeprefix("v"),
            "schema_version": schema.SCHEMA_VERSION,
            "redistributable": redistributable,
            "sources": sorted(set().union(*(_values(t, "source") for t in tables.values()))),
            "statistics": statistics(tables),
            "assets": [f"assets/{name}" for name in sorted(assets or {})],
        }
        if changelog_from is not None:
            full["changelog"] = changelog(Path(changelog_from), out, full)
        tested = _values(tables["scenes", "test"], "source") if "test" in scenes else []
        (out / "eval.yaml").write_text(
            benchmark([f"usermirror_{source}" for source in tested]), encoding="utf-8"
        )
        (out / "README.md").write_text(card(out, full), encoding="utf-8")
        full["files"] = {p.relative_to(out).as_posix(): describe(p) for p in files(out)}
        full["splits"] = splits(out, full["files"])
        storage.write_json(out / "manifest.json", full)
    return Path(folder)


def _read(path: Path, table: str) -> pa.Table:
    rows = storage.read_table(Path(path))
    expected = _EXPECTED[table]
    for number, field in enumerate(rows.schema):
        wanted = expected.field(field.name).type if field.name in expected.names else field.type
        if pa.types.is_timestamp(wanted) and wanted != field.type:  # Parquet has no whole seconds
            rows = rows.set_column(number, field.name, rows[field.name].cast(wanted))
    try:
        schema.assert_schema(rows.schema, expected)
    except ValueError as error:
        raise UserError(str(error), where=path) from error
    for field in expected:
        if not field.nullable and rows[field.name].null_count:
            raise UserError(f"column {field.name!r} has missing values", where=path)
    if bad := [d for d in _values(rows, "domain") if not re.fullmatch(r"[a-z0-9]+", d)]:
        raise UserError(f"{bad[0]!r} is not a domain name", where=path)
    return rows


def _check_users(tables: Mapping[tuple[str, str], pa.Table]) -> None:
    users = {
        split: set(zip(rows["source"].to_pylist(), rows["user_id"].to_pylist(), strict=True))
        for (table, split), rows in tables.items()
        if table == "scenes"
    }
    if both := users.get("train", set()) & users.get("test", set()):
        source, user = sorted(both)[0]
        raise UserError(
            f"{len(both)} user(s) are in train and in test, e.g. {user} of {source}",
            fix="Split by user before building scenes.",
        )


def _values(rows: pa.Table, column: str) -> list[str]:
    return sorted(pc.unique(rows[column]).to_pylist())


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,100}", name):
        raise UserError(f"{name!r} cannot be the name of a plot", fix="Use letters, digits, '-'.")
    return name


def _write_shards(folder: Path, split: str, rows: pa.Table) -> None:
    for domain in _values(rows, "domain"):
        part = rows.filter(pc.equal(rows["domain"], domain)).combine_chunks()
        count = max(1, -(-len(part) // SHARD_ROWS))
        for number in range(count):
            path = folder / domain / f"{split}-{number:05d}-of-{count:05d}.parquet"
            storage.write_table(path, part.slice(number * SHARD_ROWS, SHARD_ROWS))


def statistics(tables: Mapping[tuple[str, str], pa.Table]) -> dict[str, Any]:
    """Return what the card tells of the rows, by domain.

    Entropies are means in bits. `baselines` are accuracies on the test scenes of a guess, of the
    most popular option, and of the option nearest to the history (ties count in parts).
    """
    pairs = tables["preference", "train"]
    domains: dict[str, dict[str, Any]] = {}
    small = {
        key: t.select([c for c in _COUNTED if c in t.schema.names]) for key, t in tables.items()
    }
    for domain in sorted(set().union(*(_values(t, "domain") for t in small.values()))):
        of_domain = {key: t.filter(pc.equal(t["domain"], domain)) for key, t in small.items()}
        row: dict[str, Any] = {"pairs": len(of_domain.pop(("preference", "train")))}
        row |= {f"{split}_scenes": len(t) for (_, split), t in of_domain.items()}
        row["real_exposure"] = any(pc.any(t["real_exposure"]).as_py() for t in of_domain.values())
        if test := of_domain.get(("scenes", "test")):
            row["baselines"] = baselines(test)
        domains[domain] = row
    columns = ("chosen_entropy", "rejected_entropy", "epistemic_weak", "epistemic_strong")
    means = {c: _mean(pairs, c) for c in (*columns, "epistemic_delta")} if len(pairs) else {}
    return {"domains": domains, "pair_means_bits": means}


def _mean(rows: pa.Table, column: str) -> float:
    return round(float(pc.mean(rows[column]).as_py()), 6)


def baselines(scenes: pa.Table) -> dict[str, float]:
    """Return the accuracy of three guesses that read nothing: see `statistics`."""
    hits = {"chance": 0.0, "most_popular": 0.0, "nearest_to_history": 0.0}
    columns = ("answer", "exposure_popularity", "history_similarity")
    for answer, popularity, similarity in zip(
        *(scenes[column].to_pylist() for column in columns), strict=True
    ):
        hits["chance"] += 1 / len(popularity)
        for name, scores in (("most_popular", popularity), ("nearest_to_history", similarity)):
            best = [index for index, score in enumerate(scores) if score == max(scores)]
            hits[name] += (answer in best) / len(best) if best else 0.0
    return {name: round(value / len(scenes), 6) for name, value in hits.items()}


def card(folder: Path, manifest: Mapping[str, Any]) -> str:
    """Return README.md: the YAML header that loads every config, then the prose."""
    rows = sum(
        count
        for row in manifest["statistics"]["domains"].values()
        for key, count in row.items()
        if key == "pairs" or key.endswith("_scenes")
    )
    header = {
        "language": ["en"],
        "license": "cc-by-sa-4.0",
        "pretty_name": "UserMirrorer",
        "task_categories": ["text-generation"],
        "tags": ["recommender-systems", "user-simulation", "preference", "dpo", "trl"],
        "size_categories": [next((name for top, name in _SIZES if rows < top), "1M<n<10M")],
        "configs": _configs(folder),
        "dataset_info": [
            _dataset_info(config, of_config) for config, of_config in layout(folder).items()
        ],
    }
    return f"---\n{_yaml(header)}---\n\n{dataset_card.render(manifest)}"


def _configs(folder: Path) -> list[dict[str, Any]]:
    configs = []
    for config, of_config in layout(folder).items():
        table, _, domain = config.partition("_")
        files = [
            {"split": split, "path": f"data/{table}/{domain or '*'}/{split}-*.parquet"}
            for split in sorted(of_config, reverse=True)
        ]
        default = {"default": True} if config == "preference" else {}
        configs.append({"config_name": config, "data_files": files, **default})
    return configs


def _dataset_info(config: str, of_config: Mapping[str, list[Path]]) -> dict[str, Any]:
    from datasets import DatasetInfo, Features, SplitDict, SplitInfo

    found = SplitDict(dataset_name=config)
    stored = 0
    for split in sorted(of_config, reverse=True):
        # One file at a time: a release can be larger than the memory.
        size = sum(pq.read_table(path).nbytes for path in of_config[split])
        rows = sum(pq.read_metadata(path).num_rows for path in of_config[split])
        found.add(SplitInfo(split, num_bytes=size, num_examples=rows))
        stored += sum(path.stat().st_size for path in of_config[split])
    features = Features.from_arrow_schema(pq.read_schema(next(iter(of_config.values()))[0]))
    info = DatasetInfo(
        features=features,
        splits=found,
        download_size=stored,
        dataset_size=sum(split.num_bytes for split in found.values()),
        config_name=config,
    )
    return {"config_name": config, **info._to_yaml_dict()}


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
