"""What the name of a task says: `<family>_<source>`, e.g. `usermirror-direct_movielens`."""

from __future__ import annotations

from dataclasses import dataclass

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions.prompts import Mode


@dataclass(frozen=True)
class Family:
    """Tasks that score every source in one way.

    Args:
        name: What stands before the underscore of a task's name.
        mode: Of the prompts: with a decision process, or the label at once.
        table: Table of a release that it scores: `scenes`, or `paper` for the paper's exposures.
        title: What a table adds to the name of the source.
    """

    name: str
    mode: Mode
    table: str
    title: str


FAMILIES = {
    family.name: family
    for family in (
        Family("usermirror", "decision", "scenes", ""),
        Family("usermirror-direct", "direct", "scenes", "direct"),
        Family("usermirror-paper", "decision", "paper", "paper's exposures"),
        Family("usermirror-paper-direct", "direct", "paper", "paper's exposures, direct"),
    )
}


def is_ours(task: str) -> bool:
    """Say whether a task of lm_eval is one of these families' (not one of their groups)."""
    family, sign, source = task.partition("_")
    return family in FAMILIES and bool(sign and source)


def family_of(task: str) -> Family:
    """Return the family of a task.

    Raises:
        UserError: if it is of none.
    """
    if not is_ours(task):
        raise UserError(f"{task!r} is not one of our tasks", fix="Name one like usermirror_steam.")
    return FAMILIES[task.partition("_")[0]]


def source_of(task: str) -> str:
    """Return the source that a task scores; a name that is no task stays as it is."""
    return task.partition("_")[2] if is_ours(task) else task


def title_of(task: str) -> str:
    """Return a task as tables name it: `movielens`, `movielens (direct)`."""
    more = FAMILIES[task.partition("_")[0]].title if is_ours(task) else ""
    return source_of(task) + (f" ({more})" if more else "")


def domain_of(source: str) -> str:
    """Return the domain of a source that is installed; "" if it is not known."""
    from usermirrorer.builders.raw.sources import all_sources

    known = all_sources().get(source)
    return known.domain if known else ""


def config_of(task: str, domain: str = "") -> str:
    """Return the configuration of a release that holds a task's scenes, e.g. `scenes_amazon`.

    Args:
        task: Name of a task.
        domain: Domain of its scenes, where the source is not installed here.
    """
    table = family_of(task).table
    domain = domain or domain_of(source_of(task))
    return f"{table}_{domain}" if domain else table
