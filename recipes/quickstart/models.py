"""The release on a local Hub to trained, scored and published models."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from usermirrorer.builders.common import storage
from usermirrorer.builders.common.errors import UserError
from usermirrorer.recipes.job import Job, lines
from usermirrorer.recipes.quickstart.dataset import recipe
from usermirrorer.recipes.quickstart.plan import PROMPTS, REPO, Plan, Row

DECISIONS = 5  # a scene at evaluation (section 4.1), as the tasks have it


#: The trained models, in the order in which each starts from the one before.
TRAINED = ("simulator", "sft", "dpo")


def make_models(job: Job, plan: Plan, facts: Row) -> Row:
    """Publish the release on a local Hub, load it back, train, score and publish models."""
    from usermirrorer.hub.local import running

    release = facts["release"]
    with running(job.out / "hub") as hub:
        environment = hub.environment(job.out / "hf-home")

        def publish() -> Row:
            return _publish(job, plan, job.out / "release", REPO, environment, "manifest.json")

        job.step("publish dataset", release, publish)
        loaded = job.step("load dataset back", release, lambda: _load_back(job, plan, environment))
        models = _train(job, plan, facts, environment)
        scores = _evaluate(job, plan, models, release, environment)
        published = job.step(
            "publish models",
            [models, scores],
            lambda: _publish_models(job, plan, models, scores, environment),
        )
    return {"loaded": loaded, "scores": scores, "published": published}


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


def _train(job: Job, plan: Plan, facts: Row, environment: dict[str, str]) -> Row:
    """SFT on chosen decisions from the simulator on, then DPO; pairs are read from the Hub."""
    folder, release, simulator = job.out / "models", facts["release"], facts["simulator"]
    data = ["--dataset_name", REPO, "--dataset_revision", f"v{plan.version}"]
    rows: Row = {
        "base": {"folder": facts["parts"]["weak"], "revision": facts["parts"]["weak_revision"]},
        "simulator": {"folder": simulator["folder"], "revision": simulator["revision"]},
    }
    before = simulator["folder"]
    for stage, steps in (("sft", plan.sft_steps), ("dpo", plan.dpo_steps)):
        target = folder / stage

        def work(stage: str = stage, steps: int = steps, before: str = before) -> Row:
            more = [*data, "--max_steps", str(steps), "--warmup_steps", str(steps // 10)]
            recipe(job, plan, stage, stage, before, str(folder / stage), more, environment)
            record = storage.read_json(folder / stage / "train_run.json")
            return {"folder": str(folder / stage), "revision": record["key"]}

        made_from = [release, simulator["revision"], steps, plan.seed]
        rows[stage] = job.step(f"train {stage}", made_from, work)
        before = str(target)
    return rows


def _evaluate(
    job: Job, plan: Plan, models: Row, release: Row, environment: dict[str, str]
) -> list[Row]:
    """Score by `lm_eval`: base and simulator directly, what SFT and DPO made with decisions.

    Each ablation asks for every scene once more, and each order of the options too. So the
    simulator alone is asked without the history, with another's and on placebo scenes, and (with
    `every_order`) in all orders: it is the one that has to show taste, not a liking for a label.
    """
    from usermirrorer.eval_harness.results import card_rows, read_results

    direct = {f"usermirror-direct_{plan.source}": plan.test_scenes}
    decision = {f"usermirror_{plan.source}": plan.decision_test_scenes}
    tasks = {"base": direct, "simulator": direct, "sft": decision, "dpo": decision}
    rows: list[Row] = []
    for name, model in models.items():
        output = job.out / "scores" / name

        def work(name: str = name, model: Row = model, output: Path = output) -> Row:
            whole = name == "simulator"
            _lm_eval(job, plan, model["folder"], tasks[name], output, whole, environment)
            return {"rows": card_rows(read_results(output), name)}

        made_from = [release, model, tasks[name], plan.guided, plan.thought_tokens, plan.dtype]
        made_from += [plan.every_order]
        rows += job.step(f"score {name}", made_from, work)["rows"]
    return rows


def _lm_eval(
    job: Job,
    plan: Plan,
    model: str,
    tasks: dict[str, int],
    output: Path,
    whole: bool,
    environment: dict[str, str],
) -> None:
    """Score a model by `lm_eval` on the first so many scenes of each task.

    `whole`: with ablations, and with the options in every order if the plan says so.
    """
    metadata = {
        "dataset": REPO,
        "dataset_revision": f"v{plan.version}",
        "guided": plan.guided,
        "ablations": whole,
        "rotations": whole and plan.every_order,
        "prompt_folder": str(PROMPTS),
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
    own = [name for name in TRAINED if (Path(models[name]["folder"]) / "train_run.json").exists()]
    for stage in own:  # a named strong model is not ours to publish
        repo_id = f"usermirrorer/{Path(plan.weak).name}-{stage}"
        names = {stage: repo_id, "base": plan.weak}
        rows = [{**row, "model": names.get(row["model"], row["model"])} for row in scores]
        folder = Path(models[stage]["folder"])
        model_card.write(
            folder, scores=rows, dataset=dataset, repo_id=repo_id, version=plan.version
        )
        published[stage] = _publish(job, plan, folder, repo_id, environment, "train_run.json")
    command = [sys.executable, "-m", "usermirrorer.recipes.cli", "release", "collect", REPO]
    pushed = [f"--model={row['repo']}@{plan.version}" for row in published.values()]
    job.call("collect", [*command, plan.version, *pushed], environment)
    return published
