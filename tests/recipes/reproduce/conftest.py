"""A plan of small commands: two tables that share a step, in a folder that tests may change."""

from __future__ import annotations

from pathlib import Path

import pytest

#: Notes in a file outside that it ran, and writes what it was told to and its inputs.
WRITE = """
import pathlib, sys
ran, out, said, *given = sys.argv[1:]
text = said + "".join(pathlib.Path(name).read_text() for name in given)
(pathlib.Path(out) / "text").write_text(text)
with open(ran, "a") as log:
    print(said, file=log)
"""
SHARED = """
commands:
  write: python {{ write }} {{ ran }} {{ out }} {{ said }} {{ given | default("") }}
steps:
  raw: {inputs: {given: "data:movielens"}, values: {said: raw}, run: write}
  both: {values: {said: both}, run: write}
  left: {inputs: {given: both/text}, values: {said: "{{ left }}"}, run: write}
  right: {inputs: {given: both/text}, values: {said: right}, run: write}
  after: {inputs: {given: left/text}, values: {said: after}, run: write}
"""
SCALE = """
about: For tests.
jobs: 2
models: {weak: w, teacher: t, embedder: e}
values: {left: left, ran: RAN, write: WRITE, exposures: [], trainees: [], sources: [], samples: 1,
  train_scenes: 0, test_scenes: 0, pairs_kept: 1, max_tokens: 1, train_flags: {}, metadata: {}}
"""


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    folder = tmp_path / "plans"
    (folder / "items").mkdir(parents=True)
    (folder / "scales").mkdir()
    (folder / "shared.yaml").write_text(SHARED)
    (tmp_path / "write.py").write_text(WRITE)
    scale = SCALE.replace("RAN", f"{tmp_path}/ran").replace("WRITE", f"{tmp_path}/write.py")
    (folder / "scales" / "tiny.yaml").write_text(scale)
    for name, needs in (("one", "[after]"), ("two", "[right]"), ("three", "[raw]")):
        page = "page: {kind: sweep}" if name != "two" else "page: {kind: accuracy}"
        (folder / "items" / f"{name}.yaml").write_text(f"title: {name}\nneeds: {needs}\n{page}\n")
    return folder
