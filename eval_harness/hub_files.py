"""Scores in the Hub's own convention: `.eval_results/*.yaml` of a model, `eval.yaml` of a dataset.

The Hub shows the first on the model's page and gathers them on the page of the dataset whose
`eval.yaml` names the tasks. The public Hub checks that file when it is pushed, and the frameworks
it may name are a list that the Hub keeps (`packages/tasks/src/eval.ts` of huggingface.js), on which
lm-evaluation-harness is not: so ours names none, as benchmarks with scoring of their own do, and
says in its description how it is run. A benchmark's leaderboard is shown there only after the Hub's
team put it on its list of benchmarks; our local Hub shows it at once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from usermirrorer.builders.common.errors import UserError
from usermirrorer.eval_harness.results import Score

RESULTS_FILE = ".eval_results/usermirror.yaml"
BENCHMARK_FILE = "eval.yaml"


def eval_results(scores: Sequence[Score], dataset: str = "") -> str:
    """Return `.eval_results/usermirror.yaml`: the accuracy of every task, 0 to 1.

    Args:
        scores: Of one model, as `read_results` gives them.
        dataset: Repository id of the scenes, where they were read from a local copy.

    Raises:
        UserError: if it is not known which dataset repository the scenes belong to.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = []
    for score in sorted(scores, key=lambda s: s.task):
        if score.metric != "acc":
            continue
        repository = dataset or (score.dataset if score.dataset_commit else "")
        if not repository:
            raise UserError(
                "the scenes came from a local file",
                where=score.file,
                fix="Say which repository holds them with --dataset.",
            )
        entries.append(
            EvalResultEntry(
                dataset_id=repository,
                task_id=score.task,
                value=round(score.value, 6),
                dataset_revision=score.dataset_commit or None,
                date=dt.datetime.fromtimestamp(score.date, dt.UTC).isoformat(timespec="seconds"),
                notes=_notes(score, scores),
            )
        )
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def _notes(score: Score, scores: Sequence[Score]) -> str:
    of_task = {s.metric: s for s in scores if s.task == score.task}
    parts = [f"accuracy over {score.n} scenes, standard error {score.stderr:.4f}"]
    if "entropy" in of_task:
        parts.append(f"entropy {of_task['entropy'].value:.3f} bits")
    baselines = [
        f"{title} {of_task[name].value:.3f}"
        for name, title in (("acc_chance", "chance"), ("acc_popular", "most popular"))
        if name in of_task
    ]
    return "; ".join([*parts, *baselines, f"settings {score.settings}"])


def benchmark(tasks: Sequence[str]) -> str:
    """Return `eval.yaml` for the dataset that holds the scenes of `tasks`.

    Args:
        tasks: Task names such as `usermirror_movielens`.
    """
    entries: list[dict[str, Any]] = []
    for task in sorted(tasks):
        domain = task.partition("_")[2].split("_")[0]
        entries.append({"id": task, "config": f"scenes_{domain}", "split": "test"})
    return yaml.safe_dump(
        {
            "name": "UserMirrorer",
            "description": "User simulation: which item of an exposure list does this user act on? "
            'Accuracy and entropy, run with lm_eval --tasks "usermirror_*".',
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

    api = HfApi()
    operations = [CommitOperationAdd(path, text.encode()) for path, text in files.items()]
    try:
        if kind == "space":
            api.create_repo(repository, repo_type="space", space_sdk="static", exist_ok=True)
        done = api.create_commit(repository, operations, commit_message=message, repo_type=kind)
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"cannot be written: {error}",
            where=repository,
            fix="Check that it exists, HF_ENDPOINT, and that HF_TOKEN may write to it.",
        ) from error
    return str(done.commit_url)
