"""Commands over finished evaluations: one table of several models, and files for the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.tables import json_option, show

if TYPE_CHECKING:
    from usermirrorer.eval_harness.leaderboard import Board

SPACE_CARD = """---
title: UserMirrorer leaderboard
sdk: static
app_file: index.html
pinned: false
---

Accuracy and entropy of user simulators. `leaderboard.csv` and `leaderboard.json` hold the numbers.
"""


def _named(models: Sequence[str]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for text in models:
        name, sign, path = text.partition("=")
        if not sign:
            name, path = Path(text).name, text
        if name in paths:
            raise UserError(f"two models are called {name!r}", fix="Write NAME=FOLDER.")
        paths[name] = Path(path)
    return paths


@click.command(
    epilog="Example:  usermirrorer leaderboard base=results/base sft=results/sft -o board"
)
@click.argument("models", nargs=-1, required=True, metavar="NAME=FOLDER...")
@click.option("--output", "-o", type=click.Path(path_type=Path), default=Path("leaderboard"))
@click.option("--direct", is_flag=True, help="The direct family instead of decisions.")
@click.option("--paper", is_flag=True, help="The family with the paper's exposures.")
@click.option("--push-space", metavar="REPO", help="Also upload the folder to a static Space.")
@json_option
def leaderboard(
    models: tuple[str, ...],
    output: Path,
    direct: bool,
    paper: bool,
    push_space: str,
    as_json: bool,
) -> None:
    """Rank models by lm_eval's output folders (--output_path, --log_samples).

    Writes index.html (opens from disk, and as a static Space), leaderboard.md, .csv and .json.
    """
    from usermirrorer.builders.common.storage import atomic
    from usermirrorer.eval_harness import hub_files
    from usermirrorer.eval_harness import leaderboard_forms as forms
    from usermirrorer.eval_harness.leaderboard import build

    family = "usermirror" + ("-paper" if paper else "") + ("-direct" if direct else "")
    board = build(_named(models), family)
    files = {
        "index.html": forms.to_html(board),
        "leaderboard.md": forms.to_markdown(board),
        "leaderboard.csv": forms.to_csv(board),
        "leaderboard.json": forms.to_json(board),
        "README.md": SPACE_CARD,
    }
    for name, text in files.items():
        with atomic(output / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if as_json:
        click.echo(files["leaderboard.json"], nl=False)
    else:
        _print(board)
    click.echo(f"wrote {output / 'index.html'} and {len(files) - 1} more", err=as_json)
    if push_space:
        address = hub_files.push(files, push_space, kind="space", message="Leaderboard")
        click.echo(f"pushed {address}", err=as_json)


def _print(board: Board) -> None:
    from usermirrorer.eval_harness.leaderboard_forms import tables

    headline = tables(board)[0]
    left_out = {"taste", "note", *board.domains} - set(board.logged)
    shown = [i for i, name in enumerate(headline.head) if name not in left_out]
    rows = [[line[i] for i in shown] for line in headline.body]
    show([headline.head[i] for i in shown], rows, title=headline.text)
    for row in board.rows:
        if row.taste:
            click.echo(f"{row.name} {row.taste}.")


@click.command(
    "eval-results", epilog="Example:  usermirrorer eval-results results/sft --push me/sft"
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--dataset", default="", help="Repository of the scenes, if a local copy was scored.")
@click.option("--push", "repository", metavar="REPO", help="Upload to this model repository.")
def eval_results(run: Path, dataset: str, repository: str) -> None:
    """Turn one model's lm_eval output into the Hub's .eval_results/usermirror.yaml."""
    from usermirrorer.eval_harness import hub_files
    from usermirrorer.eval_harness.results import card_rows, read_results

    scores = read_results(run)
    if len({s.model for s in scores}) > 1:
        raise UserError("holds runs of several models", where=run, fix="Give one model's folder.")
    text = hub_files.eval_results(card_rows(scores, scores[0].model), dataset)
    if not repository:
        click.echo(text, nl=False)
        return
    files = {hub_files.RESULTS_FILE: text}
    click.echo(hub_files.push(files, repository, kind="model", message="Scores from lm_eval"))


@click.command("eval-yaml", epilog="Example:  usermirrorer eval-yaml movielens --push me/scenes")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--paper", is_flag=True, help="The dataset has the paper's exposures too.")
@click.option("--push", "repository", metavar="REPO", help="Upload to this dataset repository.")
def eval_yaml(sources: tuple[str, ...], paper: bool, repository: str) -> None:
    """Write eval.yaml, which registers a dataset of scenes as a benchmark on the Hub."""
    from usermirrorer.builders.raw.sources import get_source
    from usermirrorer.eval_harness import hub_files

    domains = {source: get_source(source).domain for source in sources}
    tables = {"scenes": domains, **({"paper": domains} if paper else {})}
    text = hub_files.benchmark(tables, prompts=False)
    if not repository:
        click.echo(text, nl=False)
        return
    message = "Register the scenes as a benchmark"
    files = {hub_files.BENCHMARK_FILE: text}
    click.echo(hub_files.push(files, repository, kind="dataset", message=message))


@click.command(
    "eval-tasks",
    epilog="Example:  usermirrorer eval-tasks tasks && lm_eval --include_path tasks --tasks ...",
)
@click.argument("folder", type=click.Path(path_type=Path))
def eval_tasks(folder: Path) -> None:
    """Write lm_eval's task files of every installed source: for a domain of your own."""
    from usermirrorer.builders.raw.sources import all_sources
    from usermirrorer.eval_harness import task_files

    click.echo(f"wrote {len(task_files.write(folder, all_sources()))} files to {folder}")
