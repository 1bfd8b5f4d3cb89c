"""Scores in the Hub's own convention: `.eval_results/*.yaml` of a model, `eval.yaml` of a dataset.

The Hub shows the first on the model's page and gathers them on the page of the dataset whose
`eval.yaml` names the tasks. The public Hub checks that file when it is pushed: the framework is
one of a list that the Hub keeps, and ours is inspect-ai (`inspect_tasks.py`), since
lm-evaluation-harness is not on it. A benchmark's leaderboard is shown there only after the Hub's
team put it on its list of benchmarks; our local Hub shows it at once.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from usermirrorer.builders.common import network
from usermirrorer.builders.common.disks import unwritable
from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness import inspect_tasks
from usermirrorer.eval_harness.metric_table import BASELINES
from usermirrorer.eval_harness.task_names import FAMILIES, config_of, is_ours

RESULTS_FILE = ".eval_results/usermirror.yaml"
BENCHMARK_FILE = "eval.yaml"
#: Digits of a number in these files.
DIGITS = 6


def eval_results(rows: Sequence[Mapping[str, Any]], dataset: str = "", commit: str = "") -> str:
    """Return `.eval_results/usermirror.yaml`: the accuracy on every task of ours, 0 to 1.

    All families are listed by one rule, with the name of the task to tell them apart. The notes
    say the rest, accuracy minus placebo first.

    Args:
        rows: Of one model, as `results.card_rows` gives them.
        dataset: Repository id of the scenes, where they were read from a local copy.
        commit: Its commit, where a row does not know it.

    Raises:
        UserError: if it is not known which dataset repository the scenes belong to.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = []
    for row in accuracies(rows):
        known = row.get("dataset_commit") or ""
        repository = dataset or (row.get("dataset", "") if known else "")
        if not repository:
            raise UserError(
                "the scenes came from a local file",
                where=row.get("file"),
                fix="Say which repository holds them with --dataset.",
            )
        day = row.get("date")
        entries.append(
            EvalResultEntry(
                dataset_id=repository,
                task_id=row["task"],
                value=round(row["value"], DIGITS),
                dataset_revision=known or commit or None,
                date=dt.datetime.fromtimestamp(day, dt.UTC).isoformat(timespec="seconds")
                if day
                else None,
                notes=_notes(row, rows),
            )
        )
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def accuracies(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows with the accuracy on a task of ours, by name of the task."""
    return sorted(
        (row for row in rows if row["metric"] == "acc" and is_ours(row["task"])),
        key=lambda row: row["task"],
    )


def _notes(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    of_task = {r["metric"]: r for r in rows if r["task"] == row["task"]}
    parts = []
    if over := of_task.get("acc_over_placebo"):
        reference = over.get("facts", {}).get("reference", "placebo")
        parts.append(f"accuracy minus {reference} {over['value']:+.3f}{_ends(over)}")
    parts.append(f"accuracy {row['value']:.3f}{_ends(row)} over {row['n']} scenes")
    if "users" in of_task:
        parts.append(f"{of_task['users']['value']:.0f} users")
    if "entropy" in of_task:
        parts.append(f"entropy {of_task['entropy']['value']:.3f} bits")
    for name, title in (*BASELINES.items(), ("acc_placebo", "its placebo")):
        if name in of_task:
            parts.append(f"{title} {of_task[name]['value']:.3f}")
    if row.get("settings"):
        parts.append(f"settings {row['settings']}")
    return "; ".join(parts)


def _ends(row: Mapping[str, Any]) -> str:
    low, high = row.get("lower", math.nan), row.get("upper", math.nan)
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f" (95 % interval {low:.3f} to {high:.3f})"


def benchmark(tables: Mapping[str, Mapping[str, str]], *, prompts: bool) -> str:
    """Return `eval.yaml` for a dataset of scenes: every task that can be run on it.

    Args:
        tables: Table of the release that has a test split (`scenes`, `paper`) -> source in it ->
            its domain.
        prompts: Whether the dataset holds the prompts that inspect-ai asks, as releases do.
            Without them the file names no framework, only the tasks and their scenes.
    """
    entries: list[dict[str, Any]] = []
    for family in FAMILIES.values():
        for source, domain in sorted(tables.get(family.table, {}).items()):
            name = f"{family.name}_{source}"
            plain = {"id": name, "config": config_of(name, domain), "split": "test"}
            entries.append(inspect_tasks.task(family, source) if prompts else plain)
    framework = {"evaluation_framework": inspect_tasks.FRAMEWORK} if prompts else {}
    return yaml.safe_dump(
        {
            "name": "UserMirrorer",
            "description": "User simulation: which item of an exposure list does this user act on? "
            'Accuracy and entropy, run with lm_eval --tasks "usermirror_*".',
            **framework,
            "tasks": entries,
        },
        sort_keys=False,
    )


def push(files: Mapping[str, str], repository: str, *, kind: str, message: str) -> str:
    """Upload text files in one commit and return its address.

    Args:
        files: Path in the repository -> content.
        repository: Id, e.g. `me/model`.
        kind: `model` or `dataset`, which must exist, or `space`: a static one, made if missing.
        message: Of the commit.

    Raises:
        UserError: if the repository cannot be reached or written.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(headers=network.path_headers())
    operations = [CommitOperationAdd(path, text.encode()) for path, text in files.items()]
    try:
        if kind == "space":
            api.create_repo(repository, repo_type="space", space_sdk="static", exist_ok=True)
        done = api.create_commit(repository, operations, commit_message=message, repo_type=kind)
    except (HfHubHTTPError, OSError) as error:
        raise unwritable(error) or UserError(
            f"cannot be written: {error}",
            where=repository,
            fix="Check that it exists, HF_ENDPOINT, and that HF_TOKEN may write to it.",
        ) from error
    return str(done.commit_url)
