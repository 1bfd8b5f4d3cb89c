"""`usermirrorer quickstart`: the main job."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.tables import json_option, show_json
from usermirrorer.builders.decisions.engines import registry
from usermirrorer.recipes.job import Job
from usermirrorer.recipes.quickstart.plan import Plan, Row

_ENGINES = click.Choice(registry.kinds())


def run(out: Path, plan: Plan) -> Row:
    """Do the main job in the folder `out` and return what the summary prints.

    Raises:
        UserError: if the folder holds a run of another plan, or a step fails.
    """
    from usermirrorer.recipes.quickstart import dataset, models, summary

    job = Job(out)
    _refuse_another_plan(job.out, asdict(plan))
    storage.write_json(job.out / "plan.json", asdict(plan))
    facts = dataset.make_dataset(job, plan)
    facts |= models.make_models(job, plan, facts)
    facts["seconds"] = job.seconds
    facts["learnt"] = summary.learnt(job, plan, facts)
    storage.write_json(job.out / "summary.json", facts)
    summary.show(job, plan, facts)
    return facts


def _refuse_another_plan(out: Path, wanted: Row) -> None:
    """A version is published once, and a model is not trained over another: one plan a folder."""
    if not (out / "plan.json").exists() or not any((out / "steps").glob("*.json")):
        return
    before = storage.read_json(out / "plan.json")
    changed = [
        f"--{name.replace('_', '-')} {before.get(name)}, not {value}"
        for name, value in json.loads(json.dumps(wanted)).items()
        if before.get(name) != value
    ]
    if changed:
        raise UserError(
            f"holds a run with {'; '.join(changed)}", where=out, fix="Give another --out."
        )


_OPTIONS = (
    click.option("--out", type=click.Path(path_type=Path), default=Path("runs/quickstart")),
    click.option("--raw", default="ml-100k", help="Known part or folder of raw files."),
    click.option("--source", default="movielens", help="Source that the raw files belong to."),
    click.option(
        "--weak", default="smollm2-135m-instruct", help="Weak model: part, folder, Hub id."
    ),
    click.option("--strong", default="", help="Strong model. Default: the simulator."),
    click.option("--embedder", default="all-minilm-l6-v2", help="Encoder: part, folder, Hub id."),
    click.option("--engine", type=_ENGINES, default="transformers", help="Samples decisions."),
    click.option("--train-scenes", default=2400),
    click.option("--simulator-scenes", default=900, help="Train scenes the simulator learns from."),
    click.option("--trained-layers", default=0, help="Upper layers it trains (0: the recipe's)."),
    click.option("--decision-scenes", default=12, help="Scenes that both models decide on."),
    click.option("--check-scenes", default=48, help="Scenes to compare the two models on."),
    click.option("--test-scenes", default=240, help="Test scenes, scored directly."),
    click.option(
        "--test-users",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.1,
        help="Share of users set aside for them.",
    ),
    click.option(
        "--every-order/--one-order",
        default=False,
        help="Ask the simulator with the options in every order: surer, five times the time.",
    ),
    click.option("--history", nargs=2, type=int, default=(1, 20), help="Fewest, most shown."),
    click.option("--decision-test-scenes", default=4, help="Of them, scored with decisions."),
    click.option("--samples", default=3, help="Decisions per scene and model (the paper: 10)."),
    click.option("--thought-tokens", default=48, help="Longest generated decision process."),
    click.option("--pairs", default=12, help="Most preference pairs to keep."),
    click.option("--sft-steps", default=2),
    click.option("--dpo-steps", default=2),
    click.option("--guided/--free", default=True, help="Force the headings of the format."),
    click.option("--dtype", default="auto", help="float32, bfloat16; auto: what is fast here."),
    click.option("--version", default="1.0.0", help="Version to publish as."),
    click.option("--seed", default=0),
)


def _with_options(function: Any) -> Any:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command(
    context_settings={"show_default": True},
    epilog="Example:  usermirrorer quickstart --out runs/mine --test-scenes 1000 --seed 1",
)
@_with_options
@json_option
def command(out: Path, as_json: bool, **options: Any) -> None:
    """Raw feedback to a released dataset, trained simulators and their scores, on two CPU cores.

    Everything is real, only small: MovieLens-100K, a 135M model, a local Hub. A killed run goes on
    where it was.
    """
    from usermirrorer.builders.common.models import fast_dtype

    if options["dtype"] == "auto":
        options["dtype"] = fast_dtype()
    facts = run(out, Plan(**options))
    if as_json:
        show_json(facts)
