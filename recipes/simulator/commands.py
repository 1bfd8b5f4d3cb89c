"""`usermirrorer simulate` and `usermirrorer calibrate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.progress import bar
from usermirrorer.builders.decisions.engines import registry

if TYPE_CHECKING:
    from usermirrorer.recipes.simulator.calibration import Calibration
    from usermirrorer.recipes.simulator.core import Asking, Simulator
    from usermirrorer.recipes.simulator.questions import Question
    from usermirrorer.recipes.simulator.scenes import Placed, Row

_FILE, _COUNT = click.Path(path_type=Path), click.IntRange(0)
_Command = Callable[..., Any]

#: Which model, and what runs it.
_MODEL = (
    click.option(
        "--model",
        default="",
        help="Hub id, folder, GGUF file, LoRA adapter, part, or the address of a server that "
        "speaks OpenAI's protocol (http://localhost:8000/v1).",
    ),
    click.option("--revision", help="Tag, branch or commit of a Hub id."),
    click.option("--engine", type=click.Choice(registry.kinds()), help="Runs it."),
    click.option("--dtype", default="auto", help="auto, float32 or bfloat16."),
    click.option("--tensor-parallel", default=1, help="vllm: GPUs that one engine spreads over."),
    click.option("--served-name", default="", help="What a server of several calls the model."),
    click.option("--tokenizer", default="", help="Of a server's model. Default: its name."),
    click.option("--concurrency", default=32, help="At a server: most requests in flight."),
    click.option("--chat-template-kwargs", default="", help="JSON for the chat template."),
    click.option("--prompts", type=_FILE, help="Prompt templates.  [default: the model's own]"),
    click.option(
        "--mode",
        type=click.Choice(["decision", "direct"]),
        help="With a decision process, or the label at once.  [default: as it was trained]",
    ),
)
#: How it is asked.
_ASKING = (
    click.option("--samples", default=1, help="Decision processes per scene."),
    click.option("--temperature", default=1.0),
    click.option("--top-p", default=0.9),
    click.option("--max-tokens", default=512, help="Longest decision process."),
    click.option("--guided", is_flag=True, help="Force the headings (for very small models)."),
    click.option("--seed", default=0),
)


def model_options(command: _Command) -> _Command:
    """Add the options that say which model is asked and what runs it."""
    for option in reversed(_MODEL):
        command = option(command)
    return command


def asking_options(command: _Command) -> _Command:
    """Add the options that say how it is asked."""
    for option in reversed(_ASKING):
        command = option(command)
    return command


def load(options: dict[str, Any], **more: Any) -> Simulator:
    """Take the options of `model_options` out and return the simulator that they name."""
    from usermirrorer.recipes.simulator.core import Simulator

    model = options.pop("model")
    if not model:
        raise UserError("is missing", where="--model", fix="Name a folder, a Hub id or a part.")
    names = ("revision", "engine", "mode", "prompts", "served_name")
    given = {name: options.pop(name) for name in names}
    of_engine = ("dtype", "tensor_parallel", "tokenizer", "concurrency", "chat_template_kwargs")
    given |= {name: options.pop(name) for name in of_engine}
    return Simulator.from_pretrained(model, **given, **more)


@click.command(
    context_settings={"show_default": True},
    epilog="Example:  usermirrorer simulate --model runs/simulator scenes/test.parquet "
    "--out choices.jsonl",
)
@click.argument("scenes", required=False)
@model_options
@click.option("--out", type=_FILE, help="File to make: .parquet, or JSON lines.  [default: print]")
@click.option("--split", default="test", help="Of a release or a folder of scenes.")
@click.option("--scenes-revision", help="Tag or commit of SCENES on a Hub.")
@click.option("--limit", default=0, type=_COUNT, help="Only the first so many scenes (0: all).")
@click.option("--scene", type=int, help="Show the scene of this number, the first is 1.")
@click.option("--calibrated", is_flag=True, help="Apply the calibration beside the model.")
@click.option("--calibration", type=_FILE, help="Apply a calibration that lies elsewhere.")
@click.option("--coverage", type=float, help="Also the options that hold the real one so often.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
@asking_options
def simulate(
    scenes: str | None,
    out: Path | None,
    split: str,
    scenes_revision: str | None,
    limit: int,
    scene: int | None,
    calibrated: bool,
    calibration: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Ask a simulator what people would choose.

    SCENES is a Parquet or JSON-lines file of scenes, a folder of scenes or of a release, a dataset
    on the Hub, or - for JSON lines from standard input, each such as
    {"profile": "...", "history": ["..."], "exposure": ["...", "..."]}. Choices are JSON lines, or
    Parquet by --out; a killed run with --out goes on where it was. Without SCENES one test scene is
    shown: the decision process as it is written, and bars.
    """
    from usermirrorer.recipes.simulator.scenes import commit_of

    name, revision = options["model"], options["revision"]
    questions = None
    if scenes is not None and scene is None:
        commit = commit_of(scenes, scenes_revision)
        questions = _questions(scenes, split, commit, limit)
    simulator = load(options, calibrated=calibration or calibrated, lazy=True)
    how = simulator.asking(mode=simulator.form.mode, **options)
    if questions is None:
        number = 1 if scene is None else scene
        _show(simulator, _one(name, revision, scenes, split, number), how, as_json)
    elif out is None:
        _print(simulator, questions, how)
    else:
        _write(simulator, questions, how, out, as_json)


def _questions(scenes: str, split: str, commit: str, limit: int) -> list[Question]:
    from usermirrorer.recipes.simulator.questions import from_scene
    from usermirrorer.recipes.simulator.scenes import read_scenes

    rows = read_scenes(scenes, split=split, revision=commit or None)
    return [from_scene(row, where) for where, row in (rows[:limit] if limit else rows)]


def _print(simulator: Simulator, questions: list[Question], how: Asking) -> None:
    from usermirrorer.recipes.simulator.stored import line

    with bar("simulating", len(questions)) as advance:
        for choice in simulator.many(questions, how, advance):
            click.echo(line(choice.row()))


def _write(
    simulator: Simulator, questions: list[Question], how: Asking, out: Path, as_json: bool
) -> None:
    from usermirrorer.recipes.simulator.stored import write_choices

    part = 32 if how.mode == "direct" else 8
    with bar("simulating", len(questions)) as advance:
        resumed = write_choices(questions, simulator, how, out, part_scenes=part, progress=advance)
    facts = {"choices": len(questions), "resumed": resumed, "out": str(out), "mode": how.mode}
    if as_json:
        click.echo(json.dumps(facts))
        return
    if resumed:
        click.echo(f"{resumed:,} scenes were done by an earlier run", err=True)
    click.echo(f"{out}: {len(questions):,} choices")


def _show(simulator: Simulator, scene: Row, how: Asking, as_json: bool) -> None:
    from usermirrorer.recipes.simulator import demo

    if not as_json:
        demo.show(simulator, scene, how)
        return
    asked = {name: scene.get(name) for name in ("exposure", "profile", "history")}
    choice = next(simulator.many([{**asked, "scene_id": scene.get("scene_id")}], how))
    click.echo(json.dumps(choice.row(), ensure_ascii=False))


def _one(model: str, revision: str | None, source: str | None, split: str, number: int) -> Row:
    """Return the scene to show: of `source`, of the dataset that made the model, or an example."""
    from usermirrorer.recipes.simulator import demo, form
    from usermirrorer.recipes.simulator.scenes import read_scenes

    try:
        rows = read_scenes(source or form.dataset_of(model, revision), split=split)
    except UserError:
        if source is not None:
            raise
        return demo.example()
    if not 1 <= number <= len(rows):
        raise UserError(f"there is no scene {number}", fix=f"Give 1 to {len(rows):,}.")
    return rows[number - 1].row


@click.command(
    context_settings={"show_default": True},
    epilog="Example:  usermirrorer calibrate --model runs/simulator release/ --trained-on "
    "trained.parquet",
)
@click.argument("scenes")
@model_options
@click.option("--out", type=_FILE, help="JSON file to make.  [default: beside the model]")
@click.option("--split", default="train", help="Of a release or a folder of scenes.")
@click.option("--scenes-revision", help="Tag or commit of SCENES on a Hub.")
@click.option(
    "--limit", default=0, type=_COUNT, help="Only the first so many held-out scenes (0: all)."
)
@click.option(
    "--trained-on",
    type=_FILE,
    multiple=True,
    help="Parquet file of scenes or pairs that trained it: their users are left out; repeat.",
)
@click.option("--level", default=0.9, help="Coverage that the report is about.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
@asking_options
def calibrate(
    scenes: str,
    out: Path | None,
    split: str,
    scenes_revision: str | None,
    limit: int,
    trained_on: tuple[Path, ...],
    level: float,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit a simulator's temperature and choice sets on users who did not train it.

    Of the users of SCENES (as in simulate, with user_id and answer) a third fits the temperature, a
    third the sets, and the last third shows what both are worth. The file goes with the model;
    `simulate`, `serve` and Simulator.from_pretrained(..., calibrated=True) apply it.
    """
    from usermirrorer.builders.common import storage
    from usermirrorer.recipes.simulator import calibration, form
    from usermirrorer.recipes.simulator.scenes import commit_of

    if level not in calibration.LEVELS:
        raise UserError(f"{level} is no coverage", where="--level", fix="Give 0.50 to 0.99.")
    target = out or form.folder_of(options["model"]) / calibration.NAME
    commit = commit_of(scenes, scenes_revision)
    rows, questions = _answered(scenes, split, commit, limit, trained_on)
    users = [str(row["user_id"]) for _, row in rows]
    calibration.grouped(users)  # too few are told before the model is loaded
    simulator = load(options)
    how = simulator.asking(mode=simulator.form.mode, **options)
    with bar("simulating", len(rows)) as advance:
        chosen = list(simulator.many(questions, how, advance))
    import numpy as np

    fitted = calibration.fit(
        [np.asarray(choice.probabilities) for choice in chosen],
        [row["answer"] for _, row in rows],
        users,
        mode=how.mode,
        samples=how.samples,
        guided=how.guided,
        level=level,
    )
    stored = fitted.row()
    stored["report"]["held_out"] = bool(trained_on)
    named = scenes if commit else Path(scenes).name  # no path of this machine
    stored["report"]["fitted_on"] = {"name": named, "commit": commit}
    storage.write_json(target, stored)
    _tell(fitted, target, held_out=bool(trained_on), as_json=as_json)


def _answered(
    scenes: str, split: str, commit: str, limit: int, trained_on: tuple[Path, ...]
) -> tuple[list[Placed], list[Question]]:
    from usermirrorer.recipes.simulator.questions import from_scene
    from usermirrorer.recipes.simulator.scenes import read_scenes

    every = read_scenes(scenes, split=split, revision=commit or None)
    rows = _held_out(every, scenes, trained_on)
    rows = rows[:limit] if limit else rows
    questions = [from_scene(row, where) for where, row in rows]
    _check_answers(rows, questions)
    return rows, questions


def _held_out(rows: list[Placed], source: str, trained_on: tuple[Path, ...]) -> list[Placed]:
    """Return the scenes of users none of whose scenes trained the model."""
    from usermirrorer.builders.common import storage

    for where, row in rows:
        if "user_id" not in row or "answer" not in row:
            raise UserError("has no user_id or no answer", where=where)
    users: set[str] = set()
    for path in trained_on:
        ids = set(storage.read_table(path, ["scene_id"])["scene_id"].to_pylist())
        names = {str(row["user_id"]) for _, row in rows if str(row.get("scene_id")) in ids}
        if not names:
            raise UserError("has no scene in common", where=path, fix=f"Is it of {source}?")
        users |= names
    kept = [one for one in rows if str(one.row["user_id"]) not in users]
    if not kept:
        raise UserError("all users trained the model", where=source)
    return kept


def _check_answers(rows: list[Placed], questions: list[Question]) -> None:
    """Refuse scenes whose user or real choice is not known, before any is asked."""
    for (where, row), asked in zip(rows, questions, strict=True):
        answer, most = row["answer"], len(asked.exposure) - 1
        if type(answer) is not int or not 0 <= answer <= most:
            raise UserError(
                "answer is no number of an option",
                where=where,
                fix=f"Give 0 to {most}, the index of what was really chosen.",
            )
        if not isinstance(row["user_id"], str | int) or row["user_id"] == "":
            raise UserError("has no user_id", where=where)


def _tell(fitted: Calibration, target: Path, *, held_out: bool, as_json: bool) -> None:
    report = fitted.report
    if as_json:
        click.echo(json.dumps({"temperature": fitted.temperature, "file": str(target), **report}))
        return
    if not held_out:
        click.echo(
            "Note: without --trained-on nothing shows that these users did not train the model.",
            err=True,
        )
    if fitted.says_nothing:
        click.echo(
            "Note: for these users equal shares do as well as what the model says.", err=True
        )
    click.echo(f"temperature {fitted.temperature:.3f}; on {report['users']['report']} other users:")
    for name, title in (("before", "before"), ("after", "after ")):
        row = report[name]
        click.echo(
            f"  {title}  ECE {100 * row['ece']:5.1f} %  log-loss {row['log_loss_bits']:.3f} bits  "
            f"sets of {report['level']:.0%}: cover {100 * row['coverage']:.1f} % with "
            f"{row['options_per_set']:.1f} options"
        )
    click.echo(target)
