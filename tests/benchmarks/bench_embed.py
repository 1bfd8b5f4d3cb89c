"""Embedding a catalogue of games: `embed` beside the plain way, in one run.

    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \\
        python tests/benchmarks/bench_embed.py [TEXTS]

The texts are made up, as long as Steam's (title, genres, tags); the encoder is all-MiniLM-L6-v2.
The plain way: batches of 32 in the catalogue's order. Both are timed in turn on the same texts, by
the processor time of the process, which other work on the machine changes less than the clock.
Bar: 32,131 games within 5 minutes on two plain AVX2 cores.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

CATALOGUE = 32_131
_GENRES = (
    *("Action", "Indie", "Casual", "Adventure", "Strategy", "Simulation", "RPG", "Free to Play"),
    *("Early Access", "Sports", "Racing", "Massively Multiplayer", "Design & Illustration"),
)
_TAGS = (
    *("Singleplayer", "Multiplayer", "Great Soundtrack", "Atmospheric", "2D", "Puzzle", "Co-op"),
    *("Story Rich", "Fantasy", "Sci-fi", "Horror", "Female Protagonist", "First-Person", "Anime"),
    *("Open World", "Difficult", "Pixel Graphics", "VR", "Turn-Based", "Sandbox", "Visual Novel"),
)
_WORDS = "Lost Train Simulator Castle Wars Space Dawn Hero Legend Night Zombie Quest Song Pack"


def texts(count: int) -> list[str]:
    """Return item texts of the lengths of Steam's: 128 characters on average."""
    draw = np.random.default_rng(0)
    made = []
    for number in range(count):
        title = " ".join(draw.choice(_WORDS.split(), draw.integers(1, 7))) + f" {number}"
        genres = ", ".join(draw.choice(_GENRES, draw.integers(1, 5), replace=False))
        tags = ", ".join(draw.choice(_TAGS, draw.integers(2, 9), replace=False))
        made.append(" - ".join([title, genres, tags]))
    return made


def plain(model: str) -> Callable[[list[str]], np.ndarray]:
    """Return what embeds 32 texts after another, as they come."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model)

    @torch.inference_mode()
    def run(wanted: list[str]) -> np.ndarray:
        parts = []
        for first in range(0, len(wanted), 32):
            inputs = tokenizer(
                wanted[first : first + 32],
                padding=True,
                truncation=True,
                max_length=256,
                return_tensors="pt",
            )
            mask = inputs["attention_mask"].unsqueeze(-1)
            hidden = network(**inputs).last_hidden_state
            mean = (hidden * mask).sum(1) / mask.sum(1)
            parts.append(torch.nn.functional.normalize(mean, dim=1).numpy())
        return np.concatenate(parts)

    return run


def main() -> None:
    """Print the seconds of both ways and what they make of a whole catalogue."""
    from usermirrorer.builders.common import assets
    from usermirrorer.builders.scenes import embed

    wanted = texts(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
    model = assets.resolve_model("all-minilm-l6-v2")
    ways = {"plain": plain(model), "embed": lambda some: embed.embed(some, model)}
    made, seconds = {}, {}
    for name, way in ways.items():
        way(wanted[:32])  # what is loaded once is not counted
        begun, clock = time.process_time(), time.perf_counter()
        made[name] = way(wanted)
        seconds[name] = time.process_time() - begun
        whole = seconds[name] / len(wanted) * CATALOGUE
        print(
            f"{name}: {seconds[name]:.1f} s of processor time, {time.perf_counter() - clock:.1f} s "
            f"by the clock; {CATALOGUE:,} games: {whole / 2:.0f} s on two cores",
            flush=True,
        )
    print(f"ratio {seconds['plain'] / seconds['embed']:.2f}")
    most = min(32, len(wanted))
    near = {n: np.argsort(-(v @ v.T), axis=1, kind="stable")[:, :most] for n, v in made.items()}
    same = [len({*a} & {*b}) / most for a, b in zip(near["plain"], near["embed"], strict=True)]
    print(f"lists of {most} neighbours share {100 * float(np.mean(same)):.1f} %")


if __name__ == "__main__":
    main()
