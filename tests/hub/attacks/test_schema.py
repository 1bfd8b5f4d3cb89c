"""Promise: no request made of the OpenAPI, by whomever, fails the server or shows what is hidden.

Every route is in the OpenAPI. It does not say what bodies hold: that is taken from the examples of
`calls.json`, and of parameters those values are offered that lead somewhere.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis

from tests.hub.attacks import world as worlds
from tests.hub.attacks.corpus import calls
from tests.hub.attacks.generator import GOOD
from tests.hub.attacks.world import ABOUT, CONTENT, World, routes
from usermirrorer.hub.local import running

#: Who asks, those last who can change what the others must not see.
ACTORS = ("anonymous", "other user", worlds.BROWSER, worlds.READER, worlds.WRITER)
#: What is offered for parameters of addresses.
OFFERED = {
    **GOOD,
    "user": [worlds.ORGANISATION, worlds.OTHER],
    "status": ["pending", "accepted"],
    "word": ["buckets"],
}
#: What one may be that leads nowhere: each segment of an address is fuzzed elsewhere.
ODD = ("no-such", "é%2e/x")
#: The address of the schema itself is not in it.
OUTSIDE = {("GET", "/openapi.json"), ("HEAD", "/openapi.json")}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("hub")
    with running(root) as hub:
        yield worlds.build(hub.endpoint, root)


def document(endpoint: str) -> dict[str, Any]:
    return dict(httpx.get(f"{endpoint}/openapi.json").raise_for_status().json())


def test_every_route_is_in_the_openapi(world):
    described = {
        (method.upper(), path)
        for path, operations in document(world.endpoint)["paths"].items()
        for method in operations
    }
    served = {(method, re.sub(r":[a-z]+}", "}", path)) for method, path in routes()}
    assert described == served - OUTSIDE


def like(example: Any) -> dict[str, Any]:
    """Return a JSON schema of what is like an example: its fields, any of which may be missing."""
    if isinstance(example, dict):
        fields = {key: like(value) for key, value in example.items()}
        return {"type": "object", "properties": fields}
    if isinstance(example, list):
        return {"type": "array", "items": like(example[0]) if example else {}, "maxItems": 5}
    if isinstance(example, str):
        good = {example, *itertools.chain(*GOOD.values())}
        return {"anyOf": [{"const": example}, {"enum": sorted(good)}, {"type": "string"}]}
    kind = {bool: "boolean", int: "integer"}.get(type(example), "string")
    return {"anyOf": [{"const": example}, {"type": kind}]}


def with_bodies(world: World, endpoint: str) -> dict[str, Any]:
    """Return the OpenAPI with what calls.json knows of bodies and parameters."""
    described = copy.deepcopy(document(endpoint))
    examples: dict[str, Any] = {}
    for call in calls():
        if content := call.content(world, "open"):
            examples.setdefault(call.call, []).append(json.loads(content.splitlines()[0]))
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", []):
                good = OFFERED.get(parameter["name"])
                if parameter["in"] == "path" and good:
                    odd = () if parameter["name"] in ("kinds", "namespace") else ODD
                    parameter["schema"] = {"enum": sorted({*good, *odd} - {""})}
            bodies = [like(example) for example in examples.get(f"{method.upper()} {path}", [])]
            if bodies:
                content = {"application/json": {"schema": {"anyOf": bodies}}}
                operation["requestBody"] = {"content": content, "required": True}
    return described


def hidden_from(actor: str) -> list[str]:
    """Return what nobody like this may be told: marks of what is secret."""
    if actor in (worlds.WRITER, worlds.READER, worlds.BROWSER):
        return []
    closed = ["unseen", "closed"] + (["asked"] if actor == "anonymous" else [])
    of_files = [f"{CONTENT}{kind} {name}" for name in closed for kind in ("", " dataset", " model")]
    return [ABOUT, *of_files]


def attack(world: World, actor: str, examples: int) -> int:
    """Make requests of all operations as somebody; return how many were answered with success."""
    schema = schemathesis.openapi.from_dict(with_bodies(world, world.endpoint))
    succeeded = 0
    with world.client(actor) as client:
        for result in schema.get_all_operations():
            operation = result.ok()

            @hypothesis.settings(
                max_examples=examples,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[hypothesis.Phase.generate],
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(case=operation.as_strategy())
            def ask(case: Any) -> None:
                nonlocal succeeded
                made = case.as_transport_kwargs(base_url=world.endpoint)
                answer = send(client, made)
                told = answer.text + str(answer.headers)
                kind = 501 if "This Hub has no" in told else 500
                assert answer.status_code < 500 or answer.status_code == kind == 501, (made, told)
                assert not [mark for mark in hidden_from(actor) if mark in told], (made, told)
                succeeded += answer.is_success

            ask()
    return succeeded


def send(client: httpx.Client, made: dict[str, Any]) -> httpx.Response:
    headers = {
        key: value.encode("utf-8") if isinstance(value, str) else value
        for key, value in (made.get("headers") or {}).items()
    }
    keep = {key: made[key] for key in ("params", "json", "cookies") if made.get(key) is not None}
    if made.get("data") is not None:
        keep["content"] = made["data"]
    return client.request(made["method"], made["url"], headers=headers, **keep)


@pytest.mark.parametrize("actor", ACTORS)
def test_requests_made_of_the_openapi_fail_nothing_and_show_nothing(world, actor):
    assert attack(world, actor, examples=2) > 20


@pytest.mark.slow
@pytest.mark.parametrize("actor", ACTORS)
def test_many_requests_made_of_the_openapi_fail_nothing_and_show_nothing(world, actor):
    assert attack(world, actor, examples=8) > 50
