"""People and catalogue of a file of scenes, and vectors of their texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.text import numbered_by_looks
from usermirrorer.recipes.simulator.questions import Question, from_scene
from usermirrorer.recipes.simulator.scenes import read_scenes

#: Gives texts their vectors, [texts, width]; the same text always gets the same.
Embed = Callable[[Sequence[str]], np.ndarray]
Scenes = str | Path | Iterable[Mapping[str, Any]]
WIDTH = 64


@dataclass(frozen=True)
class World:
    """What an environment is made of.

    Args:
        people: Their profiles and histories; a person is one scene.
        catalogue: All options of all scenes, each once, in the order in which they first appear.
        vectors: Of the catalogue, float32 [items, width], of length 1 or 0.
        embed: Made them, and makes those of profiles and histories.
    """

    people: tuple[Question, ...]
    catalogue: tuple[str, ...]
    vectors: np.ndarray
    embed: Embed


def read_world(scenes: Scenes, embed: Embed | None = None) -> World:
    """Return the people and the catalogue of scenes.

    Args:
        scenes: The scenes, or where they lie: see `read_scenes`.
        embed: By default words are hashed, which needs no model and no fitting.

    Raises:
        UserError: if a scene cannot be asked, there is none, or vectors are not what they should.
    """
    rows: Sequence[tuple[str, Any]]
    if isinstance(scenes, str | Path):
        rows = read_scenes(str(scenes))
    else:
        rows = [(f"scene {n}", row) for n, row in enumerate(scenes, 1)]
    if not rows:
        raise UserError("there are no scenes", fix="Give at least one.")
    people = tuple(from_scene(row, where) for where, row in rows)
    texts = list(dict.fromkeys(option for person in people for option in person.exposure))
    looks = numbered_by_looks(texts).tolist()
    firsts = {look: text for look, text in zip(reversed(looks), reversed(texts), strict=True)}
    catalogue = tuple(firsts[look] for look in dict.fromkeys(looks))
    embed = _of_length_one(embed or hashed_words)
    return World(people, catalogue, embed(catalogue), embed)


def hashed_words(texts: Sequence[str]) -> np.ndarray:
    """Return one vector per text that tells which words it has."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(n_features=WIDTH, dtype=np.float32)
    return hashing.transform(list(texts)).toarray()


def _of_length_one(embed: Embed) -> Embed:
    def checked(texts: Sequence[str]) -> np.ndarray:
        vectors = np.asarray(embed(texts), np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.shape[1]:
            raise UserError(f"embed gave {vectors.shape} for {len(texts)} texts",
                            fix="Give one vector per text.")  # fmt: skip
        if not np.isfinite(vectors).all():
            raise UserError("embed gave numbers that are not finite")
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.clip(vectors / np.where(lengths > 0, lengths, 1), -1, 1)

    return checked
