"""The lm_eval tasks: how a scene becomes a prompt, and model outputs become metrics.

`DecisionTask` is the paper's setting (decision process, then behavior), `DirectTask` the cheap one
(label probabilities at once). A task's name says which source it scores. Settings come from the
task's metadata, which `lm_eval --metadata '{...}'` overrides:

    dataset, dataset_revision   where the scenes are (see data.py)
    samples, sample_seed        decisions a scene (5), and the seed sent to API servers
    guided                      force the headings of a decision process (small models; off)
    rotations                   also show every rotation of the options and average (off)
    max_history                 keep only the newest so many lines of history (0: all)
    prompt_folder               folder of other prompt templates
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import LABELS as LABEL_NAMES
from usermirrorer.builders.common.storage import fingerprint
from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS, Message, Mode, messages, parse
from usermirrorer.eval_harness import metrics, scoring
from usermirrorer.eval_harness.data import load_scenes, local_model_revision, package_versions

#: metric -> whether higher is better (None: neither).
MEANS: dict[str, bool | None] = {
    "acc": True,
    "acc_chance": None,
    "acc_popular": None,
    "acc_nearest": None,
    "entropy": False,
    "entropy_norm": False,
    "entropy_total": False,
    "entropy_is_estimate": None,
    "log_loss": False,
    "brier": False,
    "malformed": False,
    "decision_words": None,
}


class DecisionTask(ConfigurableTask):
    """Samples decision processes; accuracy of their behaviors, entropy given each of them."""

    VERSION = 1
    mode: ClassVar[Mode] = "decision"
    request: ClassVar[str] = scoring.DECISIONS

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Load the scenes of the source that `config["task"]` names."""
        plain = {key: value for key, value in config.items() if key != "class"}
        self._prompts = Path(
            (plain.get("metadata") or {}).get("prompt_folder") or DEFAULT_PROMPTS
        ).expanduser()
        super().__init__(config=plain)
        self.OUTPUT_TYPE = self.request  # lm_eval pads ranks by this name

    @property
    def settings(self) -> dict[str, Any]:
        """The task's metadata."""
        return self.config.metadata or {}

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Load the test scenes and record their provenance in the metadata."""
        scenes, provenance = load_scenes(
            str(self.config.task).split("_", maxsplit=1)[1],
            str(self.settings.get("dataset", "")),
            str(self.settings.get("dataset_revision", "")),
        )
        self.dataset = {"test": scenes}
        self._options = max(len(options) for options in scenes["exposure"])
        self.config.metadata = {
            **self.settings,
            **provenance,
            "prompt_hash": prompt_hash(self.mode, self._prompts),
            "model_revision": local_model_revision(str(self.settings.get("pretrained", ""))),
            "packages": package_versions(),
        }

    def build_all_requests(self, *, cache_requests: bool = False, **arguments: Any) -> None:
        """Build the prompts, never from `--cache_requests`: its key leaves the dataset out."""
        super().build_all_requests(cache_requests=False, **arguments)

    def doc_to_text(self, doc: Mapping[str, Any], doc_to_text: Any = None) -> str:
        """Return the prompt as plain text."""
        return plain_text(self._messages(doc, 0))

    def doc_to_target(self, doc: Mapping[str, Any], doc_to_target: Any = None) -> str:
        """Return the label of the real behavior."""
        return LABEL_NAMES[doc["answer"]]

    def _messages(self, doc: Mapping[str, Any], rotation: int) -> list[Message]:
        newest = int(self.settings.get("max_history", 0))
        exposure = list(doc["exposure"])
        scene = {
            "profile": doc["profile"],
            "history": list(doc["history"])[-newest:] if newest else doc["history"],
            "exposure": exposure[rotation:] + exposure[:rotation],
        }
        return messages(scene, self.mode, self._prompts)

    def fewshot_context(
        self,
        doc: Mapping[str, Any],
        num_fewshot: int = 0,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        chat_template: Callable[[list[Message]], str] | None = None,
        **_: Any,
    ) -> list[str]:
        """Return the prompt of each rotation of the options (one, unless `rotations` is set)."""
        rotations = len(doc["exposure"]) if self.settings.get("rotations") else 1
        prompts = []
        for rotation in range(rotations):
            turns = self._messages(doc, rotation)
            if system_instruction:
                turns[0]["content"] = f"{system_instruction}\n\n{turns[0]['content']}"
            prompts.append(render(turns, chat_template if apply_chat_template else None))
        return prompts

    def construct_requests(
        self, doc: Mapping[str, Any], ctx: Sequence[str], **kwargs: Any
    ) -> list[Instance]:
        """Return one request a rotation."""
        generation = self.config.generation_kwargs or {}
        temperature = float(generation.get("temperature", 1.0))
        sampling = scoring.Sampling(
            options=len(doc["exposure"]),
            samples=int(self.settings.get("samples", 5)),
            temperature=temperature if generation.get("do_sample", True) else 0.0,
            top_p=float(generation.get("top_p", 1.0)),
            max_tokens=int(generation.get("max_gen_toks", 512)),
            guided=bool(self.settings.get("guided", False)),
            seed=int(self.settings.get("sample_seed", 0)),
        )
        return [
            Instance(self.request, doc, (prompt, sampling.request()), index, kwargs["metadata"])
            for index, prompt in enumerate(ctx)
        ]

    def process_results(
        self, doc: Mapping[str, Any], results: Sequence[scoring.Outcome]
    ) -> dict[str, Any]:
        """Return the metrics of one scene."""
        if "bypass" in self._metric_fn_list:  # --predict_only
            return {"bypass": None}
        return scene_metrics(doc, results, mode=self.mode, positions=self._options)

    def aggregation(self) -> dict[str, Callable[[list], Any]]:
        """Return how each metric's values over the scenes become one number."""
        if "bypass" in self._metric_fn_list:
            return self._aggregation_list
        found: dict[str, Callable[[list], Any]] = dict.fromkeys(MEANS, mean)
        found["ece"] = partial(_calibration, field="value")
        found["ece_stderr"] = partial(_calibration, field="stderr")
        for label in LABEL_NAMES[: self._options]:
            found[f"acc_at_{label}"] = partial(_mean_present, field="value")
            found[f"acc_at_{label}_stderr"] = partial(_mean_present, field="stderr")
        return found

    def higher_is_better(self) -> dict[str, bool | None]:
        """Return each metric's direction."""
        names = [name for name in self.aggregation() if not name.endswith("_stderr")]
        return {name: MEANS.get(name, name.startswith("acc")) for name in names}


class DirectTask(DecisionTask):
    """Label probabilities straight after the prompt: accuracy of the most likely label."""

    mode: ClassVar[Mode] = "direct"
    request: ClassVar[str] = scoring.LABELS


def prompt_hash(mode: Mode, folder: Path) -> str:
    """Return a hash of the templates that a mode's prompts are made from."""
    names = (f"{mode}_system.jinja", "scene.jinja")
    try:
        return fingerprint({name: (folder / name).read_text(encoding="utf-8") for name in names})
    except FileNotFoundError as error:
        raise UserError("prompt template is missing", where=error.filename) from error


def plain_text(turns: Sequence[Message]) -> str:
    """Return the prompt for models without a chat template."""
    return "\n\n".join(turn["content"] for turn in turns) + "\n\n"


def render(turns: list[Message], chat_template: Callable[[list[Message]], str] | None) -> str:
    """Return the prompt under a model's chat template, or as plain text.

    Some templates refuse the system role, and lm_eval then leaves that message out in silence; it
    is put in front of the user's message instead.

    Raises:
        UserError: if the model has no chat template.
    """
    if chat_template is None:
        return plain_text(turns)
    system = turns[0]["content"]
    try:
        text = chat_template(turns)
        if _holds(text, system):
            return text
        merged = {"role": "user", "content": f"{system}\n\n{turns[1]['content']}"}
        text = chat_template([merged])
    except ValueError as error:
        raise UserError(
            f"the chat template cannot be applied: {error}",
            fix="Run without --apply_chat_template to use plain text.",
        ) from error
    if not _holds(text, system):
        raise UserError("the model's chat template drops part of the prompt")
    return text


def _holds(text: Any, part: str) -> bool:
    # Chat APIs get JSON, and templates may strip line ends: compare letters and digits only.
    def bare(value: str) -> str:
        return "".join(c for c in value.replace("\\n", " ") if c.isalnum())

    return bare(part) in bare(text if isinstance(text, str) else text.prompt)


def scene_metrics(
    scene: Mapping[str, Any],
    outcomes: Sequence[scoring.Outcome],
    *,
    mode: Mode,
    positions: int = 0,
) -> dict[str, Any]:
    """Return the metrics of one scene from its outcomes, one a rotation of its options.

    With sampled decisions, accuracy is that of the generated behaviors (malformed ones are wrong);
    without, that of the most likely label. `entropy` is E over decisions of H(P(Y | X + D))
    (Table 12); `entropy_total`, log-loss, Brier and calibration are of the mean distribution
    (definition 3.1). Without log-probabilities these use the sampled frequencies, both entropies
    are estimates of that of P(Y | X), and `entropy_is_estimate` is 1.

    Args:
        scene: A row of the SCENE schema.
        outcomes: Model outputs; outcome r belongs to the options rotated left by r.
        mode: Of the prompts.
        positions: Report accuracy at the first so many positions of the target.
    """
    k, truth = len(scene["exposure"]), int(scene["answer"])
    behaviors = _behaviors(outcomes, k, mode)
    rows = _distributions(outcomes)
    probabilities = np.array(rows) if rows else metrics.frequencies(behaviors, k)[None]
    expected = probabilities.mean(axis=0)
    best = metrics.top_choice(expected, truth)
    accuracy = float(np.mean([b == truth for b in behaviors])) if behaviors else best
    if rows:
        entropy = float(metrics.entropy(probabilities).mean())
        total = float(metrics.entropy(expected))
    else:
        entropy = total = metrics.sampled_entropy(behaviors, k)
    found: dict[str, Any] = {
        "acc": accuracy,
        "acc_chance": 1 / k,
        "acc_popular": _baseline(scene.get("exposure_popularity"), k, truth),
        "acc_nearest": _baseline(scene.get("history_similarity"), k, truth),
        "entropy": entropy,
        "entropy_norm": entropy / math.log2(k),
        "entropy_total": total,
        "entropy_is_estimate": float(not rows),
        "log_loss": metrics.log_loss(expected, truth),
        "brier": metrics.brier(expected, truth),
        "ece": [float(expected.max()), best],
        "ece_stderr": [float(expected.max()), best],
    }
    if behaviors:
        texts = [text for outcome in outcomes for text in outcome["texts"]]
        found["malformed"] = float(np.mean([b is None for b in behaviors]))
        found["decision_words"] = float(np.mean([len(text.split()) for text in texts]))
    for position, label in enumerate(LABEL_NAMES[:positions]):
        value = accuracy if position == truth else None
        found[f"acc_at_{label}"] = found[f"acc_at_{label}_stderr"] = value
    return found


def _behaviors(outcomes: Sequence[scoring.Outcome], options: int, mode: Mode) -> list[int | None]:
    """Parsed behaviors as indices of the scene's own order; None where malformed."""
    return [
        None
        if (index := parse(text, options, mode).behavior) is None
        else (index + rotation) % options
        for rotation, outcome in enumerate(outcomes)
        for text in outcome["texts"]
    ]


def _distributions(outcomes: Sequence[scoring.Outcome]) -> list[np.ndarray]:
    """Probabilities in the scene's own order, one row a decision; [] if the model gives none."""
    return [
        np.roll(row, rotation)
        for rotation, outcome in enumerate(outcomes)
        for row in outcome["probabilities"] or []
    ]


def _baseline(scores: Sequence[float] | None, options: int, truth: int) -> float:
    """Accuracy of a baseline; chance where a scene has no such scores (a user without history)."""
    if scores is None or len(scores) != options:
        return 1 / options
    return metrics.top_choice([math.nan if s is None else s for s in scores], truth)


def _calibration(items: list, field: str) -> float:
    rows = np.array(items, dtype=np.float64)
    if field == "value":
        return metrics.calibration_error(rows[:, 0], rows[:, 1])
    return metrics.bootstrap(lambda x: metrics.calibration_error(x[:, 0], x[:, 1]), rows).stderr


def _mean_present(items: list, field: str) -> float | str:
    present = [item for item in items if item is not None]
    if len(present) < (1 if field == "value" else 2):
        return "N/A"
    return getattr(metrics.mean(present), field)
