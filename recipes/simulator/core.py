"""`Simulator`: asks a model by its engine what a person would do."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, overload

import numpy as np

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import CONTEXT_TOKENS
from usermirrorer.builders.decisions.engines.base import Engine, Generation, Sampling
from usermirrorer.builders.decisions.prompts import Decision as Parsed
from usermirrorer.builders.decisions.prompts import Message, Mode, fit, parse, thought_of
from usermirrorer.builders.decisions.stage import room, scene_seed
from usermirrorer.builders.decisions.uncertainty import entropy
from usermirrorer.recipes.simulator import calibration, form
from usermirrorer.recipes.simulator.calibration import Calibration
from usermirrorer.recipes.simulator.choices import Choice, Decision, choice_of
from usermirrorer.recipes.simulator.questions import Question, from_scene, kind_of, question

Progress = Callable[[int], None]
#: Told what each sample of each question says so far.
Watch = Callable[[list[list[str]]], None]
#: Of `Asking`: kind of number, least, most.
_BOUNDS: dict[str, tuple[type, float, float]] = {
    "samples": (Integral, 1, 256),
    "temperature": (Real, 0, 10),
    "top_p": (Real, 1e-6, 1),
    "max_tokens": (Integral, 1, CONTEXT_TOKENS),
    "seed": (Integral, 0, 2**63 - 1),
}


@dataclass(frozen=True)
class Asking:
    """How questions are asked; the same for all questions of a batch.

    Args:
        mode: `decision` has decision processes written first, `direct` asks for the label alone.
        samples: Decision processes per question; probabilities are the mean over them.
        temperature: Of sampling; 0 takes the likeliest token.
        top_p: Nucleus mass.
        max_tokens: Longest decision process.
        guided: Force the headings of the format, for models that cannot follow it by themselves.
        seed: With the question it fixes every draw.
        coverage: Of the set of likely options; needs a calibration.

    Raises:
        UserError: if a value is out of its bounds.
    """

    mode: Mode = "decision"
    samples: int = 1
    temperature: float = 1.0
    top_p: float = 0.9
    max_tokens: int = 512
    guided: bool = False
    seed: int = 0
    coverage: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("decision", "direct"):
            raise UserError(f"{self.mode!r} is no mode", fix="Choose decision or direct.")
        for name, (kind, least, most) in _BOUNDS.items():
            value = getattr(self, name)
            number = isinstance(value, kind) and not isinstance(value, bool)
            if not number or not least <= value <= most:
                what = "a whole number" if kind is Integral else "a number"
                raise UserError(
                    f"{name} is {value!r}", fix=f"Give {what} from {least:g} to {most:g}."
                )
        if not isinstance(self.guided, bool):
            raise UserError(f"guided is {self.guided!r}", fix="Give True or False.")

    @property
    def sampling(self) -> Sampling:
        """The same for engines."""
        return Sampling(
            self.samples, self.temperature, self.top_p, self.max_tokens, guided=self.guided
        )

    @property
    def room(self) -> int:
        """Tokens that stay free behind the prompt."""
        return self.max_tokens if self.mode == "decision" else 0


class Simulator:
    """A model that chooses as a person with a profile and a history would.

    Args:
        engine: What runs the model, or a function that loads it, called when it is first needed.
        name: What the model is called.
        form: How the model is asked.
        identity: What else choices depend on; part of the key of what is stored.
        calibration: What was fitted on other users; probabilities are then calibrated.
    """

    def __init__(
        self,
        engine: Engine | Callable[[], Engine],
        *,
        name: str,
        form: form.Form = form.Form(),  # noqa: B008 - it cannot change
        identity: Mapping[str, Any] | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self._engine, self.form, self.name = engine, form, name
        self.calibration = calibration
        self.identity = dict(identity or {"model": name})

    @property
    def engine(self) -> Engine:
        """What runs the model."""
        if callable(self._engine):
            self._engine = self._engine()
        return self._engine

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        revision: str | None = None,
        engine: str | None = None,
        mode: Mode | None = None,
        prompts: Path | str | None = None,
        served_name: str = "",
        calibrated: bool | Path | str = False,
        lazy: bool = False,
        **options: Any,
    ) -> Simulator:
        """Load a simulator; it is asked in the form it was trained in.

        Args:
            model: Hub id, folder, GGUF file, LoRA adapter, part, or the address of a server that
                speaks OpenAI's protocol.
            revision: Tag, branch or commit of a Hub id.
            engine: `transformers` (default), `vllm` or `openai`.
            mode: `decision` or `direct`, instead of what the record of its training says.
            prompts: Folder of prompt templates, instead of those beside its weights.
            served_name: What a server calls the model, if it has several.
            calibrated: Apply what `usermirrorer calibrate` left beside the model, or in a file.
            lazy: Load the weights at the first question.
            options: Of the engine: `dtype`, `tensor_parallel`, `tokenizer`, `concurrency`,
                `chat_template_kwargs` (by default as in training); see `EngineSettings`.

        Raises:
            UserError: if it cannot be loaded.
        """
        spec, place = form.spec_of(
            str(model), revision=revision, engine=engine, name=served_name, **options
        )
        own = form.form_of(place) if place else form.Form()
        given = spec.chat_template_kwargs or own.chat_template_kwargs
        asked = form.Form(Path(prompts) if prompts else own.prompts, mode or own.mode, given)
        spec = replace(spec, chat_template_kwargs=given)
        if not asked.prompts.is_dir():
            raise UserError("is no folder of prompt templates", where=asked.prompts)
        made = cls(
            spec.load,
            name=served_name or (str(model) if place else spec.model),
            form=asked,
            identity=spec.identity(),
            calibration=calibration.beside(place, calibrated) if calibrated else None,
        )
        if not lazy:
            made.engine  # noqa: B018 - loads it
        return made

    @overload
    def choose(
        self,
        scenes: None = None,
        *,
        exposure: Sequence[str],
        profile: str | None = "",
        history: Sequence[str] | None = (),
        mode: Mode | None = None,
        progress: Progress | None = None,
        **asking: Any,
    ) -> Choice: ...

    @overload
    def choose(
        self,
        scenes: Iterable[Mapping[str, Any] | Question],
        *,
        exposure: None = None,
        profile: None = None,
        history: None = None,
        mode: Mode | None = None,
        progress: Progress | None = None,
        **asking: Any,
    ) -> Iterator[Choice]: ...

    def choose(
        self,
        scenes: Iterable[Mapping[str, Any] | Question] | None = None,
        *,
        exposure: Sequence[str] | None = None,
        profile: str | None = "",
        history: Sequence[str] | None = (),
        mode: Mode | None = None,
        progress: Progress | None = None,
        **asking: Any,
    ) -> Choice | Iterator[Choice]:
        """Return what one person would choose, or an iterator over those of many.

        Args:
            scenes: Scenes (mappings with `exposure`, and `profile` and `history` where known).
                Choices come in their order, as soon as each batch is done.
            exposure: The options of one question, 2 to 26.
            profile: Of one question: lines of facts.
            history: Of one question: one line per event, oldest first.
            mode: `decision` or `direct`; by default as the model was trained.
            progress: Called with the number of choices of each batch.
            asking: `samples`, `temperature`, `top_p`, `max_tokens`, `guided`, `seed`: see `Asking`;
                `coverage` asks for the options among which the real one lies that often.

        Raises:
            UserError: if a question has too few, too many or equal options, or does not fit into
                the model's context; with `scenes`, when its turn comes.
        """
        how = self.asking(mode=mode, **asking)
        if scenes is None:
            given = () if exposure is None else exposure
            return self._one(question(given, profile, history), how)
        if exposure is not None or profile or history:
            raise UserError("scenes have their own exposures, profiles and histories")
        if isinstance(scenes, str | bytes | Mapping) or not isinstance(scenes, Iterable):
            raise UserError(
                f"scenes is {kind_of(scenes)}, no list of scenes",
                fix="Put a scene into a list, or give its parts: choose(exposure=...).",
            )
        return self.many(scenes, how, progress)

    def asking(self, *, mode: Mode | None = None, **asking: Any) -> Asking:
        """Return how questions are asked, in the model's own mode where none is named.

        Raises:
            UserError: if a name is not known or a value out of its bounds.
        """
        try:
            how = Asking(mode=mode or self.form.mode, **asking)
        except TypeError as error:
            raise UserError(str(error).replace("Asking.__init__()", "choose")) from None
        if self.calibration:
            self.calibration.check(how.mode, how.samples, how.guided, how.coverage)
        elif how.coverage is not None:
            raise UserError(
                "a set of likely options needs a calibration",
                where=self.name,
                fix="Run usermirrorer calibrate, and load the simulator with calibrated=True.",
            )
        return how

    def batch_size(self, how: Asking) -> int:
        """Return how many questions are worth asking at a time."""
        return self.engine.batch_scenes * (2 if how.mode == "direct" else 1)

    def _one(self, asked: Question, how: Asking) -> Choice:
        return next(iter(self.many([asked], how, None)))

    def many(
        self,
        scenes: Iterable[Mapping[str, Any] | Question],
        how: Asking,
        progress: Progress | None = None,
    ) -> Iterator[Choice]:
        """Return an iterator over the choices of many questions; see `choose`.

        Args:
            scenes: Scenes or questions.
            how: How they are asked.
            progress: Called with the number of choices of each batch.

        Raises:
            UserError: when the turn of a question comes that cannot be asked.
        """
        rest = (
            one if isinstance(one, Question) else from_scene(one, _where(one, number))
            for number, one in enumerate(scenes, 1)
        )
        while batch := list(itertools.islice(rest, self.batch_size(how))):
            for choice in self.answer(batch, how):
                if isinstance(choice, UserError):
                    raise choice
                yield choice
            if progress:
                progress(len(batch))

    def answer(
        self, batch: Sequence[Question], how: Asking, watch: Watch | None = None
    ) -> list[Choice | UserError]:
        """Return the choice of each question of a batch, or why that question cannot be asked.

        Args:
            batch: About `batch_size` questions.
            how: How they are asked.
            watch: Told what the samples of each question say so far, where the engine can tell.
        """
        fitted: list[list[Message] | UserError] = [self._fitted(one, how) for one in batch]
        good = [n for n, prompt in enumerate(fitted) if not isinstance(prompt, UserError)]
        questions = [batch[n] for n in good]
        texts = [prompt for prompt in fitted if not isinstance(prompt, UserError)]
        if not good:
            done: list[Choice] = []
        elif how.mode == "direct":
            done = self._direct(questions, texts)
        else:
            done = self._decided(questions, texts, how, _among(watch, good, len(batch)))
        if self.calibration:
            done = [self.calibration.applied(one, how.coverage) for one in done]
        answers = iter(done)
        return [one if isinstance(one, UserError) else next(answers) for one in fitted]

    def _fitted(self, asked: Question, how: Asking) -> list[Message] | UserError:
        """Return the prompt, oldest history left out until it fits."""
        free = room(self.engine, how.room)
        try:
            return fit(asked.scene(), self.engine.count, free, self.form.prompts, how.mode)
        except UserError as error:
            fix = "Shorten the options, show fewer, or lower max_tokens."
            return UserError(error.what, where=error.where, fix=error.fix or fix)

    @contextlib.contextmanager
    def watched(self, watch: Watch | None) -> Iterator[None]:
        """Let an engine that can tell what it writes do so within the block."""
        engine: Any = self.engine
        if watch is None or not hasattr(engine, "watch"):
            yield
            return
        engine.watch = watch
        try:
            yield
        finally:
            engine.watch = None

    def _direct(self, batch: Sequence[Question], texts: list[list[Message]]) -> list[Choice]:
        sizes = [len(one.exposure) for one in batch]
        scored = self.engine.score(texts, [[""]] * len(batch), sizes)
        return [
            choice_of(one.scene_id, one.exposure, p[0])
            for one, p in zip(batch, scored, strict=True)
        ]

    def _decided(
        self,
        batch: Sequence[Question],
        texts: list[list[Message]],
        how: Asking,
        watch: Watch | None,
    ) -> list[Choice]:
        sizes = [len(one.exposure) for one in batch]
        seeds = [scene_seed(how.seed, one.scene_id) for one in batch]
        with self.watched(watch):
            sampled = self.engine.sample(texts, sizes, how.sampling, seeds)
        read = [[parse(one.text, k) for one in row] for row, k in zip(sampled, sizes, strict=True)]
        # As in evaluation, a malformed decision is scored after all that it says.
        thoughts = [
            [d.thought or thought_of(g.text) for d, g in zip(own, row, strict=True)]
            for own, row in zip(read, sampled, strict=True)
        ]
        scored = self.engine.score(texts, thoughts, sizes)
        choices = []
        for one, row, own, said, p in zip(batch, sampled, read, thoughts, scored, strict=True):
            decisions = tuple(_decision(*parts) for parts in zip(row, own, said, p, strict=True))
            choices.append(choice_of(one.scene_id, one.exposure, p.mean(axis=0), decisions))
        return choices


def _decision(generation: Generation, read: Parsed, thought: str, p: np.ndarray) -> Decision:
    return Decision(
        text=generation.text,
        thought=thought,
        behavior=read.behavior,
        malformed=read.malformed,
        probabilities=tuple(p.tolist()),
        entropy=float(entropy(p)),
        tokens_in=generation.tokens_in,
        tokens_out=generation.tokens_out,
    )


def _where(scene: Any, number: int) -> str:
    name = scene.get("scene_id") if isinstance(scene, Mapping) else None
    return f"scene {name}" if isinstance(name, str) and name else f"scene {number}"


def _among(watch: Watch | None, places: Sequence[int], size: int) -> Watch | None:
    """Return a watcher of some of a batch's questions that tells of all of them."""
    if watch is None or len(places) == size:
        return watch

    def told(texts: list[list[str]]) -> None:
        rows: list[list[str]] = [[] for _ in range(size)]
        for place, row in zip(places, texts, strict=False):
            rows[place] = row
        watch(rows)

    return told
