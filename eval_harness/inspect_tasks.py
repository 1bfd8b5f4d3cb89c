"""The tasks as inspect-ai runs them from a release: `inspect eval hf/OWNER/NAME/TASK`.

The Hub runs benchmarks with the frameworks on its own list (`packages/tasks/src/eval.ts` of
huggingface.js), on which inspect-ai is and lm-evaluation-harness is not. Its form is `eval.yaml`:
a configuration of the dataset with one text to ask and one to expect, and solvers and scorers by
name, without any code. So a release holds the prompts of its test scenes as lm_eval shows them,

    data/inspect/<source>/test-*.parquet         of `scenes`; configuration `inspect_<source>`
    data/inspect-paper/<source>/test-*.parquet   of `paper`

and every task here asks them with the system message of its family. A task has the name of its
twin in lm_eval. The answer is read from the text, as `prompts.parse` does it: on chat APIs, which
give no probabilities, both frameworks count the same. Where lm_eval has probabilities it takes the
likeliest label, and these tasks the label that the model writes; baselines, placebo and ablations
are lm_eval's alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from usermirrorer.builders.common.schema import LABELS
from usermirrorer.builders.decisions.prompts import messages
from usermirrorer.eval_harness.task_names import Family

FRAMEWORK = "inspect-ai"
#: Table of a release with test scenes -> the one with their prompts.
TABLES = {"scenes": "inspect", "paper": "inspect-paper"}
PROMPT = pa.schema(
    [
        pa.field("scene_id", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("input", pa.string(), nullable=False),  # the user message, the same in both modes
        pa.field("target", pa.string(), nullable=False),  # label of the real behavior
    ]
)
#: Decisions of a scene, as many as in lm_eval's `_default_yaml`.
_SAMPLES = 5
_GENERATION: Mapping[str, Mapping[str, Any]] = {
    "decision": {"temperature": 1.0, "top_p": 0.9},
    "direct": {"temperature": 0.0},
}
_HEADING = r"^[ \t\-*]*behavior\**[ \t]*:"
#: One Behavior line, with a label, at the end: what `prompts.parse` takes for an answer.
ANSWER = (
    rf"(?ims)\A(?!.*{_HEADING}.*{_HEADING}).*"
    rf"{_HEADING}\**[ \t]*\**\[?[ \t]*([a-z])[ \t]*\]?\**[.\s]*\Z"
)


def prompts_of(scenes: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return a row of `PROMPT` for each scene, in their order."""
    rows = [
        {
            **{name: scene[name] for name in ("scene_id", "domain", "source")},
            "input": messages(scene)[-1]["content"],
            "target": LABELS[scene["answer"]],
        }
        for scene in scenes
    ]
    return pa.Table.from_pylist(rows, schema=PROMPT)


def task(family: Family, source: str) -> dict[str, Any]:
    """Return a task's entry of `eval.yaml`.

    Args:
        family: How it is asked, and which scenes.
        source: Source of the scenes.
    """
    empty = {"profile": "", "history": [], "exposure": []}
    system = messages(empty, family.mode)[0]["content"]
    decision = family.mode == "decision"
    return {
        "id": f"{family.name}_{source}",
        "config": f"{TABLES[family.table]}_{source}",
        "split": "test",
        "field_spec": {"input": "input", "target": "target"},
        **({"epochs": _SAMPLES, "epoch_reducer": "mean"} if decision else {}),
        "solvers": [
            {"name": "system_message", "args": {"template": _literal(system)}},
            {"name": "generate", "args": dict(_GENERATION[family.mode])},
        ],
        "scorers": [{"name": "pattern", "args": {"pattern": ANSWER}}],
    }


def _literal(text: str) -> str:
    """Return a text as a template that `str.format` turns into it."""
    return text.replace("{", "{{").replace("}", "}}")
