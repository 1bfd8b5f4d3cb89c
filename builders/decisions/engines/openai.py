"""Any OpenAI-compatible endpoint: vLLM, SGLang, `transformers serve`, llama.cpp, hosted services.

Decisions are requested one sample at a time, each with a seed of its own, so that a lost connection
costs one sample and the rows do not depend on what else is in flight. Chats go to the chat route;
where the server would render another prompt (its own date, thinking that is off here), they go to
the completions route as text that `decisions/chat.py` has rendered. Options are scored by the
completions route, which goes on after a given thought; a server without its log-probabilities is
refused, since probabilities estimated from a few samples are not what the uncertainty is made of.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from usermirrorer.builders.common import assets
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.models import load_tokenizer
from usermirrorer.builders.common.schema import CONTEXT_TOKENS, LABELS
from usermirrorer.builders.decisions.chat import (
    Settings,
    chat_text,
    count_tokens,
    label_ids,
    merged,
    neutral,
    opened,
    read_settings,
    renders_alone,
    scored_text,
    token_ids,
)
from usermirrorer.builders.decisions.engines.base import (
    EngineKind,
    EngineSettings,
    Generation,
    Sampling,
)
from usermirrorer.builders.decisions.prompts import Message
from usermirrorer.builders.decisions.uncertainty import softmax

KEY = "OPENAI_API_KEY"
_RETRIES = 8  # waits of 0.5, 1, 2, 4, 8, 8, 8, 8 s, or what Retry-After asks for
_TIMEOUT = 600.0  # seconds for one answer
_MOST_LOGPROBS = 20
_NOT_KNOWN = (400, 404, 405, 422, 501)  # what servers say to a request they do not offer
_Ask = Callable[[Any], Awaitable[Any]]
_T = TypeVar("_T")


class EndpointEngine:
    """Asks a server that speaks OpenAI's protocol.

    The client retries lost connections, time-outs, overload and rate limits with growing waits, and
    waits as long as `Retry-After` asks (up to a minute). The key comes from `OPENAI_API_KEY`.

    Args:
        model: What the server calls the model; also the name in stored rows.
        tokenizer: The model's, with its chat template: it counts tokens for the context cap and
            writes the prompts whose options are scored.
        base_url: Such as `http://localhost:8000/v1`.
        concurrency: Most requests in flight.
        chat: What the chat template is given beside the chat, see `decisions/chat.py`.

    Raises:
        UserError: if the address cannot be one, or if a label is not a single token.
    """

    batch_scenes = 32
    context = CONTEXT_TOKENS

    def __init__(
        self,
        model: str,
        tokenizer: Any,
        base_url: str,
        concurrency: int = 32,
        chat: Settings | None = None,
    ) -> None:
        address = urlsplit(base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise UserError("is not an address", where=f"--base-url {base_url!r}", fix=_EXAMPLE)
        if address.username or address.password or address.query:
            raise UserError(
                "must not hold a key", where="--base-url", fix=f"Put it into {KEY}, see README."
            )
        self.name, self.tokenizer, self.chat = model, tokenizer, dict(chat or {})
        self.base_url, self.concurrency = base_url, concurrency
        self.label_ids = label_ids(tokenizer, model)

    def count(self, prompt: list[Message]) -> int:
        """Return the number of prompt tokens, chat template included."""
        return count_tokens(self.tokenizer, prompt, **self.chat)

    def sample(
        self,
        prompts: Sequence[list[Message]],
        options: Sequence[int],
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[list[Generation]]:
        """Sample `sampling.n` assistant turns for each prompt; see `Engine.sample`.

        Raises:
            UserError: for guided sampling, or if the server refuses or stays away.
        """
        if sampling.guided:
            raise UserError(
                "a server cannot be made to force the headings",
                where="--guided",
                fix="Leave it out, or use --engine transformers or vllm.",
            )
        asks = [
            self._sample(prompt)(prompt, sampling, (seed + number) % 2**31)
            for prompt, seed in zip(prompts, seeds, strict=True)
            for number in range(sampling.n)
        ]
        done = self._answers(asks)
        return [done[i : i + sampling.n] for i in range(0, len(done), sampling.n)]

    def score(
        self,
        prompts: Sequence[list[Message]],
        thoughts: Sequence[Sequence[str]],
        options: Sequence[int],
    ) -> list[np.ndarray]:
        """Score the labels after each thought; see `Engine.score`.

        Raises:
            UserError: if the server has no completions route or gives no log-probabilities.
        """
        asks = [
            self._label_logprobs(scored_text(text, neutral(self.tokenizer, said, spoken=True)), k)
            for prompt, row, k in zip(prompts, thoughts, options, strict=True)
            for text in [chat_text(self.tokenizer, prompt, **self.chat)]
            for said in row
        ]
        done = iter(self._answers(asks))
        return [np.stack([_probabilities(next(done)) for _ in row]) for row in thoughts]

    def _answers(self, asks: Sequence[Callable[[Any], Awaitable[_T]]]) -> list[_T]:
        """Await all of `asks`, at most `concurrency` at a time; a failure stops the rest."""
        from openai import AsyncOpenAI, OpenAIError

        async def together() -> list[_T]:
            free = asyncio.Semaphore(self.concurrency)

            async def one(ask: Callable[[Any], Awaitable[_T]]) -> _T:
                async with free:
                    return await ask(client)

            key = os.environ.get(KEY) or "none"  # servers of one's own want none
            async with (
                AsyncOpenAI(
                    base_url=self.base_url, api_key=key, max_retries=_RETRIES, timeout=_TIMEOUT
                ) as client,
                asyncio.TaskGroup() as group,
            ):
                tasks = [group.create_task(one(ask)) for ask in asks]
            return [task.result() for task in tasks]

        try:
            return _run(together)
        except ExceptionGroup as failures:
            first = failures.exceptions[0]
            if isinstance(first, OpenAIError):
                raise self._explained(first) from None  # the client's error may hold the key's end
            raise first from None

    def _sample(self, prompt: list[Message]) -> Callable[[list[Message], Sampling, int], _Ask]:
        alone = renders_alone(self.tokenizer, prompt, self.chat)
        return self._chat if alone else self._completion

    def _chat(self, prompt: list[Message], sampling: Sampling, seed: int) -> _Ask:
        async def ask(client: Any) -> Generation:
            answer = await client.chat.completions.create(
                model=self.name,
                messages=merged(self.tokenizer, prompt, **self.chat),
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_completion_tokens=sampling.max_tokens,
                seed=seed,
            )
            return self._generation(self._choice(answer).message.content, answer.usage, prompt)

        return ask

    def _completion(self, prompt: list[Message], sampling: Sampling, seed: int) -> _Ask:
        shown = chat_text(self.tokenizer, prompt, **self.chat)
        text = self._server_prompt(shown)

        async def ask(client: Any) -> Generation:
            answer = await client.completions.create(
                model=self.name,
                prompt=text,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=seed,
            )
            said = opened(shown) + (self._choice(answer).text or "")
            return self._generation(said, answer.usage, prompt)

        return ask

    def _server_prompt(self, text: str) -> str | list[int]:
        """Return a rendered prompt in the form from which a server makes its very tokens.

        Servers put a start token before texts, as tokenizers do by themselves. Not all take tokens.
        """
        ids = token_ids(self.tokenizer, text)
        for form in (text, text.removeprefix(self.tokenizer.bos_token or "")):
            if self.tokenizer(form).input_ids == ids:
                return form
        return ids

    def _generation(self, text: str | None, usage: Any, prompt: list[Message]) -> Generation:
        text = text or ""
        if usage is None:
            return Generation(text, self.count(prompt), len(token_ids(self.tokenizer, text)))
        return Generation(text, usage.prompt_tokens, usage.completion_tokens)

    def _label_logprobs(self, text: str, options: int) -> _Ask:
        """Ask for the log-probability of each label after `text`, [options].

        Servers that know vLLM's two extra fields give exactly these; others give their likeliest
        tokens, and are asked once more for each label that is not among them.
        """
        ids = token_ids(self.tokenizer, text)
        wanted = self.label_ids[:options]

        async def ask(client: Any) -> np.ndarray:
            answer = await self._complete(
                client,
                ids,
                logprobs=_MOST_LOGPROBS,
                extra_body=_vllm_fields(wanted),
            )
            given = answer.top_logprobs[0]
            values = []
            for token, label in zip(wanted, LABELS, strict=False):
                value = given.get(f"token_id:{token}", given.get(label))
                if value is None:
                    echoed = await self._complete(client, [*ids, token], logprobs=1, echo=True)
                    value = echoed.token_logprobs[len(ids)]
                values.append(value)
            return np.array(values, np.float64)

        return ask

    async def _complete(self, client: Any, ids: list[int], **more: Any) -> Any:
        from openai import APIStatusError

        try:
            answer = await client.completions.create(
                model=self.name, prompt=ids, max_tokens=1, temperature=0, **more
            )
        except APIStatusError as error:
            if error.status_code in _NOT_KNOWN:
                raise self._no_logprobs(_said(error)) from None
            raise
        given = self._choice(answer).logprobs
        if given is None or not given.token_logprobs or not given.top_logprobs:
            raise self._no_logprobs("it left them out")
        return given

    def _choice(self, answer: Any) -> Any:
        choices = getattr(answer, "choices", None)
        if not choices:
            raise UserError(
                "answers in another language than OpenAI's", where=self.base_url, fix=_EXAMPLE
            )
        return choices[0]

    def _no_logprobs(self, reason: str) -> UserError:
        return UserError(
            f"the server gives no log-probabilities after a thought ({reason})",
            where=self.base_url,
            fix="The samples are kept: name a judge, --judge MODEL --judge-engine transformers.",
        )

    def _explained(self, error: Exception) -> UserError:
        """Say in one line what the server or the way to it did, without the key."""
        from openai import APIConnectionError, APIStatusError

        again = "Finished parts are kept: run again."
        if isinstance(error, APIConnectionError):
            what = f"no answer after {_RETRIES + 1} attempts ({type(error).__name__})"
            return UserError(what, where=self.base_url, fix=again)
        status = error.status_code if isinstance(error, APIStatusError) else 0
        if status in (401, 403):
            return UserError(
                "the server refuses the key", where=self.base_url, fix=f"Set {KEY}. {again}"
            )
        if status == 429:
            what = f"the rate limit did not lift in {_RETRIES + 1} attempts"
            return UserError(what, where=self.base_url, fix=f"Lower --concurrency. {again}")
        return UserError(
            f"the server said {status}: {_said(error)}", where=self.base_url, fix=again
        )


_EXAMPLE = "Give one such as http://localhost:8000/v1."


def _run(work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run asynchronous work to its end, also where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(work())).result()


def _vllm_fields(wanted: list[int]) -> dict[str, Any]:
    return {"logprob_token_ids": wanted, "return_tokens_as_token_ids": True}


def _said(error: Exception) -> str:
    text = " ".join(str(getattr(error, "message", error)).split())[:200]
    key = os.environ.get(KEY)
    return text.replace(key, "***") if key else text


def _probabilities(logprobs: np.ndarray) -> np.ndarray:
    if not np.isfinite(logprobs).all():
        raise UserError("the server gave log-probabilities that are no numbers")
    return softmax(logprobs)


def _load(settings: EngineSettings) -> EndpointEngine:
    tokenizer = load_tokenizer(assets.resolve_model(settings.tokenizer or settings.model))
    chat = read_settings(settings.chat_template_kwargs)
    return EndpointEngine(settings.model, tokenizer, settings.base_url, settings.concurrency, chat)


ENGINE = EngineKind(load=_load, options=("base_url", "tokenizer", "concurrency"), remote=True)
