"""The YAML files by which lm_eval knows the tasks, written from the sources and the metric table.

`usermirrorer eval-tasks FOLDER` writes them for every source that is installed: what stands in
`tasks/` (a test holds the two together), and what `lm_eval --include_path FOLDER` needs after a
domain was added. Per family there are

    <family>_<source>       a task
    <family>                all sources, weighted by scenes
    <family>-synthetic      sources without logged lists, each alike
    <family>-<domain>       a domain of several sources, weighted by scenes
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from usermirrorer.builders.common.storage import atomic
from usermirrorer.builders.raw.source import Source
from usermirrorer.eval_harness.metric_table import METRICS
from usermirrorer.eval_harness.task_names import FAMILIES, Family

VERSION = "2.0"
_NOTES = {
    "": "All sources, weighted by scenes: logged lists and drawn exposures. Table 1's Overall is\n"
    "# formed so for the proprietary models: its columns give all 5 of those rows to 0.1.",
    "synthetic": "Plain mean over the sources without logged lists (Amazon counts four times).\n"
    "# Table 1's Overall is formed so for the open models: its columns give all 13 rows to 0.1.",
}
_DEFAULT = """\
# What every task of the family shares. lm_eval skips this file: its name does not end in .yaml.
# Metadata is overridden for a run by --metadata '{"dataset": "me/mine", "samples": 3}'.
class: !function usermirrorer.eval_harness.task.DecisionTask
output_type: generate_until
num_fewshot: 0
generation_kwargs:
  do_sample: true
  temperature: 1.0
  top_p: 0.9
  max_gen_toks: 512
  until: []
metric_list: []
test_split: test
metadata:
  version: VERSION
  samples: 5
  ablation_samples: 1
"""
_DIRECT = """\
# The cheap family: P(label | scene) without a decision process.
include: _default_yaml
class: !function usermirrorer.eval_harness.task.DirectTask
"""


def task_files(sources: Mapping[str, Source]) -> dict[str, str]:
    """Return file name -> text of the task files of these sources.

    Args:
        sources: By name; their order is that of the groups.
    """
    files = {"_default_yaml": _DEFAULT.replace("VERSION", VERSION), "_direct_yaml": _DIRECT}
    for family in FAMILIES.values():
        shared = "_direct_yaml" if family.mode == "direct" else "_default_yaml"
        for source in sources:
            task = f"{family.name}_{source}"
            files[f"{task}.yaml"] = f"include: {shared}\ntask: {task}\n"
        for name, text in _groups(family, sources).items():
            files[f"{name}.yaml"] = text
    return files


def release_files(sources: Iterable[str], tables: Iterable[str], repo_id: str) -> dict[str, str]:
    """Return the task files that a release brings for sources that no installation knows.

    They score the release itself: `lm_eval --include_path RELEASE/tasks --tasks usermirror_NAME`.

    Args:
        sources: Names of the sources.
        tables: Tables of the release with test scenes: `scenes`, `paper`.
        repo_id: Repository of the release, of which the scenes are taken.
    """
    own = _DEFAULT.replace("VERSION", VERSION) + f"  dataset: {json.dumps(repo_id)}\n"
    files = {"_default_yaml": own, "_direct_yaml": _DIRECT}
    for family in FAMILIES.values():
        if family.table not in tables:
            continue
        shared = "_direct_yaml" if family.mode == "direct" else "_default_yaml"
        for source in sources:
            task = f"{family.name}_{source}"
            files[f"{task}.yaml"] = f"include: {shared}\ntask: {task}\n"
    return files


def _groups(family: Family, sources: Mapping[str, Source]) -> dict[str, str]:
    """Return the groups of a family; a domain's stands for its sources in the larger ones."""
    domains: dict[str, list[str]] = {}
    for name, source in sources.items():
        domains.setdefault(source.domain, []).append(f"{family.name}_{name}")
    several = {domain: tasks for domain, tasks in domains.items() if len(tasks) > 1}
    logged: list[str] = []
    drawn: list[str] = []
    for domain, tasks in domains.items():
        listed = [f"{family.name}-{domain}"] if domain in several else tasks
        is_logged = any(s.logged for s in sources.values() if s.domain == domain)
        (logged if is_logged else drawn).extend(listed)
    synthetic = f"{family.name}-synthetic"
    groups = {
        family.name: _group(family, family.name, [*logged, synthetic], _NOTES[""], True),
        synthetic: _group(family, synthetic, drawn, _NOTES["synthetic"], False),
    }
    for domain, tasks in several.items():
        name = f"{family.name}-{domain}"
        note = f"The sources of {domain}, weighted by scenes (a column of Table 1)."
        groups[name] = _group(family, name, tasks, note, True)
    return groups


def _group(family: Family, name: str, tasks: Iterable[str], note: str, by_scenes: bool) -> str:
    lines = [f"# {note}", f"group: {name}", "task:", *(f"  - {task}" for task in tasks)]
    lines.append("aggregate_metric_list:")
    for metric in METRICS.values():
        if metric.pooled and not (metric.sampled and family.mode == "direct"):
            lines += [f"  - metric: {metric.name}", f"    weight_by_size: {str(by_scenes).lower()}"]
    return "\n".join([*lines, "metadata:", f"  version: {VERSION}", ""])


def write(folder: Path, sources: Mapping[str, Source]) -> list[Path]:
    """Write the task files of these sources into a folder and return their paths."""
    paths = []
    for name, text in task_files(sources).items():
        with atomic(Path(folder) / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        paths.append(Path(folder) / name)
    return paths


def metrics_table() -> str:
    """Return the README's table of metrics."""
    rows = [f"| `{m.name}` | {m.title} | {m.unit} | {m.text} |" for m in METRICS.values()]
    head = ["| metric | in tables | unit | meaning |", "| --- | --- | --- | --- |"]
    position = "| `acc_at_A`, ... | | share | `acc` where the target stands at that position |"
    return "\n".join([*head, *rows, position])
