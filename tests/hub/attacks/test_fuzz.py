"""Promise: no request makes the server fail, whoever sends it, whatever it is.

A bounded run of what `soak.py` does for hours.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
