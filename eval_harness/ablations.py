"""Scenes with a part taken away: what a simulator still gets right then was not taste.

    no_history    the history removed, the profile kept
    swapped       the history of another user's scene of the same source and split, profile kept
    placebo       the exposure and answer drawn for a target that another user took

Each is one more request per scene. A simulator that loses nothing by the first two reads nothing of
the person in the history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from usermirrorer.builders.common.storage import fingerprint
from usermirrorer.eval_harness.data import load_placebo, swapped_histories
from usermirrorer.eval_harness.metric_table import GAPS

Scene = Mapping[str, Any]


class Variant(NamedTuple):
    """A scene as it is shown: under a name ("" for itself), its options rotated left."""

    name: str
    scene: Scene
    rotation: int = 0


@dataclass(frozen=True)
class Ablations:
    """What a task's scenes are changed into; empty where ablations are turned off.

    Args:
        on: Whether histories are removed and swapped.
        swapped: Scene id -> history of another user.
        placebo: Scene id -> its placebo.
    """

    on: bool = False
    swapped: Mapping[str, list[str]] = field(default_factory=dict)
    placebo: Mapping[str, Scene] = field(default_factory=dict)

    def variants(self, scene: Scene) -> list[Variant]:
        """Return the changed scenes of one scene; a scene without history has none to lose."""
        asked = []
        if self.on and len(scene["history"]):
            asked.append(Variant("no_history", {**scene, "history": []}))
            if scene["scene_id"] in self.swapped:
                history = self.swapped[scene["scene_id"]]
                asked.append(Variant("swapped", {**scene, "history": history}))
        if placebo := self.placebo.get(scene["scene_id"]):
            drawn = {name: placebo[name] for name in ("exposure", "answer")}
            asked.append(Variant("placebo", {**scene, **drawn}))
        return asked

    @property
    def reference(self) -> str:
        """What `acc_over_placebo` is over."""
        return "placebo" if self.placebo else "chance"

    @property
    def provenance(self) -> dict[str, Any]:
        """What the results record."""
        drawn = {key: [row["exposure"], row["answer"]] for key, row in self.placebo.items()}
        return {
            "ablations": self.on,
            "reference": self.reference,
            "placebo_scenes": len(drawn),
            "placebo_hash": fingerprint(drawn) if drawn else "",
        }


def load(
    scenes: Any, source: str, provenance: Mapping[str, Any], settings: Mapping[str, Any]
) -> Ablations:
    """Return the ablations of a task's scenes.

    Args:
        scenes: Its test scenes.
        source: Their source.
        provenance: Of the scenes, as `data.load_scenes` returns it.
        settings: The task's metadata; `ablations: false` turns all off, `placebo` may name a file.
    """
    if not settings.get("ablations", True):
        return Ablations()
    placebo = load_placebo(scenes, source, provenance, str(settings.get("placebo") or ""))
    return Ablations(True, swapped_histories(scenes), placebo)


def absent_metrics(scenes: Any, ablations: Ablations, gaps: Mapping[str, int]) -> set[str]:
    """Return the metrics that no scene of a task can have.

    Args:
        scenes: Its test scenes.
        ablations: Of these scenes.
        gaps: How many scenes have which gap after the history, as `gap_counts` counts them.
    """
    run = {variant.name for scene in scenes for variant in ablations.variants(scene)}
    absent = {f"acc_gap_{name}" for name in GAPS if name not in gaps}
    for name in {"no_history", "swapped", "placebo"} - run:
        absent |= {f"acc_{name}", f"acc_loss_{name}"}
    if "exposure_collaborative" not in scenes.column_names:
        absent.add("acc_collaborative")
    return absent
