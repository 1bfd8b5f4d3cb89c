"""`usermirrorer interact`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import click

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw.sources import get_source


class _Size(NamedTuple):
    """How much is run: people, seeds, and a factor of the largest number of epochs."""

    users: int
    seeds: int
    effort: float


_USUAL, _TINY = _Size(100, 2, 0.5), _Size(30, 1, 0.1)
_TEN = "BPR LightGCN MultiDAE DiffRec SGL NeuMF NGCF SimpleX SASRec NARM"


class _Several(click.Command):
    """Lets an option take all words up to the next option: `--recommenders BPR LightGCN`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        taking = {"--recommenders", "--simulators", "--trained-on"}
        spread: list[str] = []
        option, first = "", False
        for word in args:
            if word.startswith("-"):
                option, first = (word if word in taking else ""), True
                spread.append(word)
            elif option and not first:
                spread += [option, word]
            else:
                spread.append(word)
                first = False
        return super().parse_args(ctx, spread)


@click.command(
    cls=_Several,
    context_settings={"show_default": True},
    epilog="Example:  usermirrorer interact movielens raw/movielens --recommenders BPR SASRec "
    "--simulators base=smollm2-135m-instruct tuned=runs/simulator --out runs/interact",
)
@click.argument("source")
@click.argument("raw", type=click.Path(path_type=Path))
@click.option("--recommenders", multiple=True, help=f"Any of {_TEN}.  [default: all]")
@click.option("--simulators", multiple=True, required=True, help="NAME=MODEL, one or more.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option(
    "--trained-on",
    multiple=True,
    help="NAME=SCENES.parquet, NAME=RELEASE or NAME=none, where a model's record cannot tell.",
)
@click.option("--users", type=int, help="People, drawn at random (0: all).  [default: 100]")
@click.option("--seeds", type=int, help="How often everything is trained.  [default: 2]")
@click.option("--effort", type=float, help="Scales the largest number of epochs.  [default: 0.5]")
@click.option("--tiny", is_flag=True, help="Minutes: of these by default 30, 1 and 0.1.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    help="Templates for simulators that have none of their own.",
)
@click.option("--mode", type=click.Choice(["direct", "decision", "own"]), default="direct")
@click.option("--dtype", default="auto")
@click.option("--ray", is_flag=True, help="Spread the recommenders over a Ray cluster.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def interact(
    source: str,
    raw: Path,
    recommenders: tuple[str, ...],
    simulators: tuple[str, ...],
    out: Path,
    trained_on: tuple[str, ...],
    users: int | None,
    seeds: int | None,
    effort: float | None,
    tiny: bool,
    prompts: Path | None,
    mode: str,
    dtype: str,
    ray: bool,
    as_json: bool,
) -> None:
    """Let recommenders learn from simulated people, beside controls (Tables 3 and 9).

    RAW are the raw files of SOURCE. Each recommender learns, shows ten items to each person, learns
    again with what a simulator or a control picked of them, and is measured on what people really
    took. OUT/report.html has the tables and plots. A killed run goes on where it was.

    With the defaults all ten and two simulators of 135M parameters took 15 minutes on two idle
    cores: 10 of training, which grow with --seeds times --effort, and 4 of asking, which grow with
    --users times --seeds and with the number of simulators.
    """
    from usermirrorer.recipes.interact import hyperparameters, pipeline, report

    size = _size(users, seeds, effort, tiny=tiny)
    plan = pipeline.Plan(
        recommenders=hyperparameters.check(recommenders or tuple(hyperparameters.RECOMMENDERS)),
        simulators=_named(simulators, "--simulators"),
        users=size.users,
        seeds=size.seeds,
        schedule=hyperparameters.Schedule(size.effort),
        stated=_named(trained_on, "--trained-on"),
        prompts=prompts,
        mode=None if mode == "own" else mode,
        dtype=dtype,
        ray=ray,
    )
    if unknown := sorted(set(plan.stated) - set(plan.simulators)):
        raise UserError(f"no simulator is called {unknown[0]!r}", where="--trained-on")
    results = pipeline.run(get_source(source), raw, out.absolute(), plan)
    report.write(results, out)
    text = json.dumps(results, indent=2, default=str) if as_json else str(out / "report.html")
    click.echo(text)


def _size(users: int | None, seeds: int | None, effort: float | None, *, tiny: bool) -> _Size:
    """Return how much is run: what is given, the rest as usual.

    Raises:
        UserError: if that is nothing.
    """
    usual = _TINY if tiny else _USUAL
    size = _Size(
        usual.users if users is None else users,
        usual.seeds if seeds is None else seeds,
        usual.effort if effort is None else effort,
    )
    if size.seeds < 1:
        raise UserError(f"--seeds: {size.seeds} trains nothing", fix="Give 1 or more.")
    if size.users < 0:
        raise UserError(f"--users: {size.users} are no people", fix="Give 1 or more, or 0 for all.")
    if not 0 < size.effort <= 100:
        raise UserError(f"--effort: {size.effort} trains nothing", fix="Give more than 0, to 100.")
    return size


def _named(given: tuple[str, ...], option: str) -> dict[str, str]:
    pairs = [word.partition("=") for word in given]
    for name, _, value in pairs:
        if not name or not value or not name.replace("-", "").replace("_", "").isalnum():
            raise UserError(f"{name!r} names nothing", where=option, fix="Give NAME=VALUE.")
    names = [name for name, _, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{twice[0]!r} is named twice", where=option)
    return {name: value for name, _, value in pairs}
