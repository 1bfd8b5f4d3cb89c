"""Commands of the data line: scenes, decide, distil, validate."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usermirrorer.builders.common.models import load_tokenizer
from usermirrorer.builders.common.progress import bar
from usermirrorer.builders.common.schema import CONTEXT_TOKENS, EXPOSURE_MODES
from usermirrorer.builders.common.tables import json_option, show, show_json
from usermirrorer.builders.decisions.engines import registry
from usermirrorer.builders.scenes import presets

if TYPE_CHECKING:
    from usermirrorer.builders.decisions.cost import DecisionMeter
    from usermirrorer.builders.decisions.engines.base import Sampling
    from usermirrorer.builders.distil.candidates import Candidates
    from usermirrorer.builders.validate import Finding

_FILE = click.Path(path_type=Path)
_ENGINES = click.Choice(registry.kinds())
_SETTINGS = {"show_default": True}


@click.command(
    context_settings=_SETTINGS,
    epilog="Example:  usermirrorer scenes movielens ml-1m/ --preset small --out scenes/movielens",
)
@click.argument("source")
@click.argument("raw", type=_FILE, required=False)
@click.option("--out", type=_FILE, required=True, help="Folder for train.parquet, test.parquet.")
@click.option(
    "--preset",
    type=click.Choice(presets.NAMES),
    default=presets.DEFAULT,
    help="How many interactions, train and test scenes, and how their exposures are made.",
)
@click.option(
    "--exposure",
    type=click.Choice(EXPOSURE_MODES[:3]),
    help="How the items beside the real one are found, instead of the preset's way.",
)
@click.option("--window", type=int, help="exchangeable: train users' interactions drawn from.")
@click.option("--window-days", type=float, help="exchangeable: and at most so many days old.")
@click.option(
    "--later-days",
    type=float,
    help="What a user takes so soon after a scene is not used as a wrong answer.  [default: 30]",
)
@click.option(
    "--history-gap",
    type=int,
    help="Seconds that histories end before their scene: 3600 takes the order of a site's pages "
    "out of what they tell.  [default: 0]",
)
@click.option(
    "--time-cut",
    type=float,
    help="Share of time before which train scenes lie, and after which test scenes; 0: no cut.",
)
@click.option("--interactions", type=int, help="Most interactions kept, instead of the preset's.")
@click.option("--train", type=int, help="Most train scenes, instead of the preset's.")
@click.option("--test", type=int, help="Most test scenes, instead of the preset's.")
@click.option("--history", nargs=2, type=int, default=(1, 20), help="Fewest, most shown.")
@click.option("--embedder", default="all-minilm-l6-v2", help="Encoder: part, folder or Hub id.")
@click.option(
    "--pooling",
    type=click.Choice(["own", "mean", "cls", "last"]),
    default="own",
    help="Which token vectors make up a text's; own: what the encoder's folder says.",
)
@click.option("--prompt", help="Put in front of item texts, or the name of an encoder's prompt.")
@click.option(
    "--embed-with",
    "library",
    type=click.Choice(["transformers", "sentence-transformers"]),
    default="transformers",
    help="Library that embeds item texts.",
)
@click.option("--strict", is_flag=True, help="Stop at the first bad row instead of counting it.")
@click.option("--workers", default=1, help="Processes; the scenes do not depend on it.")
@click.option("--ray", is_flag=True, help="Make the scenes on Ray Data (pip install ray) instead.")
@click.option("--seed", default=0)
@json_option
def scenes(
    source: str,
    raw: Path | None,
    out: Path,
    preset: str,
    interactions: int | None,
    embedder: str,
    strict: bool,
    workers: int,
    ray: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Build train and test scenes from the RAW files of SOURCE (see `usermirrorer sources`).

    SOURCE may be the YAML file of your own logs (`usermirrorer new`), which needs no RAW. RAW may
    be a folder of canonical tables. What is in OUT/tables is used again by the next run. Beside the
    scenes stand their placebos, for `usermirrorer validate OUT --audit`.

    \b
    Presets (Tables 4 to 6 of the paper), all upper bounds:
      standard  Table 4's interactions, 16,384 train scenes, Table 6's test scenes, later than train
      paper     the same counts with Algorithm 1's exposures, for reproduction only: they have tells
      small     100,000 interactions, 2,048 train scenes, a fifth of Table 6's test scenes
      tiny      10,000 interactions, 256 train scenes, a twentieth of Table 6's test scenes

    \b
    Exposures:
      exchangeable  drawn as the real item became one: from what others took just before
      retrieved     candidates for the history alone, the real item among them
      paper         Algorithm 1 as printed
    """
    from usermirrorer.builders.raw.sources import get_source, raw_of
    from usermirrorer.builders.scenes import pipeline
    from usermirrorer.builders.scenes.embed import Encoding

    chosen = get_source(source)
    encoding = Encoding(**{name: given.pop(name) for name in ("pooling", "prompt", "library")})
    config, most = presets.settings(preset, chosen.name, interactions=interactions, **given)
    facts = pipeline.raw_to_scenes(
        *(chosen, raw_of(chosen, raw), out, config),
        embedder=embedder,
        encoding=encoding,
        interactions=most,
        strict=strict,
        workers=workers,
        ray=ray,
    )
    _print_scenes(facts, out, as_json)


def _print_scenes(facts: Mapping[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        show_json(facts)
        return
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
@click.option("--engine", type=_ENGINES, default=registry.DEFAULT, help="Runs --model.")
@click.option("--judge-engine", type=_ENGINES, help="Runs --judge. Default: --engine.")
@click.option("--workers", default=0, help="Spread over so many Ray actors (0: this process).")
@click.option("--tensor-parallel", default=1, help="vllm: GPUs that one engine spreads over.")
@click.option("--base-url", default="", help="openai: the server's. The key is OPENAI_API_KEY.")
@click.option("--tokenizer", default="", help="openai: the model's. Default: --model.")
@click.option("--concurrency", default=32, help="openai: most requests in flight.")
@click.option("--price", nargs=2, type=float, default=(0, 0), help="Of 1M tokens in, and out.")
@click.option("--limit", default=0, help="Only the first so many scenes (0: all).")
@click.option("--samples", default=10, help="Decisions per scene (the paper: 10).")
@click.option("--temperature", default=1.0)
@click.option("--top-p", default=0.9)
@click.option(
    "--max-tokens",
    default=512,
    help="Longest decision process. With its prompt it has at most 6,144 tokens, or the model's "
    "limit: oldest history is left out first, options never.",
)
@click.option("--guided", is_flag=True, help="Force the headings (for very small models).")
@click.option(
    "--chat-template-kwargs",
    default="",
    help="What chat templates are given, as JSON: '{\"enable_thinking\": true}' lets reasoning "
    "models think (then raise --max-tokens), which they do not by default; "
    '\'{"strftime_now": "2025-01-31"}\' sets the date they print.',
)
@click.option(
    "--think-end-token", default="", help="What ends the thinking, if not </think> or the like."
)
@click.option("--dtype", default="auto", help="auto, float32 or bfloat16.")
@click.option("--prompts", type=_FILE, help="Folder of other prompt templates.")
@click.option("--seed", default=0)
@json_option
def decide(
    scene_file: Path,
    model: str,
    judge: str | None,
    out: Path,
    engine: str,
    judge_engine: str | None,
    limit: int,
    samples: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Sample decision processes for scenes and score the options after each.

    A killed run goes on with the first part that is missing.
    """
    from usermirrorer.builders.common import scene_rows, storage
    from usermirrorer.builders.decisions import stage
    from usermirrorer.builders.decisions.cost import DecisionMeter
    from usermirrorer.builders.decisions.engines.base import Sampling

    rows = scene_rows.read_scenes(scene_file).to_pylist()
    rows = rows[:limit] if limit else rows
    names = ("temperature", "top_p", "max_tokens", "guided", "think_end_token")
    sampling = Sampling(samples, *(options.pop(name) for name in names))
    run = {name: options.pop(name) for name in ("workers", "prompts", "seed")}
    meter = DecisionMeter(out, options.pop("price"))
    decider = registry.EngineSpec(engine, model, **options)
    scorer = registry.EngineSpec(judge_engine or engine, judge or model, **options)
    registry.check_options([decider, scorer])
    # A server shares no prompt with the scoring, and what it wrote stays if it cannot score.
    apart = scorer != decider or decider.engine.remote
    sampled = out.with_name(f"{out.stem}.sampled.parquet") if apart else out
    resumed = _sample(rows, decider, sampled, sampling, meter, judge=not apart, **run)
    if apart:
        _judge(rows, sampled, scorer, out, sampling.max_tokens, run["workers"], run["prompts"])
    if resumed:
        click.echo(f"{resumed:,} scenes were done by an earlier run", err=True)
    facts = stage.summary(storage.read_table(out))
    if as_json:
        show_json({**facts, "cost": meter.summary(), "cost_file": str(meter.path)})
        return
    for name, value in facts.items():
        click.echo(f"{name}: {value}")
    click.echo(f"{meter.summary()} ({meter.path})")


def _sample(
    rows: list[dict[str, Any]],
    decider: registry.EngineSpec,
    output: Path,
    sampling: Sampling,
    meter: DecisionMeter,
    *,
    judge: bool,
    workers: int,
    prompts: Path | None,
    seed: int,
) -> int:
    """Sample with a progress bar; return the number of scenes that an earlier run had done."""
    from usermirrorer.builders.decisions import stage
    from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS

    with bar("deciding", len(rows)) as advance:
        return stage.run(
            rows,
            decider.load,
            output,
            model=decider.model,
            sampling=sampling,
            seed=seed,
            judge=judge,
            prompts=prompts or DEFAULT_PROMPTS,
            identity=decider.identity(),
            part_scenes=decider.part_scenes,
            spread=decider.spread(workers),
            meter=meter,
            progress=lambda count, old: advance(count, old, meter.progress()),
        )


def _judge(
    rows: list[dict[str, Any]],
    sampled: Path,
    scorer: registry.EngineSpec,
    output: Path,
    max_tokens: int,
    workers: int,
    prompts: Path | None,
) -> None:
    """Score with a progress bar."""
    from usermirrorer.builders.decisions import stage
    from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS

    with bar("judging", len(rows)) as advance:
        stage.judged(
            rows,
            sampled,
            scorer.load,
            output,
            prompts=prompts or DEFAULT_PROMPTS,
            max_tokens=max_tokens,
            identity=scorer.identity(),
            part_scenes=scorer.part_scenes,
            spread=None if scorer.engine.remote else scorer.spread(workers),
            progress=advance,
        )


def _list_strategies(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from usermirrorer.builders.distil.strategies import STRATEGIES

        rows = [(name, strategy.source) for name, strategy in STRATEGIES.items()]
        if context.params.get("as_json"):
            show_json(dict(rows))
        else:
            show(("Strategy", "From"), rows)
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
@click.option(
    "--pairs",
    type=click.IntRange(min=1),
    default=10_000,
    help="Number of pairs (the paper: 10,000).",
)
@click.option("--at-most", is_flag=True, help="Make fewer, where fewer scenes allow a pair.")
@click.option("--strategy", default="delta_eu", help="How scenes are ranked; see --strategies.")
@click.option(
    "--strategies",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_strategies,
    help="List the strategies and stop (--json --strategies: as JSON).",
)
@click.option("--model", help="For strategy ifd: model that takes the perplexities (the weak one).")
@click.option("--dtype", default="auto", help="Of --model: auto, float32 or bfloat16.")
@click.option(
    "--tokenizer",
    help="Leave out oldest history where a prompt has over 6,144 - MAX_TOKENS tokens of this model "
    "(the weak one), as decide did.",
)
@click.option("--max-tokens", default=512, help="Longest decision process, as in decide.")
@click.option(
    "--chat-template-kwargs",
    default="",
    help="Of --model and --tokenizer: what chat templates are given, as JSON, as in decide.",
)
@click.option("--views", type=_FILE, help="Folder for sft, preference and grpo.parquet as well.")
@click.option("--prompts", type=_FILE, help="Folder of other prompt templates.")
@click.option("--seed", default=0, help="For the random strategies.")
@click.option("--json", "as_json", is_flag=True, is_eager=True, help="Print JSON.")
def distil(
    scene_file: Path,
    weak: Path,
    strong: Path,
    out: Path,
    pairs: int,
    at_most: bool,
    strategy: str,
    model: str | None,
    dtype: str,
    tokenizer: str | None,
    max_tokens: int,
    chat_template_kwargs: str,
    views: Path | None,
    prompts: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Distil preference pairs from the decisions of a weak and a strong model.

    Strategy ifd keeps its scores beside OUT; a killed run goes on with the first missing part.
    """
    from usermirrorer.builders.common import storage
    from usermirrorer.builders.decisions.chat import read_settings, template_settings
    from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS
    from usermirrorer.builders.distil import candidates, strategies
    from usermirrorer.builders.distil.pairs import VIEWS, assert_enough, make_pairs, view

    strategies.get_strategy(strategy)  # before any work
    folder = prompts or DEFAULT_PROMPTS
    judged = candidates.candidates(scene_file, weak, strong)
    assert_enough(judged, 1 if at_most else pairs)
    if strategy == "ifd" and model:
        judged = _with_perplexities(judged, model, dtype, folder, out, chat_template_kwargs)
    settings = read_settings(chat_template_kwargs)
    fitting = _fitting(tokenizer, settings, max_tokens) if tokenizer else {}
    fitting |= {"exact": not at_most, "prompts": folder}
    table, fate = make_pairs(judged, pairs, strategy=strategy, seed=seed, **fitting)
    if tokenizer or strategy == "ifd":
        given = {"chat": template_settings(settings), "max_tokens": max_tokens}
        table = storage.with_record(table, storage.record_of(table) | given)
    storage.write_table(out, table)
    for name in VIEWS if views else ():
        storage.write_table(Path(str(views)) / f"{name}.parquet", view(table, name))
    if as_json:
        show_json(fate)
        return
    for name, count in fate.items():
        click.echo(f"{name}: {count:,}")


def _fitting(tokenizer: str, settings: Mapping[str, Any], max_tokens: int) -> dict[str, Any]:
    """Return how `make_pairs` leaves out oldest history, by the tokens of a model."""
    from usermirrorer.builders.common import assets
    from usermirrorer.builders.decisions.chat import count_tokens

    text = load_tokenizer(assets.resolve_model(tokenizer))
    count = functools.partial(count_tokens, text, **settings)
    return {"count": count, "room": CONTEXT_TOKENS - max_tokens}


def _with_perplexities(
    judged: Candidates, model: str, dtype: str, prompts: Path, out: Path, chat_template_kwargs: str
) -> Candidates:
    """Score the chosen decisions for strategy ifd, with a progress bar."""
    from dataclasses import replace

    from usermirrorer.builders.common import assets
    from usermirrorer.builders.distil import ifd

    with bar("perplexities", len(judged.usable)) as advance:
        scores = ifd.scores(
            judged,
            assets.resolve_model(model),
            out.with_name(f"{out.stem}.ifd.parquet"),
            dtype=dtype,
            prompts=prompts,
            chat_template_kwargs=chat_template_kwargs,
            progress=advance,
        )
    return replace(judged, ifd=scores)


@click.command(
    epilog="Example:  usermirrorer validate usermirrorer/mixed --revision v1.0.0 --audit"
)
@click.argument("target")
@click.option("--revision", help="Tag or commit, for a Hub repository.")
@click.option("--tokenizer", help="Model whose tokens count: part, folder or Hub id.")
@click.option(
    "--scenes",
    "scene_files",
    type=_FILE,
    multiple=True,
    help="Of a file of decisions or pairs: the scenes that it is of. Repeat for several.",
)
@click.option(
    "--audit", "audit_too", is_flag=True, help="Whether anything but the person tells the targets."
)
@click.option("--json", "as_json", is_flag=True, help="Everything found, as JSON.")
def validate(
    target: str,
    revision: str | None,
    tokenizer: str | None,
    scene_files: tuple[Path, ...],
    audit_too: bool,
    as_json: bool,
) -> None:
    """Prove the guarantees of scenes, decisions, pairs, a release or a Hub repository.

    TARGET is a Parquet file of scenes, decisions or pairs, a folder of scenes or of a release, or a
    dataset on the Hub. Exits with 1 if a promise is broken. --audit compares what shallow cues and
    learned baselines find in the scenes and in their placebo, whose targets another user took. It
    needs no raw files.
    """
    from usermirrorer.builders import validate as checks
    from usermirrorer.builders import validate_decided as decided
    from usermirrorer.builders.audit.report import audit, sources

    told: dict[str, Any] = {}
    findings = decided.validate_file(Path(target), scene_files)
    if findings is None:
        count = checks.token_count(tokenizer) if tokenizer else None
        commit = checks.commit(target, revision)
        scenes, pairs = checks.load(target, commit)
        findings = checks.validate(scenes, pairs, count)
        if commit:
            asked = revision or "main"
            findings.insert(0, checks.Finding("What was read", None, f"commit {commit} ({asked})"))
        if audit_too:
            real, placebo = checks.apart(scenes)
            with bar("audit", len(sources(real))) as advance:
                told = audit(real, placebo, progress=advance)
            findings += checks.audited(told)
    if as_json:
        rows = [finding._asdict() for finding in findings]
        click.echo(json.dumps({"findings": rows, **({"audit": told} if told else {})}, indent=2))
    else:
        _tell(findings)
    broken = sum(finding.ok is False for finding in findings)
    if broken:
        click.echo(f"error: {target}: {broken} of {len(findings)} promises are broken", err=True)
        sys.exit(1)


def _tell(findings: list[Finding]) -> None:
    """Print a table on a terminal, and one whole line per finding elsewhere."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        signs = {True: "holds", False: "BROKEN", None: "told"}
        for finding in findings:
            click.echo(f"{signs[finding.ok]:<7} {finding.promise}: {finding.detail}")
        return
    table = Table("", "promise", "found")
    coloured = {True: "[green]holds[/]", False: "[red]BROKEN[/]", None: "[dim]told[/]"}
    for finding in findings:
        table.add_row(coloured[finding.ok], escape(finding.promise), escape(finding.detail))
    console.print(table)
