"""The lm_eval tasks: how a scene becomes a prompt, and model outputs become metrics.

`DecisionTask` is the paper's setting (decision process, then behavior), `DirectTask` the cheap one
(label probabilities at once). A task's name says which source it scores. Settings come from the
task's metadata, which `lm_eval --metadata '{...}'` overrides:

    dataset, dataset_revision   where the scenes are (see data.py)
    samples, sample_seed        decisions per scene (5), and the seed sent to API servers
    guided                      force the headings of a decision process (small models; off)
    rotations                   also show every rotation of the options and average (off)
    ablations, ablation_samples run the ablations of ablations.py (on; off only for tests), and
                                decisions per ablated scene (1)
    placebo                     Parquet file of placebo scenes, where `dataset` is a file (the one
                                beside it)
    max_history                 keep only the newest so many lines of history; 0 shows none,
                                absent, null or -1 all
    prompt_folder               folder of other prompt templates
    strict                      a source that the dataset lacks is an error (off: its task scores
                                nothing and says so, and groups are over those that are there)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import LABELS as LABEL_NAMES
from usermirrorer.builders.common.storage import fingerprint
from usermirrorer.builders.decisions import chat
from usermirrorer.builders.decisions.engines.base import Sampling
from usermirrorer.builders.decisions.prompts import DEFAULT_PROMPTS, Message, Mode, messages
from usermirrorer.eval_harness import ablations, program, scoring
from usermirrorer.eval_harness.ablations import Variant
from usermirrorer.eval_harness.data import (
    NoScenesError,
    load_scenes,
    local_model_revision,
    package_versions,
)
from usermirrorer.eval_harness.metric_table import AT_POSITION, METRICS, lookup
from usermirrorer.eval_harness.requests import ModelOutput, SceneRequest
from usermirrorer.eval_harness.scene_metrics import (
    accuracy,
    over_scenes,
    reported,
    scene_metrics,
    taste_metrics,
)
from usermirrorer.eval_harness.task_names import family_of, source_of

_log = logging.getLogger(__name__)
#: Tasks of this evaluation that have scenes, and those whose requests are built: lm_eval loads all
#: before it builds the first, so a load after that begins another evaluation.
_with_scenes: set[str] = set()
_built: set[str] = set()
_NO_SCENE = {"profile": "", "history": [], "exposure": ["", ""], "answer": 0}


class DecisionTask(ConfigurableTask):
    """Samples decision processes; accuracy of their behaviors, entropy given each of them."""

    VERSION = 1
    mode: ClassVar[Mode] = "decision"
    request: str = scoring.DECISIONS
    _options = 0

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Load the scenes of the source that `config["task"]` names."""
        plain = {key: value for key, value in config.items() if key != "class"}
        self._prompts = Path(
            (plain.get("metadata") or {}).get("prompt_folder") or DEFAULT_PROMPTS
        ).expanduser()
        super().__init__(config=plain)
        if self._left_out:
            self.dataset = {"test": Dataset.from_list([_NO_SCENE]).select([])}
        self.OUTPUT_TYPE = self.request  # lm_eval pads ranks by this name

    @property
    def settings(self) -> dict[str, Any]:
        """The task's metadata."""
        return self.config.metadata or {}

    @property
    def _predicts_only(self) -> bool:
        """Whether lm_eval runs with --predict_only, in which "bypass" replaces all metrics."""
        return any(row["metric"] == "bypass" for row in self.config.metric_list or [])

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Load the test scenes and record their provenance in the metadata."""
        task = str(self.config.task)
        program.prepare()
        if _built:
            _with_scenes.clear()
            _built.clear()
        try:
            scenes, provenance = load_scenes(
                source_of(task),
                str(self.settings.get("dataset", "")),
                str(self.settings.get("dataset_revision", "")),
                family_of(task).table,
            )
        except NoScenesError as error:
            if self.settings.get("strict"):
                raise
            self._leave_out(error)
            return
        _with_scenes.add(task)
        self.dataset = {"test": scenes}
        self._options = max(len(options) for options in scenes["exposure"])
        self._ablations = ablations.load(scenes, source_of(task), provenance, self.settings)
        self._absent = ablations.absent_metrics(scenes, self._ablations, provenance["gaps"])
        self.config.metadata = {
            **self.settings,
            **provenance,
            **self._ablations.provenance,
            "prompt_hash": prompt_hash(self.mode, self._prompts, _given(self.settings)),
            "model_revision": local_model_revision(str(self.settings.get("pretrained", ""))),
            "packages": package_versions(),
        }

    def _leave_out(self, error: NoScenesError) -> None:
        """Score nothing, and say why: lm_eval loads every task that a pattern or group names."""
        _log.warning("%s is not scored: %s", self.config.task, error)
        self.dataset = {"test": Dataset.from_list([_NO_SCENE])}  # lm_eval tries the first one
        self.request = scoring.NOTHING
        self.config.metadata = {**self.settings, "not_scored": str(error)}

    @property
    def _left_out(self) -> str:
        return str(self.settings.get("not_scored", ""))

    def build_all_requests(self, *, cache_requests: bool = False, **arguments: Any) -> None:
        """Build the prompts, never from `--cache_requests`: its key leaves the dataset out.

        Raises:
            UserError: if no task that was loaded has scenes.
        """
        _built.add(str(self.config.task))
        if self._left_out:
            if not _with_scenes:
                raise UserError(f"nothing to score: {self._left_out}", where=str(self.config.task))
            names = (str(self.config.task), None, 1)
            self._instances = [Instance(self.request, {}, ("", {}), 0, names)]
            return
        super().build_all_requests(cache_requests=False, **arguments)

    def doc_to_text(self, doc: Mapping[str, Any], doc_to_text: Any = None) -> str:
        """Return the prompt as plain text."""
        return plain_text(self._messages(doc, 0))

    def doc_to_target(self, doc: Mapping[str, Any], doc_to_target: Any = None) -> str:
        """Return the label of the real behavior."""
        return LABEL_NAMES[doc["answer"]]

    def _messages(self, doc: Mapping[str, Any], rotation: int) -> list[Message]:
        exposure = list(doc["exposure"])
        scene = {
            "profile": doc["profile"],
            "history": newest_lines(doc["history"], self.settings.get("max_history")),
            "exposure": exposure[rotation:] + exposure[:rotation],
        }
        return messages(scene, self.mode, self._prompts)

    def _variants(self, doc: Mapping[str, Any]) -> list[Variant]:
        """Return the scene, in every rotation if `rotations` is set, then its ablations."""
        rotations = len(doc["exposure"]) if self.settings.get("rotations") else 1
        own = [Variant("", doc, rotation) for rotation in range(rotations)]
        return [*own, *self._ablations.variants(doc)]

    def fewshot_context(
        self,
        doc: Mapping[str, Any],
        num_fewshot: int = 0,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        chat_template: Callable[[list[Message]], str] | None = None,
        **_: Any,
    ) -> list[str]:
        """Return the prompt of each variant of the scene, in the order of `_variants`."""
        prompts = []
        for variant in self._variants(doc):
            turns = self._messages(variant.scene, variant.rotation)
            if system_instruction:
                turns[0]["content"] = f"{system_instruction}\n\n{turns[0]['content']}"
            prompts.append(render(turns, chat_template if apply_chat_template else None))
        return prompts

    def construct_requests(
        self, doc: Mapping[str, Any], ctx: Sequence[str], **kwargs: Any
    ) -> list[Instance]:
        """Return one request per variant of the scene."""
        generation = self.config.generation_kwargs or {}
        temperature = float(generation.get("temperature", 1.0))
        seed = int(self.settings.get("sample_seed", 0))
        requests = []
        for index, (variant, prompt) in enumerate(zip(self._variants(doc), ctx, strict=True)):
            count = ("ablation_samples", 1) if variant.name else ("samples", 5)
            sampling = Sampling(
                n=int(self.settings.get(*count)),
                temperature=temperature if generation.get("do_sample", True) else 0.0,
                top_p=float(generation.get("top_p", 1.0)),
                max_tokens=int(generation.get("max_gen_toks", 512)),
                guided=bool(self.settings.get("guided", False)),
            )
            request = SceneRequest(len(variant.scene["exposure"]), sampling, seed).stored()
            requests.append(
                Instance(self.request, doc, (prompt, request), index, kwargs["metadata"])
            )
        return requests

    def process_results(
        self, doc: Mapping[str, Any], results: Sequence[ModelOutput]
    ) -> dict[str, Any]:
        """Return the metrics of one scene."""
        if self._predicts_only:
            return {"bypass": None}
        variants = self._variants(doc)
        own = [output for v, output in zip(variants, results, strict=True) if not v.name]
        own_values = scene_metrics(doc, own, mode=self.mode, positions=self._options)
        ablated = {
            variant.name: accuracy(variant.scene, output, self.mode)
            for variant, output in zip(variants, results, strict=True)
            if variant.name
        }
        taste = taste_metrics(own_values, ablated, self._ablations.reference == "placebo")
        return reported(taste | own_values, doc["user_id"], self._absent)

    def aggregation(self) -> dict[str, Callable[[list], Any]]:
        """Return how each metric's values over the scenes become one number, and its error."""
        if self._predicts_only:
            return super().aggregation()
        functions: dict[str, Callable[[list], Any]] = {}
        for name in self._names():
            functions[name] = partial(over_scenes, name=name, field="value")
            functions[f"{name}_stderr"] = partial(over_scenes, name=name, field="stderr")
        return functions

    def higher_is_better(self) -> dict[str, bool | None]:
        """Return each metric's direction."""
        return {name: lookup(name).higher_is_better for name in self._names()}

    def _names(self) -> list[str]:
        positions = [f"{AT_POSITION}{label}" for label in LABEL_NAMES[: self._options]]
        return [*METRICS, *positions]


class DirectTask(DecisionTask):
    """Label probabilities straight after the prompt: accuracy of the most likely label."""

    mode: ClassVar[Mode] = "direct"
    request: str = scoring.LABELS


def newest_lines(history: Sequence[str], most: int | None) -> list[str]:
    """Return the newest `most` lines of a history; all of it for None or -1, nothing for 0."""
    if most is None or int(most) == -1:
        return list(history)
    if int(most) < 0:
        raise UserError("is -1 (all lines) or more", where=f"max_history {most}")
    return list(history)[max(0, len(history) - int(most)) :]


def prompt_hash(mode: Mode, folder: Path, settings: chat.Settings | None = None) -> str:
    """Return a hash of what a mode's prompts are made from.

    Args:
        mode: Decision or direct.
        folder: Of the prompt templates.
        settings: What the model's chat template is given: thinking, the date and the like.
    """
    names = (f"{mode}_system.jinja", "scene.jinja")
    try:
        texts = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    except FileNotFoundError as error:
        raise UserError("prompt template is missing", where=error.filename) from error
    return fingerprint({**texts, "chat": chat.template_settings(settings)})


def _given(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model's arguments say of its chat template, as lm_eval's models read them."""
    given = dict(model.get("chat_template_args") or {})
    if model.get("enable_thinking") is not None:
        given["enable_thinking"] = model["enable_thinking"]
    return given


def plain_text(turns: Sequence[Message]) -> str:
    """Return the prompt for models without a chat template."""
    return "\n\n".join(turn["content"] for turn in turns) + "\n\n"


def render(turns: list[Message], chat_template: Callable[[list[Message]], Any] | None) -> Any:
    """Return the prompt under a model's chat template, or as plain text.

    A model whose tokenizer is here is shown what training and sampling show it, by
    `decisions/chat.py`. Chat servers render messages by themselves; they get them as lm_eval packs
    them.

    Args:
        turns: System and user message.
        chat_template: `apply_chat_template` of an lm_eval model; None for plain text.

    Raises:
        UserError: if the model has no chat template.
    """
    if chat_template is None:
        return plain_text(turns)
    lm: Any = getattr(chat_template, "__self__", None)
    try:
        if not renders_here(lm):
            return chat_template(turns)
        names = ("chat_template_args", "enable_thinking")
        settings = _given({name: getattr(lm, name, None) for name in names})
        return chat.chat_text(lm.tokenizer, turns, **settings)
    except ValueError as error:
        raise UserError(
            f"the chat template cannot be applied: {error}",
            fix="Run without --apply_chat_template to use plain text.",
        ) from error


def renders_here(lm: Any) -> bool:
    """Say whether an lm_eval model is sent text made from its own tokenizer's chat template."""
    from lm_eval.models.api_models import TemplateAPI
    from transformers import PreTrainedTokenizerBase

    if isinstance(lm, TemplateAPI) and not (
        lm.tokenizer_backend == "huggingface" and lm.tokenized_requests
    ):
        return False
    return isinstance(getattr(lm, "tokenizer", None), PreTrainedTokenizerBase)
