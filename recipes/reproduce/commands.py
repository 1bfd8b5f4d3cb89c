"""`usermirrorer reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from usermirrorer.builders.common.errors import UserError
from usermirrorer.recipes.reproduce.engines import ENGINES
from usermirrorer.recipes.reproduce.plan import PLANS, SCALES, Plan, read

if TYPE_CHECKING:
    from usermirrorer.recipes.reproduce.runner import Run

ALL = "all"
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(
    context_settings={"show_default": True},
    epilog="Example:  usermirrorer reproduce table1 --scale tiny --out runs/reproduce",
)
@click.argument("item", default="")
@click.option("--scale", default="tiny", help=f"{', '.join(SCALES)}, or a file of your own plans.")
@click.option("--out", type=_FOLDER, default=Path("runs/reproduce"), help="Folder of the run.")
@click.option("--data", type=_FOLDER, help="Folder with a folder of raw files for each source.")
@click.option("--model", "models", multiple=True, help="ROLE=MODEL instead of the scale's; repeat.")
@click.option("--endpoint", "endpoints", multiple=True, help="NAME=ADDRESS of a chat API; repeat.")
@click.option("--set", "values", multiple=True, help="VALUE=YAML instead of the scale's; repeat.")
@click.option("--plans", type=_FOLDER, default=PLANS, show_default="the package's")
@click.option("--engine", type=click.Choice(list(ENGINES)), default="local")
@click.option(
    "--jobs", type=click.IntRange(min=0), default=0, help="Steps at once (0: the scale's)."
)
@click.option("--rate", "rates", multiple=True, help="MODEL=TOKENS a second; repeat.")
@click.option("--list", "listing", is_flag=True, help="What each item needs and what is there.")
@click.option("--dry-run", is_flag=True, help="Print the graph, sizes and estimates; run nothing.")
@click.option("--push-space", default="", help="Upload the pages to this static Space.")
@click.option("--collection", default="", help="DATASET@1.0.0 whose collection lists the Space.")
@click.option("--json", "as_json", is_flag=True, help="With --list: print JSON.")
def reproduce(item: str, out: Path, engine: str, jobs: int, as_json: bool, **options: Any) -> None:
    """Make a table or figure of the paper again: ITEM, or `all`; --list names them.

    Steps that are there from the same command and inputs are used again, whichever item made
    them, and a killed run goes on where it was. OUT/pages/ITEM/ has the page, OUT/pages/index.html
    all of them.
    """
    plan = _plan(options)
    items = _items(plan, item, every=options["listing"])
    from usermirrorer.recipes.reproduce import estimates, pages
    from usermirrorer.recipes.reproduce.parts import Parts
    from usermirrorer.recipes.reproduce.runner import Run

    out = out.absolute()
    data = options["data"].absolute() if options["data"] else None
    run = Run(plan, Parts(plan, data, out), out, lambda line: click.echo(line, err=True))
    needed = [name for chosen in items for name in plan.items[chosen].needs]
    if options["listing"] or options["dry_run"]:
        run.look(needed)
        rates = estimates.rates(out, options["rates"])
        if options["listing"]:
            estimates.show_list(run, items, rates, as_json=as_json)
        else:
            estimates.show_graph(run, items, rates)
        return
    _execute(run, needed, engine, jobs or int(plan.settings.get("jobs", 1)), items)
    written = pages.write(run, out / "pages")
    if options["push_space"]:
        click.echo(pages.push(written, options["push_space"], options["collection"]))
    click.echo(written / (f"{items[0]}/index.html" if len(items) == 1 else "index.html"))
    if missing := [n for n in needed if n not in run.state.done]:
        raise UserError(
            f"{len(missing)} steps have no result, first {missing[0]}: "
            f"{run.state.reasons[missing[0]]}",
            where=f"item {_owner(plan, items, missing[0])}",
        )


def _plan(options: dict[str, Any]) -> Plan:
    """Read the plans with what the command line changes of them."""
    changed = {k: _value(k, v) for k, v in _pairs(options["values"], "--set").items()}
    models = _pairs(options["models"], "--model")
    if asked := _pairs(options["endpoints"], "--endpoint"):
        changed["endpoints"] = list(asked)
        models |= asked
    return read(options["scale"], options["plans"], changed, models)


def _value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{text!r} of {name} is not YAML", where="--set") from None


def _pairs(given: tuple[str, ...], option: str) -> dict[str, str]:
    pairs = [word.partition("=") for word in given]
    if bad := [
        word for word, (_, sign, value) in zip(given, pairs, strict=True) if not (sign and value)
    ]:
        raise UserError(f"{bad[0]!r} is not NAME=VALUE", where=option)
    return {name: value for name, _, value in pairs}


def _items(plan: Plan, item: str, *, every: bool) -> list[str]:
    if item == ALL or (every and not item):
        return list(plan.items)
    if item not in plan.items:
        raise UserError(
            f"no item is called {item!r}", fix=f"Choose from {', '.join(plan.items)}, {ALL}."
        )
    if not plan.items[item].needs:
        raise UserError(
            f"has no steps at these values of scale {plan.scale}", where=item, fix="See --set."
        )
    return [item]


def _owner(plan: Plan, items: list[str], step: str) -> str:
    return next(name for name in items if step in plan.items[name].needs)


def _execute(run: Run, needed: list[str], engine: str, jobs: int, items: list[str]) -> None:
    """Run the steps, as the only run in this folder; first say what is missing."""
    from usermirrorer.recipes.reproduce.estimates import needed_parts
    from usermirrorer.recipes.reproduce.store import locked

    for part in needed_parts(run, items):
        if not part.here and part.fix:
            run.tell(f"warning: {part.target.replace(':', ' ')} is missing: {part.fix}")
    run.out.mkdir(parents=True, exist_ok=True)
    with locked(run.out / ".run.lock") as held:
        if held is None:
            raise UserError("another run works in this folder", where=run.out)
        run.run(needed, ENGINES[engine], jobs)
