"""The state of the link, for people: a link that is lost again and again is not well."""

from __future__ import annotations

import time

from broker.net.link.wire_types import Role
from broker.net.link_service.link_status import LinkState


async def test_a_link_that_is_lost_again_and_again_says_so_while_it_is_up(monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    state = LinkState(Role.HOST, "unix:/x")
    for _ in range(2):
        state.enter("up")
        state.enter("down", "desk left: unknown field `clock`")
    state.enter("up")
    assert (await state.status()).problem == ""
    state.enter("down", "desk left: unknown field `clock`")
    state.enter("dialling")
    state.enter("up")
    found = await state.status()
    assert found.state == "up"
    assert found.problem.startswith("lost 3 times in the last 60 s")
    assert "desk left: unknown field `clock`" in found.problem
    now += 61
    assert (await state.status()).problem == ""


async def test_attempts_that_never_came_up_are_no_losses():
    state = LinkState(Role.HOST, "unix:/x")
    for _ in range(5):
        state.enter("dialling")
        state.enter("down", "the viewer did not finish the handshake in 10 s")
    found = await state.status()
    assert found.problem == "the viewer did not finish the handshake in 10 s"
