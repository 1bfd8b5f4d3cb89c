"""`usermirrorer ablate`: scenes with features left out."""

from __future__ import annotations

from pathlib import Path

import click

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.tables import json_option, show_json

_FILE = click.Path(path_type=Path)


@click.command(
    context_settings={"show_default": True},
    epilog="Example:  usermirrorer ablate scenes/steam/test.parquet --out ablation/steam",
)
@click.argument("scene_file", type=_FILE)
@click.option("--out", type=_FILE, required=True, help="Folder for a file per variant.")
@click.option(
    "--feature",
    "features",
    multiple=True,
    help="Only this feature, instead of all of the source. Repeat for several.",
)
@click.option("--limit", default=0, help="Only the first so many scenes (0: all).")
@click.option(
    "--tables", type=_FILE, help="Canonical tables of the scenes. Default: tables/ beside them."
)
@click.option("--source", help="Name, or the YAML file of your own logs. Default: the scenes'.")
@json_option
def ablate(
    scene_file: Path,
    out: Path,
    features: tuple[str, ...],
    limit: int,
    tables: Path | None,
    source: str | None,
    as_json: bool,
) -> None:
    """Show the scenes of SCENE_FILE with one feature alone, and with each removed.

    SCENE_FILE was made by `usermirrorer scenes`. Writes OUT/full.parquet, and for each feature of
    the source's templates only-FEATURE.parquet and without-FEATURE.parquet: the same scenes with
    the same options, for `usermirrorer decide` or lm_eval (as the metadata's `dataset`). Then
    `usermirrorer analyse ablation` compares the results.
    """
    from usermirrorer.builders.common import storage
    from usermirrorer.builders.raw.sources import get_source
    from usermirrorer.builders.scenes import variants

    record = scene_file.with_name("scenes.json")
    if not record.is_file():
        raise UserError(
            "has no scenes.json beside it, which says how the scenes were made",
            where=scene_file,
            fix="Give a file that `usermirrorer scenes` made, in its folder.",
        )
    name = source or str(storage.read_json(record)["source"])
    try:
        chosen = get_source(name)
    except UserError as error:
        if source:
            raise
        fix = "If they are of your own logs, give their YAML file with --source."
        raise UserError(error.what, where=record, fix=fix) from error
    stored = tables or scene_file.with_name("tables")
    made = variants.write(scene_file, out, chosen, stored, wanted=features, limit=limit)
    counts = {str(out / f"{name}.parquet"): count for name, count in made}
    if as_json:
        show_json(counts)
        return
    for file, count in counts.items():
        click.echo(f"{file}: {count:,} scenes")
