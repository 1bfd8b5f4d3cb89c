"""Grid search over learning rate and epochs (Table 7), judged on users held out of training.

Users of the train split are divided by a hash of their id: a share of them is only validated on,
the test split is never touched. Each point of the grid is one run of a recipe in a process of its
own; Optuna keeps the results in an SQLite file, so that a killed sweep goes on where it stopped,
and the recipe it was in goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import (
    atomic,
    file_hash,
    fingerprint,
    read_json,
    write_json,
)
from usermirrorer.builders.common.tables import json_option, show, show_json
from usermirrorer.builders.decisions import chat
from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS, Mode, fit
from usermirrorer.recipes.job import RECIPES

if TYPE_CHECKING:
    from datasets import Dataset

    from usermirrorer.builders.decisions.engines.base import Engine
    from usermirrorer.eval_harness.requests import ModelOutput

#: Scenes scored at once; only speed and memory depend on it.
BATCH = 32
#: Longest decision process in tokens, as in the tasks.
MAX_TOKENS = 512
#: The learning rates of Table 7. That of GRPO is fixed, and only its epochs are searched.
LEARNING_RATES = {
    "sft": (2e-4, 1e-4, 5e-5, 2e-5),
    "dpo": (2e-4, 1e-4, 5e-5, 2e-5),
    "grpo": (1e-5,),
}


@dataclass(frozen=True)
class Point:
    """One point of the grid: accuracy on `scenes` validation scenes and its standard error."""

    learning_rate: float
    epochs: int
    accuracy: float
    stderr: float
    scenes: int


def held_out(user_id: str, share: float) -> bool:
    """Say whether a user belongs to the `share` of users that are validated on."""
    digest = hashlib.sha256(f"validation:{user_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def split(rows: Dataset, scenes: Dataset, share: float, most: int) -> tuple[Dataset, Dataset]:
    """Return the rows to train on and the scenes to validate on, without a user in common.

    Args:
        rows: Preference pairs or scenes.
        scenes: The train scenes behind `rows`, with their users.
        share: Share of users to hold out, between 0 and 1.
        most: Greatest number of validation scenes.

    Raises:
        UserError: if a row's scene is not among `scenes`, or one side is empty.
    """
    from usermirrorer.recipes.data import choose_rows

    users = dict(zip(scenes["scene_id"], scenes["user_id"], strict=True))
    unknown = [name for name in rows["scene_id"] if name not in users]
    if unknown:
        raise UserError(
            f"{len(unknown)} training rows have no scene, for example {unknown[0]}",
            fix="Give the scenes of the same release.",
        )
    kept = [i for i, name in enumerate(rows["scene_id"]) if not held_out(users[name], share)]
    others = [i for i, user in enumerate(scenes["user_id"]) if held_out(user, share)]
    if not kept or not others:
        raise UserError("no users are left on one side of the split", where="--validation-share")
    validation = scenes.select(others)
    return rows.select(kept), choose_rows(validation, None, min(most, len(validation)))


def accuracy(
    engine: Engine,
    scenes: Iterable[Mapping[str, Any]],
    mode: Mode,
    prompts: Path = DEFAULT_PROMPTS,
) -> tuple[float, float]:
    """Return the accuracy as the lm_eval tasks count it, and its standard error by users.

    In decision mode one decision per scene is sampled and read: a malformed one is wrong. In
    direct mode the likeliest option counts. Histories are shortened where a prompt would be too
    long.
    """
    from usermirrorer.eval_harness import metrics, scene_metrics

    rows, hits = list(scenes), []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        outputs = _outputs(engine, batch, mode, prompts)
        hits += [
            scene_metrics.accuracy(scene, output, mode)
            for scene, output in zip(batch, outputs, strict=True)
        ]
    share = metrics.mean(hits, [scene["user_id"] for scene in rows], "share")
    return share.value, share.stderr


def _outputs(
    engine: Engine, scenes: Sequence[Mapping[str, Any]], mode: Mode, prompts: Path
) -> list[ModelOutput]:
    """Return what the model gives for each scene, in the form that the tasks read."""
    from usermirrorer.builders.decisions.engines.base import Sampling
    from usermirrorer.builders.decisions.stage import room

    sizes = [len(scene["exposure"]) for scene in scenes]
    most = room(engine, MAX_TOKENS if mode == "decision" else 0)
    texts = [fit(scene, engine.count, most, prompts, mode) for scene in scenes]
    if mode == "direct":
        scored = engine.score(texts, [[""]] * len(texts), sizes)
        return [{"texts": [], "probabilities": rows.tolist()} for rows in scored]
    seeds = [int(fingerprint(scene["scene_id"]), 16) % 2**31 for scene in scenes]
    sampled = engine.sample(texts, sizes, Sampling(n=1, max_tokens=MAX_TOKENS), seeds)
    return [{"texts": [one.text for one in row], "probabilities": None} for row in sampled]


def run_grid(
    output: Path,
    learning_rates: Sequence[float],
    epochs: Sequence[int],
    trial: Any,
    config: Mapping[str, Any],
) -> list[Point]:
    """Run `trial` on every point of the grid that has no result yet; return all results.

    Args:
        output: Folder for `study.db`.
        learning_rates: First axis.
        epochs: Second axis.
        trial: Maps learning rate and epochs to a `Point`.
        config: What the results depend on; another configuration is another study.
    """
    import optuna

    class Grid(optuna.samplers.GridSampler):
        """Driven from here, where its call of `study.stop()` after the last point would fail."""

        def after_trial(self, *args: Any) -> None:
            """Do nothing."""

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space: dict[str, list[Any]] = {
        "learning_rate": list(learning_rates),
        "epochs": list(epochs),
    }
    sampler = Grid(space, seed=0)
    output.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{(output / 'study.db').absolute()}",
        study_name=fingerprint({**config, **space}),
        sampler=sampler,
        direction="maximize",
        load_if_exists=True,
    )
    while not sampler.is_exhausted(study):
        # A trial that raises has no result: it stays open, and its point is taken again next time.
        opened = study.ask()
        rate = opened.suggest_categorical("learning_rate", space["learning_rate"])
        passes = opened.suggest_categorical("epochs", space["epochs"])
        point = trial(rate, passes)
        opened.set_user_attr("point", asdict(point))
        study.tell(opened, point.accuracy)
    points = {(p.learning_rate, p.epochs): p for p in _points(study)}
    return [points[(rate, passes)] for rate in learning_rates for passes in epochs]


def _points(study: Any) -> list[Point]:
    return [Point(**t.user_attrs["point"]) for t in study.trials if "point" in t.user_attrs]


def best(points: Sequence[Point]) -> Point:
    """Return the point of highest accuracy; of equal ones that with fewest epochs, lowest rate."""
    return min(points, key=lambda point: (-point.accuracy, point.epochs, point.learning_rate))


def _numbers(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter("give numbers with commas between them") from None
    if not all(number > 0 for number in numbers):
        raise click.BadParameter("every number is positive")
    return numbers


@click.command(context_settings={"ignore_unknown_options": True, "show_default": True})
@click.argument("recipe", type=click.Choice(list(LEARNING_RATES)))
@click.argument("recipe_arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--dataset", default="usermirrorer/mixed", help="As --dataset_name of the recipe.")
@click.option("--scenes", default="", help="Train scenes with users; default: those of --dataset.")
@click.option("--revision", default=None, help="Tag or commit of the dataset.")
@click.option("--stage", type=click.Choice(["decision", "direct"]), default="decision")
@click.option(
    "--learning-rates",
    callback=_numbers,
    show_default="2e-4,1e-4,5e-5,2e-5; for grpo 1e-5",
)
@click.option("--epochs", default="1,2,3", callback=_numbers)
@click.option(
    "--validation-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    help="Share of the train users to validate on.",
)
@click.option(
    "--validation-scenes",
    type=click.IntRange(min=1),
    default=500,
    help="Greatest number of scenes to validate on.",
)
@click.option(
    "--launch",
    default=sys.executable,
    show_default="this Python",
    help="Launcher, e.g. 'accelerate launch --config_file recipes/accelerate/ddp.yaml'.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("runs/sweep"),
    help="Folder of the runs and results.",
)
@json_option
def command(recipe: str, recipe_arguments: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Search learning rate and epochs of RECIPE on held-out train users; the grid is Table 7's.

    Everything after RECIPE that is not an option here goes to the recipe:

    \b
        usermirrorer sweep sft --stage direct --output runs/sweep \\
            --config recipes/llama-3.2-3b-instruct/sft/config.yaml
    """
    points = sweep(recipe, recipe_arguments, **options)
    if as_json:
        show_json(read_json(options["output"] / "sweep.json"))
    else:
        _show(points, options["output"])


def sweep(recipe: str, recipe_arguments: Sequence[str], **options: Any) -> list[Point]:
    """Split the users, run the grid and write `sweep.json` and `sweep.png`; see `command`."""
    from usermirrorer.builders.decisions.stage import scenes_hash
    from usermirrorer.model_cards import plots
    from usermirrorer.recipes.simulator.form import form_of

    output: Path = options["output"]
    train, validation = _write_split(output, options)
    extra = ["--stage", options["stage"], *recipe_arguments]

    def trial(rate: float, passes: int) -> Point:
        folder = output / f"lr-{rate:g}-epochs-{passes}"
        words = [*shlex.split(options["launch"]), str(RECIPES / f"{recipe}.py"), *extra]
        words += ["--dataset_name", str(train), "--output_dir", str(folder)]
        words += ["--learning_rate", repr(rate), "--num_train_epochs", str(passes)]
        if _run(words):
            raise UserError(f"the recipe failed at learning rate {rate:g}", where=folder)
        form = form_of(str(folder))
        engine = _engine(folder, form.chat_template_kwargs)
        value, error = accuracy(engine, validation, options["stage"], form.prompts)
        return Point(rate, passes, value, error, len(validation))

    config: dict[str, Any] = {"recipe": recipe, "arguments": extra, "data": file_hash(train)}
    config |= {"chat": chat.template_settings(), "validation": scenes_hash(list(validation))}
    config |= {"file": _content(recipe_arguments)}
    epochs = [int(number) for number in options["epochs"]]
    rates = options["learning_rates"] or LEARNING_RATES[recipe]
    points = run_grid(output, rates, epochs, trial, config)
    chosen = best(points)
    write_json(
        output / "sweep.json",
        {"best": asdict(chosen), "points": [asdict(point) for point in points], **config},
    )
    plots.sweep_lines([asdict(point) for point in points], output / "sweep.png")
    return points


def _run(words: Sequence[str]) -> int:
    """Run a recipe in a process of its own; return its exit status.

    What it prints goes to standard error: standard output is for the result.
    """
    return subprocess.run(words, stdout=2, check=False).returncode


def _write_split(output: Path, options: Mapping[str, Any]) -> tuple[Path, Dataset]:
    """Write the rows to train on to `train.parquet`; return it and the validation scenes."""
    from usermirrorer.recipes.data import DataArguments, load_source

    source = DataArguments(options["dataset"], options["revision"], stage=options["stage"])
    behind = DataArguments(options["scenes"] or options["dataset"], options["revision"], "scenes")
    scenes = load_source(behind)
    if "user_id" not in scenes.column_names:
        raise UserError(
            "column user_id is missing", where=behind.dataset_name, fix="Give --scenes."
        )
    share, most = options["validation_share"], options["validation_scenes"]
    train, validation = split(load_source(source), scenes, share, most)
    path = output / "train.parquet"
    with atomic(path) as temporary:
        train.to_parquet(temporary)
    return path, validation


def _engine(folder: Path, chat_template_kwargs: str = "") -> Engine:
    from usermirrorer.builders.decisions.engines.registry import load_engine

    return load_engine(str(folder), "auto", folder.name, chat_template_kwargs=chat_template_kwargs)


def _content(recipe_arguments: Sequence[str]) -> str:
    """Return a hash of the recipe's --config; "" without one."""
    from usermirrorer.recipes.data import packaged

    words = list(recipe_arguments)
    if "--config" not in words[:-1]:
        return ""
    path = packaged(words[words.index("--config") + 1])
    return file_hash(path) if path.is_file() else ""


def _show(points: Sequence[Point], output: Path) -> None:
    chosen, rows = best(points), []
    for point in points:
        cells = [f"{point.learning_rate:g}", str(point.epochs)]
        cells += [f"{100 * point.accuracy:.1f}", f"{100 * point.stderr:.1f}"]
        rows.append([*cells, "best" if point == chosen else ""])
    show(("Learning rate", "Epochs", "Accuracy (%)", "Standard error", ""), rows)
    click.echo(f"{chosen.scenes} scenes of held-out users; {output / 'sweep.json'}, sweep.png")
