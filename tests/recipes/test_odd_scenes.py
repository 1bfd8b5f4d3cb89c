"""Promise: an odd file of scenes is one and the same error for whoever reads it, before any work.

Without rows, with scenes of one option or of more labels than there are, with an answer that is no
option, twice the same scene, missing columns or texts, or lists that do not fit each other. Whoever
reads scenes is looked up in the command line itself: one without a case here fails.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tests.builders.distil import distil_rows
from tests.product import commands
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.scene_rows import check, read_scenes
from usermirrorer.builders.common.schema import DECISION, OPTION_FEATURES, PREFERENCE, SCENE
from usermirrorer.eval_harness.analysis import table
from usermirrorer.eval_harness.data import load_scenes
from usermirrorer.recipes.cli import app
from usermirrorer.recipes.data import DataArguments, load_source

from recipe_rows import pair  # isort: skip

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


def others(folder: Path) -> dict[str, Path]:
    """Write the good scenes, pairs, and decisions of both models on them."""
    paths = {"GOOD": folder / "good.parquet"}
    pq.write_table(pa.Table.from_pylist(rows(), schema=SCENE), paths["GOOD"])
    for model in ("weak", "strong"):
        made = [distil_rows.decision(f"s{n}", model, 0, n % 2, 1.0) for n in range(3)]
        paths[model.upper()] = folder / f"{model}.parquet"
        pq.write_table(pa.Table.from_pylist(made, schema=DECISION), paths[model.upper()])
    paths["PAIRS"], paths["MANIFEST"] = folder / "pairs.parquet", folder / "manifest.json"
    pairs = pa.Table.from_pylist([pair(n) for n in range(3)], schema=PREFERENCE)
    pq.write_table(pairs, paths["PAIRS"])
    paths["MANIFEST"].write_text("{}")
    return paths


def command(*words: object) -> Callable[[Path, Path], object]:
    """Return what runs a command on a file of scenes (`SCENES`), everything else in a folder."""

    def run(scenes: Path, folder: Path) -> object:
        paths = others(folder) | {"SCENES": scenes, "OUT": folder / "out"}
        named = [str(word).rpartition("=") for word in words]  # NAME=PATH
        said = [f"{name}{sign}{paths.get(path, path)}" for name, sign, path in named]
        done = CliRunner().invoke(app, said, catch_exceptions=True)
        if isinstance(done.exception, UserError):
            raise done.exception
        return done

    return run


def ablate(scenes: Path, folder: Path) -> object:
    """Run `ablate` on a file of scenes that `usermirrorer scenes` might have made."""
    (scenes.parent / "scenes.json").write_text('{"source": "movielens"}')
    return command("ablate", "SCENES", "--out", "OUT")(scenes, folder)


def published(scenes: Path, folder: Path) -> object:
    """Simulate what lies in a folder of scenes."""
    shutil.copy(scenes, scenes.parent / "test.parquet")
    return command("simulate", str(scenes.parent), *MODEL)(scenes, folder)


MODEL = ("--model", "/no/such/model", "--mode", "direct")  # loaded after the file is read
SWEEP = (
    "--output",
    "OUT",
    "--stage",
    "direct",
    "--model_name_or_path",
    "/no/such/model",
    "--learning-rates",
    "1e-4",
    "--epochs",
    "1",
)
BOTH = ("--weak", "WEAK", "--strong", "STRONG", "--out", "OUT")
RELEASE = ("OUT", "--repo", "a/b", "--version", "1.0.0", "--allow-tells")
RELEASE += ("--preference", "PAIRS", "--manifest", "MANIFEST")
ANALYSES: dict[str, tuple[str, ...]] = dict.fromkeys(table.ANALYSES, ()) | {
    "style": ("--teacher", "STRONG")
}
#: Command and its argument that names a file of scenes -> what reads it.
CONSUMERS: dict[str, Callable[[Path, Path], object]] = {
    "decide scene_file": command("decide", "SCENES", *MODEL[:2], "--out", "/no/such/place"),
    "distil scene_file": command("distil", "SCENES", "--pairs", "1", *BOTH),
    "report scene_file": command("report", "SCENES", *BOTH),
    "ablate scene_file": ablate,
    "validate --scenes": command("validate", "WEAK", "--scenes", "SCENES"),
    "simulate scenes": command("simulate", "SCENES", *MODEL),
    "simulate --split": published,
    "calibrate scenes": command("calibrate", "SCENES", "--out", "OUT", *MODEL),
    "sweep --dataset": command("sweep", "sft", "--dataset", "SCENES", *SWEEP),
    "sweep --scenes": command("sweep", "sft", "--dataset", "GOOD", "--scenes", "SCENES", *SWEEP),
    **{
        f"analyse {name} --scenes": command(
            "analyse", name, "full=WEAK", "--scenes", "SCENES", "--out", "OUT", *more
        )
        for name, more in ANALYSES.items()
    },
    **{
        f"release build --{split}": command("release", "build", *RELEASE, f"--{split}", "SCENES")
        for split in ("train", "test", "paper-train", "paper-test")
    },
    "recipes": lambda path, _: load_source(DataArguments(str(path), stage="direct")),
    "lm_eval": lambda path, _: load_scenes("movielens", str(path)),
}
#: These do not read texts, or not all lists.
WITHOUT_TEXTS = ("distil scene_file", "report scene_file", "release build --train",
                 "release build --test", "release build --paper-train",
                 "release build --paper-test")  # fmt: skip
#: Arguments that name other files than one of scenes, or several kinds of them: `validate` has a
#: test below; those of `interact` and `calibrate --trained-on` are asked for users and ids alone.
OTHERS = (
    *("interact --trained-on", "calibrate --trained-on", "calibrate --split", "ablate --tables"),
    *("scenes --later-days", "scenes --history-gap", "scenes --time-cut"),
    *(
        "ablate --source",
        "distil --strategy",
        "eval-results --dataset",
        *("simulate --scenes-revision", "calibrate --scenes-revision"),
    ),
)


def scene_arguments() -> set[str]:
    """Return `COMMAND ARGUMENT` of all arguments that a user could take to name scenes."""
    named = set()
    for name, one in commands():
        for given in one.params:
            text = f"{given.name} {getattr(given, 'help', None) or ''}".lower()
            counts = isinstance(given.type, (click.types.IntParamType, click.Choice))
            if "scene" in text and not counts and not getattr(given, "is_flag", False):
                option = isinstance(given, click.Option)
                named.add(f"{name} {given.opts[0] if option else given.name}")
    return named


def test_every_argument_that_names_scenes_has_a_case():
    assert scene_arguments() <= {*CONSUMERS, *OTHERS}


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_each_odd_file_is_the_same_error_for_everyone(consumer, tmp_path):
    every = ODD if consumer in WITHOUT_TEXTS else ODD | TEXTS
    for name, (given, told) in every.items():
        path = written(tmp_path, given)
        with pytest.raises(UserError) as raised:
            CONSUMERS[consumer](path, tmp_path)
        assert told in str(raised.value), (name, str(raised.value))
        assert str(path.parent) in str(raised.value), name


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
