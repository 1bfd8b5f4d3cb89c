"""Commands of the data line: scenes, decide, distil, validate."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import click

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.models import load_tokenizer
from usermirrorer.builders.common.progress import bar
from usermirrorer.builders.decisions.engines.base import CONTEXT, KINDS
from usermirrorer.builders.decisions.engines.registry import EngineSpec
from usermirrorer.builders.scenes import presets

_FILE = click.Path(path_type=Path)
_SETTINGS = {"show_default": True}


@click.command(
    context_settings=_SETTINGS,
    epilog="Example:  usermirrorer scenes movielens ml-1m/ --preset small --out scenes/movielens",
)
@click.argument("source")
@click.argument("raw", type=_FILE)
@click.option("--out", type=_FILE, required=True, help="Folder for train.parquet, test.parquet.")
@click.option(
    "--preset",
    type=click.Choice(presets.NAMES),
    default="paper",
    help="Most interactions kept, train and test scenes: those of the paper, or fewer.",
)
@click.option("--interactions", type=int, help="Most interactions kept, instead of the preset's.")
@click.option("--train", type=int, help="Most train scenes, instead of the preset's.")
@click.option("--test", type=int, help="Most test scenes, instead of the preset's.")
@click.option("--history", nargs=2, type=int, default=(1, 20), help="Fewest, most shown.")
@click.option("--embedder", default="all-minilm-l6-v2", help="Encoder: part, folder or Hub id.")
@click.option("--strict", is_flag=True, help="Stop at the first bad row instead of counting it.")
@click.option("--workers", default=1, help="Processes; the scenes do not depend on it.")
@click.option("--ray", is_flag=True, help="Make the scenes on Ray Data (pip install ray) instead.")
@click.option("--seed", default=0)
def scenes(
    source: str,
    raw: Path,
    out: Path,
    preset: str,
    interactions: int | None,
    train: int | None,
    test: int | None,
    history: tuple[int, int],
    embedder: str,
    strict: bool,
    workers: int,
    ray: bool,
    seed: int,
) -> None:
    """Build train and test scenes from the RAW files of SOURCE (see `usermirrorer sources`).

    RAW may also be a folder of canonical tables (`usermirrorer tables`). Tables and embeddings are
    kept in OUT/tables and used again by the next run on the same files.

    \b
    Presets (Tables 4 to 6 of the paper), all upper bounds:
      paper  Table 4's interactions, 16,384 train scenes, Table 6's test scenes
      small  100,000 interactions, 2,048 train scenes, a fifth of Table 6's test scenes
      tiny   10,000 interactions, 256 train scenes, a twentieth of Table 6's test scenes
    """
    from usermirrorer.builders.raw.sources import get_source
    from usermirrorer.builders.scenes import pipeline
    from usermirrorer.builders.scenes.world import SceneConfig

    chosen, counts = get_source(source), presets.preset(preset, source)
    facts = pipeline.raw_to_scenes(
        chosen,
        raw,
        out,
        SceneConfig(
            train=counts.train if train is None else train,
            test=counts.test if test is None else test,
            seed=seed,
            history=history,
        ),
        embedder=embedder,
        interactions=counts.interactions if interactions is None else interactions,
        strict=strict,
        workers=workers,
        ray=ray,
    )
    for line in facts["skipped"]:
        click.echo(f"left out: {line}", err=True)
    for split in facts["files"]:
        click.echo(f"{out / f'{split}.parquet'}: {facts[split]['scenes']:,} scenes")
    for reason, count in facts["dropped"].items():
        click.echo(f"left out: {count:,} scenes, {reason}", err=True)


@click.command(
    context_settings=_SETTINGS,
    epilog=(
        "Example:  usermirrorer decide scenes/movielens/train.parquet --model "
        "meta-llama/Llama-3.2-3B-Instruct --out decisions/weak.parquet"
    ),
)
@click.argument("scene_file", type=_FILE)
@click.option("--model", required=True, help="Model that decides: part, folder or Hub id.")
@click.option("--judge", help="Model that scores the options (the weak one). Default: --model.")
@click.option("--out", type=_FILE, required=True, help="Parquet file to make.")
@click.option("--engine", type=click.Choice(KINDS), default=KINDS[0], help="Runs --model.")
@click.option("--judge-engine", type=click.Choice(KINDS), help="Runs --judge. Default: --engine.")
@click.option("--workers", default=0, help="Spread over so many Ray actors (0: this process).")
@click.option("--tensor-parallel", default=1, help="vllm: GPUs that one engine spreads over.")
@click.option("--base-url", default="", help="openai: the server's. The key is OPENAI_API_KEY.")
@click.option("--tokenizer", default="", help="openai: the model's. Default: --model.")
@click.option("--concurrency", default=32, help="openai: most requests in flight.")
@click.option("--price", nargs=2, type=float, default=(0, 0), help="Of 1M tokens in, and out.")
@click.option("--limit", default=0, help="Only the first so many scenes (0: all).")
@click.option("--samples", default=10, help="Decisions a scene (the paper: 10).")
@click.option("--temperature", default=1.0)
@click.option("--top-p", default=0.9)
@click.option(
    "--max-tokens",
    default=512,
    help="Longest decision process. With its prompt it has at most 6,144 tokens, or the model's "
    "limit: oldest history is left out first, options never.",
)
@click.option("--guided", is_flag=True, help="Force the headings (for very small models).")
@click.option("--dtype", default="auto", help="auto, float32 or bfloat16.")
@click.option("--prompts", type=_FILE, help="Folder of other prompt templates.")
@click.option("--seed", default=0)
def decide(
    scene_file: Path,
    model: str,
    judge: str | None,
    out: Path,
    engine: str,
    judge_engine: str | None,
    workers: int,
    price: tuple[float, float],
    limit: int,
    prompts: Path | None,
    seed: int,
    **options: Any,
) -> None:
    """Sample decision processes for scenes and score the options after each.

    A killed run goes on with the first part that is missing.
    """
    from usermirrorer.builders.common import storage
    from usermirrorer.builders.decisions import stage
    from usermirrorer.builders.decisions.cost import Meter
    from usermirrorer.builders.decisions.engines.base import Sampling
    from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS

    rows = storage.read_table(scene_file).to_pylist()
    rows = rows[:limit] if limit else rows
    sampling = Sampling(
        options.pop("samples"),
        *(options.pop(name) for name in ("temperature", "top_p", "max_tokens", "guided")),
    )
    decider = EngineSpec(engine, model, **options)
    scorer = EngineSpec(judge_engine or engine, judge or model, **options)
    _check_used({decider.kind, scorer.kind}, options)
    # A server shares no prompt with the scoring, and what it wrote stays if it cannot score.
    apart = scorer != decider or engine == "openai"
    sampled = out.with_name(f"{out.stem}.sampled.parquet") if apart else out
    meter = Meter(out, price)
    folder = prompts or DEFAULT_PROMPTS
    with bar("deciding", len(rows)) as advance:
        resumed = stage.run(
            rows,
            decider.load,
            sampled,
            model=model,
            sampling=sampling,
            seed=seed,
            judge=not apart,
            prompts=folder,
            identity=decider.identity(),
            part_scenes=decider.part_scenes,
            spread=decider.spread(workers),
            meter=meter,
            progress=lambda count, old: advance(count, old, meter.told()),
        )
    if apart:
        with bar("judging", len(rows)) as advance:
            stage.judged(
                rows,
                sampled,
                scorer.load,
                out,
                prompts=folder,
                max_tokens=sampling.max_tokens,
                identity=scorer.identity(),
                part_scenes=scorer.part_scenes,
                spread=scorer.spread(workers if scorer.kind != "openai" else 0),
                progress=advance,
            )
    if resumed:
        click.echo(f"{resumed:,} scenes were done by an earlier run", err=True)
    for name, value in stage.summary(storage.read_table(out)).items():
        click.echo(f"{name}: {value}")
    click.echo(f"{meter.summary()} ({meter.path})")


def _check_used(kinds: set[str], options: dict[str, Any]) -> None:
    """Refuse options of engines that are not asked for, rather than ignore them."""
    for name, kind in (
        ("tensor_parallel", "vllm"),
        ("base_url", "openai"),
        ("tokenizer", "openai"),
    ):
        default = EngineSpec.__dataclass_fields__[name].default
        if options[name] != default and kind not in kinds:
            raise UserError(
                f"is of --engine {kind}", where=f"--{name.replace('_', '-')}", fix="Leave it out."
            )


def _list_strategies(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from usermirrorer.builders.distil.strategies import STRATEGIES

        for name, strategy in STRATEGIES.items():
            click.echo(f"{name:20} {strategy.source}")
        context.exit()


@click.command(
    context_settings=_SETTINGS,
    epilog=(
        "Example:  usermirrorer distil scenes/movielens/train.parquet --weak weak.parquet "
        "--strong strong.parquet --pairs 10000 --out pairs.parquet"
    ),
)
@click.argument("scene_file", type=_FILE)
@click.option("--weak", type=_FILE, required=True, help="Decisions of the weak model, judged.")
@click.option("--strong", type=_FILE, required=True, help="Decisions of the strong model, judged.")
@click.option("--out", type=_FILE, required=True, help="Parquet file of pairs to make.")
@click.option("--pairs", default=10_000, help="Number of pairs (the paper: 10,000).")
@click.option("--strategy", default="delta_eu", help="How scenes are ranked; see --strategies.")
@click.option(
    "--strategies",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_strategies,
    help="List the strategies and stop.",
)
@click.option("--model", help="For strategy ifd: model that takes the perplexities (the weak one).")
@click.option("--dtype", default="auto", help="Of --model: auto, float32 or bfloat16.")
@click.option(
    "--tokenizer",
    help="Leave out oldest history where a prompt has over 6,144 - MAX_TOKENS tokens of this model "
    "(the weak one), as decide did.",
)
@click.option("--max-tokens", default=512, help="Longest decision process, as in decide.")
@click.option("--views", type=_FILE, help="Folder for sft, preference and grpo.parquet as well.")
@click.option("--prompts", type=_FILE, help="Folder of other prompt templates.")
@click.option("--seed", default=0, help="For the random strategies.")
def distil(
    scene_file: Path,
    weak: Path,
    strong: Path,
    out: Path,
    pairs: int,
    strategy: str,
    model: str | None,
    dtype: str,
    tokenizer: str | None,
    max_tokens: int,
    views: Path | None,
    prompts: Path | None,
    seed: int,
) -> None:
    """Distil preference pairs from the decisions of a weak and a strong model.

    Strategy ifd keeps its scores beside OUT; a killed run goes on with the first missing part.
    """
    from dataclasses import replace

    from usermirrorer.builders.common import assets, storage
    from usermirrorer.builders.decisions.chat import count_tokens
    from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS
    from usermirrorer.builders.distil import candidates, ifd, strategies
    from usermirrorer.builders.distil.pairs import VIEWS, assert_enough, make_pairs, view

    strategies.get_strategy(strategy)  # before any work
    folder = prompts or DEFAULT_PROMPTS
    found = candidates.candidates(scene_file, weak, strong)
    assert_enough(found, pairs)
    if strategy == "ifd" and model:
        with bar("perplexities", len(found.usable)) as advance:
            scores = ifd.scores(
                found,
                assets.resolve_model(model),
                out.with_name(f"{out.stem}.ifd.parquet"),
                dtype=dtype,
                prompts=folder,
                progress=advance,
            )
        found = replace(found, ifd=scores)
    fitting: dict[str, Any] = {}
    if tokenizer:
        text = load_tokenizer(assets.resolve_model(tokenizer))
        fitting = {"count": functools.partial(count_tokens, text), "room": CONTEXT - max_tokens}
    table, fate = make_pairs(found, pairs, strategy=strategy, seed=seed, prompts=folder, **fitting)
    storage.write_table(out, table)
    for name in VIEWS if views else ():
        storage.write_table(Path(str(views)) / f"{name}.parquet", view(table, name))
    for name, count in fate.items():
        click.echo(f"{name}: {count:,}")


@click.command(epilog="Example:  usermirrorer validate usermirrorer/mixed --revision v1.0.0")
@click.argument("target")
@click.option("--revision", help="Tag or commit, for a Hub repository.")
@click.option("--tokenizer", help="Model whose tokens count: part, folder or Hub id.")
def validate(target: str, revision: str | None, tokenizer: str | None) -> None:
    """Prove the guarantees on a Parquet file, a release folder or a Hub repository.

    Exits with 1 if one of them is broken.
    """
    from rich.console import Console
    from rich.table import Table

    from usermirrorer.builders import validate as checks

    count = checks.token_count(tokenizer) if tokenizer else None
    findings = checks.validate(*checks.load(target, revision), count)
    table = Table("", "promise", "found")
    signs = {True: "[green]holds[/]", False: "[red]BROKEN[/]", None: "[dim]told[/]"}
    for finding in findings:
        table.add_row(signs[finding.ok], finding.promise, finding.detail)
    Console().print(table)
    broken = sum(finding.ok is False for finding in findings)
    if broken:
        click.echo(f"error: {target}: {broken} of {len(findings)} promises are broken", err=True)
        sys.exit(1)
