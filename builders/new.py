"""`usermirrorer new`: your own logs looked at, written down as YAML, shown as three scenes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.tables import json_option, show_json

if TYPE_CHECKING:
    import pyarrow as pa

    from usermirrorer.builders.raw.own.propose import Proposal
    from usermirrorer.builders.raw.source import Source

_FILE = click.Path(path_type=Path)
_ROLES = ("user", "item", "time", "title")
_LOOKED_AT = 20_000  # interactions of the three scenes
_BYTES = 64 << 20  # of each file that are read for them


@click.command(
    epilog="Example:  usermirrorer new my-shop --interactions log.csv --items catalogue.parquet"
)
@click.argument("name")
@click.option("--interactions", type=_FILE, required=True, help="Who took what, when.")
@click.option("--items", type=_FILE, required=True, help="What there is to take.")
@click.option("--users", type=_FILE, help="Who they are.")
@click.option("--impressions", type=_FILE, help="What was on the screen, and what was clicked.")
@click.option("--out", type=_FILE, help="YAML file to make.  [default: NAME.yaml]")
@click.option("--user", help="Column of the log with the user, instead of a guess.")
@click.option("--item", help="Column of the log with the item.")
@click.option("--time", help="Column of the log with the time.")
@click.option("--time-format", help="epoch-s, -ms, -us or -ns, iso, or as '%d.%m.%Y %H:%M'.")
@click.option("--timezone", help="Of times that state none, e.g. Europe/Vienna.")
@click.option("--item-id", help="Column of the items with their id.")
@click.option("--title", help="Column of the items with their title.")
@click.option("--user-id", help="Column of the users with their id.")
@click.option("--shown", help="Column of the impressions with what was shown.")
@click.option("--clicked", help="Column of the impressions with what was clicked.")
@click.option("--impressions-time", help="Column of the impressions with the time.")
@click.option("--behavior", help="What counts as chosen, as 'watch_ratio >= 0.5'.")
@click.option("--delimiter", help="Of all delimited files, instead of a guess.")
@click.option("--encoding", help="Of all text files, instead of a guess.")
@click.option("--licence", help="Of the files, in words.")
@click.option("--force", is_flag=True, help="Write over a YAML file that is there.")
@json_option
def new(
    name: str,
    interactions: Path,
    items: Path,
    users: Path | None,
    impressions: Path | None,
    out: Path | None,
    force: bool,
    as_json: bool,
    delimiter: str | None,
    encoding: str | None,
    **flags: str | None,
) -> None:
    """Look at your own logs, propose what is what, write NAME.yaml and show three scenes.

    CSV, TSV, JSON lines or Parquet, plain, gz or zip. Every guess is marked in the YAML, and every
    flag replaces one. Questions are asked on a terminal only.
    """
    from usermirrorer.builders.raw.own import detect, propose, write

    _check_name(name)
    target = out or Path(f"{name}.yaml")
    if target.exists() and not force:
        raise UserError("is there already", where=target, fix="Name another --out, or use --force.")
    paths = {
        "interactions": interactions,
        "items": items,
        "users": users,
        "impressions": impressions,
    }
    text = {"delimiter": delimiter, "encoding": encoding}
    known = {key: value for key, value in text.items() if value}
    looked = {kind: detect.look(path, known) for kind, path in paths.items() if path}
    given = {key: value for key, value in flags.items() if value}
    made = propose.propose(looked, given)
    if sys.stdin.isatty() and sys.stdout.isatty() and not as_json:
        made = _asked(made, given)
    if not as_json:
        _tell(made)
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(target, write.text(made, name, target.parent, given))
    _write(target.parent / write.SCHEMA_NAME, write.schema_text())
    if as_json:
        show_json({"file": str(target), **_facts(made), "scenes": _made(target)})
        return
    click.echo(f"wrote {target}")
    _show(_made(target))
    click.echo(f"Next:  usermirrorer scenes {target} --out scenes/{name}")


def _check_name(name: str) -> None:
    from usermirrorer.builders.raw.sources import all_sources, domains

    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        raise UserError(
            f"{name!r} cannot be a name", fix="Use small letters, digits and hyphens: my-shop."
        )
    if name in {*all_sources(), *domains(), "mixed"}:
        raise UserError(f"{name!r} is the name of a source already", fix="Choose another.")


def _write(path: Path, text: str) -> None:
    from usermirrorer.builders.common.storage import atomic

    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _asked(made: Proposal, given: dict[str, str]) -> Proposal:
    """Ask for each role that was guessed; a changed answer proposes all anew."""
    from usermirrorer.builders.raw.own import propose

    for role in _ROLES:
        where = f"items.{role}" if role == "title" else f"interactions.{role}"
        if where not in made.guessed or role in given:
            continue
        kind = where.partition(".")[0]
        there = made.looked[kind].sample.columns
        answer = click.prompt(
            f"Which column of {made.looked[kind].path.name} is the {role}?",
            default=made.roles[where],
            type=click.Choice(there),
        )
        given[role] = answer
        made = propose.propose(made.looked, given)
    return made


def _tell(made: Proposal) -> None:
    """Say what each file is, and which column is what."""
    for kind, looked in made.looked.items():
        facts = ", ".join(f"{key} {value!r}" for key, value in looked.about.items())
        click.echo(f"{kind}: {looked.path.name}: {facts}")
    for where, column in made.roles.items():
        how = f" ({made.formats[where]})" if where in made.formats else ""
        guess = _guess(made, where)
        click.echo(f"  {where} = {column}{how}{f'  GUESS: {guess}' if guess else ''}")


def _facts(made: Proposal) -> dict[str, Any]:
    """Return what `_tell` says, as plain values."""
    looked = {kind: {"path": str(one.path), **one.about} for kind, one in made.looked.items()}
    roles = {
        where: {"column": column, "format": made.formats.get(where), "guess": _guess(made, where)}
        for where, column in made.roles.items()
    }
    return {"files": looked, "columns": roles}


def _guess(made: Proposal, where: str) -> str | None:
    return made.guessed.get(where) or made.guessed.get(f"{where}.format")


def _made(file: Path) -> list[dict[str, Any]]:
    """Return three finished scenes, or say why none can be made yet."""
    from usermirrorer.builders.raw.report import Report
    from usermirrorer.builders.raw.sources import get_source

    source, report = get_source(str(file)), Report()
    try:
        scenes = _three(source, file.parent, report)
    except UserError as error:
        why = str(error).rstrip(".")
        raise UserError(f"no scene can be made yet: {why}", fix=f"Mend {file}.") from error
    for line in report.lines():
        click.echo(f"left out: {line}", err=True)
    return scenes.to_pylist()


def _show(scenes: list[dict[str, Any]]) -> None:
    for number, row in enumerate(scenes, 1):
        click.echo(
            f"\n--- scene {number}: user {row['user_id']}, {row['timestamp']:%Y-%m-%d %H:%M} UTC"
        )
        click.echo(row["profile"] or "(no profile)")
        for line in row["history"]:
            click.echo(f"  {line}")
        for place, option in enumerate(row["exposure"]):
            mark = "  <- taken" if place == row["answer"] else ""
            click.echo(f"  [{chr(65 + place)}] {option}{mark}")
    click.echo()


def _three(source: Source, folder: Path, report: Any) -> pa.Table:
    """Make a few scenes with random vectors in place of an encoder's."""
    from collections import Counter

    import numpy as np

    from usermirrorer.builders.raw import files
    from usermirrorer.builders.scenes import build, pipeline
    from usermirrorer.builders.scenes.world import SceneConfig

    config = SceneConfig(train=3, test=3, time_cut=0.0, history=(1, 5))
    with files.beginnings(_BYTES):
        tables = pipeline.limited(source.read(folder, report), _LOOKED_AT)
    tables = pipeline.answerable(tables, config, Counter())
    drawn = np.random.default_rng(0).standard_normal((tables.items.height, 16), dtype=np.float32)
    vectors = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    made = build.make_scenes(source, tables, vectors, config)[0]
    return made["test"].slice(0, 3) if len(made["test"]) else made["train"].slice(0, 3)
