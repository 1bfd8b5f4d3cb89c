"""Promise: hub/README.md says of every method of the client whether it works here, and it is so."""

from __future__ import annotations

from . import client_calls


def test_the_table_of_calls_is_what_a_hub_answers():
    outcomes = client_calls.start()
    told = ("This Hub has no ", client_calls.WORKS, client_calls.ELSEWHERE)
    assert not {name: how for name, how in outcomes.items() if not how.startswith(told)}
    assert {how for name, how in outcomes.items() if name.startswith("hf://")} == {
        client_calls.WORKS
    }
    assert client_calls.table(outcomes) == client_calls.written(), (
        "`python -m tests.hub.client_calls` writes the table"
    )
