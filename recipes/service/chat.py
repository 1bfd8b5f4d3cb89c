"""`/v1/chat/completions` and `/v1/models`, as clients of OpenAI's API expect them."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions.engines.base import Generation, Sampling
from usermirrorer.recipes.service.batches import Chat, Job
from usermirrorer.recipes.service.choosing import NO_STORE, answers, while_waiting
from usermirrorer.recipes.service.errors import error, failure, public

_LONGEST, _DEFAULT_TOKENS = 200_000, 512

routes = APIRouter()


class Part(BaseModel):
    """A piece of a message: text alone."""

    type: Literal["text"]
    text: Annotated[str, Field(max_length=_LONGEST)]


class Said(BaseModel):
    """A message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: (
        Annotated[str, Field(max_length=_LONGEST)] | Annotated[list[Part], Field(max_length=64)]
    )

    def text(self) -> str:
        """Return the content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """Whether the last piece of a stream tells the tokens."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """What OpenAI's API takes, as far as this server does it. Other fields are refused if they
    would change the answer.
    """

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(max_length=300)]
    messages: Annotated[list[Said], Field(min_length=1, max_length=256)]
    n: Annotated[int, Field(ge=1, le=32)] | None = 1
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None


#: Fields that change nothing of the answer here, or are at values that do not.
_HARMLESS = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "safety_identifier",
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logprobs": (False, None),
    "top_logprobs": (0, None),
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "tools": ([], None),
    "tool_choice": ("none", "auto", None),
    "response_format": ({"type": "text"}, None),
    "logit_bias": ({}, None),
}


@routes.get("/v1/models", summary="The model that is served")
async def models(request: Request) -> dict[str, Any]:
    """List the one model."""
    return {"object": "list", "data": [_model(request.app.state)]}


@routes.get("/v1/models/{name:path}", summary="One model")
async def model(name: str, request: Request) -> Any:
    """Return the model if that is its name."""
    if name != request.app.state.name:
        return _unknown(name)
    return _model(request.app.state)


def _model(state: Any) -> dict[str, Any]:
    return {
        "id": state.name,
        "object": "model",
        "created": state.started,
        "owned_by": "usermirrorer",
    }


def _unknown(name: str) -> Response:
    return failure(
        404, f"The model {name[:100]!r} does not exist", code="model_not_found", param="model"
    )


@routes.post("/v1/chat/completions", summary="Answer a chat", response_model=None)
async def complete(asked: ChatRequest, request: Request) -> Any:
    """Answer messages by the same engine and queue, with what OpenAI's clients expect."""
    state = request.app.state
    if asked.model != state.name:
        return _unknown(asked.model)
    for name, value in (asked.model_extra or {}).items():
        if name not in _HARMLESS and value not in _NEUTRAL.get(name, ()):
            return failure(
                400, f"{name[:80]} is not done here", code="unsupported_parameter", param=name[:80]
            )
    job = Job(_chat(asked), _sampling(asked))
    whole = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": state.name,
    }
    if asked.stream:
        texts: asyncio.Queue[list[str]] = asyncio.Queue(1024)
        job.watch = _watch(texts)
        state.batches.submit([job])
        return StreamingResponse(
            _pieces(job, texts, whole, asked), media_type="text/event-stream", headers=NO_STORE
        )
    state.batches.submit([job])
    done = await answers([job], request)
    if done is None:
        return failure(499, "the client has gone")
    return {"object": "chat.completion", **whole, **_finished(done[0], asked, job)}


def _chat(asked: ChatRequest) -> Chat:
    roles = {"developer": "system"}
    said = tuple((roles.get(one.role, one.role), one.text()) for one in asked.messages)
    seed = secrets.randbits(62) if asked.seed is None else asked.seed % 2**62
    return Chat(said, seed)


def _sampling(asked: ChatRequest) -> Sampling:
    return Sampling(
        n=asked.n or 1,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        max_tokens=asked.max_completion_tokens or asked.max_tokens or _DEFAULT_TOKENS,
    )


def _stops(asked: ChatRequest) -> list[str]:
    given = [asked.stop] if isinstance(asked.stop, str) else list(asked.stop or [])
    return [sign for sign in given if sign]


def _cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Return a text up to the first of some signs, and whether there was one."""
    ends = [at for sign in stops if (at := text.find(sign)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


def _finished(rows: Sequence[Generation], asked: ChatRequest, job: Job) -> dict[str, Any]:
    choices = []
    for number, row in enumerate(rows):
        text, stopped = _cut(row.text, _stops(asked))
        choices.append(
            {
                "index": number,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": _reason(row, job, stopped),
            }
        )
    return {"choices": choices, "usage": _usage(rows)}


def _reason(row: Generation, job: Job, stopped: bool) -> str:
    assert isinstance(job.how, Sampling)
    return "length" if row.tokens_out >= job.how.max_tokens and not stopped else "stop"


def _usage(rows: Sequence[Generation]) -> dict[str, int]:
    before, after = rows[0].tokens_in, sum(row.tokens_out for row in rows)
    return {
        "prompt_tokens": before,
        "completion_tokens": after,
        "total_tokens": before + after,
    }


def _watch(texts: asyncio.Queue[list[str]]) -> Any:
    loop = asyncio.get_running_loop()

    def put(row: list[str]) -> None:
        if not texts.full():
            texts.put_nowait(row)

    return lambda row: loop.call_soon_threadsafe(put, list(row))


async def _pieces(
    job: Job, texts: asyncio.Queue[Any], whole: dict[str, Any], asked: ChatRequest
) -> AsyncIterator[str]:
    """Yield a completion piece by piece, as server-sent events."""
    answer, stops = asyncio.wrap_future(job.answer), _stops(asked)
    hold = max((len(sign) - 1 for sign in stops), default=0)
    n = asked.n or 1
    told = [""] * n
    head = {"object": "chat.completion.chunk", **whole}

    def piece(number: int, delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": reason}
        return _data({**head, "choices": [choice]})

    def news(number: int, text: str, *, whole: bool = False) -> str | None:
        said = _cut(text, stops)[0]
        if not whole:  # the end may be half a character, or the start of a stop sign
            said = said[: len(said) - hold].rstrip("\ufffd") if len(said) == len(text) else said
        if not said.startswith(told[number]) or len(said) == len(told[number]):
            return None
        new, told[number] = said[len(told[number]) :], said
        return piece(number, {"content": new})

    try:
        for number in range(n):
            yield piece(number, {"role": "assistant", "content": ""})
        async for row in while_waiting(answer, texts):
            for number, text in enumerate(row):
                if said := news(number, text):
                    yield said
        rows = answer.result()
        for number, one in enumerate(rows):
            if said := news(number, one.text, whole=True):
                yield said
            yield piece(number, {}, _reason(one, job, _cut(one.text, stops)[1]))
        if asked.stream_options and asked.stream_options.include_usage:
            yield _data({**head, "choices": [], "usage": _usage(rows)})
        yield "data: [DONE]\n\n"
    except UserError as wrong:
        yield _data(error(public(wrong), "invalid_request_error"))
    except Exception:
        yield _data(error("the engine failed", "server_error"))
    finally:
        job.answer.cancel()


def _data(value: Any) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
