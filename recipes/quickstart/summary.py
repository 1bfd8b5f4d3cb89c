"""What the main job made and learnt: one table and one picture."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from usermirrorer.builders.common import storage, tables
from usermirrorer.recipes.job import Job
from usermirrorer.recipes.quickstart.plan import REPO, Plan, Row

if TYPE_CHECKING:
    from usermirrorer.eval_harness.metrics import Estimate

#: Baseline of the audit -> what the table calls it. All but the last are what a score is held
#: against; the last reads every feature of every train scene and shows how much there is to learn.
BASELINES = {
    "chance": "chance",
    "most_popular": "most popular",
    "no_history": "learned without history",
    "sequential": "what others took next",
    "collaborative": "collaborative filter",
    "item_item": "item-item neighbours",
    "all_features": "gradient boosting on all features",
}
_CEILING = "all_features"
#: Metric of the simulator's direct task -> what the table calls it.
_SIMULATOR = {
    "acc": "simulator, trained",
    "acc_no_history": "simulator without the history",
    "acc_swapped": "simulator with another's history",
    "acc_placebo": "simulator on placebo scenes",
}


def learnt(job: Job, plan: Plan, facts: Row) -> Row:
    """Compare base, simulator and every baseline on the same test scenes, paired by user.

    Returns:
        `rows`: `name`, `kind`, `value`, `lower`, `upper` of each; `against`: name -> difference of
        the simulator to it in accuracy, with its interval and p-value; `added`: baseline -> what
        the simulator knows beyond it, see `eval_harness/added.py`; `picture`: alt text.
    """
    from usermirrorer.eval_harness.metrics import mean, paired_test
    from usermirrorer.model_cards import plots

    simulator, base = (_scenes_of(job, name, plan) for name in ("simulator", "base"))
    ids = [name for name in simulator if name in base]
    users = [simulator[name]["user_id"] for name in ids]
    values: dict[str, tuple[str, list[float]]] = {}
    told = storage.read_json(job.out / "baselines.json")
    for key, title in BASELINES.items():
        values[title] = ("baseline", [told[name][key]["right"] for name in ids])
    values["base model"] = ("model", [base[name]["acc"] for name in ids])
    for metric, title in _SIMULATOR.items():
        kind = "result" if metric == "acc" else "ablation"
        if all(metric in simulator[name] for name in ids):
            values[title] = (kind, [simulator[name][metric] for name in ids])
    own = values[_SIMULATOR["acc"]][1]
    against = {
        title: asdict(paired_test(other, own, users))
        for title, (_, other) in values.items()
        if title != _SIMULATOR["acc"]
    }
    rows = [_row(title, kind, mean(v, users, "share")) for title, (kind, v) in values.items()]
    figures = job.out / "figures"
    picture = plots.compared_bars(rows, rows[0]["value"], figures / "learnt.png")
    made = {"rows": rows, "against": against, "added": _added(job, told, users, ids)}
    return made | {"picture": picture, "scenes": len(ids)}


def _added(job: Job, told: Mapping[str, Any], users: list[str], ids: list[str]) -> Row:
    """Return baseline -> what the simulator knows beyond it; {} of one user's scenes alone."""
    from usermirrorer.eval_harness.added import added
    from usermirrorer.eval_harness.analysis.answers import read_run

    if len(set(users)) < 2:
        return {}
    answers = read_run(str(job.out / "scores" / "simulator")).answers
    truths = [answers[name].scene.answer for name in ids]
    likely = [answers[name].expected for name in ids]
    return {
        title: asdict(added([told[n][key]["scores"] for n in ids], likely, truths, users))
        for key, title in BASELINES.items()
    }


def _row(title: str, kind: str, estimate: Estimate) -> Row:
    known = title != BASELINES["chance"]  # without error
    lower, upper = (estimate.low, estimate.high) if known else (estimate.value, estimate.value)
    return {"name": title, "kind": kind, "value": estimate.value, "lower": lower, "upper": upper}


def _scenes_of(job: Job, model: str, plan: Plan) -> dict[str, dict[str, Any]]:
    """Return scene id -> metrics of a model's direct task."""
    from usermirrorer.eval_harness.results import read_results, read_samples

    task = f"usermirror-direct_{plan.source}"
    scores = read_results(job.out / "scores" / model)
    return read_samples(next(score for score in scores if score.task == task))


def verdict(learnt: Mapping[str, Any]) -> str:
    """Say in words what the table shows.

    Args:
        learnt: From `learnt`.
    """
    against = {name: row for name, row in learnt["against"].items() if name in _RIVALS}
    above = [name for name, row in against.items() if row["low"] > 0]
    below = [name for name, row in against.items() if row["high"] < 0]
    open_ = [name for name in against if name not in (*above, *below)]
    parts = [f"The simulator is right more often than {_and(above)}"] if above else []
    parts += [f"not told apart from {_and(open_)} by these scenes"] if open_ else []
    parts += [f"right less often than {_and(below)}"] if below else []
    text = "; ".join(parts) + "."
    knows = {name: row["bits"]["low"] > 0 for name, row in learnt["added"].items()}
    if more := [name for name, known in knows.items() if known]:
        text += f" Read together with each, it adds to {_and(more)}"
        less = [name for name, known in knows.items() if not known]
        text += f"; not shown for {_and(less)}." if less else "."
    swapped = learnt["against"].get(_SIMULATOR["acc_swapped"])
    if swapped is not None:
        read = "reads the person" if swapped["low"] > 0 else "is not shown to read the person"
        text += (
            f" It {read}: with another's history it loses {100 * swapped['difference']:.1f} points"
            f" [{100 * swapped['low']:+.1f}, {100 * swapped['high']:+.1f}]."
        )
    return text[0].upper() + text[1:]


_RIVALS = [title for key, title in BASELINES.items() if key != _CEILING] + ["base model"]


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def show(job: Job, plan: Plan, facts: Row) -> None:
    """Print what was made, what was learnt, and where everything is."""
    _show_made(facts)
    _show_learnt(job, facts["learnt"])
    _show_decisions(job, plan, facts["scores"])
    _show_places(job, plan, facts)


def _show_made(facts: Row) -> None:
    check, counts = facts["simulator"]["check"], facts["scenes"]
    rows = [("raw interactions", f"{counts['interactions']:,}")]
    for split in ("train", "test"):
        made = counts[split]
        rows.append((f"{split} scenes", f"{made['scenes']:,} of {made['users']:,} users"))
    rows.append(("audit of the exposures", str(facts["audit"]["verdict"])))
    rows.append(("scenes that the simulator learnt from", f"{facts['simulator']['scenes']:,}"))
    for role in ("weak", "strong"):
        told = facts["decided"][role]
        text = (
            f"{told['decisions']:,}, {told['malformed']:,} malformed; "
            f"{told['tokens_in']:,} tokens in, {told['tokens_out']:,} out"
        )
        rows.append((f"decisions, {role} model", text))
    rows.append(("preference pairs kept", f"{facts['pairs']['fate']['pairs']:,}"))
    difference = check["difference"]
    text = (
        f"{100 * check['strong']['value']:.1f} % against {100 * check['weak']['value']:.1f} %, "
        f"difference {100 * difference['difference']:+.1f} "
        f"[{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}] points, "
        f"{difference['n']} scenes"
    )
    rows.append(("strong over weak on train users' scenes", text))
    tables.show(("What was made", ""), rows, err=True)


def _show_learnt(job: Job, learnt: Row) -> None:
    rows, styles = [], []
    for row in learnt["rows"]:
        against = learnt["against"].get(row["name"])
        difference = ""
        if against:
            low, high = 100 * against["low"], 100 * against["high"]
            difference = f"{100 * against['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
        interval = f"{100 * row['lower']:.1f} to {100 * row['upper']:.1f}"
        interval = "" if row["name"] == "chance" else interval
        bits = learnt["added"].get(row["name"], {}).get("bits")
        adds = (
            f"{bits['difference']:+.2f} [{bits['low']:+.2f}, {bits['high']:+.2f}]" if bits else ""
        )
        rows.append((row["name"], f"{100 * row['value']:.1f}", interval, difference, adds))
        styles.append({"result": "bold", "baseline": "dim"}.get(row["kind"], ""))
    title = f"What was learnt: right choices on {learnt['scenes']} test scenes of other users"
    head = ("", "right %", "95 % interval", "simulator minus this, points", "adds to it, bits")
    tables.show(head, rows, title=title, styles=styles, err=True)
    job.console.print(verdict(learnt), soft_wrap=True)
    picture = job.out / "figures" / "learnt.png"
    job.console.print(f"[dim]The same as a picture: {picture}[/]", soft_wrap=True)


def _show_decisions(job: Job, plan: Plan, scores: list[Row]) -> None:
    task = f"usermirror_{plan.source}"
    told = []
    for name in ("sft", "dpo"):
        row = next(
            (r for r in scores if (r["model"], r["task"], r["metric"]) == (name, task, "acc")), None
        )
        if row:
            interval = f"{100 * row['lower']:.0f} to {100 * row['upper']:.0f}"
            told.append(f"{name} {100 * row['value']:.0f} % ({interval})")
    job.console.print(
        f"\nWith decision processes, {plan.decision_test_scenes} test scenes: {', '.join(told)}. "
        "So few scenes show that the line runs, not what SFT and DPO on decision processes add.",
        soft_wrap=True,
    )


def _show_places(job: Job, plan: Plan, facts: Row) -> None:
    print_ = functools.partial(job.console.print, soft_wrap=True)
    total = sum(facts["seconds"].values())
    print_(f"\nTook {total / 60:.1f} minutes. Everything is in {job.out}:")
    print_(
        "  release/  the dataset as published   models/       simulator, sft and dpo, with cards"
    )
    print_("  scores/   lm_eval's own files        summary.json  these numbers")
    print_("\nServe it and load it with the plain clients:")
    print_(f"  usermirrorer hub serve --root {job.out / 'hub'} --port 7861 &")
    print_(
        f'  HF_ENDPOINT=http://127.0.0.1:7861 python -c "from datasets import load_dataset; '
        f"print(load_dataset('{REPO}', revision='v{plan.version}'))\"",
        highlight=False,
        markup=False,
    )
