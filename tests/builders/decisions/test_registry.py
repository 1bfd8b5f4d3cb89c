"""An engine is one file: what it holds is enough to be listed, chosen, run and refused."""

from __future__ import annotations

import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from usermirrorer.builders import commands
from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions import engines
from usermirrorer.builders.decisions.engines import registry
from usermirrorer.builders.decisions.engines.registry import EngineSpec

#: The whole of a new engine: it likes the option whose number its model's name gives.
LIKES_ONE = """
import numpy as np
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import LABELS
from usermirrorer.builders.decisions.engines.base import EngineKind, Generation
from usermirrorer.builders.decisions.prompts import FIELDS, answer

class Likes:
    batch_scenes, context = 4, 6144
    def __init__(self, settings):
        if not settings.model.isdigit():
            raise UserError("is no number", where=settings.model)
        self.name, self.likes = settings.name or settings.model, int(settings.model)
    def count(self, prompt):
        return sum(len(message["content"].split()) for message in prompt)
    def sample(self, prompts, options, sampling, seeds):
        thought = "\\n".join(["Thought:", *(f"{name}: so" for name in FIELDS)])
        text = answer(LABELS[self.likes], thought)
        return [[Generation(text, self.count(p), 9)] * sampling.n for p in prompts]
    def score(self, prompts, thoughts, options):
        return [np.eye(k)[[self.likes] * len(row)] for row, k in zip(thoughts, options)]

ENGINE = EngineKind(load=Likes, remote=True, options=("concurrency",))
"""


@pytest.fixture
def likes(tmp_path, monkeypatch):
    """The engines' folder, and beside it one with a file more."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "likes.py").write_text(LIKES_ONE)
    monkeypatch.setattr(engines, "__path__", [*engines.__path__, str(folder)])
    yield
    registry.get_kind.cache_clear()
    sys.modules.pop(f"{engines.__name__}.likes", None)


@pytest.fixture
def scenes(built, tmp_path):
    path = tmp_path / "scenes.parquet"
    storage.write_table(path, built["train"].slice(0, 6))
    return path


def test_a_new_file_is_a_new_engine(likes, scenes, tmp_path):
    assert registry.kinds() == ["transformers", "likes", "openai", "vllm"]
    spec = EngineSpec("likes", "1", name="one")
    assert spec.load().name == "one" and spec.identity() == {"engine": "likes", "model": "1"}
    with pytest.raises(UserError, match="--workers: is for engines that compute"):
        spec.spread(2)
    with pytest.raises(UserError, match="third: is no number"):
        EngineSpec("likes", "third").load()


def test_the_command_decides_with_it(likes, scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(commands._ENGINES, "choices", registry.kinds())
    out = tmp_path / "d.parquet"
    words = [str(scenes), "--model", "1", "--judge", "0", "--engine", "likes", "--out", str(out)]
    ran = CliRunner().invoke(commands.decide, [*words, "--samples", "3"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == 18
    assert {(row["model"], row["behavior"], row["malformed"]) for row in rows} == {("1", 1, "")}
    assert all(row["probabilities"][0] == 1 and row["entropy"] == 0 for row in rows)


def test_an_engine_that_is_not_there_is_one_line_with_those_that_are():
    with pytest.raises(UserError, match=r"no engine is called 'llama'.*transformers, openai, vllm"):
        EngineSpec("llama", "m").load()


def test_an_engine_without_its_library_is_one_line(likes, tmp_path):
    (tmp_path / "more" / "likes.py").write_text("import a_library_that_is_not_there\n")
    with pytest.raises(UserError, match="--engine likes: cannot be imported"):
        EngineSpec("likes", "1").load()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tensor_parallel": 2}, "--tensor-parallel: is of --engine vllm"),
        ({"base_url": "http://x/v1"}, "--base-url: is of --engine openai"),
        ({"concurrency": 4}, "--concurrency: is of --engine likes, openai"),
    ],
)
def test_settings_that_no_chosen_engine_reads_are_refused(likes, settings, told):
    with pytest.raises(UserError, match=told):
        registry.check_options([EngineSpec("transformers", "m", **settings)])
    reader = told.split()[-1]
    registry.check_options([EngineSpec(reader, "1", **settings), EngineSpec("transformers", "m")])


def test_naming_the_engines_imports_none():
    """The command line lists them; torch takes seconds to import."""
    code = (
        "import sys; from usermirrorer.builders import commands; print(commands._ENGINES.choices);"
        "print({'torch', 'transformers', 'vllm', 'openai', 'ray'} & {*sys.modules})"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "transformers" in told.stdout and told.stdout.endswith("set()\n")
