"""Whose feedback trained a simulator: appendix C.3 leaves those people out of everything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from usermirrorer.builders.common import assets, storage
from usermirrorer.builders.common.disks import hub_cache, unwritable
from usermirrorer.builders.common.errors import UserError

NONE = "none"
_RUN = "train_run.json"
_MANIFEST = "manifest.json"
_FIX = (
    "State it: --trained-on {name}=SCENES.parquet (or a release's folder) names whose scenes it "
    "learnt from, --trained-on {name}=none that it learnt from nobody's."
)


def users_of(name: str, model: str, source: str, stated: Mapping[str, str]) -> frozenset[str]:
    """Return the users of a source whose feedback a simulator was trained on.

    Args:
        name: What the simulator is called here.
        model: Part, folder, or Hub id.
        source: Whose users.
        stated: Simulator -> `none`, a Parquet file with a column `user_id`, or a release's folder.

    Raises:
        UserError: if it cannot be told, or what is stated contradicts the record of its training.
    """
    record = _record(model)
    if name in stated:
        return _stated(name, stated[name], source, record)
    if record is None:
        if model in assets.ASSETS:  # general models, never trained on feedback
            return frozenset()
        raise UserError(
            "has no record of what it was trained on", where=model, fix=_FIX.format(name=name)
        )
    trained_on = record.get("data")
    if not isinstance(trained_on, dict) or trained_on.get("local") or not trained_on.get("name"):
        raise UserError(
            "was trained on a file of its own, and its record names no release",
            where=model,
            fix=_FIX.format(name=name),
        )
    if _based_on_trained(record):
        raise UserError(
            "was trained from another checkpoint, whose data its record does not name",
            where=model,
            fix=_FIX.format(name=name),
        )
    read = trained_on.get("commit") or trained_on.get("revision")  # a tag or branch may have moved
    return _published(str(trained_on["name"]), read, source)


def _record(model: str) -> dict[str, Any] | None:
    if model in assets.ASSETS:
        return None
    folder = Path(assets.resolve_model(model))
    path = (folder.parent if folder.is_file() else folder) / _RUN
    if not path.is_file():
        return None
    record = storage.read_json(path)
    if not isinstance(record, dict):
        raise UserError("is no record of a training", where=path)
    return record


def _based_on_trained(record: Mapping[str, Any]) -> bool:
    base = record.get("base_model")
    return isinstance(base, dict) and not base.get("taken_as") and "/" not in str(base.get("name"))


def _stated(name: str, where: str, source: str, record: Mapping[str, Any] | None) -> frozenset[str]:
    if where == NONE:
        counts = ((record or {}).get("data") or {}).get("sources") or {}
        if counts.get(source):
            raise UserError(
                f"its record says that it was trained on {counts[source]:,} rows of {source}",
                where=f"--trained-on {name}=none",
                fix="Name the file or the release of those.",
            )
        return frozenset()
    path = Path(where)
    if path.is_dir():
        return _of_release(path, source)
    return _of_table(path, source)


def _of_table(path: Path, source: str) -> frozenset[str]:
    table = pl.from_arrow(storage.read_table(path, ["user_id"]))
    assert isinstance(table, pl.DataFrame)
    if table.is_empty():
        raise UserError("holds no scenes", where=path, fix="Give a file with rows.")
    if "source" in pq.read_schema(path).names:
        named = pl.from_arrow(storage.read_table(path, ["source"]))
        assert isinstance(named, pl.DataFrame)
        table = table.filter(named["source"] == source)
    return frozenset(table["user_id"].cast(pl.String).to_list())


def _of_release(folder: Path, source: str) -> frozenset[str]:
    """Return all users of a release's train scenes; pairs are made of those scenes."""
    if not (folder / _MANIFEST).is_file():
        raise UserError("has no manifest", where=folder, fix="Name the folder of a release.")
    files = storage.read_json(folder / _MANIFEST).get("files", {})
    named = [file for file in files if file.startswith("data/scenes/") and "/train-" in file]
    if not named:
        raise UserError("its manifest names no train scenes", where=folder / _MANIFEST)
    users: set[str] = set()
    for file in named:
        if not (folder / file).resolve().is_relative_to(folder.resolve()):
            raise UserError("leaves its folder", where=folder / _MANIFEST)
        if storage.file_hash(folder / file) != files[file]["sha256"]:
            raise UserError("is not the file of the manifest", where=folder / file)
        users |= _of_table(folder / file, source)
    return frozenset(users)


def _published(name: str, revision: str | None, source: str) -> frozenset[str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if Path(name).is_dir():
        return _of_release(Path(name), source)
    wanted = [_MANIFEST, "data/scenes/*/train-*"]
    try:
        folder = snapshot_download(
            name, revision=revision, repo_type="dataset", allow_patterns=wanted
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise unwritable(error, hub_cache()) or UserError(
            f"the release that it was trained on is not to be had ({type(error).__name__})",
            where=name,
            fix="Check HF_ENDPOINT, or name its folder by --trained-on.",
        ) from error
    return _of_release(Path(folder), source)
