"""Reads what lm_eval wrote: result files into scores, sample files into per-scene values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import read_json
from usermirrorer.eval_harness import metrics
from usermirrorer.eval_harness.metric_table import Metric, lookup
from usermirrorer.eval_harness.task_names import domain_of, is_ours, source_of

#: Metadata of a task that says what its scenes are like; see `data.load_scenes`.
FACTS = (*("domain", "reference", "placebo_hash", "exposure_modes", "gaps", "ablations", "audit"),)


@dataclass(frozen=True)
class Score:
    """One metric of one model on one task, with all that it depends on.

    `stderr` is NaN where lm_eval has none. `n` is the number of scenes scored, `users` that of the
    people behind them. `settings` holds the options that change a score: samples, guided,
    rotations, max_history, temperature, top_p, tokens, chat template. `facts` say what the scenes
    are like: their domain, what `acc_over_placebo` is over (`reference`), their exposure modes and
    gaps, whether there were ablations, and what the release's audit says.
    """

    model: str
    task: str
    metric: str
    value: float
    stderr: float
    n: int
    users: int
    dataset: str
    dataset_commit: str
    scenes_hash: str
    prompt_hash: str
    model_revision: str
    settings: str
    date: float
    file: str
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def source(self) -> str:
        """The source it scores, e.g. `amazon_beauty`."""
        return source_of(self.task)

    @property
    def domain(self) -> str:
        """The domain of its scenes; where a run did not record it, that of its source."""
        return str(self.facts.get("domain", "")) or domain_of(self.source) or self.source

    @property
    def of(self) -> Metric:
        """What the metric is."""
        return lookup(self.metric)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval; NaN where there is none."""
        return metrics.interval(self.value, self.stderr, self.users, self.of.unit)


def result_files(path: Path) -> list[Path]:
    """Return lm_eval's result files at or below `path`.

    Raises:
        UserError: if there is none.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.rglob("results_*.json"))
    if not files:
        raise UserError(
            "holds no results_*.json", where=path, fix="Run lm_eval with --output_path first."
        )
    return files


def read_results(path: Path) -> list[Score]:
    """Return the scores of our tasks at or below `path`; of equal ones, the newest run's.

    Equal are scores of the same model, task, metric and settings. Groups are left out: they are
    computed from the tasks.

    Raises:
        UserError: if a file is not a result file, or none scores one of our tasks.
    """
    newest: dict[tuple, Score] = {}
    for file in result_files(path):
        for score in _scores(file, read_json(file)):
            key = (score.model, score.task, score.metric, score.settings)
            if key not in newest or newest[key].date <= score.date:
                newest[key] = score
    if not newest:
        raise UserError("scores no usermirror task", where=path)
    return list(newest.values())


def _scores(file: Path, run: Mapping[str, Any]) -> Iterable[Score]:
    if not isinstance(run, dict) or "results" not in run or "configs" not in run:
        raise UserError("is not an lm_eval result file", where=file)
    for task, values in run["results"].items():
        if not is_ours(task) or task not in run["configs"]:
            continue
        for key, value in values.items():
            metric, _, kind = key.partition(",")
            if not kind or metric.endswith("_stderr") or not _is_number(value):
                continue
            stderr = values.get(f"{metric}_stderr,{kind}")
            error = float(stderr) if isinstance(stderr, int | float) else math.nan
            yield _score(file, run, task, metric, float(value), error)
        audited = run["configs"][task].get("metadata", {}).get("audit", {}).get("no_history")
        if audited:
            error = (audited["high"] - audited["low"]) / (2 * 1.96)
            yield _score(file, run, task, "acc_no_history_learned", audited["value"], error)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _score(
    file: Path, run: Mapping[str, Any], task: str, metric: str, value: float, stderr: float
) -> Score:
    values, metadata = run["results"][task], run["configs"][task].get("metadata", {})
    revision = run["config"].get("model_sha") or metadata.get("model_revision", "")
    n = int(values.get("sample_len", 0))
    return Score(
        model=str(run.get("model_name") or run["config"].get("model", "")),
        task=task,
        metric=metric,
        value=value,
        stderr=stderr,
        n=n,
        users=int(values.get("users,none", n)),
        dataset=str(metadata.get("dataset", "")),
        dataset_commit=str(metadata.get("dataset_commit", "")),
        scenes_hash=str(metadata.get("scenes_hash", "")),
        prompt_hash=str(metadata.get("prompt_hash", "")),
        model_revision=str(revision),
        settings=_settings(run, task),
        date=float(run.get("date", 0)),
        file=str(file),
        facts={name: metadata[name] for name in FACTS if name in metadata},
    )


def card_rows(scores: Iterable[Score], model: str) -> list[dict[str, Any]]:
    """Return the scores of one model in the form that model cards take.

    Args:
        scores: As `read_results` returns them.
        model: What the card calls it.

    Returns:
        One row per task and metric, the newest run's: `model`, `task`, `metric`, `value`,
        `stderr`, `n`, `users`, the ends of the 95 % interval, `lower` and `upper`, and what
        `.eval_results` and headlines need: `domain`, `dataset`, `dataset_commit`, `settings`,
        `date`, `file` and `facts`.
    """
    newest = {(s.task, s.metric): s for s in sorted(scores, key=lambda s: s.date)}
    copied = (
        *("task", "metric", "value", "stderr", "n", "users", "domain"),
        *("dataset", "dataset_commit", "settings", "date", "file"),
    )
    rows = []
    for score in newest.values():
        lower, upper = score.interval
        row = {"model": model, **{name: getattr(score, name) for name in copied}}
        rows.append(row | {"lower": lower, "upper": upper, "facts": dict(score.facts)})
    return rows


def _settings(run: Mapping[str, Any], task: str) -> str:
    config = run["configs"][task]
    metadata, generation = config.get("metadata", {}), config.get("generation_kwargs", {})
    settings = {
        name: metadata[name] for name in ("samples", "guided", "rotations") if metadata.get(name)
    }
    if metadata.get("max_history", -1) not in (None, -1):  # 0 shows no history at all
        settings["max_history"] = metadata["max_history"]
    settings |= {name: generation.get(name) for name in ("temperature", "top_p", "max_gen_toks")}
    settings["chat_template"] = bool(run.get("chat_template"))
    if metadata.get("ablations") is False:
        settings["ablations"] = False
    return json.dumps(settings, sort_keys=True)


def read_samples(score: Score) -> dict[str, dict[str, Any]]:
    """Return scene_id -> the scene's `user_id` and its values of every metric, of that run.

    Raises:
        UserError: if that run logged no samples.
    """
    file = Path(score.file)
    stamp = file.stem.removeprefix("results_")
    samples = file.with_name(f"samples_{score.task}_{stamp}.jsonl")
    if not samples.exists():
        raise UserError("is missing", where=samples, fix="Run lm_eval with --log_samples.")
    scenes: dict[str, dict[str, Any]] = {}
    with samples.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            values = {k: row[k] for k in row["metrics"] if isinstance(row[k], int | float)}
            scene = row["doc"]
            scenes[scene["scene_id"]] = values | {"user_id": scene.get("user_id", len(scenes))}
    return scenes


def compare(a: Iterable[Score], b: Iterable[Score], metric: str = "acc") -> metrics.Comparison:
    """Test whether two models differ, paired on the scenes that both were scored on, by user.

    Args:
        a: Scores of one model; those of `metric` are used.
        b: Scores of the other.
        metric: Any per-scene metric.

    Raises:
        UserError: if samples were not logged or no scene is common.
    """
    first = {s.task: s for s in a if s.metric == metric}
    second = {s.task: s for s in b if s.metric == metric}
    x, y, users = [], [], []
    for task in sorted(first.keys() & second.keys()):
        one, two = read_samples(first[task]), read_samples(second[task])
        for scene in sorted(one.keys() & two.keys()):
            if metric in one[scene] and metric in two[scene]:
                x.append(one[scene][metric])
                y.append(two[scene][metric])
                users.append((task, one[scene]["user_id"]))
    if not x:
        raise UserError("the two models have no scene in common")
    return metrics.paired_test(x, y, users)
