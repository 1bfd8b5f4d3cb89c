"""`POST /v1/choose`: what one person, or many, would choose."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.schema import LABELS
from usermirrorer.recipes.service.batches import Job
from usermirrorer.recipes.service.errors import error, failure, public
from usermirrorer.recipes.simulator import Choice
from usermirrorer.recipes.simulator.questions import LONGEST_LINE, LONGEST_PART, from_scene

#: Scenes of one request, and seconds between two pieces of a text that is being written.
MOST_SCENES, _PAUSE = 128, 0.08
_Line = Annotated[str, Field(max_length=LONGEST_LINE)]

routes = APIRouter()


class Scene(BaseModel):
    """A person and what they are shown."""

    model_config = ConfigDict(strict=True)

    scene_id: Annotated[str, Field(max_length=200)] = ""
    profile: Annotated[str, Field(max_length=LONGEST_PART)] | None = ""
    history: Annotated[list[_Line], Field(max_length=10_000)] | None = []
    exposure: Annotated[list[_Line], Field(max_length=1_000)]


class ChooseRequest(BaseModel):
    """One scene by its parts, or many as `scenes`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    scene_id: Annotated[str, Field(max_length=200)] = ""
    profile: Annotated[str, Field(max_length=LONGEST_PART)] | None = ""
    history: Annotated[list[_Line], Field(max_length=10_000)] | None = []
    exposure: Annotated[list[_Line], Field(max_length=1_000)] | None = None
    scenes: Annotated[list[Scene], Field(max_length=MOST_SCENES)] | None = None
    model: str | None = Field(None, description="Ignored: one model is served.")
    mode: Literal["decision", "direct"] | None = Field(
        None, description="Default: as the model was trained."
    )
    samples: Annotated[int, Field(ge=1, le=32)] = 1
    temperature: Annotated[float, Field(ge=0, le=10, strict=False)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, strict=False)] = 0.9
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 512
    guided: bool | None = Field(None, description="Force the headings. Default: the server's.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    coverage: Annotated[float, Field(ge=0.5, le=0.99, strict=False)] | None = None
    stream: bool = Field(False, description="Of one scene: events while it is written.")


class ChooseAnswer(BaseModel):
    """One choice per scene, in their order."""

    model: str
    choices: list[dict[str, Any]]


@routes.post("/v1/choose", response_model=ChooseAnswer, summary="What would they choose?")
async def choose(asked: ChooseRequest, request: Request) -> Response | dict[str, Any]:
    """Return probabilities, behavior, entropy (bits) and decision processes of each scene."""
    state = request.app.state
    jobs = _jobs(asked, state)
    if asked.stream:
        if len(jobs) != 1:
            raise UserError("stream is of one scene", fix="Send them one by one.")
        texts: asyncio.Queue[str] = asyncio.Queue(256)
        jobs[0].watch = _watch(texts)
        state.batches.submit(jobs)
        return StreamingResponse(
            _events(jobs[0], texts), media_type="text/event-stream", headers=NO_STORE
        )
    state.batches.submit(jobs)
    choices = await answers(jobs, request)
    if choices is None:
        return failure(499, "the client has gone")
    return {"model": state.name, "choices": [_row(choice) for choice in choices]}


NO_STORE = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def _jobs(asked: ChooseRequest, state: Any) -> list[Job]:
    if (asked.scenes is None) == (asked.exposure is None):
        raise UserError("give either exposure or scenes")
    own = asked.model_dump(include={"scene_id", "profile", "history", "exposure"})
    rows = [own] if asked.scenes is None else [scene.model_dump() for scene in asked.scenes]
    if not rows:
        raise UserError("scenes is empty")
    if asked.scenes is not None and (asked.profile or asked.history):
        raise UserError("scenes have their own profiles and histories")
    how = state.batches.simulator.asking(
        mode=asked.mode,
        samples=asked.samples,
        temperature=float(asked.temperature),
        top_p=float(asked.top_p),
        max_tokens=asked.max_tokens,
        guided=state.guided if asked.guided is None else asked.guided,
        seed=asked.seed,
        coverage=asked.coverage,
    )
    many = asked.scenes is not None
    return [
        Job(from_scene(row, f"scene {n}" if many else ""), how) for n, row in enumerate(rows, 1)
    ]


def _row(choice: Choice) -> dict[str, Any]:
    return {**choice.row(), "labels": list(LABELS[: len(choice.exposure)])}


async def answers(jobs: Sequence[Job], request: Request) -> list[Any] | None:
    """Await the answers of some jobs; None if the client has gone, whose jobs then do not start.

    Raises:
        UserError: the first that one of them came to.
    """
    futures = [asyncio.wrap_future(job.answer) for job in jobs]
    whole = asyncio.gather(*futures)
    whole.add_done_callback(_read)
    try:
        while not whole.done():
            await asyncio.wait([whole], timeout=1)
            if not whole.done() and await request.is_disconnected():
                return None
        return whole.result()
    finally:
        for job in jobs:
            job.answer.cancel()


def _read(done: asyncio.Future[Any]) -> None:
    """Look at what became of it: where a client has gone nobody else does, and asyncio says so."""
    if not done.cancelled():
        done.exception()


def _watch(texts: asyncio.Queue[str]) -> Any:
    """Return what puts the first sample's text into a queue, from another thread, now and then."""
    loop, last = asyncio.get_running_loop(), 0.0

    def put(text: str) -> None:
        if not texts.full():
            texts.put_nowait(text)

    def told(row: list[str]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PAUSE:
            last = now
            loop.call_soon_threadsafe(put, row[0])

    return told


async def _events(job: Job, texts: asyncio.Queue[str]) -> AsyncIterator[str]:
    """Yield `text` events with all that is written so far, then one `choice` or `error`."""
    answer = asyncio.wrap_future(job.answer)
    try:
        async for text in while_waiting(answer, texts):
            yield _event("text", {"text": text})
        yield _event("choice", _row(answer.result()))
    except UserError as wrong:
        yield _event("error", error(public(wrong), "invalid_request_error"))
    except Exception:
        yield _event("error", error("the engine failed", "server_error"))
    finally:
        job.answer.cancel()


async def while_waiting(answer: Any, texts: asyncio.Queue[str]) -> AsyncIterator[str]:
    """Yield texts until the answer is there; raises nothing of its own."""
    while not answer.done():
        piece = asyncio.ensure_future(texts.get())
        await asyncio.wait([answer, piece], return_when=asyncio.FIRST_COMPLETED)
        if piece.done():
            yield piece.result()
        else:
            piece.cancel()


def _event(name: str, value: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(value, ensure_ascii=False)}\n\n"
