"""Canonical tables to user simulation scenes (Definition 2.1, sections 2.2 and B.1).

feedback.py  interactions as arrays that are looked up as of a time
contemporaries.py   exposures in which nothing but the person tells the target
targets.py   which behaviors can become scenes
world.py     what scenes may draw from: users split, feedback indexed
plan.py      which of them become scenes, and the target of each placebo
exposure.py  candidate lists and how they are mixed into an exposure
gfcf.py      collaborative scores, as of a time
sequence.py  what people took next
features.py  cues and baselines of each option, which travel with the scenes
embed.py     item text -> sentence embeddings; embed_batches.py: in which batches, kept
render.py    rows -> text, by templates/<domain>/
part.py      a part of the plan -> scenes
workers.py   parts made here, over processes, or on a Ray cluster
build.py     all parts -> train and test scenes of one source
presets.py   how many scenes: the paper's counts, and smaller ones
pipeline.py  raw files to scenes in one call
variants.py  the same scenes with features left out
commands.py  the command that makes those
dataset.py   the same as a `datasets` builder
random_numbers.py   random numbers of each scene's own
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Return `SceneConfig`, which was defined here before this module became a package."""
    if name != "SceneConfig":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from usermirrorer.builders.scenes.world import SceneConfig

    return SceneConfig
