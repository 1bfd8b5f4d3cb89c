"""Eight domains, from raw files to the leaderboard's page, by one command on a CPU.

    python -m tests.eval_harness.all_domains runs/all-domains

Fixture scale: made-up raw files of the eleven sources, a few scenes of each, decisions of some
thirty tokens. All else is the real thing, by the commands that users have: scenes, decisions,
pairs, a release on a local Hub, SFT and DPO by the recipes, `lm_eval --tasks "usermirror_*"` for
base, SFT and DPO, and the leaderboard, pushed to the Hub as a static Space. The strong model is the
weak one with another seed, so there is nothing to learn: the run only shows that the line works.

A run that was killed goes on where it was; a finished one does nothing twice.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from usermirrorer.builders.commands import scenes as build_scenes
from usermirrorer.builders.common import assets, models, storage
from usermirrorer.builders.raw import made_up
from usermirrorer.hub.local import LocalHub, running
from usermirrorer.recipes.job import RECIPES, Job

SIZE = made_up.Size(users=60, items=150, interactions=900)
REPO, SPACE, VERSION = "usermirrorer/mixed", "usermirrorer/leaderboard", "1.0.0"
TOKENS = 32
USERMIRRORER = [sys.executable, "-m", "usermirrorer.recipes.cli"]
Row = dict[str, Any]


def run(out: Path, model: str, embedder: str, train: int, test: int) -> Path:
    """Do everything in the folder `out` and return the leaderboard's page.

    Args:
        out: Where to; `logs/` in it holds what each command printed.
        model: Chat model to train and score: known part, folder or Hub id.
        embedder: Encoder for the content candidates.
        train: Train scenes per source.
        test: Test scenes per source.
    """
    job = Job(out)
    weak = assets.resolve_model(model)
    scenes = job.step(
        "scenes", [embedder, train, test], lambda: _scenes(job, embedder, train, test)
    )
    pairs = job.step("pairs", [scenes, weak], lambda: _pairs(job, weak))
    release = job.step("release", [scenes, pairs], lambda: _release(job, scenes, weak))
    job.step("validate", [pairs, release], lambda: _validate(job))
    with running(job.out / "hub") as hub:
        job.step("publish", release, lambda: _publish(job, hub))
        models, made_from = {"base": weak}, weak
        for stage in ("sft", "dpo"):
            made = job.step(
                f"train {stage}",
                [release, made_from],
                lambda s=stage, m=made_from: _train(job, hub, s, m),
            )
            models[stage] = made_from = made["folder"]
        for name, folder in models.items():
            job.step(
                f"score {name}",
                [release, models, name],
                lambda n=name, f=folder: _score(job, hub, n, f),
            )
        job.step("leaderboard", [release, models], lambda: _leaderboard(job, hub, list(models)))
    return job.out / "leaderboard" / "index.html"


def _scenes(job: Job, embedder: str, train: int, test: int) -> Row:
    """Raw files of every source to scenes; then all sources in one file per split."""
    for source in made_up.PUBLISHED:
        raw = made_up.write(source, job.out / "raw" / source, SIZE)
        options = {"out": job.out / "scenes" / source, "train": train, "test": test}
        options |= {"embedder": embedder, "history": "1 3"}
        words = [w for k, v in options.items() for w in (f"--{k}", *str(v).split(" "))]
        build_scenes.main([source, str(raw), *words], standalone_mode=False)
    counts = {}
    for split in ("train", "test", "placebo_train", "placebo_test"):
        parts = [job.out / "scenes" / s / f"{split}.parquet" for s in made_up.PUBLISHED]
        parts = [part for part in parts if part.exists()]
        if not parts:  # a placebo is made of another scene's target: one scene has none
            continue
        table = pa.concat_tables([storage.read_table(part) for part in parts])
        storage.write_table(job.out / f"{split}.parquet", table)
        counts[split] = table.num_rows
    return counts | {"file": storage.file_hash(job.out / "train.parquet")}


def _pairs(job: Job, weak: str) -> Row:
    """Decisions of both models for every train scene, and the pairs they give."""
    for role, seed in (("weak", "0"), ("strong", "1")):
        command = ["decide", "train.parquet", "--model", weak, "--out", f"{role}.parquet"]
        command += ["--samples", "3", "--max-tokens", str(TOKENS), "--guided", "--seed", seed]
        job.call(f"decide {role}", [*USERMIRRORER, *command])
    command = ["distil", "train.parquet", "--weak", "weak.parquet", "--strong", "strong.parquet"]
    command += ["--pairs", "2", "--out", "pairs.parquet"]
    job.call("distil", [*USERMIRRORER, *command])
    return {"file": storage.file_hash(job.out / "pairs.parquet")}


def _release(job: Job, scenes: Row, weak: str) -> Row:
    """One release of all sources, as `usermirrorer release build` makes it."""
    raw = job.out / "raw"
    inputs = {
        source: {
            path.relative_to(raw / source).as_posix(): storage.file_hash(path)
            for path in sorted((raw / source).rglob("*"))
            if path.is_file()
        }
        for source in made_up.PUBLISHED
    }
    name = Path(weak).name
    manifest = {
        "inputs": inputs,
        "code": "made-up raw data of builders/raw/made_up.py",
        "configuration": scenes,
        "seeds": {"all": 0},
        "models": [
            {"role": role, "id": name, "revision": assets.model_revision(weak)}
            for role in ("weak", "strong")
        ],
    }
    storage.write_json(job.out / "from.json", manifest)
    command = ["release", "build", "release", "--repo", REPO, "--version", VERSION]
    command += ["--preference", "pairs.parquet", "--train", "train.parquet"]
    command += ["--test", "test.parquet", "--manifest", "from.json"]
    job.call("release build", [*USERMIRRORER, *command])
    return {"manifest": storage.file_hash(job.out / "release" / "manifest.json")}


def _validate(job: Job) -> Row:
    """Prove every file that another step reads: a broken promise ends the run."""
    of_train = ["--scenes", "train.parquet"]
    files = {name: [f"{name}.parquet", *of_train] for name in ("weak", "strong", "pairs")}
    for name, words in (files | {"release": ["release"]}).items():
        job.call(f"validate {name}", [*USERMIRRORER, "validate", *words])
    return {"validated": [*files, "release"]}


def _publish(job: Job, hub: LocalHub) -> Row:
    """Push the release, and prove what the Hub gives back."""
    environment = hub.environment(job.out / "hf-home")
    job.call("release push", [*USERMIRRORER, "release", "push", "release", REPO], environment)
    command = [*USERMIRRORER, "validate", REPO, "--revision", f"v{VERSION}"]
    job.call("validate on the Hub", command, environment)
    return {"repository": REPO}


def _train(job: Job, hub: LocalHub, stage: str, before: str) -> Row:
    """Two steps of a recipe on the pairs, read from the Hub by version."""
    recipes, folder = RECIPES, str(job.out / "models" / stage)
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(recipes / "accelerate" / "cpu.yaml")]
    command += [str(recipes / f"{stage}.py")]
    command += ["--config", str(recipes / "smollm2-135m-instruct" / stage / "config.yaml")]
    command += ["--model_name_or_path", before, "--output_dir", folder, "--max_steps", "2"]
    command += ["--dataset_name", REPO, "--dataset_revision", f"v{VERSION}"]
    command += ["--max_length", "4096"]
    job.call(f"train {stage}", command, hub.environment(job.out / "hf-home"))
    return {"folder": folder}


def _score(job: Job, hub: LocalHub, name: str, model: str) -> Row:
    """The line of the README, over every task of the family."""
    metadata = {"dataset_revision": f"v{VERSION}", "guided": True}
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf"]
    command += [
        "--model_args",
        f"pretrained={model},dtype={models.fast_dtype()}",
        "--device",
        "cpu",
    ]
    command += ["--tasks", "usermirror_*", "--apply_chat_template", "--batch_size", "20"]
    command += ["--metadata", json.dumps(metadata), "--gen_kwargs", f"max_gen_toks={TOKENS}"]
    command += ["--log_samples", "--output_path", f"scores/{name}"]
    job.call(f"score {name}", command, hub.environment(job.out / "hf-home"))
    return {"folder": f"scores/{name}"}


def _leaderboard(job: Job, hub: LocalHub, names: list[str]) -> Row:
    command = ["leaderboard", *(f"{name}=scores/{name}" for name in names)]
    command += ["--output", "leaderboard", "--push-space", SPACE]
    job.call("leaderboard", [*USERMIRRORER, *command], hub.environment(job.out / "hf-home"))
    return {"space": SPACE}


@click.command(context_settings={"show_default": True})
@click.argument("out", type=click.Path(path_type=Path), default=Path("runs/all-domains"))
@click.option("--model", default="smollm2-135m-instruct", help="Part, folder or Hub id.")
@click.option("--embedder", default="all-minilm-l6-v2", help="Part, folder or Hub id.")
@click.option("--train", default=1, help="Train scenes per source.")
@click.option("--test", default=2, help="Test scenes per source.")
def command(out: Path, **options: Any) -> None:
    """Score base, SFT and DPO on all eight domains at fixture scale; make the leaderboard."""
    page = run(out, **options)
    click.echo((page.parent / "leaderboard.md").read_text(encoding="utf-8"))
    click.echo(f"open {page}")


if __name__ == "__main__":
    command()
