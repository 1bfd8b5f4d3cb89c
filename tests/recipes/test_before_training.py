"""Promise: what can fail at the end of a run is known before it begins."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from huggingface_hub.utils import validate_repo_id

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.disks import unwritable
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import SCENE
from usermirrorer.recipes import sft, training
from usermirrorer.recipes.arguments import parse, script
from usermirrorer.recipes.data import DataArguments, load_source, view

from recipe_rows import scene  # isort: skip


def asked(output, name=None):
    settings = SimpleNamespace(hub_model_id=name, process_index=0)
    return SimpleNamespace(training=settings, output=output)


@pytest.mark.parametrize(
    "name", ["lr1e-5--seed1", ".", "モデル", "é" * 60, "a..b", "-x-", "x" * 200, "run.git", "a b"]
)
def test_any_folder_gives_a_name_that_the_card_takes(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    validate_repo_id(training.card_name(asked(tmp_path / name)))


def test_a_repository_id_that_is_none_is_refused_before_the_model_is_loaded(tmp_path):
    with pytest.raises(UserError, match="--hub_model_id"):
        training.check_output(asked(tmp_path, "a--b/c"))


def test_a_run_in_such_a_folder_ends_with_its_card(tiny_model, scenes, tmp_path):
    out = tmp_path / "tr" / "lr1e-5--seed1"
    words = ["--model_name_or_path", tiny_model, "--dataset_name", scenes, "--output_dir", out]
    words += ["--stage", "direct", "--max_steps", "1", "--bf16", "false", "--report_to", "none"]
    words += ["--max_length", "1024", "--gradient_checkpointing", "false"]
    sft.main([*map(str, words)])
    assert "# lr1e-5-seed1" in (out / "README.md").read_text()


@pytest.mark.parametrize("options", [1, 27])
def test_a_scene_without_a_choice_or_with_too_many_is_not_trained_on(options, tmp_path):
    rows = [scene(1, 3), scene(0, 1) if options == 1 else {**scene(0, 3), **_wide(options)}]
    storage.write_table(tmp_path / "s.parquet", pa.Table.from_pylist(rows, schema=SCENE))
    arguments = DataArguments(str(tmp_path / "s.parquet"), stage="direct")
    with pytest.raises(UserError, match=f"scene0000 has {options} options"):
        view(load_source(arguments), "sft", arguments)


def _wide(options):
    wide = scene(0, 3)
    return {k: (v * options)[:options] for k, v in wide.items() if isinstance(v, list)} | {
        "history": wide["history"]
    }


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_is_one_line_wherever_it_is_met(capsys):
    def plain():
        with Path("/dev/full").open("w") as file:
            file.write("x" * 100_000)

    def hidden():
        try:
            plain()
        except OSError as error:
            raise RuntimeError("Data processing error") from error

    for work in (plain, hidden):
        with pytest.raises(SystemExit):
            script(work)
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and "cannot be written: No space left" in told


def test_a_read_only_disk_is_told_as_such():
    error = OSError(errno.EROFS, "Read-only file system", "/x")
    assert "/x: cannot be written: Read-only" in str(unwritable(error))
    assert unwritable(ValueError("no")) is None


def test_packing_that_lets_documents_see_each_other_is_refused(tmp_path):
    from trl import SFTConfig

    words = ["--model_name_or_path", "x", "--output_dir", str(tmp_path), "--bf16", "false"]
    words += ["--report_to", "none", "--packing", "true", "--packing_strategy"]
    training.check_packages(parse(SFTConfig, [*words, "bfd"]))
    with pytest.raises(UserError, match="would see each other"):
        training.check_packages(parse(SFTConfig, [*words, "wrapped"]))
