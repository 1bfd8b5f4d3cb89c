"""One engine, many who ask: a bounded queue that one thread answers in batches.

While the engine works on a batch, what comes in waits and makes up the next one, so that with
enough clients it is never idle and always full. Questions asked in the same way go together.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.decisions.engines.base import Sampling
from usermirrorer.builders.decisions.prompts import Message
from usermirrorer.recipes.simulator import Asking, Question, Simulator

#: Seconds that the first question of an idle engine waits for company.
GATHER = 0.004
_LONGEST_WAIT = 600  # seconds that clients are told to wait, at most


class Busy(Exception):
    """The queue is full. `seconds` says when it is worth asking again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full: ask again in {seconds} s")
        self.seconds = seconds


class Closed(Exception):
    """The service is stopping."""


@dataclass(frozen=True)
class Chat:
    """Messages to be answered as they are, without a scene."""

    messages: tuple[tuple[str, str], ...]
    seed: int

    def prompt(self) -> list[Message]:
        """Return the messages as engines take them."""
        return [{"role": role, "content": content} for role, content in self.messages]


@dataclass
class Job:
    """One question or chat, how it is to be answered, and where the answer goes."""

    asked: Question | Chat
    how: Asking | Sampling
    answer: Future[Any] = field(default_factory=Future)
    watch: Callable[[list[str]], None] | None = None


class Batches:
    """Answers jobs in batches, in a thread of its own.

    Args:
        simulator: What answers.
        most: Jobs that may wait.
    """

    def __init__(self, simulator: Simulator, most: int = 256) -> None:
        self.simulator, self.most = simulator, most
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed, self._seconds = False, 1.0
        self._working = 0
        self._thread = threading.Thread(target=self._work, name="simulator", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    @property
    def working(self) -> int:
        """Jobs that are being answered."""
        return self._working

    @property
    def alive(self) -> bool:
        """Whether jobs are answered."""
        return self._thread.is_alive() and not self._closed

    def submit(self, jobs: Sequence[Job]) -> None:
        """Let all of some jobs wait, or none.

        Raises:
            Busy: if there is no room for all of them.
            Closed: if the service is stopping.
        """
        with self._changed:
            if self._closed:
                raise Closed
            if len(self._waiting) + len(jobs) > self.most:
                wait = math.ceil(self._seconds * max(1, len(self._waiting) + self._working))
                raise Busy(min(max(wait, 1), _LONGEST_WAIT))
            self._waiting.extend(jobs)
            self._changed.notify()

    def close(self) -> None:
        """Answer what waits, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            start = time.monotonic()
            self._working = len(batch)
            try:
                self._answer(batch)
            except Exception as error:  # the next batch may be better
                for job in batch:
                    if not job.answer.done():
                        job.answer.set_exception(error)
            finally:
                self._working = 0
            each = (time.monotonic() - start) / len(batch)
            self._seconds = 0.7 * self._seconds + 0.3 * each

    def _next(self) -> list[Job]:
        """Return the oldest job and others like it; none when the service has stopped."""
        while True:
            with self._changed:
                idle = not self._waiting
                while not self._waiting:
                    if self._closed:
                        return []
                    self._changed.wait()
            if idle:
                time.sleep(GATHER)
            with self._changed:
                taken = self._taken()
            started = [job for job in taken if job.answer.set_running_or_notify_cancel()]
            if started:
                return started

    def _taken(self) -> list[Job]:
        how = self._waiting[0].how
        most = self.simulator.engine.batch_scenes
        if isinstance(how, Asking):
            most = self.simulator.batch_size(how)
        taken = [job for job in self._waiting if job.how == how][:most]
        chosen = {id(job) for job in taken}
        self._waiting = deque(job for job in self._waiting if id(job) not in chosen)
        return taken

    def _answer(self, batch: list[Job]) -> None:
        how = batch[0].how
        if isinstance(how, Sampling):
            self._chat(batch, how)
            return
        watched = any(job.watch for job in batch)
        questions = [job.asked for job in batch if isinstance(job.asked, Question)]
        answers = self.simulator.answer(questions, how, _watch(batch) if watched else None)
        for job, answer in zip(batch, answers, strict=True):
            if isinstance(answer, UserError):
                job.answer.set_exception(answer)
            else:
                job.answer.set_result(answer)

    def _chat(self, batch: list[Job], how: Sampling) -> None:
        """Answer chats; those that do not fit are told so, the others go on."""
        engine, fitting, prompts = self.simulator.engine, [], []
        for job in batch:
            assert isinstance(job.asked, Chat)
            try:
                prompt = job.asked.prompt()
                size = engine.count(prompt)
                if size + how.max_tokens > engine.context:
                    raise UserError(
                        f"the messages have {size:,} tokens; with {how.max_tokens:,} of an answer "
                        f"they do not fit into {engine.context:,}",
                        fix="Shorten them, or lower max_tokens.",
                    )
            except UserError as error:
                job.answer.set_exception(error)
                continue
            fitting.append(job)
            prompts.append(prompt)
        if not fitting:
            return
        seeds = [job.asked.seed for job in fitting if isinstance(job.asked, Chat)]
        watch = _watch(fitting) if any(job.watch for job in fitting) else None
        with self.simulator.watched(watch):
            rows = engine.sample(prompts, [2] * len(fitting), how, seeds)
        for job, row in zip(fitting, rows, strict=True):
            job.answer.set_result(row)


def _watch(batch: Sequence[Job]) -> Callable[[list[list[str]]], None]:
    def tell(texts: list[list[str]]) -> None:
        for job, row in zip(batch, texts, strict=False):
            if job.watch is not None and row:
                job.watch(row)

    return tell
