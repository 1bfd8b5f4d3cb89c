"""Command of the distillation report."""

from __future__ import annotations

from pathlib import Path

import click

_FILE = click.Path(path_type=Path)


@click.command(
    epilog=(
        "Example:  usermirrorer report scenes/movielens/train.parquet --weak weak.parquet "
        "--strong strong.parquet --pairs pairs.parquet --out report"
    ),
)
@click.argument("scene_file", type=_FILE)
@click.option("--weak", type=_FILE, required=True, help="Decisions of the weak model, judged.")
@click.option("--strong", type=_FILE, required=True, help="Decisions of the strong model, judged.")
@click.option("--pairs", type=_FILE, help="Preference pairs made of them by `usermirrorer distil`.")
@click.option("--out", type=_FILE, required=True, help="Folder for report.md and its plots.")
def report(scene_file: Path, weak: Path, strong: Path, pairs: Path | None, out: Path) -> None:
    """Report on a distillation: Figure 3, Table 5, Table 6 and what became of the scenes."""
    from usermirrorer.model_cards import distil_report

    click.echo(distil_report.write(out, scene_file, weak, strong, pairs))
