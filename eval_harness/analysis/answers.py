"""Files that users have -> what one model answered: lm_eval's samples, or a decision file."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from usermirrorer.builders.common import scene_rows
from usermirrorer.builders.common.choice import top_choice
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import DECISION, LABELS
from usermirrorer.builders.common.storage import file_hash, read_json, read_schema, read_table
from usermirrorer.builders.common.text import without_folders
from usermirrorer.builders.decisions.prompts import Mode, parse
from usermirrorer.eval_harness.task_names import family_of, is_ours

#: Longest line of a samples file and longest response in it that are read, in characters.
MOST_LINE = 32 * 2**20
MOST_RESPONSE = 2**20
#: Columns of a decision file that are read; `tokens_out` where it is there.
_DECISION = ("scene_id", "model", "sample", "text", "behavior", "malformed", "probabilities")
_SCENE = ("scene_id", "user_id", "source", "domain", "exposure", "answer")
_SAMPLES = re.compile(r"samples_(?P<task>.+)_(?P<stamp>\d{4}-\d\d-\d\dT[\d.:-]+)\.jsonl")


class SceneFacts(NamedTuple):
    """What of a scene an analysis needs."""

    scene_id: str
    user: str
    source: str
    domain: str
    options: int
    answer: int


@dataclass(frozen=True)
class Answer:
    """What a model gave for one scene; options are in the scene's own order.

    Args:
        scene: Its facts.
        texts: The generations; () in direct mode.
        behaviors: Index of each one's behavior, None where malformed.
        probabilities: [n, k], one row per decision that was scored; None if none was.
        tokens: Tokens of each generation, where the file says.
    """

    scene: SceneFacts
    texts: tuple[str, ...]
    behaviors: tuple[int | None, ...]
    probabilities: NDArray[np.float64] | None
    tokens: tuple[int, ...] = ()

    @property
    def expected(self) -> NDArray[np.float64]:
        """Probability of each option [k], the mean over decisions and orders of the options.

        Raises:
            UserError: if the model gave none.
        """
        if self.probabilities is None:
            raise UserError("has no probabilities", where=f"scene {self.scene.scene_id}")
        return self.probabilities.mean(axis=0)

    @property
    def right(self) -> float:
        """Its accuracy, as `acc` of the tasks: malformed decisions are wrong."""
        if self.behaviors:
            return float(np.mean([b == self.scene.answer for b in self.behaviors]))
        if self.probabilities is None:
            return 0.0
        return top_choice(self.expected, self.scene.answer)


@dataclass(frozen=True)
class Run:
    """All answers of one model, by scene id."""

    name: str
    model: str
    kind: Literal["lm_eval", "decisions"]
    mode: Mode
    answers: Mapping[str, Answer]
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def public_model(self) -> str:
        """The model as pages name it: a machine's folders are nobody's business."""
        return without_folders(self.model)

    @property
    def users(self) -> list[str]:
        """Whose scene each is, in order; users of two sources are two."""
        return [f"{a.scene.source}/{a.scene.user}" for a in self.answers.values()]

    @property
    def facts(self) -> dict[str, Any]:
        """What a page says of where its numbers are from."""
        answers = self.answers.values()
        behaviors = [b for answer in answers for b in answer.behaviors]
        return {
            "name": self.name,
            "model": self.public_model,
            "kind": self.kind,
            "mode": self.mode,
            "scenes": len(self.answers),
            "users": len(set(self.users)),
            "decisions": len(behaviors),
            "malformed": sum(b is None for b in behaviors),
            "sources": sorted({answer.scene.source for answer in answers}),
            "files": dict(self.files),
        }


def read_runs(results: Sequence[str], scene_files: Sequence[Path] = ()) -> list[Run]:
    """Return the answers in each of `[NAME=]PATH`.

    Raises:
        UserError: if two have one name, or one cannot be read (see `read_run`).
    """
    runs: list[Run] = []
    for result in results:
        name = _named(result)[0]
        if any(name == run.name for run in runs):
            raise UserError(f"two results are called {name!r}", fix="Write NAME=PATH.")
        runs.append(read_run(result, scene_files))
    return runs


def read_run(result: str, scene_files: Sequence[Path] = ()) -> Run:
    """Return the answers of one model.

    Args:
        result: `[NAME=]PATH`: a folder in which lm_eval logged samples, one of its samples files,
            or a Parquet file of schema `DECISION`. Of a task that was run twice, the newest counts.
        scene_files: Parquet files of the scenes that decisions are of.

    Raises:
        UserError: if there is nothing of the kind, it is empty or broken, or it is of several
            models or kinds of task.
    """
    name, path = _named(result)
    if not path.exists():
        raise UserError("does not exist", where=path)
    if path.suffix == ".parquet":
        return _decisions(name, path, scene_files)
    return _samples(name, path)


def _named(result: str) -> tuple[str, Path]:
    name, sign, path = result.partition("=")
    if sign and name and not Path(result).exists():
        return name, Path(path)
    return Path(result).name.removesuffix(".parquet"), Path(result)


def _samples(name: str, path: Path) -> Run:
    """Read what lm_eval logged."""
    files = _newest([path] if path.is_file() else sorted(path.rglob("samples_*.jsonl")))
    if not files:
        raise UserError(
            "holds no samples of a usermirror task",
            where=path,
            fix="Run lm_eval with --output_path and --log_samples.",
        )
    families = {family_of(task) for task in files}
    if len(families) > 1:
        told = " and ".join(sorted(family.name for family in families))
        raise UserError(f"holds tasks of {told}", where=path, fix="Give one family's folder.")
    records = {task: _record(file) for task, file in files.items()}
    models = {str(record.get("model_name", "")) for record in records.values() if record}
    if len(models) > 1:
        raise UserError(f"holds runs of {len(models)} models", where=path, fix="Give one's folder.")
    mode = families.pop().mode
    answers: dict[str, Answer] = {}
    for task, file in files.items():
        metadata = records[task].get("configs", {}).get(task, {}).get("metadata", {})
        rotated = bool(metadata.get("rotations"))
        for answer in _lines(file, mode, rotated):
            if answer.scene.scene_id in answers:
                raise UserError(f"scene {answer.scene.scene_id} stands there twice", where=file)
            answers[answer.scene.scene_id] = answer
    if not answers:
        raise UserError("holds no scene", where=path, fix="Was the run cut off? Score it again.")
    hashes = {file.name: file_hash(file) for file in files.values()}
    return Run(name, next(iter(models), ""), "lm_eval", mode, answers, hashes)


def _newest(files: Sequence[Path]) -> dict[str, Path]:
    """Return task -> its newest samples file."""
    newest: dict[str, tuple[str, Path]] = {}
    for file in files:
        match = _SAMPLES.fullmatch(file.name)
        if match and is_ours(match["task"]):
            newest[match["task"]] = max(
                newest.get(match["task"], ("", file)), (match["stamp"], file)
            )
    return {task: file for task, (_, file) in sorted(newest.items())}


def _record(samples: Path) -> Mapping[str, Any]:
    """Return the results file that goes with a samples file; {} if it is not there."""
    match = _SAMPLES.fullmatch(samples.name)
    assert match
    file = samples.with_name(f"results_{match['stamp']}.json")
    record = read_json(file) if file.is_file() else {}
    if not isinstance(record, dict):
        raise UserError("is not an lm_eval result file", where=file)
    return record


def _lines(file: Path, mode: Mode, rotated: bool) -> Iterator[Answer]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(MOST_LINE), ""), 1):
            if not line.strip():
                continue
            try:
                if not line.endswith("\n") and len(line) >= MOST_LINE:
                    raise ValueError(f"longer than {MOST_LINE:,} characters")
                yield _answer(json.loads(line), mode, rotated)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                told = f"lacks {error}" if isinstance(error, KeyError) else str(error)
                what = f"is not a sample that lm_eval logged: {told[:200]}"
                raise UserError(what, where=f"{file}:{number}") from error


def _answer(row: Mapping[str, Any], mode: Mode, rotated: bool) -> Answer:
    if not isinstance(row, dict):
        raise ValueError("no object")
    doc = row["doc"]
    scene = _facts(doc)
    # Own prompts first, one per rotation; what is behind them are ablations (see `task.py`).
    responses = row["filtered_resps"][: scene.options if rotated else 1]
    if not responses:
        raise ValueError("no response")
    texts: list[str] = []
    behaviors: list[int | None] = []
    rows: list[NDArray[np.float64]] = []
    for rotation, response in enumerate(responses):
        output = _output(response)
        for text in output["texts"]:
            index = parse(text, scene.options, mode).behavior
            texts.append(text)
            behaviors.append(None if index is None else (index + rotation) % scene.options)
        for probabilities in output["probabilities"] or []:
            rows.append(np.roll(_distribution(probabilities, scene.options), rotation))
    return Answer(scene, tuple(texts), tuple(behaviors), np.array(rows) if rows else None)


def _output(response: Any) -> dict[str, Any]:
    """Return one response; lm_eval logs objects as Python writes them, hence `literal_eval`."""
    if isinstance(response, str):
        if len(response) > MOST_RESPONSE:
            raise ValueError(f"a response longer than {MOST_RESPONSE:,} characters")
        try:
            response = ast.literal_eval(response)
        except (SyntaxError, MemoryError) as error:
            raise ValueError("a response that cannot be read") from error
    if not isinstance(response, dict) or not {"texts", "probabilities"} <= response.keys():
        raise ValueError("a response without texts and probabilities")
    if not all(isinstance(text, str) for text in response["texts"]):
        raise ValueError("a generation that is no text")
    return response


def _facts(row: Mapping[str, Any]) -> SceneFacts:
    options, answer = len(row["exposure"]), int(row["answer"])
    if not 2 <= options <= len(LABELS) or not 0 <= answer < options:
        raise ValueError(f"answer {answer} of {options} options")
    scene_id, user, source, domain = (str(row[name]) for name in _SCENE[:4])
    return SceneFacts(scene_id, user, source, domain, options, answer)


def _distribution(values: Any, options: int) -> NDArray[np.float64]:
    row = np.asarray(values, dtype=np.float64)
    if row.shape != (options,):
        raise ValueError(f"{np.size(row)} probabilities for {options} options")
    if not (row >= 0).all() or not math.isclose(row.sum(), 1, abs_tol=1e-3):
        raise ValueError("probabilities that do not add up to 1")
    return row / row.sum()


def _decisions(name: str, path: Path, scene_files: Sequence[Path]) -> Run:
    """Read a decision file and the scenes it is of."""
    there = set(read_schema(path).names)
    if missing := [column for column in _DECISION if column not in there]:
        raise UserError(
            f"lacks {', '.join(missing)}",
            where=path,
            fix="Give a decision file that `usermirrorer decide` made.",
        )
    optional = ["tokens_out"] if "tokens_out" in there else []
    rows = read_table(path, [*_DECISION, *optional], DECISION).to_pylist()
    if not rows:
        raise UserError("holds no decision", where=path)
    models = sorted({str(row["model"]) for row in rows})
    if len(models) > 1:
        told = ", ".join(models[:3])
        raise UserError(f"holds decisions of {len(models)} models ({told})", where=path)
    scenes = _scenes(scene_files, path)
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["scene_id"], []).append(row)
    if unknown := grouped.keys() - scenes.keys():
        raise UserError(
            f"{len(unknown)} of {len(grouped)} scenes are not in the files of --scenes",
            where=path,
            fix="Give the scenes that were decided.",
        )
    answers = {}
    for scene_id, own in grouped.items():
        try:
            answers[scene_id] = _decided(scenes[scene_id], own)
        except (ValueError, TypeError) as error:
            raise UserError(f"scene {scene_id}: {error}", where=path) from error
    return Run(name, models[0], "decisions", "decision", answers, {path.name: file_hash(path)})


def _decided(scene: SceneFacts, rows: Sequence[Mapping[str, Any]]) -> Answer:
    rows = sorted(rows, key=lambda row: row["sample"])
    behaviors = tuple(row["behavior"] for row in rows)
    if any(b is not None and not 0 <= b < scene.options for b in behaviors):
        raise ValueError(f"a behavior beyond its {scene.options} options")
    scored = [row["probabilities"] for row in rows if row["probabilities"] is not None]
    return Answer(
        scene,
        tuple(row["text"] for row in rows),
        behaviors,
        np.array([_distribution(row, scene.options) for row in scored]) if scored else None,
        tuple(row["tokens_out"] for row in rows) if "tokens_out" in rows[0] else (),
    )


def _scenes(files: Sequence[Path], decisions: Path) -> dict[str, SceneFacts]:
    if not files:
        raise UserError(
            "holds decisions: whose and how right they are say their scenes",
            where=decisions,
            fix="Give the scene file with --scenes.",
        )
    scenes: dict[str, SceneFacts] = {}
    for file in files:
        for row in scene_rows.read_scenes(file, needed=_SCENE).select(_SCENE).to_pylist():
            facts = _facts(row)
            if scenes.setdefault(facts.scene_id, facts) != facts:
                raise UserError(f"scene {facts.scene_id} differs between files", where=file)
    return scenes
