"""What a run will take, before it does: `--list` and `--dry-run`.

Hours are tokens over tokens a second that were measured: by us (`rates.yaml`), in this folder
(`decide` writes `*.stats.json`), or by you (--rate). Of a model that nobody measured there are
tokens, but no hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.storage import read_json
from usermirrorer.builders.common.tables import show, show_json
from usermirrorer.recipes.reproduce.parts import Part, recommenders
from usermirrorer.recipes.reproduce.plan import Step
from usermirrorer.recipes.reproduce.runner import Run

#: Model, with `train ` before it where it is trained -> tokens a second of one device.
Rates = dict[str, float]
_MEASURED = Path(__file__).parent / "rates.yaml"


def rates(out: Path, given: Sequence[str]) -> Rates:
    """Return tokens a second by model: as given (MODEL=NUMBER), else measured in `out`, or by us.

    Raises:
        UserError: if a number is none.
    """
    ours = yaml.safe_load(_MEASURED.read_text(encoding="utf-8"))
    known: Rates = {name: float(row["rate"]) for name, row in ours.items()}
    for path in sorted((out / "steps").glob("*/decisions.parquet.stats.json")):
        stats: dict[str, Any] = read_json(path)
        seconds = float(stats.get("seconds") or 0)
        if seconds and stats.get("tokens_out") and stats.get("model"):
            known[str(stats["model"])] = float(stats["tokens_out"]) / seconds
    for word in given:
        role, _, number = word.partition("=")
        try:
            known[role] = float(number)
        except ValueError:
            raise UserError(f"{word!r} is not MODEL=NUMBER", where="--rate") from None
        if not known[role] > 0:
            raise UserError(f"{word!r} is not above 0", where="--rate")
    return known


def hours(run: Run, steps: Iterable[Step], known: Rates) -> tuple[float, float, list[str]]:
    """Return tokens, device hours of those whose rate is known, and the models without one."""
    tokens: dict[str, float] = {}
    for step in steps:
        for role, count in step.tokens.items():
            verb = "train " if role.startswith("train ") else ""
            model = verb + str(run.plan.settings["models"][role.removeprefix(verb)])
            tokens[model] = tokens.get(model, 0.0) + count
    lacking = sorted(role for role in tokens if role not in known)
    spent = sum(count / known[role] / 3600 for role, count in tokens.items() if role in known)
    return sum(tokens.values()), spent, lacking


def _effort(run: Run, steps: Iterable[Step], known: Rates) -> tuple[str, str]:
    tokens, spent, lacking = hours(run, steps, known)
    text = f"{spent:,.1f}" if not lacking else f"? (no rate of {', '.join(lacking)})"
    return f"{tokens / 1e6:,.2f}", text if tokens else "0"


_HEADS = ("item", "section", "models", "missing", "steps done", "M tokens left", "hours left")


def show_list(run: Run, items: Sequence[str], known: Rates, *, as_json: bool = False) -> None:
    """Print what each item needs, and what of it is here."""
    rows = _listed(run, items, known)
    if as_json:
        show_json([dict(zip(_HEADS, row, strict=True)) for row in rows])
        return
    show(_HEADS, rows, title=f"Scale {run.plan.scale}: {run.plan.settings.get('about', '')}")
    _show_parts(run, items)


def _listed(run: Run, items: Sequence[str], known: Rates) -> list[list[str]]:
    rows = []
    for name in items:
        item = run.plan.items[name]
        steps = run.plan.closure(item.needs)
        parts = _parts(run, steps.values())
        left = [step for n, step in steps.items() if n not in run.state.done]
        tokens, spent = _effort(run, left, known)
        ready = sum(n in run.state.done for n in steps)
        rows.append(
            [
                name,
                item.section,
                ", ".join(sorted(t.partition(":")[2] for t in parts if t.startswith("model:"))),
                ", ".join(t for t, lacks in parts.items() if lacks) or "nothing",
                f"{ready} of {len(steps)}",
                tokens,
                spent,
            ]
        )
    return rows


def _parts(run: Run, steps: Iterable[Step]) -> dict[str, str]:
    """Return each part that the steps take from outside, and what to do if it is missing."""
    targets = sorted({r.target for step in steps for r in step.references if r.outside})
    looked = {target: run.parts.look(target) for target in targets}
    return {target: "" if part.here else part.fix for target, part in looked.items()}


def _show_parts(run: Run, items: Sequence[str]) -> None:
    rows = []
    for part in needed_parts(run, items):
        state = "here" if part.here else "missing" if part.fix else "fetched on use"
        rows.append([part.target.replace(":", " "), part.wanted, state, part.fix])
    show(("part", "what", "state", ""), rows, title="Models, data and environments")


def needed_parts(run: Run, items: Sequence[str]) -> list[Part]:
    """Return what the items take from outside: models, data, and the recommenders' environment."""
    steps = run.plan.closure(n for name in items for n in run.plan.items[name].needs).values()
    found = [run.parts.look(target) for target in _parts(run, steps)]
    if any(step.words[:2] == ("usermirrorer", "interact") for step in steps):
        found.append(recommenders())
    return found


def show_graph(run: Run, items: Sequence[str], known: Rates) -> None:
    """Print every step in order: whether it is done, its command, tokens and hours.

    Raises:
        UserError: if a model or data is missing, naming the item and the step.
    """
    names = [n for name in items for n in run.plan.items[name].needs]
    steps = run.plan.closure(names)
    for name, step in steps.items():
        state = "done" if name in run.state.done else "to run"
        words = run.command(step, run.out / "steps" / f"{name}.work")
        click.echo(f"{name} [{state}]  after: {', '.join(step.needs) or '-'}")
        gpus = f"; {step.gpus} GPUs" if step.gpus else ""
        tokens, spent = _effort(run, [step], known)
        if step.tokens:
            click.echo(f"    {tokens} M tokens{gpus}; {spent} hours of one device")
        click.echo(f"    {' '.join(_quoted(words))}")
    left = [step for name, step in steps.items() if name not in run.state.done]
    tokens, spent = _effort(run, left, known)
    click.echo(f"{len(steps)} steps, {len(left)} to run; {tokens} M tokens; {spent} hours")
    if run.plan.settings.get("never_run"):
        click.echo("The plans of this scale have never been run by us.")
    _refuse_missing(run, items, steps)


def _quoted(words: Iterable[str]) -> list[str]:
    import shlex

    return [shlex.quote(word) for word in words]


def _refuse_missing(run: Run, items: Sequence[str], steps: Mapping[str, Step]) -> None:
    missing = {target: fix for target, fix in _parts(run, steps.values()).items() if fix}
    for target, fix in missing.items():
        name, step = next(
            (item, step.name)
            for item in items
            for step in run.plan.closure(run.plan.items[item].needs).values()
            if target in {r.target for r in step.references}
        )
        click.echo(f"missing: {target.replace(':', ' ')}, for step {step} of {name}. {fix}")
    if missing:
        raise UserError(f"{len(missing)} parts are missing: {', '.join(missing)}")
