"""Whose turn it is: requests that cost much wait for a slot, writes for their repository.

Whoever waits holds no thread, so that others' short reads find one; nobody waits for ever, and a
queue that is full says so at once (503, with `Retry-After`). A client's requests do not take all
slots while others ask as well, nor do those of all who are not signed in, who can look like many.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from fastapi.responses import Response

from usermirrorer.hub.server.access import COOKIE, HubError, visitor
from usermirrorer.hub.server.addresses import KINDS_WORDS

#: Costly requests at the same time, in all and of one client; how many of one client wait; seconds
#: after which those who wait are sent away.
SLOTS, SLOTS_OF_ONE, WAITING_OF_ONE, PATIENCE = 4, 3, 64, 30
#: Of all who are not signed in together: slots, and how many wait.
SLOTS_OF_STRANGERS, WAITING_STRANGERS = 3, 256
#: Writes at the same time of all repositories, and how many wait for one repository.
WRITES, WAITING_FOR_REPOSITORY = 4, 16
#: Longest body that is read before its request takes a slot, and all that are read at a time.
_BODY, _BODIES = 4 << 20, 128 << 20

_Arguments = ParamSpec("_Arguments")
_Value = TypeVar("_Value")
_Call = Callable[..., Awaitable[Any]]


def busy(what: str) -> HubError:
    """Return the answer of a full queue."""
    return HubError(503, f"{what}; try again in some seconds", **{"Retry-After": "5"})


class Gate:
    """Slots that clients take in turn: those of one client in order, clients round robin."""

    def __init__(self) -> None:
        self.free = SLOTS
        self.running: Counter[str] = Counter()
        self.queues: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a slot and keep it during the block.

        Raises:
            HubError: 503 if too many wait, or it takes too long.
        """
        await self._enter(client)
        try:
            yield
        finally:
            self._leave(client)
            self._next()

    async def _enter(self, client: str) -> None:
        queue = self.queues.get(client, deque())
        strange = (others for name, others in self.queues.items() if not _is_user(name))
        if len(queue) >= WAITING_OF_ONE:
            raise busy("Too many of your requests wait")
        if not _is_user(client) and sum(map(len, strange)) >= WAITING_STRANGERS:
            raise busy("Too many requests of people who are not signed in wait")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.queues.setdefault(client, queue).append(turn)
        self._next()
        try:
            await asyncio.wait_for(asyncio.shield(turn), PATIENCE)
        except BaseException as error:
            self._give_up(client, turn)
            if isinstance(error, TimeoutError):
                raise busy("Too many requests wait") from None
            raise

    def _give_up(self, client: str, turn: asyncio.Future[None]) -> None:
        if turn.done():  # it came at the same moment: pass it on
            self._leave(client)
        else:
            self.queues[client].remove(turn)
            if not self.queues[client]:
                del self.queues[client]
        self._next()

    def _next(self) -> None:
        """Give free slots to those who wait, the client first that was served longest ago."""
        for client in list(self.queues):
            if not self.free:
                break
            if self._may_run(client):
                queue = self.queues.pop(client)
                queue.popleft().set_result(None)
                if queue:
                    self.queues[client] = queue  # at the end
                self.free -= 1
                self.running[client] += 1

    def _may_run(self, client: str) -> bool:
        strangers = sum(n for name, n in self.running.items() if not _is_user(name))
        room = _is_user(client) or strangers < SLOTS_OF_STRANGERS
        return room and self.running[client] < SLOTS_OF_ONE

    def _leave(self, client: str) -> None:
        self.free += 1
        self.running[client] -= 1
        if not self.running[client]:
            del self.running[client]


def _is_user(client: str) -> bool:
    return client.startswith(_USER)


def is_costly(method: str, path: str) -> bool:
    """Say whether a request waits for a slot.

    Not those that send or receive files, which a slow client draws out, nor those that write,
    which wait for their repository.
    """
    first, *parts = path.split("/")[1:]
    if first == "api":
        if method == "POST":
            return parts[3:4] in (["paths-info"], ["preupload"]) or parts == ["validate-yaml"]
        return method in ("GET", "HEAD") and parts != ["whoami-v2"]
    name, *rest = [*(parts[1:] if first in KINDS_WORDS else parts), ""]
    if name.endswith(".git"):  # of git and git-lfs
        return method == "POST" and rest[:2] == ["info", "lfs"]
    if method not in ("GET", "HEAD") or rest[:1] in (["resolve"], ["raw"], ["blob"]):
        return False
    return first not in _CHEAP


#: How the name of a client begins who is signed in; addresses have no space.
_USER = "user "
_CHEAP = ("lfs", "xet", "healthz", "style.css", "login")


class Turns:
    """ASGI middleware through which requests that cost much come one after the other.

    Args:
        app: What comes next.
        refuse: Makes the answer to a request that is sent away.
    """

    def __init__(self, app: _Call, refuse: Callable[[Request, HubError], Response]) -> None:
        self.app, self.refuse = app, refuse
        self.gate = Gate()
        self.held = 0  # bytes of bodies whose requests wait

    async def __call__(self, scope: dict[str, Any], receive: _Call, send: _Call) -> None:
        """Pass the request on when it is its turn; its body has come whole by then.

        The answer leaves after the turn: who is slow to take it holds no slot.
        """
        if scope["type"] != "http" or not is_costly(scope["method"], scope["path"]):
            await self.app(scope, receive, send)
            return
        messages: deque[dict[str, Any]] = deque()
        answer: list[dict[str, Any]] = []
        try:
            await self._receive(receive, messages)
            async with self.gate.turn(await _client(scope)):
                await self.app(scope, _replay(messages, receive), _keep_in(answer))
        except HubError as error:
            refused = await to_thread.run_sync(self.refuse, Request(scope), error)
            await refused(scope, receive, send)
            return
        for message in answer:
            await send(message)

    async def _receive(self, receive: _Call, messages: deque[dict[str, Any]]) -> None:
        """Receive a body up to the limit, beyond which whoever asked for it refuses it."""
        size, more = 0, True
        try:
            while more and size <= _BODY:
                message = await receive()
                messages.append(message)
                size += len(message.get("body", b""))
                self.held += len(message.get("body", b""))
                more = message.get("more_body", False)
                if self.held > _BODIES:
                    raise busy("Too much comes at once")
        finally:
            self.held -= size


async def _client(scope: dict[str, Any]) -> str:
    """Name who asks: the user, or the address of those who are not (or not rightly) signed in."""
    request = Request(scope)
    if "authorization" in request.headers or COOKIE in request.cookies:
        try:
            user = await to_thread.run_sync(visitor, request)
        except HubError:
            user = None
        if user is not None:
            return _USER + user.name
    return _from(str((scope.get("client") or ("",))[0]))


def _from(address: str) -> str:
    """Return whose address it is: this machine has millions, and each IPv6 network more."""
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        return address.replace(" ", "")
    if number.is_loopback:
        return "loopback"
    return str(number if number.version == 4 else ipaddress.ip_network((number, 64), strict=False))


def _keep_in(answer: list[dict[str, Any]]) -> _Call:
    async def keep(message: dict[str, Any]) -> None:
        answer.append(message)

    return keep


def _replay(messages: deque[dict[str, Any]], receive: _Call) -> _Call:
    async def next_message() -> Any:
        return messages.popleft() if messages else await receive()

    return next_message


class Repositories:
    """The queues of writes, one for each repository."""

    def __init__(self) -> None:
        self.locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.waiting: Counter[int] = Counter()
        self.threads = CapacityLimiter(WRITES)


async def alone(
    request: Request,
    repository: int,
    function: Callable[_Arguments, _Value],
    *arguments: _Arguments.args,
    **named: _Arguments.kwargs,
) -> _Value:
    """Call a function in a thread while nothing else is written to the repository.

    Raises:
        HubError: 503 if too many wait for this repository, or it takes too long.
    """
    queues: Repositories = request.app.state.repositories
    if queues.waiting[repository] > WAITING_FOR_REPOSITORY:
        raise busy("Too many writes to this repository wait")
    queues.waiting[repository] += 1
    lock = queues.locks[repository]
    try:
        try:
            await asyncio.wait_for(lock.acquire(), PATIENCE)
        except TimeoutError:
            raise busy("Another write to this repository is not done yet") from None
        try:
            call = partial(function, *arguments, **named)
            return await to_thread.run_sync(call, limiter=queues.threads)
        finally:
            lock.release()
    finally:
        queues.waiting[repository] -= 1
        if not queues.waiting[repository]:
            queues.waiting.pop(repository)
            queues.locks.pop(repository)
