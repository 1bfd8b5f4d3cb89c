"""A dataset release as a folder: the same inputs give the same bytes.

    README.md                                   card: YAML header with `configs:` and `dataset_info`
    eval.yaml                                   registers the benchmark's tasks with the Hub
    manifest.json                               where everything came from, and a hash of every file
    assets/*                                    plots of the card
    data/preference/<domain>/train-*.parquet    configs `preference` (all) and `preference_<domain>`
    data/scenes/<domain>/{train,test}-*.parquet configs `scenes` (all) and `scenes_<domain>`

Every row is stored once; configs are only patterns over the same files.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from usermirrorer.builders import schema, shards
from usermirrorer.builders.errors import UserError
from usermirrorer.eval_harness.hub_files import benchmark

#: Rows of one Parquet shard.
SHARD_ROWS = 50_000
_VERSION = re.compile(r"v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))
#: Columns that `statistics` reads besides the entropies of pairs: no long texts.
_COUNTED = ("domain", "answer", "exposure_popularity", "history_similarity", "real_exposure")
_EXPECTED = {"preference": schema.PREFERENCE, "scenes": schema.SCENE}


def parse_version(version: str) -> tuple[int, int, int]:
    """Return (major, minor, patch) of `1.2.3` or `v1.2.3`.

    Raises:
        UserError: if it is not a semantic version.
    """
    match = _VERSION.fullmatch(version)
    if not match:
        raise UserError(f"{version!r} is not a version", fix="Write it like 1.2.0.")
    major, minor, patch = (int(part) for part in match.groups())
    return major, minor, patch


def tag_of(version: str) -> str:
    """Return the git tag of a version, e.g. `v1.2.0`."""
    return "v{}.{}.{}".format(*parse_version(version))


def build(
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
    from usermirrorer.hub.differences import changelog

    tag = tag_of(version)
    tables = {("preference", "train"): _read(preference, "preference")}
    tables |= {("scenes", split): _read(path, "scenes") for split, path in sorted(scenes.items())}
    _check_users(tables)
    with shards.atomic(Path(folder)) as out:
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
        full["files"] = {p.relative_to(out).as_posix(): describe(p) for p in _files(out)}
        full["splits"] = _splits(out, full["files"])
        shards.write_json(out / "manifest.json", full)
    return Path(folder)


def _read(path: Path, table: str) -> pa.Table:
    rows = shards.read_table(Path(path))
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
            shards.write_table(path, part.slice(number * SHARD_ROWS, SHARD_ROWS))


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a release but its manifest, in order; not what download tools leave."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and parts != ("manifest.json",) and not parts[0].startswith("."):
            yield path


def describe(path: Path) -> dict[str, Any]:
    """Return `sha256`, `size` in bytes and, of Parquet files, `rows`."""
    described: dict[str, Any] = {"sha256": shards.file_hash(path), "size": path.stat().st_size}
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


def _splits(folder: Path, files: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return config -> split -> rows and a hash over the hashes of its files, in order."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for config, splits in layout(folder).items():
        for split, paths in splits.items():
            described = [files[path.relative_to(folder).as_posix()] for path in paths]
            hashes = "\n".join(file["sha256"] for file in described)
            found.setdefault(config, {})[split] = {
                "rows": sum(file["rows"] for file in described),
                "sha256": hashlib.sha256(hashes.encode()).hexdigest(),
            }
    return found


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
    from usermirrorer.model_cards import dataset_card

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
            _dataset_info(config, splits) for config, splits in layout(folder).items()
        ],
    }
    return f"---\n{_yaml(header)}---\n\n{dataset_card.render(manifest)}"


def _configs(folder: Path) -> list[dict[str, Any]]:
    configs = []
    for config, splits in layout(folder).items():
        table, _, domain = config.partition("_")
        files = [
            {"split": split, "path": f"data/{table}/{domain or '*'}/{split}-*.parquet"}
            for split in sorted(splits, reverse=True)
        ]
        default = {"default": True} if config == "preference" else {}
        configs.append({"config_name": config, "data_files": files, **default})
    return configs


def _dataset_info(config: str, splits: Mapping[str, list[Path]]) -> dict[str, Any]:
    from datasets import DatasetInfo, Features, SplitDict, SplitInfo

    found = SplitDict(dataset_name=config)
    stored = 0
    for split in sorted(splits, reverse=True):
        # One file at a time: a release can be larger than the memory.
        size = sum(pq.read_table(path).nbytes for path in splits[split])
        rows = sum(pq.read_metadata(path).num_rows for path in splits[split])
        found.add(SplitInfo(split, num_bytes=size, num_examples=rows))
        stored += sum(path.stat().st_size for path in splits[split])
    features = Features.from_arrow_schema(pq.read_schema(next(iter(splits.values()))[0]))
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


def check(folder: Path) -> dict[str, Any]:
    """Prove every hash, size and row count of a release folder; return its manifest.

    Raises:
        UserError: naming the first file that is missing, extra or not as the manifest says.
    """
    folder = Path(folder)
    manifest = shards.read_json(folder / "manifest.json")
    listed = manifest.get("files")
    if not isinstance(listed, dict):
        raise UserError("lists no files", where=folder / "manifest.json")
    present = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    if wrong := sorted(set(listed) ^ set(present)):
        problem = "is missing" if wrong[0] in listed else "is not in the manifest"
        raise UserError(problem, where=folder / wrong[0], fix="Pull or build the release again.")
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter to the others
        found = dict(zip(present, pool.map(describe, present.values()), strict=True))
    for name, path in present.items():
        if (digest := found[name]["sha256"]) != listed[name].get("sha256"):
            raise UserError(
                f"is not what the manifest says (SHA-256 {digest})",
                where=path,
                fix="Pull or build the release again.",
            )
        if found[name] != listed[name]:
            raise UserError("has another size or row count than the manifest says", where=path)
    if _splits(folder, listed) != manifest.get("splits"):
        raise UserError("splits are not what the manifest says", where=folder / "manifest.json")
    return manifest
