"""All steps of appendix C.3, each done once: split, train, show, choose, add, learn, measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.raw import tables as raw_tables
from usermirrorer.builders.raw.source import Source, Tables
from usermirrorer.recipes.interact import arms, environment, exposures, measures, splits, trained
from usermirrorer.recipes.interact.exposures import Shown
from usermirrorer.recipes.interact.hyperparameters import Schedule, settings
from usermirrorer.recipes.interact.splits import Split
from usermirrorer.recipes.job import Job

Row = dict[str, Any]
_PART = 64  # scenes that a kill can cost


@dataclass(frozen=True)
class Plan:
    """What is run.

    Args:
        recommenders: Their names.
        simulators: What each is called -> part, folder, Hub id or address of a server.
        users: People at most (0: all that trained no simulator).
        seeds: How often everything is trained.
        schedule: How long.
        stated: Simulator -> what it was trained on, where its record does not say.
        prompts: Prompt templates for simulators that have none of their own.
        mode: Asks all simulators so, whatever they were trained for.
        dtype: In which simulators compute.
        ray: Spread recommenders over a cluster.
    """

    recommenders: tuple[str, ...]
    simulators: Mapping[str, str]
    users: int = 100
    seeds: int = 2
    schedule: Schedule = field(default_factory=Schedule)
    stated: Mapping[str, str] = field(default_factory=dict)
    prompts: Path | None = None
    mode: str | None = "direct"
    dtype: str = "auto"
    ray: bool = False

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Every recommender with every seed."""
        return [(name, seed) for seed in range(self.seeds) for name in self.recommenders]


@dataclass(frozen=True)
class World:
    """The log of the people of a run, and where things go."""

    job: Job
    plan: Plan
    source: Source
    tables: Tables
    split: Split
    log: Path


def run(source: Source, raw: Path, out: Path, plan: Plan) -> Row:
    """Do what is not done yet and return the results; `OUT/results.json` keeps them.

    Args:
        source: Whose feedback.
        raw: Its raw files.
        out: Folder of the run.
        plan: What is run.

    Raises:
        UserError: if an input is bad, or a step failed.
    """
    environment.python()
    clash = sorted(set(plan.simulators) & set(arms.CONTROLS))
    if clash:
        raise UserError(f"a control is called {clash[0]!r}", where="--simulators")
    left_out = {
        name: trained.users_of(name, model, source.name, plan.stated)
        for name, model in plan.simulators.items()
    }
    job = Job(out)
    raw_tables.write(source, raw, out / "tables")
    tables = raw_tables.read(out / "tables")
    everyone = frozenset().union(*left_out.values())
    split = splits.split(tables, everyone, users=plan.users, seed=0)
    log = out / "log.parquet"
    storage.write_table(log, split.log.to_arrow())
    world = World(job, plan, source, tables, split, log)
    before = _train(world, "recommenders learn", {run: None for run in plan.runs})
    lists = {run: _shown(world, run, folder) for run, folder in before.items()}
    chosen = {name: _simulated(world, name, lists) for name in plan.simulators}
    picked = _picked(world, lists, chosen)
    after = _again(world, lists, picked)
    results = _results(world, before, lists, chosen, picked, after)
    results["people"] |= {"trained": {name: len(users) for name, users in left_out.items()}}
    storage.write_json(out / "results.json", results)
    return results


Run = tuple[str, int]


def _train(world: World, text: str, extras: Mapping[Any, Path | None]) -> dict[Any, Path]:
    """Train recommenders on the log and what is added to it; keys begin with name and seed."""
    tasks: list[Row] = []
    folders: dict[Any, Path] = {}
    code = storage.file_hash(environment.WORKER)
    log_hash = storage.file_hash(world.log)
    for key, extra in extras.items():
        task: Row = {
            "model": key[0],
            "seed": key[1] + 1,
            "settings": settings(key[0], world.plan.schedule),
            "top": exposures.ASKED,
        }
        made_from = [task, log_hash, storage.file_hash(extra) if extra else "", code]
        folder = world.job.out / "trained" / f"{key[0]}-{storage.fingerprint(made_from)}"
        folders[key] = folder
        places = {"log": str(world.log), "extra": str(extra) if extra else None}
        if str(folder) not in {one["out"] for one in tasks}:
            tasks.append({**task, **places, "out": str(folder), "name": folder.name})
    with world.job.bar(text, len(tasks)) as advance:
        environment.train(
            tasks, world.job.out / "logs", text.replace(" ", "-"), advance, ray=world.plan.ray
        )
    return folders


def _shown(world: World, run: Run, folder: Path) -> Shown:
    top = pl.read_parquet(folder / "exposures.parquet")
    seed = [run[1], *run[0].encode()]
    return exposures.shown(top, world.split, world.tables, seed)


def _simulated(world: World, name: str, lists: Mapping[Run, Shown]) -> Row:
    """Ask a simulator about the lists of all runs; return rank and probabilities by run."""
    from usermirrorer.recipes.simulator import Simulator
    from usermirrorer.recipes.simulator.questions import from_scene
    from usermirrorer.recipes.simulator.stored import key_of, write_choices

    plan = world.plan
    simulator = Simulator.from_pretrained(
        plan.simulators[name],
        prompts=_prompts(plan, name),
        mode=plan.mode,  # type: ignore[arg-type]
        dtype=plan.dtype,
        lazy=True,
    )
    how = simulator.asking()
    questions = []
    for run, shown in lists.items():
        named = f"{run[0]}|{run[1]}"
        rows = exposures.scenes(shown, named, world.split, world.source, world.tables).to_pylist()
        questions += [from_scene(row) for row in rows]
    output = world.job.out / "choices" / f"{name}.parquet"
    clock = output.with_name(f".{name}.seconds.json")
    key = storage.fingerprint(key_of(questions, simulator, how))
    with world.job.bar(f"{name} chooses", len(questions)) as advance:
        progress = _timed(clock, key, advance)
        write_choices(questions, simulator, how, output, part_scenes=_PART, progress=progress)
    table = storage.read_table(output, ["behavior", "probabilities", "decisions"])
    labels = np.array(table["behavior"].to_pylist()).reshape(len(lists), -1)
    likely = np.array(table["probabilities"].to_pylist()).reshape(*labels.shape, -1)
    cost = _cost(world, name, simulator, how, questions, table, clock, key)
    ranks, by_rank = {}, {}
    for number, (run, shown) in enumerate(lists.items()):
        ranks[run], by_rank[run] = exposures.by_rank(shown, labels[number], likely[number])
    first_label = float((labels == 0).mean())
    return {"ranks": ranks, "by_rank": by_rank, "cost": cost, "first_label": first_label}


def _prompts(plan: Plan, name: str) -> Path | None:
    """Return the prompts of a simulator that has none of its own."""
    from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS
    from usermirrorer.recipes.simulator import form

    if plan.prompts is None or form.is_address(plan.simulators[name]):
        return plan.prompts
    _, place = form.spec_of(plan.simulators[name])
    own = form.form_of(place).prompts
    return plan.prompts if own == DEFAULT_PROMPTS else None


def _timed(
    clock: Path, key: str, advance: Callable[[int, bool], None]
) -> Callable[[int, bool], None]:
    """Return progress that keeps what each part took, so that a kill loses none of it."""
    kept = _clock(clock, key)
    last = time.monotonic()

    def progress(scenes: int, resumed: bool) -> None:
        nonlocal last
        now = time.monotonic()
        if not resumed:
            kept["scenes"] += scenes
            kept["seconds"] += now - last
            storage.write_json(clock, kept)
        last = now
        advance(scenes, resumed)

    return progress


def _clock(clock: Path, key: str) -> Row:
    """Return how many scenes were asked in how many seconds, of the same questions alone."""
    kept = storage.read_json(clock) if clock.is_file() else {}
    return dict(kept) if kept.get("key") == key else {"key": key, "scenes": 0, "seconds": 0.0}


def _cost(
    world: World,
    name: str,
    simulator: Any,
    how: Any,
    questions: Sequence[Any],
    table: Any,
    clock: Path,
    key: str,
) -> Row:
    """Return tokens and seconds per 1,000 simulated people; a resumed run keeps them."""
    record = world.job.out / "choices" / f".{name}.cost.json"
    if record.is_file() and (kept := storage.read_json(record)).get("key") == key:
        return dict(kept["cost"])
    from usermirrorer.builders.decisions.prompts import fit
    from usermirrorer.builders.decisions.stage import room

    engine, prompts = simulator.engine, simulator.form.prompts
    free = room(engine, how.room)
    sample = questions[:: max(1, len(questions) // 100)]
    counts = [
        engine.count(fit(one.scene(), engine.count, free, prompts, how.mode)) for one in sample
    ]
    written = [sum(d["tokens_out"] for d in row) for row in table["decisions"].to_pylist()]
    took = _clock(clock, key)
    cost = {
        "tokens_in": round(1000 * float(np.mean(counts)) * how.samples),
        "tokens_out": round(1000 * float(np.mean(written))),
        "seconds": round(1000 * took["seconds"] / took["scenes"], 1) if took["scenes"] else None,
    }
    storage.write_json(record, {"key": key, "cost": cost})
    return cost


def _picked(
    world: World, lists: Mapping[Run, Shown], chosen: Mapping[str, Row]
) -> dict[tuple[str, int, str], np.ndarray]:
    """Return the rank that each arm picks of each list."""
    picked = {}
    for run, shown in lists.items():
        seed = [run[1], *run[0].encode()]
        for control in arms.CONTROLS:
            picked[*run, control] = arms.ranks_of(control, shown.ranked, world.split, seed)
        for name, choices in chosen.items():
            picked[*run, name] = choices["ranks"][run]
    return picked


def _again(
    world: World,
    lists: Mapping[Run, Shown],
    picked: Mapping[tuple[str, int, str], np.ndarray],
) -> dict[Any, Path]:
    extras: dict[Any, Path | None] = {}
    for key, ranks in picked.items():
        added = arms.additions(ranks, lists[key[:2]].ranked, world.split)
        name = f"{key[0]}-{key[1]}-{key[2].replace(' ', '-')}.parquet"
        path = world.job.out / "added" / name
        storage.write_table(path, added.to_arrow())
        extras[key] = path if len(added) else None
    return _train(world, "recommenders learn again", extras)


def _results(
    world: World,
    before: Mapping[Run, Path],
    lists: Mapping[Run, Shown],
    chosen: Mapping[str, Row],
    picked: Mapping[tuple[str, int, str], np.ndarray],
    after: Mapping[Any, Path],
) -> Row:
    plan, split = world.plan, world.split
    test = split.log.filter(pl.col("part") == "test").select("user", "item")
    people = len(split.users)
    values = {
        key: measures.per_user(pl.read_parquet(folder / "test.parquet"), test, people)
        for key, folder in after.items()
    }
    names = [*arms.CONTROLS, *plan.simulators]
    scored = {
        recommender: {
            name: np.mean([values[recommender, seed, name] for seed in range(plan.seeds)], axis=0)
            for name in names
        }
        for recommender in plan.recommenders
    }
    trained_for = [storage.read_json(folder / "result.json") for folder in after.values()]
    parts = {part: int(n) for part, n in split.log.group_by("part").len().iter_rows()}
    return {
        "source": world.source.name,
        "plan": {**asdict(plan), "schedule": asdict(plan.schedule), "prompts": str(plan.prompts)},
        "people": {"used": people, "removed": split.removed, "short": split.short},
        "log": {**parts, "items": len(split.items)},
        "scores": {r: _rows(own, plan) for r, own in scored.items()},
        "over_all": _over_all(scored, plan),
        "fidelity": _fidelity(world, lists, chosen),
        "popularity": _popularity(world, lists, picked, names),
        "first_label": {name: row["first_label"] for name, row in chosen.items()},
        "cost": {name: row["cost"] for name, row in chosen.items()},
        "training_seconds": round(sum(row["seconds"] for row in trained_for), 1),
        "epochs": {
            key[0]: storage.read_json(folder / "result.json")["epochs"]
            for key, folder in before.items()
        },
    }


def _rows(own: Mapping[str, np.ndarray], plan: Plan) -> Row:
    """Return the means of each arm, and differences of simulators to no addition and controls."""
    rows: Row = {}
    for name, values in own.items():
        means = values.mean(axis=0)
        start = own["none"].mean(axis=0)
        rows[name] = {
            "mean": dict(zip(measures.METRICS, means.tolist(), strict=True)),
            "improve": {
                metric: measures.improvement(float(a), float(b))
                for metric, a, b in zip(measures.METRICS, means, start, strict=True)
            },
            "against": _against(own, name),
        }
    return rows


def _against(own: Mapping[str, np.ndarray], name: str) -> Row:
    """Return paired differences in NDCG@10 to every control, with their intervals."""
    column = measures.METRICS.index("N@10")
    return {
        control: measures.difference(own[name][:, column], own[control][:, column])
        for control in arms.CONTROLS
        if control != name
    }


def _over_all(scored: Mapping[str, Mapping[str, np.ndarray]], plan: Plan) -> Row:
    """Return the same over all recommenders: each person's mean over them."""
    names = [*arms.CONTROLS, *plan.simulators]
    own = {name: np.mean([scored[r][name] for r in scored], axis=0) for name in names}
    return _rows(own, plan)


def _fidelity(world: World, lists: Mapping[Run, Shown], chosen: Mapping[str, Row]) -> Row:
    """Return whether simulators order the recommenders as people who took things later do.

    A simulator's view of a list is the gain 1 / log2(1 + rank), expected over its choice; people's
    is NDCG@10 of the same list against all that they took later.
    """
    gains = 1 / np.log2(np.arange(2, exposures.OPTIONS + 2))
    plan, people = world.plan, len(world.split.users)
    later = world.split.log.filter(pl.col("part") != "train").select("user", "item")
    real, column = [], measures.METRICS.index("N@10")
    for name in plan.recommenders:
        own = [measures.per_user(_as_top(lists[name, s]), later, people) for s in range(plan.seeds)]
        real.append(np.mean(own, axis=0)[:, column])
    views_of: Row = {"people": dict(zip(plan.recommenders, map(_mean, real), strict=True))}
    for simulator, row in chosen.items():
        views = [
            np.mean([row["by_rank"][name, s] @ gains for s in range(plan.seeds)], axis=0)
            for name in plan.recommenders
        ]
        views_of[simulator] = {
            "gain": dict(zip(plan.recommenders, map(_mean, views), strict=True)),
            "agreement": measures.order_agreement(np.stack(views, 1), np.stack(real, 1)),
        }
    return views_of


def _mean(values: np.ndarray) -> float:
    return float(values.mean())


def _as_top(shown: Shown) -> pl.DataFrame:
    people, length = shown.ranked.shape
    return pl.DataFrame(
        {
            "user": np.repeat(np.arange(people), length),
            "rank": np.tile(np.arange(length), people),
            "item": shown.ranked.ravel(),
        }
    )


def _popularity(
    world: World,
    lists: Mapping[Run, Shown],
    picked: Mapping[tuple[str, int, str], np.ndarray],
    names: Sequence[str],
) -> Row:
    """Return what each arm's additions do to popularity, as a mean over runs."""
    later = world.split.log.filter(pl.col("part") != "train").sort("user", "place")
    real = later.group_by("user", maintain_order=True).first()["item"].to_numpy()
    taken = arms.popularity(world.split)
    rows: Row = {"real log": measures.log_facts(real, taken, real)}
    for name in names:
        if name == "none":
            continue
        every = []
        for run, shown in lists.items():
            ranks = picked[*run, name]
            some = np.flatnonzero(ranks != arms.NOTHING)
            every.append(measures.log_facts(shown.ranked[some, ranks[some]], taken, real))
        rows[name] = {key: float(np.nanmean([one[key] for one in every])) for key in every[0]}
    return rows
