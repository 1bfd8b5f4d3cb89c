"""Promise: no request makes the server fail, whoever sends it, whatever it is.

A bounded run of what `soak.py` does for hours; and of schemathesis, which reads the Hub's OpenAPI.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.hub.attacks import world as worlds
from tests.hub.attacks.generator import Generator
from tests.hub.attacks.soak import Wire
from tests.hub.attacks.world import World
from usermirrorer.hub.local import running


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("hub")
    with running(root) as hub:
        yield worlds.build(hub.endpoint, root)


def test_no_odd_request_makes_the_server_fail(world):
    generator, wire = Generator(world, seed=18), Wire(world.endpoint)
    statuses: dict[int, int] = {}
    for _ in range(2000):
        request = generator.request()
        status = wire.ask(request)
        assert status not in (0, 500, 502, 507), request
        statuses[status] = statuses.get(status, 0) + 1
    assert statuses[200] > 200  # it does get through


@pytest.mark.parametrize("actor", ["anonymous", "other user", worlds.READER, worlds.WRITER])
def test_no_request_of_the_schema_makes_the_server_fail(world, actor):
    schema = schemathesis.openapi.from_url(f"{world.endpoint}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 40
    for operation in operations:

        @seed(18)
        @settings(
            max_examples=4,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def send(case: schemathesis.Case) -> None:
            answer = case.call(headers=world.headers(actor), timeout=60)
            assert answer.status_code < 500 or answer.status_code == 501, case

        send()
