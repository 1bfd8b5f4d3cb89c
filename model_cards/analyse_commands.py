"""`usermirrorer analyse`: one command per analysis of `eval_harness/analysis/table.py`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from usermirrorer.eval_harness.analysis.table import ANALYSES

_FILE = click.Path(path_type=Path)
_SETTINGS = {"show_default": True}
_RESULTS = (
    "Each of RESULTS is [NAME=]PATH: a folder that lm_eval wrote (--output_path, --log_samples), "
    "one of its samples_*.jsonl files, or decisions made by `usermirrorer decide` (Parquet, with "
    "--scenes). One model each."
)


@click.group()
def analyse() -> None:
    """The paper's analyses over lm_eval's samples or decision files of any model.

    Each writes DIR/index.html, analysis.md, analysis.json (its fields: the docstring of
    `usermirrorer.eval_harness.analysis`), a CSV file per table, and plots.
    """


def _analysis(name: str, example: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a function the command of an analysis, with the arguments that all of them have."""

    def made(function: Callable[..., None]) -> click.Command:
        command: Any = functools.wraps(function)(function)
        for option in (
            click.option("--json", "as_json", is_flag=True, help="Also print analysis.json."),
            click.option("--out", type=_FILE, required=True, help="Folder to write."),
            click.option(
                "--scenes",
                "scene_files",
                type=_FILE,
                multiple=True,
                help="Scenes that decision files are of (Parquet). Repeat for several.",
            ),
            click.argument("results", nargs=-1, required=True, metavar="[NAME=]PATH..."),
        ):
            command = option(command)
        text = f"{function.__doc__}\n\n    {ANALYSES[name].paper} of the paper.\n\n    {_RESULTS}"
        return analyse.command(
            name, help=text, context_settings=_SETTINGS, epilog=f"Example:  {example}"
        )(command)

    return made


@_analysis("factors", "usermirrorer analyse factors sft=results/sft --out factors")
@click.option(
    "--synonyms",
    type=_FILE,
    help="Your own synonym table (YAML), instead of the package's factor_labels.yaml.",
)
@click.option(
    "--embedder",
    default="",
    help="Also merge terms that the table lacks by this encoder: a part such as "
    "all-minilm-l6-v2, a folder or a Hub id.",
)
@click.option("--threshold", default=0.6, help="Least cosine to be merged by --embedder.")
def factors(synonyms: Path | None, embedder: str, threshold: float, **given: Any) -> None:
    """Count the factors and styles of decisions, and test which go with being right."""
    from usermirrorer.eval_harness.analysis import factors as analysis
    from usermirrorer.eval_harness.analysis.labels import Merging

    _write("factors", analysis.analyse, given, Merging.of(synonyms, embedder, threshold))


@_analysis(
    "ablation",
    "usermirrorer analyse ablation full=results/full only-title=results/only-title "
    "without-title=results/without-title --out ablation",
)
@click.option("--base", default="full", help="Name of the results with all features.")
def ablation(base: str, **given: Any) -> None:
    """Say what each feature is worth alone, and what is lost without it.

    RESULTS are named by what was shown: full, only-FEATURE, without-FEATURE; `usermirrorer ablate`
    makes such scenes.
    """
    from usermirrorer.eval_harness.analysis import ablation as analysis

    _write("ablation", analysis.analyse, given, base)


@_analysis(
    "calibration", "usermirrorer analyse calibration base=r/base sft=r/sft --out calibration"
)
@click.option("--bins", default=10, help="Equal-width bins of confidence.")
def calibration(bins: int, **given: Any) -> None:
    """Compare entropies, calibration curves and calibration errors, stage by stage."""
    from usermirrorer.eval_harness.analysis import calibration as analysis

    _write("calibration", analysis.analyse, given, bins)


@_analysis(
    "style", "usermirrorer analyse style base=r/base sft=r/sft --teacher r/teacher --out style"
)
@click.option("--teacher", required=True, metavar="[NAME=]PATH", help="Results of the teacher.")
@click.option("--tokenizer", default="", help="Count tokens of this model instead of words.")
def style(teacher: str, tokenizer: str, **given: Any) -> None:
    """Compare decisions with a teacher's of the same scenes: ROUGE-L, ROUGE-2, BLEU-2, length."""
    from usermirrorer.eval_harness.analysis import style as analysis
    from usermirrorer.eval_harness.analysis.answers import read_run

    reference = read_run(teacher, given["scene_files"])
    _write("style", analysis.analyse, given, reference, analysis.counter(tokenizer))


@_analysis(
    "learning-curve", "usermirrorer analyse learning-curve 5000=r/5k 10000=r/10k --out curve"
)
def learning_curve(**given: Any) -> None:
    """Fit accuracy against the number of training pairs.

    RESULTS are named by the number of pairs, behind the name of a curve if there are several:
    5000=PATH, or sft@5000=PATH.
    """
    from usermirrorer.eval_harness.analysis import learning_curve as analysis

    _write("learning-curve", analysis.analyse, given)


@_analysis(
    "transfer",
    "usermirrorer analyse transfer base=r/base full=r/full group1=r/g1 group2=r/g2 --out transfer",
)
@click.option("--base", default="base", help="Name of the results of the untrained model.")
@click.option("--full", default="full", help="Name of those of the model trained on all domains.")
@click.option(
    "--trained",
    multiple=True,
    metavar="NAME=SOURCE,...",
    help="Sources that the model of the results NAME was trained on; give two. Default: the "
    "paper's two groups, of results named group1 and group2.",
)
def transfer(base: str, full: str, trained: tuple[str, ...], **given: Any) -> None:
    """Compare models trained on one group of domains and tested on the other.

    All other RESULTS stand beside them for comparison.
    """
    from usermirrorer.eval_harness.analysis import transfer as analysis

    _write("transfer", analysis.analyse, given, analysis.groups(trained), base, full)


def _write(name: str, analyse_runs: Callable[..., Any], given: dict[str, Any], *more: Any) -> None:
    """Read the results, analyse them, write the pages and say where they are."""
    from usermirrorer.eval_harness.analysis.answers import read_runs
    from usermirrorer.model_cards import analysis_page

    runs = read_runs(given["results"], given["scene_files"])
    result = analyse_runs(runs, *more)
    stored = analysis_page.write(given["out"], ANALYSES[name], runs, result)
    if given["as_json"]:
        click.echo(analysis_page.as_json(stored), nl=False)
        return
    for table in result.tables.values():
        analysis_page.show(table)
    for note in result.notes:
        click.echo(note)
    click.echo(f"wrote {given['out'] / 'index.html'}")
