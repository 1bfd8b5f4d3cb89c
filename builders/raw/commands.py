"""Commands about raw data: `usermirrorer sources`, `fetch` and `tables`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.tables import json_option, show, show_json
from usermirrorer.builders.raw.source import Source
from usermirrorer.builders.raw.sources import all_sources, get_source, raw_of


def facts(source: Source) -> dict[str, Any]:
    """Return what is published about a source, as plain JSON values."""
    names = (
        *("name", "domain", "title", "homepage", "licence", "redistributable", "citation"),
        *("files", "sizes", "downloads", "hashes"),
    )
    values = {name: getattr(source, name) for name in names}
    return {k: dict(v) if hasattr(v, "keys") else v for k, v in values.items()}


@click.command()
@click.argument("name", required=False)
@json_option
def sources(name: str | None, as_json: bool) -> None:
    """List the sources of feedback, or show everything about the source NAME."""
    chosen = [get_source(name)] if name else list(all_sources().values())
    if as_json:
        listed = [facts(source) for source in chosen]
        show_json(listed[0] if name else listed)
    elif name:
        _details(chosen[0])
    else:
        _table(chosen)


def _table(chosen: list[Source]) -> None:
    rows = []
    for source in chosen:
        files = [f"{name} {_size(source, name)}".strip() for name in _files(source)]
        how = f"usermirrorer fetch {source.name}" if source.downloads else "by hand, see the page"
        public = "yes" if source.redistributable else "ids only"
        where = f"{source.homepage}\n{how}"
        rows.append((source.name, source.licence, public, "\n".join(files), where))
    show(("Source", "Licence", "Public", "Files", "From"), rows, lines=True)
    click.echo("Sizes are as stated by others: not verified by a download.", err=True)
    click.echo("Citation and every file of one:  usermirrorer sources NAME", err=True)


def _files(source: Source) -> list[str]:
    """What a person downloads: archives or files with known sizes, else the expected names."""
    return list({**source.downloads, **source.sizes}) or list(source.files)


def _details(source: Source) -> None:
    public = "yes" if source.redistributable else "no: only ids and instructions to rebuild"
    lines = [
        f"{source.title} ({source.name}, domain {source.domain})",
        f"  Homepage:            {source.homepage}",
        f"  Licence:             {source.licence}",
        f"  Texts may be public: {public}",
        *([f"  Limits:              {source.limits}"] if source.limits else []),
        "  Files (also as .gz, or inside a .zip):",
        *(f"    {name}: {what}" for name, what in source.files.items()),
        "  Downloads:",
        *(
            f"    {name}: {url} {_size(source, name)}".rstrip()
            for name, url in source.downloads.items()
        ),
        *(f"    {name}: {digest}" for name, digest in source.hashes.items()),
        "    Sizes and hashes are as stated by others: not verified by a download. A file without",
        "    a hash is trusted the first time and must stay the same from then on.",
        *([] if source.downloads else [f"    by hand. {by_hand(source, Path('FOLDER'))}"]),
        "  Columns of its tables, beside those of every source:",
        *(
            f"    {table}.{column} ({kind}): {meaning}"
            for table, columns in source.columns.items()
            for column, (kind, meaning) in columns.items()
        ),
        "  Citation:",
        f"    {source.citation}",
    ]
    click.echo("\n".join(lines))


def _size(source: Source, name: str) -> str:
    return f"(about {source.sizes[name]})" if name in source.sizes else ""


def by_hand(source: Source, out: Path) -> str:
    """Say what a person does to get a source that may not be downloaded automatically."""
    wanted = ", ".join(f"{name} {_size(source, name)}".strip() for name in _files(source))
    return (
        f"Open {source.homepage}, accept the terms there, and put {wanted} into {out} as they are "
        "(archives need no unpacking)."
    )


@click.command()
@click.argument("name", metavar="SOURCE")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the raw files.  [default: raw/SOURCE]",
)
@click.option("--file", "only", multiple=True, help="Only this file; may be given several times.")
def fetch(name: str, out: Path | None, only: tuple[str, ...]) -> None:
    """Download the raw files of SOURCE from their publisher, where that is allowed.

    A download that broke off is continued by running the same command again. Files are checked
    against the publisher's hash where there is one; the SHA-256 of each is kept in downloads.json.
    """
    source = get_source(name)
    folder = out or Path("raw") / name
    if not source.downloads:
        raise UserError(
            f"{source.title} may not be downloaded automatically ({source.licence})",
            fix=by_hand(source, folder),
        )
    if unknown := [file for file in only if file not in source.downloads]:
        raise UserError(
            f"{name} has no file {unknown[0]!r}", fix=f"Choose from {', '.join(source.downloads)}."
        )
    click.echo(f"{source.title}: {source.licence}", err=True)
    for file in only or [name for name in source.downloads if name not in source.alternatives]:
        _fetch_one(source, file, folder)
    click.echo(str(folder))


def _fetch_one(source: Source, file: str, folder: Path) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from usermirrorer.builders.raw.download import download

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(file, total=None)
        download(
            source.downloads[file],
            folder,
            file,
            expected=source.hashes.get(file, ""),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


@click.command(epilog="Example:  usermirrorer tables movielens ml-1m/ --out tables/movielens")
@click.argument("source")
@click.argument("raw", type=click.Path(path_type=Path), required=False)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to make.")
@click.option("--strict", is_flag=True, help="Stop at the first bad row instead of counting it.")
@json_option
def tables(source: str, raw: Path | None, out: Path, strict: bool, as_json: bool) -> None:
    """Write the canonical tables (Parquet) of SOURCE from its RAW files.

    SOURCE may be the YAML file of your own logs (`usermirrorer new`), whose files need no RAW.

    Tables that are there from the same files are kept. OUT/manifest.json holds the SHA-256 of every
    raw file and the rows left out; `usermirrorer sources SOURCE` explains the columns.
    """
    from usermirrorer.builders.raw import tables

    chosen = get_source(source)
    written = tables.write(chosen, raw_of(chosen, raw), out, strict=strict)
    manifest = tables.manifest(out)
    if as_json:
        show_json(manifest)
        return
    for line in tables.left_out(manifest):
        click.echo(f"left out: {line}", err=True)
    for name, rows in manifest["rows"].items():
        click.echo(f"{out / f'{name}.parquet'}: {rows:,} rows{'' if written else ', as before'}")
