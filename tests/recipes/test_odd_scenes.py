"""Promise: an odd file of scenes is one and the same error for whoever reads it, before any work.

Without rows, with scenes of one option or of more labels than there are, with an answer that is no
option, twice the same scene, missing columns or texts, or lists that do not fit each other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tests.builders.distil import distil_rows
from usermirrorer.builders.audit.load import read_files
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.scene_rows import check, read_scenes
from usermirrorer.builders.common.schema import DECISION, OPTION_FEATURES, SCENE
from usermirrorer.eval_harness.data import load_scenes
from usermirrorer.recipes.cli import app
from usermirrorer.recipes.data import DataArguments, load_source

PER_OPTION = ("exposure", "exposure_item_ids", "exposure_origin")


def rows(**changed: object) -> list[dict]:
    """Three good scenes of which the second is changed."""
    good = [distil_rows.scene(name) for name in ("s0", "s1", "s2")]
    good[1] |= changed
    return good


def options(count: int) -> dict:
    wide = distil_rows.scene("s1", options=count)
    return {name: wide[name] for name in wide if name in OPTION_FEATURES or name in PER_OPTION}


#: Name -> rows, and what is said of them.
ODD: dict[str, tuple[list[dict], str]] = {
    "no rows": ([], "holds no scenes"),
    "one option": (rows(**options(1)), "scene s1 has 1 options, not 2 to 26"),
    "no option": (rows(**options(0)), "scene s1 has 0 options, not 2 to 26"),
    "too many options": (rows(**options(27)), "scene s1 has 27 options, not 2 to 26"),
    "answer too large": (rows(answer=4), "scene s1: answer 4 of 4 options"),
    "negative answer": (rows(answer=-1), "scene s1: answer -1 of 4 options"),
    "twice": (rows(scene_id="s0"), "has scenes twice, e.g. s0"),
}
#: Odd in what only those see who read texts.
TEXTS: dict[str, tuple[list[dict], str]] = {
    "no profile": (rows(profile=None), "scene s1: profile is missing"),
    "no history": (rows(history=None), "scene s1: history is missing"),
    "a text that is none": (rows(exposure=["a", None, "c", "d"]), "s1: a text of exposure is miss"),
    "lists that do not fit": (
        rows(exposure_item_ids=["1"]),
        "scene s1: exposure_item_ids has not one entry per option",
    ),
    "lines that do not fit": (
        rows(history_item_ids=["1", "2", "3"]),
        "scene s1: history_item_ids has not one entry per line of history",
    ),
}


def written(folder: Path, given: list[dict], *, without: str = "") -> Path:
    """Write scenes, nulls included: these are what a careless program makes."""
    path = folder / "movielens.parquet"
    lax = pa.schema([field.with_nullable(True) for field in SCENE])
    table = pa.Table.from_pylist(given, schema=lax)
    pq.write_table(table.drop_columns([without]) if without else table, path)
    return path


def decisions(folder: Path) -> list[str]:
    """Write decisions of both models on the good scenes."""
    words = []
    for model in ("weak", "strong"):
        made = [distil_rows.decision(f"s{n}", model, 0, n % 2, 1.0) for n in range(3)]
        path = folder / f"{model}.parquet"
        pq.write_table(pa.Table.from_pylist(made, schema=DECISION), path)
        words += [f"--{model}", str(path)]
    return words


def command(*words: object) -> Callable[[Path, Path], object]:
    """Return what runs a command on a file of scenes (`SCENES`), everything else in a folder."""

    def run(scenes: Path, folder: Path) -> object:
        said = [str(scenes) if word == "SCENES" else str(word) for word in words]
        if words[0] in ("distil", "report"):
            said += [*decisions(folder), "--out", str(folder / "out")]
        done = CliRunner().invoke(app, said, catch_exceptions=True)
        if isinstance(done.exception, UserError):
            raise done.exception
        return done

    return run


MODEL = ("--model", "/no/such/model", "--mode", "direct")  # loaded after the file is read
CONSUMERS: dict[str, Callable[[Path, Path], object]] = {
    "decide": command("decide", "SCENES", *MODEL[:2], "--out", "/no/such/place"),
    "distil": command("distil", "SCENES", "--pairs", "1"),
    "report": command("report", "SCENES"),
    "recipes and sweep": lambda path, _: load_source(DataArguments(str(path), stage="direct")),
    "lm_eval": lambda path, _: load_scenes("movielens", str(path)),
    "audit": lambda path, _: read_files({"test": path}, {}),
}
#: These do not read texts, or not all lists.
WITHOUT_TEXTS = ("distil", "report", "audit")


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_each_odd_file_is_the_same_error_for_everyone(consumer, tmp_path):
    every = ODD if consumer in WITHOUT_TEXTS else ODD | TEXTS
    for name, (given, told) in every.items():
        path = written(tmp_path, given)
        with pytest.raises(UserError) as raised:
            CONSUMERS[consumer](path, tmp_path)
        assert told in str(raised.value), (name, str(raised.value))
        assert str(path) in str(raised.value), name


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_a_missing_column_is_named(consumer, tmp_path):
    path = written(tmp_path, rows(), without="exposure")
    with pytest.raises(UserError, match="exposure"):
        CONSUMERS[consumer](path, tmp_path)


def test_validate_tells_them_all_as_broken_promises(tmp_path):
    for name, (given, _) in (ODD | TEXTS).items():
        done = CliRunner().invoke(app, ["validate", str(written(tmp_path, given))])
        assert done.exit_code == 1, name
        assert "BROKEN" in done.output or isinstance(done.exception, UserError), done.output


@pytest.mark.parametrize("count", [2, 20, 26])
def test_from_two_options_to_all_labels_everything_is_fine(count, tmp_path):
    path = written(tmp_path, rows(**options(count)))
    assert read_scenes(path).num_rows == 3
    assert len(load_source(DataArguments(str(path), stage="direct"))) == 3
    assert len(load_scenes("movielens", str(path))[0]) == 3


def test_scenes_without_further_columns_are_scenes():
    few = ["scene_id", "profile", "history", "exposure"]
    check(pa.Table.from_pylist(rows(), schema=SCENE).select(few), "here")
