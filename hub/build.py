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

from usermirrorer.builders.common import scene_rows, schema, storage
from usermirrorer.builders.common.choice import top_choice
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.versions import tag_of
from usermirrorer.eval_harness import inspect_tasks, task_files
from usermirrorer.eval_harness.hub_files import benchmark
from usermirrorer.eval_harness.metric_table import gap_counts
from usermirrorer.hub import croissant
from usermirrorer.hub.differences import changelog
from usermirrorer.hub.layout import describe, files, layout, splits
from usermirrorer.model_cards import dataset_card

#: Rows of one Parquet shard.
SHARD_ROWS = 50_000


_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))


#: Baseline of the card -> column with one score per option, of which it picks the highest.
_BASELINES = {
    "most_popular": "exposure_popularity",
    "collaborative": "exposure_collaborative",
    "nearest_to_history": "history_similarity",
}
#: Columns that `statistics` reads besides the entropies of pairs: no long texts.
_COUNTED = ("domain", "answer", "exposure_mode", "history_gap", "real_exposure")


#: Tables of scenes: the default ones, placebos with the same ids, and the paper's exposures.
_SCENES = ("scenes", "placebo", "paper")
_EXPECTED = {"preference": schema.PREFERENCE, **dict.fromkeys(_SCENES, schema.SCENE)}


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
    placebo: Mapping[str, Path] | None = None,
    paper: Mapping[str, Path] | None = None,
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
        placebo: The same of placebo scenes, each with the id of its scene.
        paper: The same of scenes with the exposures of the paper's Algorithm 1.

    Raises:
        UserError: if a table breaks its contract, a user is in train and test, a placebo belongs to
            no scene, or the version does not fit the one before.
    """
    tag = tag_of(version)
    tables = _read_tables(preference, scenes, placebo or {}, paper or {})
    with storage.atomic(Path(folder)) as out:
        out.mkdir()
        for (table, split), rows in tables.items():
            _write_shards(out / "data" / table, split, rows)
        _write_prompts(out, tables)
        for name, path in sorted((assets or {}).items()):
            (out / "assets").mkdir(exist_ok=True)
            shutil.copyfile(path, out / "assets" / _plain_name(name))
        own: dict[str, Any] = {"repo_id": repo_id, "version": tag.removeprefix("v")}
        own |= {"assets": [f"assets/{name}" for name in sorted(assets or {})]}
        described = {**manifest, **own, "redistributable": redistributable}
        _describe_release(out, tables, described, changelog_from)
    return Path(folder)


def _read_tables(
    preference: Path, *of_scenes: Mapping[str, Path]
) -> dict[tuple[str, str], pa.Table]:
    """Return (table, split) -> rows, checked alone and against each other."""
    tables = {("preference", "train"): _read(preference, "preference")}
    for name, parts in zip(_SCENES, of_scenes, strict=True):
        tables |= {(name, split): _read(path, name) for split, path in sorted(parts.items())}
    _check_users(tables)
    _check_placebos(tables)
    for (name, split), rows in tables.items():
        if name in _SCENES:
            scene_rows.check(rows, f"{name}, {split}")
    return tables


def _describe_release(
    out: Path,
    tables: Mapping[tuple[str, str], pa.Table],
    described: Mapping[str, Any],
    changelog_from: Path | None,
) -> None:
    """Write benchmark, card, Croissant and, last, the manifest with a hash of every file."""
    full = {
        **described,
        "schema_version": schema.SCHEMA_VERSION,
        "sources": sorted(set().union(*(_values(t, "source") for t in tables.values()))),
        "statistics": statistics(tables),
    }
    if changelog_from is not None:
        full["changelog"] = changelog(Path(changelog_from), out, full)
    _write_tasks(out, _tested(tables), described["repo_id"])
    (out / "eval.yaml").write_text(benchmark(_tested(tables), prompts=True), encoding="utf-8")
    (out / "README.md").write_text(card(out, full), encoding="utf-8")
    storage.write_json(out / croissant.FILE, croissant.describe(out, full))
    full["files"] = {p.relative_to(out).as_posix(): describe(p) for p in files(out)}
    full["splits"] = splits(out, full["files"])
    storage.write_json(out / "manifest.json", full)


def _write_tasks(out: Path, tested: Mapping[str, Mapping[str, str]], repo_id: str) -> None:
    """Write lm_eval's task files of the sources that an installation does not bring."""
    from usermirrorer.builders.raw.sources import all_sources

    own = sorted({name for of_table in tested.values() for name in of_table} - set(all_sources()))
    if not own:
        return
    (out / "tasks").mkdir()
    for name, text in task_files.release_files(own, list(tested), repo_id).items():
        (out / "tasks" / name).write_text(text, encoding="utf-8")


def _read(path: Path, table: str) -> pa.Table:
    expected = _EXPECTED[table]
    rows = storage.read_table(Path(path), expected=expected)
    try:
        schema.assert_schema(rows.schema, expected)
    except ValueError as error:
        raise UserError(str(error), where=path) from error
    for field in expected:
        if not field.nullable and rows[field.name].null_count:
            raise UserError(f"column {field.name!r} has missing values", where=path)
    if bad := [d for d in _values(rows, "domain") if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", d)]:
        raise UserError(f"{bad[0]!r} is not a domain name", where=path)
    if bad := [s for s in _values(rows, "source") if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", s)]:
        raise UserError(f"{bad[0]!r} is not a source name", where=path)
    return rows


def _check_users(tables: Mapping[tuple[str, str], pa.Table]) -> None:
    users: dict[str, set[tuple[str, str]]] = {}
    for (table, split), rows in tables.items():
        if table in _SCENES:
            own = zip(rows["source"].to_pylist(), rows["user_id"].to_pylist(), strict=True)
            users.setdefault(split, set()).update(own)
    if both := users.get("train", set()) & users.get("test", set()):
        source, user = sorted(both)[0]
        raise UserError(
            f"{len(both)} user(s) are in train and in test, e.g. {user} of {source}",
            fix="Split by user before building scenes.",
        )


def _check_placebos(tables: Mapping[tuple[str, str], pa.Table]) -> None:
    for (table, split), rows in tables.items():
        if table != "placebo":
            continue
        scenes = tables.get(("scenes", split))
        known = set(scenes["scene_id"].to_pylist()) if scenes is not None else set()
        if alone := sorted(set(rows["scene_id"].to_pylist()) - known):
            raise UserError(
                f"{len(alone)} {split} placebo(s) belong to no scene, e.g. {alone[0]}",
                fix="Release the scenes and placebos of one build.",
            )


def _tested(tables: Mapping[tuple[str, str], pa.Table]) -> dict[str, dict[str, str]]:
    """Return table -> source -> domain of the scenes that tasks score."""
    configs = {}
    for table in ("scenes", "paper"):
        if rows := tables.get((table, "test")):
            pairs = rows.select(["source", "domain"]).group_by(["source", "domain"]).aggregate([])
            named = zip(pairs["source"].to_pylist(), pairs["domain"].to_pylist(), strict=True)
            configs[table] = dict(named)
    return configs


def _values(rows: pa.Table, column: str) -> list[str]:
    return sorted(pc.unique(rows[column]).to_pylist())


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,100}", name):
        raise UserError(f"{name!r} cannot be the name of a plot", fix="Use letters, digits, '-'.")
    return name


def _write_prompts(out: Path, tables: Mapping[tuple[str, str], pa.Table]) -> None:
    """Write the prompts of the test scenes, by source as tasks are: see `inspect_tasks`."""
    for table, name in inspect_tasks.TABLES.items():
        if rows := tables.get((table, "test")):
            prompts = inspect_tasks.prompts_of(rows.to_pylist())
            _write_shards(out / "data" / name, "test", prompts, "source")


def _write_shards(folder: Path, split: str, rows: pa.Table, by: str = "domain") -> None:
    for value in _values(rows, by):
        own = rows.filter(pc.equal(rows[by], value)).combine_chunks()
        part = storage.without_record(own)
        count = max(1, -(-len(part) // SHARD_ROWS))
        for number in range(count):
            path = folder / value / f"{split}-{number:05d}-of-{count:05d}.parquet"
            storage.write_table(path, part.slice(number * SHARD_ROWS, SHARD_ROWS))


def statistics(tables: Mapping[tuple[str, str], pa.Table]) -> dict[str, Any]:
    """Return what the card tells of the rows, by domain.

    Entropies are means in bits. `baselines` are accuracies on the test scenes of a guess, of the
    most popular option, of the one that a collaborative filter scores highest for the history, and
    of the one nearest to the history (ties count in parts). `gaps` counts test scenes by the time
    since the last line of their history. `exposure_modes` says of each table how its exposures were
    made.
    """
    pairs = tables["preference", "train"]
    domains: dict[str, dict[str, Any]] = {}
    counted = (*_COUNTED, *_BASELINES.values())
    small = {
        key: t.select([c for c in counted if c in t.schema.names]) for key, t in tables.items()
    }
    for domain in sorted(set().union(*(_values(t, "domain") for t in small.values()))):
        of_domain = {key: t.filter(pc.equal(t["domain"], domain)) for key, t in small.items()}
        row: dict[str, Any] = {"pairs": len(of_domain.pop(("preference", "train")))}
        for (table, split), rows in of_domain.items():
            kind = "scenes" if table == "scenes" else f"{table}_scenes"
            row[f"{split}_{kind}"] = len(rows)
        row["real_exposure"] = any(pc.any(t["real_exposure"]).as_py() for t in of_domain.values())
        row["exposure_modes"] = _modes(of_domain)
        if test := of_domain.get(("scenes", "test")):
            row["baselines"] = baselines(test)
            row["gaps"] = gap_counts(test["history_gap"].to_pylist())
        domains[domain] = row
    columns = ("chosen_entropy", "rejected_entropy", "epistemic_weak", "epistemic_strong")
    means = {c: _mean(pairs, c) for c in (*columns, "epistemic_delta")} if len(pairs) else {}
    return {"domains": domains, "pair_means_bits": means}


def _modes(tables: Mapping[tuple[str, str], pa.Table]) -> dict[str, list[str]]:
    by_table: dict[str, set[str]] = {}
    for (table, _), rows in tables.items():
        if len(rows):
            by_table.setdefault(table, set()).update(_values(rows, "exposure_mode"))
    return {table: sorted(modes) for table, modes in by_table.items()}


def _mean(rows: pa.Table, column: str) -> float:
    return round(float(pc.mean(rows[column]).as_py()), 6)


def baselines(scenes: pa.Table) -> dict[str, float]:
    """Return the accuracy of guesses that use no language model: see `statistics`."""
    answers = scenes["answer"].to_pylist()
    options = [len(scores) for scores in scenes["exposure_popularity"].to_pylist()]
    hits = {"chance": [1 / k for k in options]}
    for name, column in _BASELINES.items():
        rows = zip(scenes[column].to_pylist(), answers, options, strict=True)
        hits[name] = [top_choice(scores, answer, k) for scores, answer, k in rows]
    return {name: round(sum(values) / len(scenes), 6) for name, values in hits.items()}


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
    prompts = f"{inspect_tasks.TABLES['scenes']}_"
    scored = sorted(c.removeprefix(prompts) for c in layout(folder) if c.startswith(prompts))
    return f"---\n{_yaml(header)}---\n\n{dataset_card.render(manifest, scored)}"


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
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    counts = SplitDict(dataset_name=config)
    stored = 0
    for split in sorted(of_config, reverse=True):
        # One file at a time: a release can be larger than the memory.
        size = sum(pq.read_table(path).nbytes for path in of_config[split])
        rows = sum(pq.read_metadata(path).num_rows for path in of_config[split])
        counts.add(SplitInfo(split, num_bytes=size, num_examples=rows))
        stored += sum(path.stat().st_size for path in of_config[split])
    features = Features.from_arrow_schema(pq.read_schema(next(iter(of_config.values()))[0]))
    info = DatasetInfo(
        features=features,
        splits=counts,
        download_size=stored,
        dataset_size=sum(split.num_bytes for split in counts.values()),
        config_name=config,
    )
    data = DatasetCardData()
    DatasetInfosDict({config: info}).to_dataset_card_data(data)
    return data["dataset_info"]


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
