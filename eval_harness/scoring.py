"""The two requests lm_eval does not have, for every model class it does have.

`usermirror_labels` scores the option labels after a prompt; `usermirror_decisions` samples n
decision processes and then scores the labels after each. lm_eval calls a request by looking its
name up on the model object, so importing this module puts both names on lm_eval's base class `LM`,
expressed in the requests every model has. Some models get more, or less:

* `--model hf` (hf.py) and `--model vllm` (vllm.py): the k options of a prompt cost one forward
  pass, and the decisions of a scene share the keys and values of its prompt.
* chat APIs without log-probabilities: probabilities come back as None, and the task estimates them.

A label is scored by the tokens that differ between the k texts `...Behavior: [A`, `...Behavior: [B`
and so on: normally one token, also where a tokenizer merges `[A`. Where a label takes several
tokens, it gets the exact sum of their log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import labels
from usermirrorer.builders.decisions.prompts import answer, thought_of
from usermirrorer.builders.decisions.uncertainty import softmax
from usermirrorer.eval_harness import hf, vllm
from usermirrorer.eval_harness.lm_eval_internals import add_request, log_likelihoods
from usermirrorer.eval_harness.metrics import Floats
from usermirrorer.eval_harness.requests import ModelOutput, SceneRequest, read

LABELS = "usermirror_labels"
DECISIONS = "usermirror_decisions"
#: What a task asks whose source the dataset lacks: lm_eval wants a request of every task.
NOTHING = "usermirror_nothing"


def score_labels(lm: LM, requests: list[Instance]) -> list[ModelOutput]:
    """Answer `usermirror_labels` requests: P(label | prompt), no decision process."""
    prompts, settings = _unpack(requests)
    check_lengths(lm, prompts, 8)
    scored = _probabilities(lm, prompts, [[""]] * len(prompts), settings)
    if scored is not None:
        return [{"texts": [], "probabilities": rows} for rows in scored]
    texts = sample(lm, prompts, settings)
    return [{"texts": t, "probabilities": None} for t in texts]


def decide_and_score(lm: LM, requests: list[Instance]) -> list[ModelOutput]:
    """Answer `usermirror_decisions` requests: n decisions, then P(label | prompt + decision)."""
    prompts, settings = _unpack(requests)
    check_lengths(lm, prompts, max(s.sampling.max_tokens for s in settings) + 8)
    if (engine := hf.engine_of(lm)) is not None:
        return hf.decide(lm, engine, prompts, settings)
    texts = sample(lm, prompts, settings)
    thoughts = [[thought_of(text) for text in row] for row in texts]
    scored = _probabilities(lm, prompts, thoughts, settings)
    if scored is None:
        return [{"texts": t, "probabilities": None} for t in texts]
    return [{"texts": t, "probabilities": p} for t, p in zip(texts, scored, strict=True)]


def register() -> None:
    """Put both requests on lm_eval's base class of models."""
    add_request(LABELS, score_labels)
    add_request(DECISIONS, decide_and_score)
    add_request(NOTHING, answer_nothing)


def answer_nothing(lm: Any, requests: list[Instance]) -> list[None]:
    """Answer the request of tasks without scenes."""
    return [None] * len(requests)


register()


def _unpack(requests: list[Instance]) -> tuple[list[str], list[SceneRequest]]:
    return [r.args[0] for r in requests], [read(r.args[1]) for r in requests]


def sample(lm: LM, prompts: Sequence[str], settings: Sequence[SceneRequest]) -> list[list[str]]:
    """Return `sampling.n` generations per prompt, through the model's own `generate_until`.

    API servers and vLLM are given a seed per sample: lm_eval's constant one would make all samples
    of an API equal, and vLLM's none would make those of a scene depend on the others.
    """
    if any(s.sampling.guided for s in settings):
        raise UserError(
            "guided decisions need --model hf with labels of one token", fix="Leave guided out."
        )
    requests, owners = [], []
    for owner, (prompt, s) in enumerate(zip(prompts, settings, strict=True)):
        for number in range(s.sampling.n):
            arguments = (prompt, _generation_arguments(lm, s, number))
            requests.append(Instance("generate_until", {}, arguments, number, ("", owner, 1)))
            owners.append(owner)
    texts: list[list[str]] = [[] for _ in prompts]
    for owner, text in zip(owners, lm.generate_until(requests), strict=True):
        texts[owner].append(text or "")  # None: withheld by an API's content filter
    return texts


def _generation_arguments(lm: LM, settings: SceneRequest, number: int) -> dict[str, Any]:
    from lm_eval.models.api_models import TemplateAPI

    sampling = settings.sampling
    arguments: dict[str, Any] = {
        "do_sample": sampling.temperature > 0,
        "temperature": sampling.temperature,
        "max_gen_toks": sampling.max_tokens,
        "until": [],
    }
    if sampling.temperature > 0:
        arguments["top_p"] = sampling.top_p
    if isinstance(lm, TemplateAPI) or vllm.supports(lm):
        arguments["seed"] = settings.seed + number
    return arguments


def check_lengths(lm: LM, prompts: Sequence[str], room: int) -> None:
    """Refuse prompts that the model would silently cut.

    Args:
        lm: A model; those without a tokenizer on this side are not checked.
        prompts: Rendered prompts.
        room: Tokens that must be left for the generation and label.

    Raises:
        UserError: naming how many prompts are too long, and by how much.
    """
    limit = getattr(lm, "max_length", None)
    if not isinstance(lm, TemplateLM) or lm.tokenizer is None or not isinstance(limit, int):
        return
    lengths = [len(_encode(lm, p)) for p in dict.fromkeys(prompts) if isinstance(p, str)]
    too_long = [n for n in lengths if n + room > limit]
    if too_long:
        raise UserError(
            f"{len(too_long)} of {len(lengths)} prompts do not fit: the longest has "
            f"{max(too_long)} tokens, {room} more are needed, the model takes {limit}",
            fix="Shorten the histories, e.g. --metadata '{\"max_history\": 10}' (it is recorded), "
            "or raise max_length in --model_args.",
        )


def _encode(lm: TemplateLM, text: str) -> list[int]:
    tokens = lm.tok_encode(text)
    return tokens[0] if tokens and isinstance(tokens[0], list) else tokens


def _probabilities(
    lm: LM,
    prompts: Sequence[str],
    thoughts: Sequence[Sequence[str]],
    settings: Sequence[SceneRequest],
) -> list[list[list[float]]] | None:
    """Return P(label | prompt + thought), [prompts][thoughts][k]; None where not to be had."""
    flat = [
        [prompt + answer(label, thought)[:-1] for label in labels(s.options)]
        for prompt, row, s in zip(prompts, thoughts, settings, strict=True)
        for thought in row
        if isinstance(prompt, str)
    ]
    if not flat:  # chat APIs hold their prompts as messages
        return None
    try:
        scores = iter(_label_scores(lm, flat))
    except NotImplementedError:
        return None
    return [[softmax(next(scores)).tolist() for _ in row] for row in thoughts]


def _label_scores(lm: LM, texts: Sequence[Sequence[str]]) -> list[Floats]:
    """Return log-probabilities (up to a constant a row) of the k endings of each row of texts."""
    if not isinstance(lm, TemplateLM) or lm.tokenizer is None:
        return _score_strings(lm, texts)
    spans = [label_spans(lambda text: _encode(lm, text), row) for row in texts]
    scores: list[Floats | None] = [None] * len(texts)
    at_once = (
        hf.last_logits if hf.supports(lm) else vllm.label_scores if vllm.supports(lm) else None
    )
    if at_once:
        single = [i for i, (_, ends) in enumerate(spans) if all(len(e) == 1 for e in ends)]
        for i, row in zip(single, at_once(lm, [spans[i] for i in single]), strict=True):
            scores[i] = row
    rest = [i for i, row in enumerate(scores) if row is None]
    pairs = [
        (("", texts[i][j]), spans[i][0], end) for i in rest for j, end in enumerate(spans[i][1])
    ]
    values = iter(log_likelihoods(lm, pairs))
    for i in rest:
        scores[i] = np.array([next(values) for _ in spans[i][1]])
    return [row for row in scores if row is not None]


def _score_strings(lm: LM, texts: Sequence[Sequence[str]]) -> list[Floats]:
    pairs = [(text[:-1], text[-1]) for row in texts for text in row]
    requests = [Instance("loglikelihood", {}, pair, 0, ("", i, 1)) for i, pair in enumerate(pairs)]
    values = iter(lm.loglikelihood(requests))
    return [np.array([next(values)[0] for _ in row]) for row in texts]


def label_spans(
    encode: Callable[[str], list[int]], texts: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """Split k texts that differ only in their label into common tokens and k endings.

    Raises:
        UserError: if two texts have the same tokens, so that no score could tell them apart.
    """
    encoded = [encode(text) for text in texts]
    common = 0
    for column in zip(*encoded, strict=False):
        if len(set(column)) > 1:
            break
        common += 1
    common = min(common, min(len(e) for e in encoded) - 1)
    endings = [e[common:] for e in encoded]
    if len({tuple(e) for e in endings}) < len(endings):
        raise UserError("the tokenizer cannot tell the option labels apart")
    return encoded[0][:common], endings
