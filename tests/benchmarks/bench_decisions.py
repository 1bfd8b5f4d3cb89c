"""Speed and memory of decisions and distillation, each against its yardstick in the same run.

    python tests/benchmarks/bench_decisions.py sample SCENES --model MODEL
    python tests/benchmarks/bench_decisions.py score SCENES --model MODEL
    python tests/benchmarks/bench_decisions.py distil FOLDER

`sample`: tokens per second of the embedded engine against a plain loop of
`model.generate(num_return_sequences=n)` over the same scenes one by one.
`score`: seconds of the engine to score the options after a decision, its prompts still cached from
sampling, against one short forward of that decision's tokens over a cached prompt, by the plain
model, and against a forward of prompt and decision.
`distil`: generates 174,000 scenes with 10 decisions of each of two models in FOLDER if they are not
there (about 4 GB), then measures a process that decomposes them, and the whole command.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from usermirrorer.builders.common.schema import DECISION, LABELS, SCENE
from usermirrorer.builders.decisions.prompts import FIELDS, LABEL_PREFIX, messages
from usermirrorer.builders.decisions.uncertainty import entropy

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
FILES = ("scenes.parquet", "weak.parquet", "strong.parquet")


def show(title: str, rows: list[tuple[str, str]]) -> None:
    """Print a table of two columns."""
    table = Table("", "measured", title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=100).print(table)


def seconds(
    work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter
) -> tuple[float, Any]:
    """Run `work` and return its time by `clock` and its value."""
    start = clock()
    value = work()
    return clock() - start, value


# -- the engine ---------------------------------------------------------------------------------


def load(arguments: argparse.Namespace) -> tuple[Any, Any, Any, list[dict], list[list[dict]]]:
    """Return the engine, the plain model and tokenizer, scenes and their prompts."""
    from usermirrorer.builders.common.assets import resolve_model
    from usermirrorer.builders.common.models import load_causal_lm
    from usermirrorer.builders.decisions.engines.transformers import TransformersEngine

    folder = resolve_model(arguments.model)
    plain, tokenizer = load_causal_lm(folder, arguments.dtype)
    engine = TransformersEngine(*load_causal_lm(folder, arguments.dtype))
    scenes = pq.read_table(arguments.scenes).slice(0, arguments.limit).to_pylist()
    return engine, plain, tokenizer, scenes, [messages(scene) for scene in scenes]


def engine_samples(engine: Any, scenes: list[dict], prompts: list, sampling: Any) -> list:
    """Sample in the engine's own batches; return its generations, one list per scene."""
    found = []
    for start in range(0, len(scenes), engine.batch_scenes):
        batch = slice(start, start + engine.batch_scenes)
        options = [len(scene["exposure"]) for scene in scenes[batch]]
        seeds = list(range(start, start + len(options)))
        found += engine.sample(prompts[batch], options, sampling, seeds)
    return found


def plain_tokens(model: Any, tokenizer: Any, prompts: list, sampling: Any) -> int:
    """Sample by `generate`, scene by scene; return the tokens before each end of turn."""
    import torch

    torch.manual_seed(0)
    count = 0
    stop = model.generation_config.eos_token_id
    stops = torch.tensor([stop] if isinstance(stop, int) else stop)
    for prompt in prompts:
        ids = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            made = model.generate(
                **ids,
                do_sample=True,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=0,
                max_new_tokens=sampling.max_tokens,
                num_return_sequences=sampling.n,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            )
        ended = torch.isin(made[:, ids["input_ids"].shape[1] :], stops).cumsum(1) > 0
        count += int((~ended).sum())
    return count


def sample(arguments: argparse.Namespace) -> None:
    """Compare tokens per second."""
    from usermirrorer.builders.decisions.engines.base import Sampling

    engine, plain, tokenizer, scenes, prompts = load(arguments)
    asked = Sampling(n=arguments.samples, max_tokens=arguments.tokens)
    warm = Sampling(n=arguments.samples, max_tokens=4)
    engine_samples(engine, scenes[:1], prompts[:1], warm)
    plain_tokens(plain, tokenizer, prompts[:1], warm)
    clock = CLOCKS[arguments.clock]
    ours, found = seconds(lambda: engine_samples(engine, scenes, prompts, asked), clock)
    own = sum(generation.tokens_out for row in found for generation in row)
    theirs, count = seconds(lambda: plain_tokens(plain, tokenizer, prompts, asked), clock)
    width = np.mean([row[0].tokens_in for row in found])
    show(
        f"{len(scenes)} scenes of {width:.0f} tokens, {asked.n} samples of {asked.max_tokens}",
        [
            ("engine", f"{own:,} tokens in {ours:.1f} s: {own / ours:.1f} tokens/s"),
            ("generate, one by one", f"{count:,} in {theirs:.1f} s: {count / theirs:.1f} tokens/s"),
            ("ratio (bar: 1.5)", f"{own / ours / (count / theirs):.2f}"),
        ],
    )


def score(arguments: argparse.Namespace) -> None:
    """Compare the scoring of a decision's options with forwards of the plain model."""
    import torch

    from usermirrorer.builders.decisions.engines.base import Sampling

    engine, plain, tokenizer, scenes, prompts = load(arguments)
    asked = Sampling(n=arguments.samples, max_tokens=arguments.tokens)
    options = [len(scene["exposure"]) for scene in scenes]
    size, clock = engine.batch_scenes, CLOCKS[arguments.clock]
    ours = short = whole = 0.0
    decisions = 0

    def forward(ids: list[int], cache: Any) -> Any:
        with torch.inference_mode():
            return plain(torch.tensor([ids]), past_key_values=cache, logits_to_keep=1)

    for start in range(0, len(scenes), size):
        batch = slice(start, start + size)
        seeds = list(range(len(prompts[batch])))
        generations = engine.sample(prompts[batch], options[batch], asked, seeds)
        thoughts = [[one.text or "Thought:" for one in row] for row in generations]
        if not start:
            engine.score(prompts[batch], thoughts, options[batch])  # warm
        spent, _ = seconds(
            lambda b=batch, t=thoughts: engine.score(prompts[b], t, options[b]), clock
        )
        ours += spent
        for prompt, row in zip(prompts[batch], thoughts, strict=True):
            text = engine.text(prompt)
            before = tokenizer(text, add_special_tokens=False).input_ids
            cache = forward(before, None).past_key_values
            for thought in row:
                ids = tokenizer(f"{thought}\n{LABEL_PREFIX}", add_special_tokens=False).input_ids
                short += seconds(lambda i=ids, c=cache: forward(i, c), clock)[0]
                cache.crop(-len(ids))
                decisions += 1
            whole += seconds(lambda b=before, i=ids: forward(b + i, None), clock)[0]
    each = {"ours": ours / decisions, "short": short / decisions, "whole": whole / len(scenes)}
    show(
        f"{decisions} decisions of {len(scenes)} scenes, {arguments.tokens} tokens at most",
        [
            ("engine, prompts cached", f"{1000 * each['ours']:.1f} ms a decision"),
            ("one short forward over a cached prompt", f"{1000 * each['short']:.1f} ms"),
            ("one forward of prompt and decision", f"{1000 * each['whole']:.1f} ms"),
            ("engine / short forward (bar: 1)", f"{each['ours'] / each['short']:.2f}"),
        ],
    )


# -- distillation -------------------------------------------------------------------------------


class Words:
    """Slices of a long random text, as different from each other as real ones."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        letters = "etaoinshrdlucmfwypvbgk"
        known = ["".join(self.rng.choices(letters, k=self.rng.randint(2, 10))) for _ in range(8000)]
        self.text = " ".join(self.rng.choices(known, k=3_000_000))

    def slice(self, characters: int) -> str:
        """Return about so many characters on one line."""
        start = self.rng.randrange(len(self.text) - 2 * characters)
        return self.text[start : start + characters].strip() or "x"


def scene_blocks(count: int, options: np.ndarray, words: Words) -> Iterator[pa.Table]:
    """Yield scenes of about 1,600 tokens in blocks."""
    sources = ("kuairec", "lastfm", "mobilerec", "movielens", "steam", "goodreads", "mind")
    for start in range(0, count, 4096):
        rows = []
        for i in range(start, min(count, start + 4096)):
            k, source = int(options[i]), sources[i % len(sources)]
            rows.append(
                {
                    "scene_id": scene_id(i),
                    "domain": source,
                    "source": source,
                    "user_id": str(i // 3),
                    "item_id": "0",
                    "timestamp": 0,
                    "profile": words.slice(120),
                    "history": [words.slice(120) for _ in range(14)],
                    "history_item_ids": [str(j) for j in range(14)],
                    "history_timestamps": [0] * 14,
                    "exposure": [words.slice(320) for _ in range(k)],
                    "exposure_item_ids": [str(j) for j in range(k)],
                    "exposure_origin": ["target", *["random"] * (k - 1)],
                    "exposure_popularity": [0] * k,
                    "history_similarity": [0.0] * k,
                    "answer": i % k,
                    "real_exposure": False,
                }
            )
        yield pa.Table.from_pylist(rows, schema=SCENE)


def scene_id(number: int) -> str:
    """Return an id as unordered as real ones."""
    return hashlib.blake2b(str(number).encode(), digest_size=8).hexdigest()


def decision_blocks(
    model: str, options: np.ndarray, samples: int, sharpness: float, words: Words
) -> Iterator[pa.Table]:
    """Yield decisions with Dirichlet probabilities and texts of about 240 tokens."""
    rng = np.random.default_rng(0)
    for start in range(0, len(options), 2000):
        k = np.repeat(options[start : start + 2000], samples)
        weights = rng.gamma(sharpness, size=(len(k), len(LABELS))) + 1e-9
        weights[np.arange(len(LABELS)) >= k[:, None]] = np.nan
        p = weights / np.nansum(weights, axis=1, keepdims=True)
        behavior = (rng.random(len(k)) * k).astype(np.int8)
        thoughts = [
            "\n".join(["Thought:", *(f"{name}: {words.slice(180)}" for name in FIELDS)])
            for _ in range(len(k))
        ]
        offsets = pa.array(np.r_[0, np.cumsum(k)], pa.int32())
        values = pa.array(p[np.isfinite(p)].astype(np.float32))
        columns = {
            "scene_id": np.repeat([scene_id(start + i) for i in range(len(k) // samples)], samples),
            "model": [model] * len(k),
            "sample": np.tile(np.arange(samples), len(k) // samples),
            "text": [
                f"{t}\n{LABEL_PREFIX}{LABELS[b]}]" for t, b in zip(thoughts, behavior, strict=True)
            ],
            "thought": thoughts,
            "behavior": behavior,
            "malformed": [""] * len(k),
            "probabilities": pa.ListArray.from_arrays(offsets, values),
            "entropy": entropy(p).astype(np.float32),
            "tokens_in": np.full(len(k), 1600),
            "tokens_out": np.full(len(k), 240),
        }
        yield pa.table(columns, schema=DECISION)


def generate(folder: Path, scenes: int, samples: int) -> None:
    """Write the three files that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    options = np.random.default_rng(1).integers(3, 14, scenes)
    words = Words(0)
    made = {
        "scenes.parquet": lambda: scene_blocks(scenes, options, words),
        "weak.parquet": lambda: decision_blocks("weak", options, samples, 1.5, words),
        "strong.parquet": lambda: decision_blocks("strong", options, samples, 0.4, words),
    }
    for name, blocks in made.items():
        path = folder / name
        if path.exists():
            continue
        writer = None
        for block in blocks():
            writer = writer or pq.ParquetWriter(f"{path}.part", block.schema, compression="zstd")
            writer.write_table(block, row_group_size=1 << 20)
        assert writer is not None
        writer.close()
        Path(f"{path}.part").rename(path)


def process(words: list[str]) -> tuple[float, float]:
    """Run a command; return its wall seconds and peak resident memory in GB."""
    start = time.perf_counter()
    child = os.posix_spawn(words[0], words, os.environ)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(words)}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9


def distil(arguments: argparse.Namespace) -> None:
    """Measure decomposition alone and the whole command."""
    folder = Path(arguments.folder)
    took, _ = seconds(lambda: generate(folder, arguments.scenes, arguments.samples))
    paths = [str(folder / name) for name in FILES]
    size = sum(Path(path).stat().st_size for path in paths) / 1e9
    if arguments.generate_only:
        return
    alone = (
        "import sys; from usermirrorer.builders.distil.candidates import candidates; "
        "found = candidates(*sys.argv[1:]); print('scenes:', len(found.delta))"
    )
    first = process([sys.executable, "-c", alone, *paths])
    command = [sys.executable, "-m", "usermirrorer.recipes.cli", "distil", paths[0]]
    more = [f"--weak={paths[1]}", f"--strong={paths[2]}", f"--out={folder / 'pairs.parquet'}"]
    second = process([*command, *more, f"--pairs={arguments.pairs}"])
    show(
        f"{arguments.scenes:,} scenes x {arguments.samples} decisions x 2 models, {size:.1f} GB "
        f"(generated in {took:.0f} s)",
        [
            ("read and decompose (bars: 60 s, 2 GB)", f"{first[0]:.1f} s, peak {first[1]:.2f} GB"),
            (f"distil, {arguments.pairs:,} pairs", f"{second[0]:.1f} s, peak {second[1]:.2f} GB"),
        ],
    )


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for work, tokens in ((sample, 64), (score, 96)):
        part = commands.add_parser(work.__name__)
        part.add_argument("scenes", help="Parquet file of scenes.")
        part.add_argument("--model", default="smollm2-135m-instruct")
        part.add_argument("--limit", type=int, default=8, help="Scenes.")
        part.add_argument("--samples", type=int, default=10)
        part.add_argument("--tokens", type=int, default=tokens, help="Longest decision.")
        part.add_argument("--dtype", default="auto", help="Of both: auto, float32 or bfloat16.")
        part.add_argument(
            "--clock",
            choices=CLOCKS,
            default="wall",
            help="cpu: CPU seconds, where others use the machine; with OMP_NUM_THREADS=1.",
        )
        part.set_defaults(work=work)
    part = commands.add_parser("distil")
    part.add_argument("folder")
    part.add_argument("--scenes", type=int, default=174_000)
    part.add_argument("--samples", type=int, default=10)
    part.add_argument("--pairs", type=int, default=10_000)
    part.add_argument("--generate-only", action="store_true")
    part.set_defaults(work=distil)
    arguments = parser.parse_args()
    arguments.work(arguments)


if __name__ == "__main__":
    main()
